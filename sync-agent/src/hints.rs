//! What the node says of messages nobody needs any more, and of slots whose home changed.

use cell_core::duty;
use cell_core::gate::{Input, MessageKind};
use cell_core::id::{EntityId, Slot};
use cell_core::placement::Epoch;
use cell_proto::v1;
use service_kit::Shutdown;

use crate::backoff::Backoff;
use crate::gate::GateHandle;
use crate::node::NodeLink;
use crate::placement::Homes;

const ABOUT_PAYMENTS: [MessageKind; 4] =
    [MessageKind::PayRequest, MessageKind::Withdrawal, MessageKind::Result, MessageKind::StalledNotice];

/// Follows the node's hints, and again after every break; until the shutdown begins. A hint that was missed costs one
/// delivery that the node answers as done.
pub(crate) async fn follow(node: NodeLink, homes: Homes, gate: GateHandle, shutdown: Shutdown) {
    let mut backoff = Backoff::default();
    loop {
        tokio::select! {
            () = shutdown.begun() => return,
            ended = follow_once(&node, &homes, &gate, &mut backoff) => if let Err(error) = ended {
                tracing::debug!(%error, "the node's hints ended");
            },
        }
        tokio::select! {
            () = shutdown.begun() => return,
            () = tokio::time::sleep(backoff.next()) => {}
        }
    }
}

async fn follow_once(
    node: &NodeLink,
    homes: &Homes,
    gate: &GateHandle,
    backoff: &mut Backoff,
) -> Result<(), tonic::Status> {
    node.connected().await;
    let mut hints = node.client().gate_hints(v1::GateHintsRequest {}).await?.into_inner();
    backoff.reset();
    while let Some(hint) = hints.message().await? {
        for input in read(hint) {
            if let Input::SlotHome { slot, epoch } = &input {
                homes.learn(*slot, epoch);
            }
            gate.tell(input).await;
        }
    }
    Ok(())
}

fn read(hint: v1::GateHint) -> Vec<Input> {
    let mut inputs = Vec::new();
    let subject = hint.subject.as_ref().try_into().ok().map(EntityId::from_bytes);
    let kind = ABOUT_PAYMENTS.into_iter().find(|kind| kind.code() == hint.kind);
    if let (Some(payment), Some(kind)) = (subject.and_then(|subject| subject.payment()), kind) {
        inputs.push(Input::NeedGone { id: duty::message_id(kind, payment), why: hint.why });
    }
    let epoch = hint.epoch.and_then(|epoch| Epoch::try_from(epoch).ok());
    let slot = u16::try_from(hint.slot).ok().and_then(|slot| Slot::new(slot).ok());
    if let (Some(slot), Some(epoch)) = (slot, epoch) {
        inputs.push(Input::SlotHome { slot, epoch });
    }
    inputs
}
