//! The way out of a region's messages: from what the node owes to the gates of other regions.
//!
//! Nothing is kept here. The node owes a message for as long as it sees the need; an acknowledgement, or the news that it
//! could not be handed over, only paces when it is said again. Each peer has a queue and a stream of its own, so that one
//! that is away holds up nobody.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cell_core::canon::Message;
use cell_core::gate::{Envelope, MessageId};
use cell_core::id::RegionId;
use cell_proto::v1::messages_client::MessagesClient;
use cell_proto::{PROTOCOLS, v1};
use service_kit::Shutdown;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::backoff::Backoff;
use crate::board::{Board, Channel, Flow, MESSAGE_BEAT_MS, now_ms};
use crate::gate::{Back, GateHandle, span};
use crate::node::NodeLink;
use crate::placement::Homes;
use crate::transport::{PeerChannel, cause};

/// Messages on their way to one peer, queued or not acknowledged yet.
const LETTERS_MAX: usize = 1_024;
const BATCH_MAX: usize = 256;
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// No acknowledgement for this long: something is to go and does not.
const STALLED_AFTER_MS: u64 = 3_000;

/// Where the node hears what became of a message.
type Acks = mpsc::Sender<v1::OutboxAck>;

#[derive(Debug)]
struct Letter {
    envelope: Envelope,
    /// `None`: the gate's own notice.
    acks: Option<Acks>,
}

/// The queues of all peers; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    own: RegionId,
    homes: Homes,
    gate: GateHandle,
    queues: Arc<BTreeMap<RegionId, mpsc::Sender<Letter>>>,
}

/// The other ends of the queues, one for each peer.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) peer: RegionId,
    letters: mpsc::Receiver<Letter>,
}

impl Post {
    pub(crate) fn new(
        own: RegionId,
        homes: Homes,
        gate: GateHandle,
        peers: impl IntoIterator<Item = RegionId>,
    ) -> (Post, Vec<Queue>) {
        let (mut queues, mut ends) = (BTreeMap::new(), Vec::new());
        for peer in peers {
            let (sender, letters) = mpsc::channel(LETTERS_MAX);
            queues.insert(peer, sender);
            ends.push(Queue { peer, letters });
        }
        (Post { own, homes, gate, queues: Arc::new(queues) }, ends)
    }

    /// The notice of a gate. If there is no room, it is said again when the message it is about is sent again.
    pub(crate) fn notice(&self, envelope: Envelope) {
        let region = self.homes.of(envelope.to_slot);
        if let Some(queue) = self.queues.get(&region) {
            let _ = queue.try_send(Letter { envelope, acks: None });
        }
    }

    /// A message the node owes.
    async fn owed(&self, envelope: Envelope, acks: &Acks) {
        let (region, id) = (self.homes.of(envelope.to_slot), envelope.id);
        if region == self.own {
            // The slot moved home: no way through the network, the same way through the gate.
            let (back, mut verdicts): (Back, _) = mpsc::channel(1);
            self.gate.arrived(envelope, back).await;
            let acks = acks.clone();
            tokio::spawn(async move {
                let accepted = verdicts.recv().await.is_some_and(|verdict| verdict.accepted);
                tell(&Some(acks), id, accepted);
            });
            return;
        }
        let letter = Letter { envelope, acks: Some(acks.clone()) };
        let queued = self.queues.get(&region).is_some_and(|queue| queue.try_send(letter).is_ok());
        if !queued {
            tell(&Some(acks.clone()), id, false);
        }
    }

    /// Takes what the node owes and puts it into the queues; until the shutdown begins.
    pub(crate) async fn collect(self, node: NodeLink, shutdown: Shutdown) {
        let mut backoff = Backoff::default();
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                ended = self.collect_once(&node, &mut backoff) => if let Err(error) = ended {
                    tracing::debug!(%error, "the node's outbox ended");
                },
            }
            tokio::select! {
                () = shutdown.begun() => return,
                () = tokio::time::sleep(backoff.next()) => {}
            }
        }
    }

    async fn collect_once(&self, node: &NodeLink, backoff: &mut Backoff) -> Result<(), Status> {
        node.connected().await;
        // Twice as many as can be owed at once: an answer is never lost for want of room.
        let (acks, acked) = mpsc::channel(2 * LETTERS_MAX * self.queues.len().max(1));
        tell_first(&acks);
        let mut owed = node.client().outbox(ReceiverStream::new(acked)).await?.into_inner();
        backoff.reset();
        while let Some(envelope) = owed.message().await? {
            match Envelope::try_from(envelope) {
                Ok(envelope) => self.owed(envelope, &acks).await,
                Err(error) => tracing::error!(%error, "the node owes a message that cannot be read"),
            }
        }
        Ok(())
    }
}

/// Opens the stream: it says nothing of any message.
fn tell_first(acks: &Acks) {
    let _ = acks.try_send(v1::OutboxAck { message_id: Bytes::new(), accepted: false });
}

fn tell(acks: &Option<Acks>, id: MessageId, accepted: bool) {
    if let Some(acks) = acks {
        let message_id = Bytes::copy_from_slice(&id.0);
        // The node is gone, or slow: it says the message again in its own time.
        let _ = acks.try_send(v1::OutboxAck { message_id, accepted });
    }
}

// === impl Queue ===

/// What was sent on a stream and not answered.
#[derive(Debug, Default)]
struct Open {
    letters: HashMap<MessageId, (Option<Acks>, u64)>,
    /// What the receiver calls a message that it cannot read.
    aliases: HashMap<MessageId, MessageId>,
    /// The gate's own notices: nobody else says them again.
    notices: BTreeMap<MessageId, Envelope>,
}

impl Queue {
    /// Sends what is queued to the peer, on a stream of its own; until the shutdown begins.
    pub(crate) async fn send(
        mut self,
        own: RegionId,
        channel: PeerChannel,
        board: Board,
        shutdown: Shutdown,
    ) {
        let mut backoff = Backoff::default();
        let mut open = Open::default();
        loop {
            let ended = tokio::select! {
                () = shutdown.begun() => return,
                ended = self.send_once(own, &channel, &board, &mut open, &mut backoff) => ended,
            };
            let why = ended.err().map(|error| cause(&error)).unwrap_or_default();
            board.flow(self.peer, Channel::Messages, Flow::Unreachable, &why);
            open.give_up();
            let pause = tokio::time::sleep(backoff.next());
            tokio::pin!(pause);
            // Meanwhile the node hears at once that it goes no further.
            loop {
                tokio::select! {
                    () = shutdown.begun() => return,
                    () = &mut pause => break,
                    letter = self.letters.recv() => match letter {
                        Some(letter) => open.refuse(letter),
                        None => return,
                    },
                }
            }
        }
    }

    async fn send_once(
        &mut self,
        own: RegionId,
        channel: &PeerChannel,
        board: &Board,
        open: &mut Open,
        backoff: &mut Backoff,
    ) -> Result<(), Status> {
        let (batches, sending) = mpsc::channel(4);
        let mut client = MessagesClient::new(channel.clone());
        let first = v1::MessageBatch {
            from_region: own.to_string(),
            envelopes: open.notices.values().map(|notice| notice.to_canon().into()).collect(),
            sent_wall_ms: now_ms(),
            protocol: PROTOCOLS.max,
            protocol_min: PROTOCOLS.min,
        };
        batches.try_send(first).map_err(|_| Status::internal("the stream has no room"))?;
        let opened = tokio::time::timeout(ANSWER_WITHIN, client.send(ReceiverStream::new(sending)));
        let mut acks = opened.await.map_err(|_| Status::deadline_exceeded("no answer"))??.into_inner();
        backoff.reset();
        let mut beat = tokio::time::interval(Duration::from_millis(MESSAGE_BEAT_MS));
        // Taken from the queue, and not yet on the stream: refused if that ends first.
        let mut letters = Taken { letters: Vec::with_capacity(BATCH_MAX) };
        loop {
            let room = open.letters.len() < LETTERS_MAX;
            tokio::select! {
                answer = acks.message() => match answer? {
                    Some(answer) if PROTOCOLS.speaks(answer.protocol.max(1)) => open.answered(&answer),
                    Some(answer) => {
                        let what = format!("the peer speaks protocol {}, which is not spoken here", answer.protocol);
                        return Err(Status::failed_precondition(what));
                    }
                    None => return Err(Status::unavailable("the peer ended the stream")),
                },
                count = self.letters.recv_many(&mut letters.letters, BATCH_MAX), if room && letters.letters.is_empty() => {
                    if count == 0 {
                        return Err(Status::cancelled("the agent ends"));
                    }
                }
                permit = batches.reserve(), if !letters.letters.is_empty() => {
                    let permit = permit.map_err(|_| Status::unavailable("the stream ended"))?;
                    permit.send(open.batch(own, letters.letters.drain(..)));
                }
                _ = beat.tick() => {
                    // An empty batch is the sign of life; if there is no room, others are on their way.
                    let _ = batches.try_send(open.batch(own, std::iter::empty()));
                }
            }
            let (flow, why) = open.flow();
            board.flow(self.peer, Channel::Messages, flow, why);
        }
    }
}

struct Taken {
    letters: Vec<Letter>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        for letter in &self.letters {
            tell(&letter.acks, letter.envelope.id, false);
        }
    }
}

impl Open {
    fn batch(&mut self, own: RegionId, letters: impl Iterator<Item = Letter>) -> v1::MessageBatch {
        let mut envelopes = Vec::new();
        for Letter { envelope, acks } in letters {
            let (id, bytes) = (envelope.id, Bytes::from(envelope.to_canon()));
            span(&envelope.trace, "send")
                .in_scope(|| tracing::info!(%id, kind = %envelope.kind, "a message goes"));
            self.aliases.insert(MessageId::of_undecoded(&bytes), id);
            if acks.is_none() {
                self.notices.insert(id, envelope);
            }
            self.letters.insert(id, (acks, now_ms()));
            envelopes.push(bytes);
        }
        v1::MessageBatch {
            from_region: own.to_string(),
            envelopes,
            sent_wall_ms: now_ms(),
            protocol: PROTOCOLS.max,
            protocol_min: PROTOCOLS.min,
        }
    }

    fn answered(&mut self, answer: &v1::MessageAcks) {
        let accepted = answer.accepted.iter().map(|id| (id, true));
        for (id, accepted) in accepted.chain(answer.busy.iter().map(|id| (id, false))) {
            let Ok(id) = <[u8; 16]>::try_from(id.as_ref()).map(MessageId) else { continue };
            let id = if self.letters.contains_key(&id) { id } else { *self.aliases.get(&id).unwrap_or(&id) };
            if let Some((acks, _)) = self.letters.remove(&id) {
                tell(&acks, id, accepted);
            }
            if accepted {
                self.notices.remove(&id);
            }
        }
        if self.letters.is_empty() {
            self.aliases.clear();
        }
    }

    fn refuse(&mut self, letter: Letter) {
        match letter.acks {
            Some(_) => tell(&letter.acks, letter.envelope.id, false),
            None => drop(self.notices.insert(letter.envelope.id, letter.envelope)),
        }
    }

    /// The stream is gone: nobody answers any more.
    fn give_up(&mut self) {
        self.aliases.clear();
        for (id, (acks, _)) in self.letters.drain() {
            tell(&acks, id, false);
        }
    }

    fn flow(&self) -> (Flow, &'static str) {
        let Some(oldest_ms) = self.letters.values().map(|(_, sent_ms)| *sent_ms).min() else {
            return (Flow::Idle, "");
        };
        if now_ms().saturating_sub(oldest_ms) > STALLED_AFTER_MS {
            (Flow::Stalled, "messages are not acknowledged")
        } else {
            (Flow::Flowing, "")
        }
    }
}
