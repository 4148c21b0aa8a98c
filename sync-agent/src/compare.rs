//! Compares this region with its peers, and takes over what it lacks: the stream is the fast path, the digest the truth.
//!
//! Both say what they have of one version, so nobody has to stand still. Where the sums differ, and go on to, the slots are
//! looked at, then their entities, and the peer's state of those is merged here. The peer does the same with ours.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cell_core::id::{EntityId, RegionId, SLOT_COUNT};
use cell_proto::v1;
use service_kit::Shutdown;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use crate::board::Board;
use crate::node::NodeLink;
use crate::subscriber::Peers;
use crate::transport::cause;

/// The node is asked again while it is behind the peer's version, for so long.
const BEHIND_MAX: Duration = Duration::from_secs(3);
const BEHIND_PAUSE: Duration = Duration::from_millis(50);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A difference seen this often in a row is looked into: what is on its way for another reason is there by then.
const SEEN_BEFORE_REPAIR: u32 = 2;
/// Slots looked into in one go, and entities named to an operator.
const SLOTS_MAX: usize = 64;
const NAMED_MAX: usize = 1_000;
/// Entities fetched in one go.
const FETCH_MAX: usize = 32;

/// What the sums say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Compared {
    Equal,
    /// These slots, as far as they were asked for.
    Different {
        slots: Vec<u32>,
        doubts: Doubts,
    },
    /// No common version could be looked at.
    Inconclusive(&'static str),
}

/// Whether the two that were compared lacked something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Doubts {
    /// Which doubt this region was in; 0: none.
    ours: u64,
    /// The peer lacks a part of what it says it has, or of what it had; or it has not yet heard all regions on a new disk.
    peer_lacks: bool,
    /// The peer's disk is new, and it has not heard the homes of these slots since.
    unheard: BTreeSet<u32>,
}

/// Peers that lack something themselves, and had nothing more for this region.
#[derive(Debug, Default)]
struct Said {
    /// Which life and doubt of this region's node that is of.
    of: (u64, u64),
    /// Slots of which each could not say so.
    by: BTreeMap<RegionId, BTreeSet<u32>>,
    /// That all of them said so is in the log.
    logged: bool,
}

impl Said {
    /// One more. Once all of them said so there is nobody else to ask; then the slots of which one could not.
    fn and(
        &mut self,
        peer: RegionId,
        of: (u64, u64),
        but: BTreeSet<u32>,
        mut peers: impl Iterator<Item = RegionId>,
    ) -> Option<BTreeSet<u32>> {
        if self.of != of {
            *self = Said { of, ..Said::default() };
        }
        self.by.insert(peer, but);
        peers.all(|peer| self.by.contains_key(&peer)).then(|| self.by.values().flatten().copied().collect())
    }
}

/// How an entity differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    Differs,
    MissingHere,
    MissingThere,
}

impl Difference {
    fn as_str(self) -> &'static str {
        match self {
            Difference::Differs => "differs",
            Difference::MissingHere => "missing here",
            Difference::MissingThere => "missing there",
        }
    }
}

/// What came of merging a peer's state.
#[derive(Debug, Default)]
pub(crate) struct Healed {
    /// How many entities got something new.
    pub(crate) changed: u64,
    /// Those of which the peer could not give all, or not all could be taken.
    pub(crate) open: BTreeSet<EntityId>,
}

impl Healed {
    fn add(&mut self, more: Healed) {
        self.changed += more.changed;
        self.open.extend(more.open);
    }
}

/// Compares with any peer; clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct Comparer {
    pub(crate) node: NodeLink,
    pub(crate) peers: Peers,
    pub(crate) board: Board,
    /// Entities taken over in a second, at most.
    repair_per_s: u32,
    said: Arc<Mutex<Said>>,
}

impl Comparer {
    pub(crate) fn new(node: NodeLink, peers: Peers, board: Board, repair_per_s: u32) -> Comparer {
        Comparer { node, peers, board, repair_per_s, said: Arc::default() }
    }

    /// Compares with a peer again and again, and heals; until the shutdown begins.
    pub(crate) async fn keep(self, peer: RegionId, every: Duration, shutdown: Shutdown) {
        let mut seen = 0;
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                () = tokio::time::sleep(every) => {}
            }
            let outcome = tokio::select! {
                () = shutdown.begun() => return,
                outcome = self.look(peer, &mut seen) => outcome,
            };
            let outcome = outcome.unwrap_or_else(|error| {
                tracing::debug!(%peer, %error, "not compared");
                "unreachable"
            });
            metrics::counter!("cell_compared_total", "peer" => peer.to_string(), "outcome" => outcome)
                .increment(1);
        }
    }

    async fn look(&self, peer: RegionId, seen: &mut u32) -> Result<&'static str, Status> {
        match self.compare(peer, false).await? {
            Compared::Inconclusive(why) => {
                tracing::debug!(%peer, why, "not compared");
                Ok("inconclusive")
            }
            Compared::Equal => {
                if *seen >= SEEN_BEFORE_REPAIR {
                    tracing::info!(%peer, "the difference is healed");
                }
                *seen = 0;
                self.board.agrees(peer);
                Ok("equal")
            }
            Compared::Different { .. } => {
                *seen += 1;
                self.board.differs(peer);
                if *seen >= SEEN_BEFORE_REPAIR
                    && let Compared::Different { slots, doubts } = self.compare(peer, true).await?
                {
                    let differences = self.narrow(peer, &slots).await?;
                    let Healed { changed: repaired, open } = self.heal(peer, &differences).await?;
                    let unexplained = unexplained(&slots, &differences);
                    if repaired == 0 && slots.len() <= SLOTS_MAX {
                        // It differs in what this region has and the peer lacks: the peer has nothing more to give. But of a
                        // slot whose entities are the same one of the two counted what it has lost since.
                        let open = open.iter().map(|id| u32::from(id.slot().number()));
                        let but = unexplained.iter().copied().chain(open).collect();
                        self.has_nothing_more(peer, doubts, but).await?;
                    }
                    let (slots, entities) = (slots.len(), differences.len());
                    tracing::warn!(%peer, slots, entities, repaired, "what both should have differs");
                    // The peer finds the same, and counts, too. Ever more rarely.
                    if !unexplained.is_empty() && seen.is_power_of_two() {
                        within(self.node.recount()).await?;
                    }
                }
                Ok("different")
            }
        }
    }

    /// Compares once; with the differing slots, if they are asked for.
    pub(crate) async fn compare(&self, peer: RegionId, slots: bool) -> Result<Compared, Status> {
        let wanted = v1::DigestsRequest { slots, ..v1::DigestsRequest::default() };
        let theirs = within(self.peers.digests(peer, wanted)).await?;
        if !theirs.not_comparable.is_empty() || theirs.at.is_empty() {
            return Ok(Compared::Inconclusive("the peer cannot say"));
        }
        let begun = Instant::now();
        let ours = loop {
            let wanted = v1::DigestsRequest { at: theirs.at.clone(), slots, stamp: theirs.stamp.clone() };
            let ours = within(self.node.digests(wanted)).await?;
            match ours.not_comparable.as_str() {
                "" => break ours,
                "behind" if begun.elapsed() < BEHIND_MAX => tokio::time::sleep(BEHIND_PAUSE).await,
                "behind" => return Ok(Compared::Inconclusive("this region is behind")),
                _ => return Ok(Compared::Inconclusive("the peer is too far behind")),
            }
        };
        let unheard = theirs.unheard_slots.into_iter().collect();
        let doubts = Doubts { ours: ours.doubt, peer_lacks: theirs.lacking, unheard };
        if ours.root == theirs.root {
            // Of two that have holes neither knows what it lacks. One that has none has all that the sums are of.
            if ours.quarantined > 0 && theirs.quarantined > 0 {
                return Ok(Compared::Inconclusive("changes are quarantined"));
            }
            self.has_nothing_more(peer, doubts, BTreeSet::new()).await?;
            return Ok(Compared::Equal);
        }
        let pairs = ours.slots.chunks(32).zip(theirs.slots.chunks(32));
        let differing = (0..).zip(pairs).filter(|(_, (ours, theirs))| ours != theirs).map(|(slot, _)| slot);
        Ok(Compared::Different { slots: differing.collect(), doubts })
    }

    /// Ends this region's doubt, but for some slots and those of which the peer has not heard: if it lacks nothing itself, or
    /// no peer is left that could have more.
    async fn has_nothing_more(
        &self,
        peer: RegionId,
        doubts: Doubts,
        mut but: BTreeSet<u32>,
    ) -> Result<(), Status> {
        let Doubts { ours: doubt, peer_lacks, unheard } = doubts;
        but.extend(unheard);
        if doubt == 0 || but.len() >= usize::from(SLOT_COUNT) {
            return Ok(());
        }
        if peer_lacks {
            let of = (self.node.life(), doubt);
            // Only assignments run under the lock.
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(of_all) = said.and(peer, of, but, self.peers.regions()) else { return Ok(()) };
            but = of_all;
            if !std::mem::replace(&mut said.logged, true) {
                tracing::error!(
                    "every region lacks a part of what it says it has: what none of them has is lost"
                );
            }
            drop(said);
        }
        let but_slots = but.into_iter().collect();
        within(self.node.agreed(v1::AgreedRequest { doubt, but_slots })).await?;
        Ok(())
    }

    /// The entities of these slots that differ now, some of them perhaps because they are being changed.
    pub(crate) async fn narrow(
        &self,
        peer: RegionId,
        slots: &[u32],
    ) -> Result<BTreeMap<EntityId, Difference>, Status> {
        let slots: Vec<u32> = slots.iter().copied().take(SLOTS_MAX).collect();
        let wanted = v1::EntityDigestsRequest { slots };
        let theirs = collect(self.peers.entity_digests(peer, wanted.clone()).await?).await?;
        let ours = collect(self.node.entity_digests(wanted).await?).await?;
        let ids: BTreeSet<&EntityId> = ours.keys().chain(theirs.keys()).collect();
        let difference = |id: &EntityId| match (ours.get(id), theirs.get(id)) {
            (Some(ours), Some(theirs)) => (ours != theirs).then_some(Difference::Differs),
            (None, _) => Some(Difference::MissingHere),
            (_, None) => Some(Difference::MissingThere),
        };
        Ok(ids.into_iter().filter_map(|id| Some((*id, difference(id)?))).collect())
    }

    /// Merges the peer's state of what differs. Not faster than it may.
    pub(crate) async fn heal(
        &self,
        peer: RegionId,
        differences: &BTreeMap<EntityId, Difference>,
    ) -> Result<Healed, Status> {
        let here = differences.iter().filter(|(_, difference)| **difference != Difference::MissingThere);
        let ids: Vec<EntityId> = here.map(|(id, _)| *id).collect();
        let mut healed = Healed::default();
        for some in ids.chunks(FETCH_MAX) {
            let before = healed.changed;
            match self.take_over(peer, some, false).await {
                Ok(taken) => healed.add(taken),
                Err(error) if some.len() == 1 => return Err(error),
                // One of them is in the way of the others.
                Err(_) => {
                    for id in some {
                        match self.take_over(peer, &[*id], false).await {
                            Ok(taken) => healed.add(taken),
                            Err(error) => {
                                tracing::warn!(%peer, %id, error = cause(&error), "cannot be taken over");
                                healed.open.insert(*id);
                            }
                        }
                    }
                }
            }
            metrics::counter!("cell_repaired_entities_total", "peer" => peer.to_string())
                .increment(healed.changed - before);
            tokio::time::sleep(Duration::from_secs_f64(some.len() as f64 / f64::from(self.repair_per_s)))
                .await;
        }
        Ok(healed)
    }

    /// Merges the peer's state of these, in as many answers as it takes. Not `whole`: also of what their changes touched
    /// beside them, as far as it can be given and taken. `whole`: of these alone, also where the peer lacks something of
    /// them, and it is an error if some cannot be taken.
    pub(crate) async fn take_over(
        &self,
        peer: RegionId,
        mut ids: &[EntityId],
        whole: bool,
    ) -> Result<Healed, Status> {
        let mut healed = Healed::default();
        while !ids.is_empty() {
            let entities = ids.iter().map(|id| Bytes::copy_from_slice(&id.to_bytes())).collect();
            let request =
                v1::EntitiesRequest { entities, alone: whole, incomplete_too: whole, takes_packed: true };
            let fetched = self.peers.fetch(peer, request).await?;
            let request = v1::MergeRequest { entities: fetched.entities, from_region: peer.to_string() };
            let merged = within(self.node.merge(request)).await?;
            healed.changed += merged.changed;
            if !merged.refused.is_empty() || !fetched.withheld.is_empty() {
                let (refused, withheld) = (merged.refused.len(), fetched.withheld.len());
                tracing::warn!(%peer, refused, withheld, "some entities cannot be taken over: `cellctl quarantine list`");
                if whole {
                    return Err(Status::data_loss(format!(
                        "{refused} entities of {peer} cannot be taken here"
                    )));
                }
            }
            healed.open.extend(merged.refused.iter().chain(&fetched.withheld).filter_map(read_id));
            // A peer that does not say how many has looked at all.
            let looked = if fetched.looked == 0 { ids.len() } else { fetched.looked as usize };
            ids = ids.get(looked..).unwrap_or_default();
        }
        Ok(healed)
    }

    /// For an operator: compares now, whatever was seen before, and heals if asked to.
    pub(crate) async fn report(&self, peer: RegionId, repair: bool) -> Result<v1::CompareReply, Status> {
        let slots = match self.compare(peer, true).await? {
            Compared::Equal => return Ok(v1::CompareReply::default()),
            Compared::Inconclusive(why) => {
                return Err(Status::unavailable(why));
            }
            Compared::Different { slots, .. } => slots,
        };
        let differences = self.narrow(peer, &slots).await?;
        let repaired = if repair { self.heal(peer, &differences).await?.changed } else { 0 };
        let named = differences.iter().take(NAMED_MAX).map(|(id, difference)| v1::Difference {
            entity: id.to_string(),
            what: difference.as_str().to_owned(),
        });
        Ok(v1::CompareReply { slots, differences: named.collect(), repaired })
    }
}

/// Those of the slots looked at in which no entity differs.
fn unexplained(slots: &[u32], differences: &BTreeMap<EntityId, Difference>) -> Vec<u32> {
    let explained: BTreeSet<u32> = differences.keys().map(|id| id.slot().number().into()).collect();
    slots.iter().copied().take(SLOTS_MAX).filter(|slot| !explained.contains(slot)).collect()
}

pub(crate) async fn within<T>(asked: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let answered = tokio::time::timeout(ANSWER_WITHIN, asked).await;
    answered.map_err(|_| Status::deadline_exceeded("no answer"))?
}

fn read_id(wire: &Bytes) -> Option<EntityId> {
    wire.as_ref().try_into().ok().map(EntityId::from_bytes)
}

async fn collect(
    mut batches: Streaming<v1::EntityDigestsReply>,
) -> Result<BTreeMap<EntityId, Bytes>, Status> {
    let mut digests = BTreeMap::new();
    while let Some(batch) = within(batches.message()).await? {
        for entity in batch.entities {
            let id = read_id(&entity.entity).ok_or_else(|| Status::internal("an id of another length"))?;
            digests.insert(id, entity.digest);
        }
    }
    Ok(digests)
}

#[cfg(test)]
mod tests {
    use cell_core::id::{Hash, OrderId, PublicId, Slot};

    use super::*;

    #[test]
    fn a_slot_whose_entities_are_the_same_explains_no_difference() {
        let of = |slot: u16| {
            let id = PublicId::new(1, Slot::new(slot).unwrap(), &Hash::of(b"an order"));
            (EntityId::from(OrderId(id)), Difference::MissingThere)
        };
        let differences = BTreeMap::from([of(3), of(9)]);
        assert_eq!(unexplained(&[3, 7, 9], &differences), [7]);
        assert_eq!(unexplained(&[7], &BTreeMap::new()), [7]);
        let many: Vec<u32> = (0..100).collect();
        assert_eq!(unexplained(&many, &differences).len(), SLOTS_MAX - 2, "of the others nothing is known");
    }

    #[test]
    fn regions_that_lack_something_end_a_doubt_when_all_of_them_had_nothing_more() {
        let [east, south] = ["east", "south"].map(|name| name.parse::<RegionId>().unwrap());
        let mut said = Said::default();
        let mut and = |peer, of, but: &[u32]| {
            said.and(peer, of, but.iter().copied().collect(), [east, south].into_iter())
        };
        assert_eq!(and(east, (1, 7), &[4]), None, "the other may have it");
        assert_eq!(and(east, (1, 7), &[4]), None, "however often one says so");
        assert_eq!(and(south, (1, 8), &[]), None, "that was another doubt");
        assert_eq!(and(east, (2, 8), &[5]), None, "and that of another life");
        assert_eq!(and(south, (2, 8), &[4]), Some(BTreeSet::from([4, 5])));
    }
}
