//! The way in of other regions' messages: into the gate, and back what became of them.

use cell_core::canon::Message;
use cell_core::gate::Envelope;
use cell_core::id::RegionId;
use cell_proto::v1::messages_server::Messages;
use cell_proto::{PROTOCOLS, Protocols, v1};
use service_kit::Shutdown;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::board::{Board, Channel};
use crate::gate::{Back, GateHandle, Verdict};
use crate::transport::Served;

/// Verdicts on their way back; more are lost, and the sender asks again.
const VERDICTS_MAX: usize = 4_096;
const ANSWERS_MAX: usize = 4;

/// Serves the message channel.
#[derive(Clone, Debug)]
pub(crate) struct Inbox {
    pub(crate) own: RegionId,
    pub(crate) members: Vec<RegionId>,
    pub(crate) gate: GateHandle,
    pub(crate) board: Board,
    pub(crate) shutdown: Shutdown,
}

#[tonic::async_trait]
impl Messages for Inbox {
    type SendStream = Served<v1::MessageAcks>;

    async fn send(
        &self,
        request: Request<Streaming<v1::MessageBatch>>,
    ) -> Result<Response<Self::SendStream>, Status> {
        let mut batches = request.into_inner();
        let (answers, answered) = mpsc::channel(ANSWERS_MAX);
        let inbox = self.clone();
        self.shutdown.spawn("inbox", async move {
            let (back, mut verdicts) = mpsc::channel(VERDICTS_MAX);
            let (mut some, mut spoken) = (Vec::new(), 0);
            loop {
                tokio::select! {
                    () = inbox.shutdown.begun() => return,
                    batch = batches.message() => {
                        let Ok(Some(batch)) = batch else { return };
                        match inbox.take(batch, &back).await {
                            Ok(protocol) => spoken = protocol,
                            Err(refused) => {
                                let _ = answers.send(Err(refused)).await;
                                return;
                            }
                        }
                    }
                    _ = verdicts.recv_many(&mut some, VERDICTS_MAX) => {
                        if answers.send(Ok(acks(spoken, some.drain(..)))).await.is_err() {
                            return;
                        }
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answered))))
    }
}

impl Inbox {
    /// Takes a batch; the protocol that is spoken.
    async fn take(&self, batch: v1::MessageBatch, back: &Back) -> Result<u32, Status> {
        let from = self.sender(&batch.from_region)?;
        // One that does not say is of before there was a choice.
        let theirs = Protocols::said(batch.protocol.max(1), batch.protocol_min);
        let spoken = PROTOCOLS.spoken_with(theirs);
        let spoken = spoken.map_err(|error| Status::failed_precondition(error.to_string()))?;
        let sent_ms = batch.sent_wall_ms;
        self.board.heard(Channel::Messages, |peer| (peer == from).then_some(sent_ms));
        for bytes in batch.envelopes {
            match Envelope::decode(&bytes) {
                Ok(envelope) if envelope.from == from => self.gate.arrived(envelope, back.clone()).await,
                Ok(envelope) => {
                    let reason = format!("it says that it is from '{}'", envelope.from);
                    self.gate.malformed(bytes, from, reason, back.clone()).await;
                }
                Err(error) => self.gate.malformed(bytes, from, error.to_string(), back.clone()).await,
            }
        }
        Ok(spoken)
    }

    fn sender(&self, name: &str) -> Result<RegionId, Status> {
        let from = name.parse::<RegionId>().ok();
        let known = from.filter(|from| *from != self.own && self.members.contains(from));
        known.ok_or_else(|| Status::permission_denied(format!("'{name}' is no other member of this cluster")))
    }
}

fn acks(protocol: u32, verdicts: impl Iterator<Item = Verdict>) -> v1::MessageAcks {
    let mut acks = v1::MessageAcks { protocol, ..v1::MessageAcks::default() };
    for Verdict { id, accepted } in verdicts {
        let list = if accepted { &mut acks.accepted } else { &mut acks.busy };
        list.push(bytes::Bytes::copy_from_slice(&id.0));
    }
    acks
}
