//! What is compared with other regions.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use cell_core::cell::{Front, NotComparable};
use cell_core::digest::Digest;
use cell_core::fronts::Said;
use cell_core::id::{ActorId, EntityId, Hash, Slot};
use cell_proto::v1;
use service_kit::Shutdown;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{BATCHES_MAX, Served, bad, status};
use crate::node::{Compared, Node};
use crate::view;

pub(super) async fn digests(node: &Node, request: v1::DigestsRequest) -> Result<v1::DigestsReply, Status> {
    let at = request.at.into_iter().map(|front| {
        let actor = front.actor.ok_or_else(|| Status::invalid_argument("a front names no actor"))?;
        Ok::<_, Status>((ActorId::try_from(actor).map_err(bad)?, Front { seq: front.seq, hash: Hash::ZERO }))
    });
    let fronts = at.collect::<Result<Vec<_>, _>>()?;
    let stamp = <[u8; 32]>::try_from(request.stamp.as_ref()).ok().map(Digest::from_bytes);
    let said = Said { fronts, stamp: stamp.unwrap_or_default(), all: stamp.is_none() };
    let at = (!said.fronts.is_empty()).then_some(said);
    let compared = match node.digests(at).await.map_err(status)? {
        Ok(compared) => compared,
        Err(why) => {
            let not_comparable = match why {
                NotComparable::Behind => "behind",
                NotComparable::TooOld => "too-old",
            };
            return Ok(v1::DigestsReply {
                not_comparable: not_comparable.to_owned(),
                ..v1::DigestsReply::default()
            });
        }
    };
    let Compared { at, slots: digests, doubt, quarantined, lacking, unheard } = compared;
    let front = |(actor, front): &(ActorId, Front)| v1::ActorFrontier {
        actor: Some((*actor).into()),
        seq: front.seq,
        hash: Bytes::new(),
        quarantined: Vec::new(),
    };
    let root = digests.iter().fold(Digest::default(), |sum, digest| sum.plus(*digest));
    let slots = digests.iter().filter(|_| request.slots).flat_map(|digest| digest.to_bytes());
    Ok(v1::DigestsReply {
        at: at.fronts.iter().map(front).collect(),
        stamp: Bytes::copy_from_slice(&at.stamp.to_bytes()),
        root: Bytes::copy_from_slice(&root.to_bytes()),
        slots: slots.collect(),
        not_comparable: String::new(),
        doubt,
        quarantined,
        lacking,
        unheard_slots: unheard.into_iter().map(|slot| slot.number().into()).collect(),
    })
}

pub(super) fn of_entities(
    node: &Node,
    shutdown: &Shutdown,
    request: v1::EntityDigestsRequest,
) -> Result<Served<v1::EntityDigestsReply>, Status> {
    let wanted = request.slots.into_iter().map(|slot| {
        let slot = u16::try_from(slot).map_err(|_| Status::invalid_argument("no slot"))?;
        Slot::new(slot).map_err(|error| Status::invalid_argument(error.to_string()))
    });
    let wanted = Arc::new(wanted.collect::<Result<BTreeSet<_>, _>>()?);
    let (sender, receiver) = mpsc::channel(BATCHES_MAX);
    let (store, stop) = (node.store().clone(), shutdown.clone());
    shutdown.spawn("digests of entities", async move {
        let mut after = None;
        loop {
            let (store, wanted, from) = (store.clone(), wanted.clone(), after.take());
            let read = move || view::entity_digests(&store, &wanted, from);
            let reply = match tokio::task::spawn_blocking(read).await {
                Ok(Ok((found, next))) => {
                    after = next;
                    Ok(v1::EntityDigestsReply { entities: found.iter().map(entity_digest).collect() })
                }
                Ok(Err(error)) => Err(Status::unavailable(error.to_string())),
                Err(error) => Err(Status::internal(error.to_string())),
            };
            let last = reply.is_err() || after.is_none();
            let sent = tokio::select! {
                () = stop.begun() => return,
                sent = sender.send(reply) => sent,
            };
            if last || sent.is_err() {
                return;
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

fn entity_digest((id, digest): &(EntityId, Digest)) -> v1::EntityDigest {
    v1::EntityDigest {
        entity: Bytes::copy_from_slice(&id.to_bytes()),
        digest: Bytes::copy_from_slice(&digest.to_bytes()),
    }
}
