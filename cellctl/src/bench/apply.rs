//! `bench apply`: how fast a node takes another region's changes, against how fast it places orders itself.
//!
//! Orders are placed over HTTP in one region while the other one hears nothing. Then their changes are handed to the
//! other node over its internal port, as its agent would: no agent and no origin shares the processors with it.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cell_proto::v1;
use chaos_tests::harness::{LinkState, Role};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::ApplyArgs;
use super::figure::{Aim, Figure};
use super::served::{FAR, ORIGIN, Served, each_run};

/// As the agents do.
const BATCH_BYTES: usize = 256 << 10;
const APPLYING_MAX: usize = 4;

pub(super) async fn run(args: &ApplyArgs) -> Result<Vec<Figure>> {
    let start = async |folder: &Path| Served::start(args.runs.engine, &[ORIGIN, FAR], folder).await;
    each_run(&args.runs, start, async |served| measure(args, served).await).await
}

async fn measure(args: &ApplyArgs, served: &Served) -> Result<Vec<Figure>> {
    served.cluster.data_into(FAR, LinkState::Cut);
    let (load, phase) = served.load()?;
    phase.count();
    let (cpu, begun) = (served.cpu_of(Role::Node, ORIGIN), Instant::now());
    let (latency, _) =
        super::load::Load { below: args.orders, ..load }.closed(usize::from(args.clients)).await?;
    let placed_per_s = latency.len() as f64 / begun.elapsed().as_secs_f64();
    let place_cpu_us = (served.cpu_of(Role::Node, ORIGIN) - cpu) / args.orders as f64 * 1e6;

    let batches = batches(served).await?;
    let changes: usize = batches.iter().map(Vec::len).sum();
    let bytes: usize = batches.iter().flatten().map(prost::Message::encoded_len).sum();
    let (cpu, begun) = (served.cpu_of(Role::Node, FAR), Instant::now());
    hand_over(served, batches).await?;
    let applied_per_s = changes as f64 / begun.elapsed().as_secs_f64();
    let apply_cpu_us = (served.cpu_of(Role::Node, FAR) - cpu) / changes as f64 * 1e6;
    Ok(vec![
        Figure::new(format!("placed over HTTP, {} clients", args.clients), placed_per_s, "orders/s"),
        Figure::new("node CPU per order placed", place_cpu_us, "µs"),
        Figure::new("applied, durable", applied_per_s, "changes/s"),
        Figure::new("node CPU per change applied", apply_cpu_us, "µs"),
        Figure::new("bytes per change handed over", bytes as f64 / changes as f64, "B"),
        Figure::new("applied : placed", applied_per_s / placed_per_s, "").aim(Aim::AtLeast(2.5)),
    ])
}

/// Everything the origin has written, in batches.
async fn batches(served: &Served) -> Result<Vec<Vec<v1::Entry>>> {
    let (actor, upto) = served.written().await?;
    let request = v1::TailRequest { tailer: "bench".to_owned(), from_position: 0, rest_ms: 0 };
    let mut tail = served.node(ORIGIN).await?.tail(request).await?.into_inner();
    let (mut batches, mut batch, mut bytes) = (Vec::new(), Vec::new(), 0);
    loop {
        let read = tail.message().await?.context("the node ended the tail")?;
        for entry in read.items.into_iter().filter_map(|item| item.entry) {
            bytes += prost::Message::encoded_len(&entry);
            let last =
                entry.dot.as_ref().is_some_and(|dot| dot.actor.as_ref() == Some(&actor) && dot.seq >= upto);
            batch.push(entry);
            if bytes >= BATCH_BYTES || last {
                batches.push(std::mem::take(&mut batch));
                bytes = 0;
            }
            if last {
                return Ok(batches);
            }
        }
    }
}

async fn hand_over(served: &Served, batches: Vec<Vec<v1::Entry>>) -> Result<()> {
    let (sender, receiver) = mpsc::channel(APPLYING_MAX);
    let mut replies = served.node(FAR).await?.apply(ReceiverStream::new(receiver)).await?.into_inner();
    let count = batches.len();
    let sending = tokio::spawn(async move {
        for entries in batches {
            if sender.send(v1::ApplyBatch { batch: 0, entries }).await.is_err() {
                return;
            }
        }
    });
    for _ in 0..count {
        let reply = replies.message().await?.context("the node ended the stream")?;
        ensure!(reply.refusals.is_empty(), "refused: {:?}", reply.refusals.first());
    }
    sending.await?;
    Ok(())
}
