//! Carries the gate's outputs to the node, to peers and to operators, and brings the answers back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cell_core::canon::Message;
use cell_core::duty;
use cell_core::gate::{Action, Answer, Ending, Envelope, Gate, Input, MessageId, Output, Requirement, Stall};
use cell_core::id::RegionId;
use cell_proto::v1;
use cell_proto::v1::deliver_request::Why;
use service_kit::{Shutdown, TraceParent};
use tonic::Code;
use tracing::Instrument;

use super::fetches::{Fetches, Wanted};
use super::sparing::Sparing;
use super::{GateHandle, Shelf};
use crate::board::now_ms;
use crate::node::NodeLink;
use crate::outbox::Post;
use crate::subscriber::Peers;
use crate::transport::cause;

/// Requirements asked about in one call.
const ASK_MAX: usize = 512;
const ASK_AGAIN: Duration = Duration::from_millis(50);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(2);
/// A delivery is answered within this, or counts as unreachable.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Courier {
    pub(crate) region: RegionId,
    pub(crate) gate: GateHandle,
    pub(crate) node: NodeLink,
    pub(crate) peers: Peers,
    pub(crate) post: Post,
    pub(crate) shutdown: Shutdown,
    fetches: Arc<Mutex<Fetches>>,
    /// Of warnings and of dead letters: thousands come at once where a region is away.
    warnings: Arc<Sparing>,
    dead_letters: Arc<Sparing>,
}

struct Errand {
    id: MessageId,
    attempt: u32,
    why: Why,
    reason: String,
    woken_at: Option<Instant>,
}

impl Courier {
    pub(crate) fn new(
        region: RegionId,
        gate: GateHandle,
        node: NodeLink,
        peers: Peers,
        post: Post,
        shutdown: Shutdown,
    ) -> Courier {
        Courier {
            region,
            gate,
            node,
            peers,
            post,
            shutdown,
            fetches: Arc::default(),
            warnings: Arc::default(),
            dead_letters: Arc::default(),
        }
    }

    /// Sets one output in motion; never waits.
    pub(crate) fn carry_out(&self, output: Output, gate: &Gate, shelf: &Shelf, woken_at: Option<Instant>) {
        let errand = |id, attempt, why, reason| Errand { id, attempt, why, reason, woken_at };
        match output {
            Output::Deliver { id, attempt } => {
                self.deliver(gate, shelf, errand(id, attempt, Why::Ready, String::new()));
            }
            Output::HandExpired { id, attempt } => {
                self.deliver(gate, shelf, errand(id, attempt, Why::Expired, String::new()));
            }
            Output::HandDiscarded { id, attempt, reason } => {
                self.deliver(gate, shelf, errand(id, attempt, Why::Discarded, reason));
            }
            Output::Fetch { id, missing } => self.fetch(gate, id, missing),
            Output::Warn { id, waited_ms, missing } => self.warn(gate, shelf, id, waited_ms, &missing),
            Output::DeadLetter { id, reason, missing, detail } => {
                metrics::counter!("cell_gate_dead_lettered_total", "reason" => reason.as_str()).increment(1);
                let (say, unsaid) = self.dead_letters.turn(Instant::now());
                if let Some(unsaid) = unsaid {
                    tracing::error!(
                        unsaid,
                        "more dead letters before than were named; `cellctl dlq list` has all"
                    );
                }
                if say {
                    let trace = trace_of(gate, shelf, &id);
                    let missing = listed(&missing);
                    tracing::error!(%id, trace, %reason, missing, detail, "dead letter");
                }
            }
            Output::StalledNotice { id, why, missing, .. } => self.stalled(gate, shelf, id, why, &missing),
            Output::Decode { id } => self.decode(gate, shelf, id),
            Output::Ended { id, ending } => {
                metrics::counter!("cell_gate_ended_total", "ending" => word(&ending)).increment(1);
                tracing::debug!(%id, ?ending, "a message has ended here");
            }
            Output::Audit { identity, action, ids } => self.audit(identity, &action, &ids),
            // The runner's own.
            Output::Persist { .. }
            | Output::Ack { .. }
            | Output::Refuse { .. }
            | Output::Check { .. }
            | Output::WakeAt { .. } => {}
        }
    }

    // === the node ===

    /// Asks what is present, all at once, until the node answers or the link to it is new: then the gate asks anew.
    pub(super) fn check(&self, checks: Vec<(MessageId, Vec<Requirement>)>) {
        if checks.is_empty() {
            return;
        }
        let courier = self.clone();
        self.shutdown.spawn("check", async move {
            let mut some = Vec::new();
            for (id, requires) in checks {
                some.push((id, requires));
                if some.len() >= ASK_MAX {
                    courier.check_some(std::mem::take(&mut some)).await;
                }
            }
            courier.check_some(some).await;
        });
    }

    async fn check_some(&self, checks: Vec<(MessageId, Vec<Requirement>)>) {
        let requires: Vec<Requirement> = checks.iter().flat_map(|(_, requires)| requires).copied().collect();
        if requires.is_empty() && checks.is_empty() {
            return;
        }
        let Some(missing) = self.missing(&requires).await else { return };
        for (id, requires) in checks {
            let present = requires.into_iter().filter(|need| !missing.contains(need)).collect();
            self.gate.tell(Input::Checked { id, present }).await;
        }
    }

    async fn missing(&self, requires: &[Requirement]) -> Option<Vec<Requirement>> {
        let life = self.node.life();
        let mut pause = ASK_AGAIN;
        loop {
            let request =
                v1::PresentRequest { requires: requires.iter().map(|need| (*need).into()).collect() };
            match self.node.client().present(request).await {
                Ok(reply) => {
                    let missing = reply.into_inner().missing.into_iter().map(Requirement::try_from);
                    return missing
                        .collect::<Result<_, _>>()
                        .inspect_err(|error| tracing::error!(%error, "the node's answer cannot be read"))
                        .ok();
                }
                Err(error) => tracing::debug!(%error, "what is present is asked again"),
            }
            tokio::select! {
                () = self.shutdown.begun() => return None,
                () = tokio::time::sleep(pause) => {}
            }
            if self.node.life() != life {
                return None;
            }
            pause = (pause * 2).min(ASK_AGAIN_MAX);
        }
    }

    fn deliver(&self, gate: &Gate, shelf: &Shelf, errand: Errand) {
        let Errand { id, attempt, .. } = errand;
        let courier = self.clone();
        let envelope = match shelf.message(gate, &id) {
            Ok(Some(envelope)) => Ok(envelope),
            // It has ended meanwhile.
            Ok(None) => return,
            Err(error) => Err(error.to_string()),
        };
        self.shutdown.spawn("deliver", async move {
            let answer = match envelope {
                Ok(envelope) => courier.hand_over(envelope, errand).await,
                Err(error) => Answer::Failed { error },
            };
            courier.gate.tell(Input::Answered { id, attempt, answer }).await;
        });
    }

    async fn hand_over(&self, envelope: Envelope, errand: Errand) -> Answer {
        let span = span(&envelope.trace, "deliver");
        let (id, kind) = (envelope.id, envelope.kind);
        let request = v1::DeliverRequest {
            envelope: Some(envelope.into()),
            why: errand.why.into(),
            reason: errand.reason,
        };
        let mut client = self.node.client();
        let asked = tokio::time::timeout(ANSWER_WITHIN, client.deliver(request)).instrument(span.clone());
        let answer = match asked.await {
            Err(_) => Answer::Unreachable,
            Ok(Err(status)) => match status.code() {
                Code::ResourceExhausted => Answer::Busy,
                Code::InvalidArgument => Answer::Failed { error: status.message().to_owned() },
                _ => Answer::Unreachable,
            },
            Ok(Ok(reply)) => answer_of(reply.into_inner()),
        };
        let waited = errand.woken_at.map(|woken_at| woken_at.elapsed());
        if let (Answer::Done, Some(waited)) = (&answer, waited) {
            metrics::histogram!("cell_gate_wake_seconds").record(waited.as_secs_f64());
        }
        span.in_scope(|| tracing::info!(%id, %kind, ?answer, ?waited, "handed to the node"));
        answer
    }

    fn audit(&self, identity: String, action: &Action, ids: &[MessageId]) {
        let (verb, reason) = match action {
            Action::Redrive { .. } => ("dlq.redrive", String::new()),
            Action::RedriveMatching { filter, .. } => ("dlq.redrive", format!("{filter:?}")),
            Action::Discard { reason, .. } => ("dlq.discard", reason.clone()),
        };
        let subject = ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let request = v1::AuditRequest { identity, action: verb.to_owned(), subject, reason };
        let courier = self.clone();
        self.shutdown.spawn("audit", async move {
            let mut pause = ASK_AGAIN;
            while let Err(error) = courier.node.client().record_audit(request.clone()).await {
                tracing::warn!(error = cause(&error), ?request, "an operator's action is not recorded yet");
                tokio::select! {
                    () = courier.shutdown.begun() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(ASK_AGAIN_MAX);
            }
        });
    }

    // === peers ===

    /// Gets the entities a message waits for from whoever has them: who wrote the version first, then the others.
    fn fetch(&self, gate: &Gate, id: MessageId, missing: Vec<Requirement>) {
        let mut regions: Vec<RegionId> = missing.iter().map(|need| need.dot.actor.region()).collect();
        regions.extend(gate.inspect(&id).map(|entry| entry.from));
        regions.extend(self.peers.regions());
        let mut asked = std::collections::BTreeSet::from([self.region]);
        regions.retain(|region| asked.insert(*region));
        if !self.fetches().want(Wanted { id, missing, regions }, &self.node.fronts()) {
            return;
        }
        let courier = self.clone();
        self.shutdown.spawn("fetch", async move {
            loop {
                let wanted = courier.fetches().next(&courier.node.fronts());
                let Some(wanted) = wanted else { return };
                tokio::select! {
                    () = courier.shutdown.begun() => return,
                    () = courier.fetch_one(wanted) => {}
                }
            }
        });
    }

    fn fetches(&self) -> MutexGuard<'_, Fetches> {
        // Only assignments run under the lock.
        self.fetches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch_one(&self, Wanted { id, missing, regions }: Wanted) {
        // Until its turn came it may have come with the stream.
        let Some(missing) = self.missing(&missing).await.filter(|missing| !missing.is_empty()) else {
            return;
        };
        for region in regions {
            match self.fetch_from(region, &missing).await {
                Ok(true) => return,
                Ok(false) => tracing::debug!(%region, %id, "it is not there either"),
                Err(error) => tracing::debug!(%error, %region, %id, "could not be fetched"),
            }
        }
    }

    async fn fetch_from(&self, region: RegionId, missing: &[Requirement]) -> Result<bool, tonic::Status> {
        let wanted: std::collections::BTreeSet<_> = missing.iter().map(|need| need.entity).collect();
        let entities = wanted.iter().map(|id| bytes::Bytes::copy_from_slice(&id.to_bytes())).collect();
        let reply = self
            .peers
            .fetch_awaited(
                region,
                v1::EntitiesRequest { entities, takes_packed: true, ..v1::EntitiesRequest::default() },
            )
            .await?;
        if reply.entities.is_empty() {
            return Ok(false);
        }
        metrics::counter!("cell_gate_fetched_total", "from" => region.to_string())
            .increment(reply.entities.len() as u64);
        let request = v1::MergeRequest { entities: reply.entities, from_region: region.to_string() };
        self.node.client().merge_entities(request).await?;
        let Some(still) = self.missing(missing).await else { return Ok(false) };
        let present: Vec<Requirement> =
            missing.iter().filter(|need| !still.contains(need)).copied().collect();
        self.gate.tell(Input::Present { present }).await;
        Ok(still.is_empty())
    }

    fn stalled(&self, gate: &Gate, shelf: &Shelf, id: MessageId, why: Stall, missing: &[Requirement]) {
        let Ok(Some(request)) = shelf.message(gate, &id) else { return };
        let missing = if missing.is_empty() { why.to_string() } else { listed(missing) };
        if let Some(notice) = duty::stalled_notice(&request, &missing, self.region, now_ms()) {
            self.post.notice(notice);
        }
    }

    // === operators ===

    fn warn(&self, gate: &Gate, shelf: &Shelf, id: MessageId, waited_ms: u64, missing: &[Requirement]) {
        metrics::counter!("cell_gate_warnings_total").increment(1);
        let (say, unsaid) = self.warnings.turn(Instant::now());
        if let Some(unsaid) = unsaid {
            tracing::warn!(unsaid, "more messages waited before than were named");
        }
        if say {
            let trace = trace_of(gate, shelf, &id);
            tracing::warn!(%id, trace, waited_ms, missing = listed(missing), "a message waits for data");
        }
    }

    fn decode(&self, gate: &Gate, shelf: &Shelf, id: MessageId) {
        let kept = match shelf.undecoded(gate, &id) {
            Ok(Some(kept)) => kept,
            Ok(None) => return,
            Err(error) => return tracing::error!(%error, %id, "what is kept cannot be read"),
        };
        let gate = self.gate.clone();
        let envelope = Envelope::decode(&kept).ok();
        self.shutdown.spawn("decode", async move { gate.tell(Input::Decoded { id, envelope }).await });
    }
}

fn answer_of(reply: v1::DeliverReply) -> Answer {
    use v1::deliver_reply::Answer as Wire;
    match reply.answer() {
        Wire::Done => Answer::Done,
        Wire::Refused => Answer::Refused { reason: reply.detail },
        Wire::Moved => Answer::Moved,
        Wire::Busy => Answer::Busy,
        Wire::Failed => Answer::Failed { error: reply.detail },
        Wire::Unspecified => Answer::Failed { error: "the node's answer is not known here".to_owned() },
    }
}

pub(crate) fn span(trace: &str, step: &'static str) -> tracing::Span {
    trace.parse::<TraceParent>().map_or_else(|_| tracing::Span::none(), |trace| trace.span(step))
}

fn trace_of(gate: &Gate, shelf: &Shelf, id: &MessageId) -> String {
    shelf.message(gate, id).ok().flatten().map(|envelope| envelope.trace).unwrap_or_default()
}

fn listed(missing: &[Requirement]) -> String {
    missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn word(ending: &Ending) -> &'static str {
    match ending {
        Ending::Done => "done",
        Ending::Refused { .. } => "refused",
        Ending::Expired => "expired",
        Ending::Discarded => "discarded",
        Ending::Moved => "moved",
        Ending::NeedGone { .. } => "need-gone",
        Ending::SenderReplaced => "sender-replaced",
        Ending::Decoded { .. } => "decoded",
    }
}
