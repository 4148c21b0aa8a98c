//! `bench park`: messages that wait in the gate for orders that are not there yet, and then come.
//!
//! The messages are real requests for payment, sent to the agent's message port as another region's agent would; each
//! requires the next change of the region that will place the orders. Then orders are placed there, and travel by the
//! usual road. Apply and delivery are seen in the log of the one node: the order's change, and the record that taking the
//! request writes; so the time between the two includes the sync of what the delivery did.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use cell_core::canon::Message;
use cell_core::duty::{self, MessageBody, PayRequestBody};
use cell_core::event::Change;
use cell_core::gate::{Envelope, MessageKind, Requirement};
use cell_core::id::{
    ActorId, EntityId, Hash, OrderId, PaymentId, PublicId, RegionId, SLOT_COUNT, Slot, UserId,
};
use cell_core::payment::Permit;
use cell_core::placement::Epoch;
use cell_core::version::Dot;
use cell_proto::v1;
use cell_proto::v1::messages_client::MessagesClient;
use chaos_tests::harness::{Kind, Role};
use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use super::ParkArgs;
use super::figure::{Aim, Figure, quantiles};
use super::load::{self, Load};
use super::machine::resident_bytes;
use super::served::{FAR, ORIGIN, Served, each_run};
use crate::output::remark;

const BATCH: u64 = 256;
/// Sent and not acknowledged at most.
const OPEN_MAX: u64 = 1_024;
const SETTLE: Duration = Duration::from_secs(2);
const DAY_MS: u64 = 24 * 3_600_000;
/// Fewer messages say little of what one takes: what an agent takes at work at all is divided among them.
const JUDGED_FROM: u64 = 500_000;
/// What is seen late is not waited for any longer.
const LATE_MAX: Duration = Duration::from_secs(5);

pub(super) async fn run(args: &ParkArgs) -> Result<Vec<Figure>> {
    let room = args.messages + 10_000;
    let gate = [
        format!("waiting_max = {room}"),
        format!("items_max = {room}"),
        // Nobody has what is missing: asking for it again and again would be measured instead.
        format!("fetch_after_ms = {DAY_MS}"),
        format!("warn_after_ms = {DAY_MS}"),
    ];
    let start = async |folder: &Path| {
        Served::shared_out(args.runs.engine, &[ORIGIN, FAR], folder, gate.to_vec()).await
    };
    each_run(&args.runs, start, async |served| measure(args, served).await).await
}

/// Resident bytes and processor seconds of the agent that parks.
fn seen(served: &Served) -> Result<(f64, f64)> {
    let pid = served.cluster.pid(Role::Agent, FAR).context("the agent does not run")?;
    Ok((resident_bytes(pid) as f64, served.cpu_of(Role::Agent, FAR)))
}

async fn idle_cpu(args: &ParkArgs, served: &Served) -> Result<f64> {
    tokio::time::sleep(SETTLE).await;
    let (before, begun) = (seen(served)?.1, Instant::now());
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    Ok((seen(served)?.1 - before) / begun.elapsed().as_secs_f64() * 60e3)
}

async fn measure(args: &ParkArgs, served: &Served) -> Result<Vec<Figure>> {
    let idle_before = idle_cpu(args, served).await?;
    let (actor, written) = served.written().await?;
    let sender = ActorId::try_from(actor.clone())?;
    // Until the messages are there the origin goes on saying that it lives; it is not met by those.
    let first = written + 600;
    let (empty, begun) = (seen(served)?.0, Instant::now());
    let mut payments = park(args, served, sender, first).await?;
    let parked_per_s = args.messages as f64 / begun.elapsed().as_secs_f64();
    remark(format_args!("  parked, {parked_per_s:.0}/s"));
    let idle_parked = idle_cpu(args, served).await?;
    let (full, _) = seen(served)?;
    let (_, written) = served.written().await?;
    ensure!(written < first, "it took so long that the first ones are not missing any more");

    // What the requirements begin behind is placed first: those orders wake nobody.
    let (load, _) = served.load()?;
    Load { below: first - written, ..load }.closed(16).await?;
    let (_, written) = served.written().await?;
    payments.retain(|_, seq| *seq > written);
    let cpu = seen(served)?.1;
    let delivered = tokio::spawn(deliveries(served.node(FAR).await?, sender, payments));
    let (load, phase) = served.load()?;
    let load = tokio::spawn(Load { below: u64::MAX, ..load }.open(args.rate));
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    phase.end();
    load.await??;
    remark(format_args!("  the orders have come"));
    let latency = delivered.await??;
    remark(format_args!("  {} delivered", latency.len()));
    let cpu_us = (seen(served)?.1 - cpu) / latency.len() as f64 * 1e6;
    let resident = Figure::new("resident per parked message", (full - empty) / args.messages as f64, "B");
    let many = args.messages >= JUDGED_FROM;
    let mut figures = vec![
        Figure::new("messages parked", args.messages as f64, ""),
        Figure::new("parked, durable", parked_per_s, "/s"),
        if many { resident.aim(Aim::AtMost(300.0)) } else { resident },
        Figure::new("CPU of the agent, nothing parked", idle_before, "ms/min"),
        Figure::new("CPU of the agent, all parked", idle_parked, "ms/min"),
        Figure::new(format!("delivered, orders coming at {}/s", args.rate), latency.len() as f64, ""),
        Figure::new("CPU of the agent per delivery, its change included", cpu_us, "µs"),
    ];
    figures.extend(quantiles("apply to delivery, both durable,", &latency, [Some(1.0), Some(5.0), None]));
    Ok(figures)
}

// === parking ===

/// Parks the messages, the `n`-th behind change `first + n` of `sender`; the payments they are about, and behind which.
async fn park(
    args: &ParkArgs,
    served: &Served,
    sender: ActorId,
    first: u64,
) -> Result<HashMap<PaymentId, u64>> {
    let address = served.cluster.link(ORIGIN, FAR, Kind::Messages)?.address();
    let channel = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true).connect().await?;
    let (batches, sending) = mpsc::channel(4);
    // The stream opens with the first batch.
    batches.send(v1::MessageBatch { from_region: ORIGIN.to_owned(), ..Default::default() }).await?;
    let mut acks = MessagesClient::new(channel).send(ReceiverStream::new(sending)).await?.into_inner();
    let mut payments = HashMap::with_capacity(usize::try_from(args.messages)?);
    let (mut sent, mut accepted) = (0, 0);
    while accepted < args.messages {
        while sent < args.messages && sent - accepted < OPEN_MAX {
            let upto = args.messages.min(sent + BATCH);
            let mut envelopes = Vec::with_capacity(BATCH as usize);
            for nth in sent..upto {
                let (envelope, payment) = request(sender, first + nth)?;
                payments.insert(payment, first + nth);
                envelopes.push(Bytes::from(envelope.to_canon()));
            }
            let from_region = ORIGIN.to_owned();
            batches
                .send(v1::MessageBatch {
                    from_region,
                    envelopes,
                    sent_wall_ms: now_ms(),
                    ..Default::default()
                })
                .await?;
            sent = upto;
        }
        let answer = acks.message().await?.context("the agent ended the stream")?;
        if !answer.busy.is_empty() {
            bail!("the gate has no room");
        }
        accepted += answer.accepted.len() as u64;
    }
    Ok(payments)
}

/// A request for payment of an order that change `seq` of `sender` brings.
fn request(sender: ActorId, seq: u64) -> Result<(Envelope, PaymentId)> {
    let (from_slot, region) = (Slot::new(1)?, RegionId::new(ORIGIN)?);
    let order = OrderId(PublicId::new(0, from_slot, &Hash::of(&seq.to_be_bytes())));
    let payer = payer(seq)?;
    let permit = Permit {
        order,
        buyer: UserId::new("buyer")?,
        payer,
        amount_minor: 52_720,
        currency: "CNY".to_owned(),
        content: Hash::of(b"content"),
        until_ms: now_ms() + DAY_MS,
        until_from_command: false,
        command: [7; 16],
    };
    let payment = permit.payment_id();
    let envelope = Envelope {
        id: duty::message_id(MessageKind::PayRequest, payment),
        kind: MessageKind::PayRequest,
        from: region,
        to_slot: payment.slot(),
        subject: payment.into(),
        requires: vec![Requirement { entity: order.into(), dot: Dot { actor: sender, seq } }],
        epoch: Epoch { term: 0, step: 0, actor: sender },
        deadline_ms: now_ms() + DAY_MS,
        until_ms: permit.until_ms,
        trace: String::new(),
        from_slot,
        body: Bytes::from(MessageBody::PayRequest(PayRequestBody { permit }).to_canon()),
        created_ms: now_ms(),
    };
    Ok((envelope, payment))
}

/// Somebody at home in the far region.
fn payer(seq: u64) -> Result<UserId> {
    let far = |user: &UserId| user.slot().number() >= SLOT_COUNT / 2;
    let mut named = (0..).map(|n| UserId::new(&format!("payer-{}-{n}", seq % 1_000)));
    named.find(|user| user.as_ref().is_ok_and(far)).context("no such user")?.map_err(Into::into)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u64
}

// === waking ===

/// From each order's change in the node's log to the record that its request wrote there, microseconds.
async fn deliveries(
    mut node: v1::node_client::NodeClient<tonic::transport::Channel>,
    sender: ActorId,
    payments: HashMap<PaymentId, u64>,
) -> Result<Histogram<u64>> {
    let status = node.status(v1::StatusRequest::default()).await?.into_inner();
    let request =
        v1::TailRequest { tailer: "bench".to_owned(), from_position: status.durable_position, rest_ms: 0 };
    let mut tail = node.tail(request).await?.into_inner();
    let mut latency = load::histogram()?;
    let mut came: HashMap<u64, Instant> = HashMap::new();
    loop {
        let batch =
            match tokio::time::timeout(LATE_MAX, next_of_interest(&mut tail, &sender, &payments)).await {
                Ok(batch) => batch?,
                Err(_) => return Ok(latency),
            };
        came.extend(batch.came);
        for (seq, at) in batch.delivered {
            // Its order's change is in front of it in the log.
            let since = came.remove(&seq).with_context(|| format!("delivered before change {seq} came"))?;
            latency.record(at.duration_since(since).as_micros().max(1) as u64)?;
        }
    }
}

#[derive(Default)]
struct Seen {
    came: Vec<(u64, Instant)>,
    delivered: Vec<(u64, Instant)>,
}

/// What comes up to the next batch with an order in it, and when each came.
async fn next_of_interest(
    tail: &mut tonic::Streaming<v1::TailBatch>,
    sender: &ActorId,
    payments: &HashMap<PaymentId, u64>,
) -> Result<Seen> {
    let (mut seen, mut interesting) = (Seen::default(), false);
    loop {
        let batch = tail.message().await?.context("the node ended the tail")?;
        let at = Instant::now();
        for entry in batch.items.into_iter().filter_map(|item| item.entry) {
            let change = Change::decode(&entry.bytes)?;
            let mut entities = change.events.iter().flat_map(|event| &event.entities).peekable();
            if change.dot.actor == *sender {
                // A heartbeat wakes whoever waits for its place in the sequence just as an order does, for ever.
                interesting |= entities.peek().is_some();
                seen.came.push((change.dot.seq, at));
            } else {
                let of = entities.filter_map(|id: &EntityId| payments.get(&id.payment()?));
                seen.delivered.extend(of.map(|seq| (*seq, at)));
            }
        }
        if interesting {
            return Ok(seen);
        }
    }
}
