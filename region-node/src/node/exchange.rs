//! What the sync-agent and operators ask: how far the node is, what other regions bring, and what stands beside an entity.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cell_core::cell::{
    Answer, Cell, Delivery, Front, Hole, Incoming, NotComparable, Overseer, Refused, Step, Unavailable, View,
};
use cell_core::digest::Digest;
use cell_core::duty::every_permit;
use cell_core::entity::{Entity, Reading};
use cell_core::event::Audit;
use cell_core::fronts::{Fronts, Said};
use cell_core::gate::{Envelope, MessageKind, Requirement};
use cell_core::id::{ActorId, EntityId, RegionId, Slot};
use cell_core::lives::ActorLife;
use cell_core::order::Order;
use cell_core::payment::{Payment, PaymentPhase};
use cell_core::version::{Dot, VersionVector};
use cell_proto::v1;
use service_kit::TraceParent;

use super::Node;
use crate::contain::contained;
use crate::explain;
use crate::scrub::Off;
use crate::working::Stacked;
use crate::writer::NodeError;

/// A larger state of an entity, with its origins, may not fit into one frame of the log.
const STATE_BYTES_MAX: usize = 10 << 20;

/// What a node has of a version.
#[derive(Debug)]
pub(crate) struct Compared {
    pub(crate) at: Said,
    /// The digest of each slot.
    pub(crate) slots: Vec<Digest>,
    /// Which doubt there was at that moment; 0: none.
    pub(crate) doubt: u64,
    /// So much of it could not be applied, and nobody gave it up.
    pub(crate) quarantined: u64,
    /// Another node that lacks something cannot conclude anything from what is not here.
    pub(crate) lacking: bool,
    /// Nor of these, if it is not lacking.
    pub(crate) unheard: Vec<Slot>,
}

/// How far a node is.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) fronts: Fronts,
    /// Changes that it went over.
    pub(crate) holes: Vec<(Dot, Hole)>,
    /// Actors of whose changes the first is missing here, although later ones are not.
    pub(crate) headless: Vec<ActorId>,
    pub(crate) lives: Vec<ActorLife>,
    /// Up to when everything of each region is here, wall milliseconds at its origin.
    pub(crate) heard: Vec<(RegionId, u64)>,
}

impl Node {
    /// How far the node is: what a status says.
    pub(crate) async fn known(&self) -> Result<Known, NodeError> {
        let members = self.members.clone();
        self.run(move |cell, _, _| {
            let is = |actor: &ActorId| cell.fronts().seq(actor);
            let heard = |region: &RegionId| Some((*region, cell.lives().heard_of(*region, is)?));
            let known = Known {
                fronts: cell.fronts().clone(),
                headless: cell.holes().filter(|(_, known, _)| *known == 0).map(|(actor, ..)| actor).collect(),
                holes: cell.quarantined().map(|(dot, hole)| (*dot, hole.clone())).collect(),
                lives: cell.lives().iter().copied().collect(),
                heard: members.iter().filter_map(heard).collect(),
            };
            Ok((Step::default(), known))
        })
        .await
    }

    /// What duties depend on as of now, apart from the view.
    pub(crate) async fn overseer(&self) -> Result<Overseer, NodeError> {
        self.run(|cell, _, _| Ok((Step::default(), cell.overseer()))).await
    }

    /// These slots were counted and are off: from now on their digests are what is there, and they are in doubt.
    pub(crate) async fn correct(&self, off: Vec<Off>) -> Result<(), NodeError> {
        let working = self.working.clone();
        self.run_all(move |cell, _, _, steps| {
            let correct = |off: &Off| cell.correct_digest(off.slot, off.found, off.expected);
            steps.extend(off.iter().map(correct));
            working.doubt_slots(off.iter().map(|off| off.slot));
            Ok(())
        })
        .await
    }

    /// The version and each slot's digest of what it covers: of what a peer said, or of the node's own.
    pub(crate) async fn digests(
        &self,
        at: Option<Said>,
    ) -> Result<Result<Compared, NotComparable>, NodeError> {
        let working = self.working.clone();
        let compare = move |cell: &Cell, holes: &[Dot], now_ms| {
            let fronts = cell.fronts();
            let open = |covers: &dyn Fn(&Dot) -> bool| holes.iter().filter(|dot| covers(dot)).count() as u64;
            let (doubt, unheard) = (working.doubt_generation(), working.distrusted_slots());
            // What a new disk has is of the peer that is asking, perhaps, and of nobody else.
            let rebuilt = doubt > 0 && !unheard.is_empty();
            let lacking = rebuilt || !working.may_found();
            let Some(said) = at else {
                let (at, quarantined) = (fronts.say(None), open(&|_| true));
                let slots = cell.digests_at(None, now_ms)?;
                return Ok(Compared { at, slots, doubt, quarantined, lacking, unheard });
            };
            // Who cannot tell what a stamp stands for has heard too little, or too much.
            let version = fronts.hear(said.clone()).ok_or(NotComparable::Behind)?;
            let version: VersionVector =
                version.into_iter().map(|(actor, front)| (actor, front.seq)).collect();
            let slots = cell.digests_at(Some(&version), now_ms)?;
            let quarantined = open(&|dot| version.covers(dot));
            Ok(Compared { at: said, slots, doubt, quarantined, lacking, unheard })
        };
        self.run(move |cell, view, now_ms| {
            let holes = cell.open_holes(view)?;
            Ok((Step::default(), compare(cell, &holes, now_ms)))
        })
        .await
    }

    /// Applies changes of other actors in order; returns those refused, and what is known of their actors.
    /// Several can be under way: they are applied in the order in which they were given.
    pub(crate) fn replicate(
        &self,
        changes: Vec<Incoming>,
    ) -> impl Future<Output = Result<Refusals, NodeError>> + Send + use<> {
        let said = Arc::clone(&self.said_lost);
        let work = move |cell: &mut Cell, view: &dyn View, now_ms: u64, steps: &mut Vec<Step>| {
            let (refused, came_back) = replicate_all(cell, view, &changes, now_ms, steps)?;
            if came_back > 0 && !said.swap(true, Ordering::Relaxed) {
                tracing::error!(
                    "changes of this node's own came back from a peer: its disk had lost them, or another process writes \
                     as this node. They count again; it is said once"
                );
            }
            Ok(refused)
        };
        self.submit.run(work)
    }

    /// Changes that stand in this node's own log behind a hole which closed meanwhile; how many were taken.
    pub(crate) async fn go_on_over(&self, changes: Vec<Incoming>) -> Result<usize, NodeError> {
        self.run_all(move |cell, view, now_ms, steps| {
            let (refused, _) = replicate_all(cell, view, &changes, now_ms, steps)?;
            Ok(changes.len() - refused.len())
        })
        .await
    }

    /// Merges states of another region; returns how many of them brought something new, and which cannot be taken.
    pub(crate) async fn merge(&self, entities: Vec<Entity>) -> Result<(usize, Vec<EntityId>), NodeError> {
        let most = self.ability.entity_bytes_max.min(STATE_BYTES_MAX);
        let (entities, large): (Vec<_>, Vec<_>) = entities.into_iter().partition(|it| it.bytes() <= most);
        let large: Vec<EntityId> = large.iter().map(|entity| entity.id).collect();
        self.run_all(move |cell, view, now_ms, steps| {
            let mut refused = large;
            match contained("merge", &"states", || cell.merge(view, entities.clone(), now_ms)) {
                Ok(step) => steps.push(step?),
                // One of them: the others are as good.
                Err(_) => {
                    let over = Stacked::new(view);
                    for entity in entities {
                        let id = entity.id;
                        match contained("merge", &id, || cell.merge(&over, vec![entity], now_ms)) {
                            Ok(step) => {
                                let step = step?;
                                over.put(&step);
                                steps.push(step);
                            }
                            Err(_) => refused.push(id),
                        }
                    }
                }
            }
            let changed = steps.iter().map(|step| step.merged.len()).sum();
            Ok((changed, refused))
        })
        .await
    }

    pub(crate) async fn deliver(&self, envelope: Envelope, why: Delivery) -> Result<Answer, NodeError> {
        let span = envelope.trace.parse::<TraceParent>().map(|trace| trace.span("take"));
        let (id, kind, subject) = (envelope.id, envelope.kind, envelope.subject);
        let answer = self
            .decide(move |cell, view, now_ms| {
                let delivered = contained("deliver", &id, || cell.deliver(view, &envelope, why, now_ms));
                delivered
                    .unwrap_or_else(|said| Ok((Step::default(), Answer::Failed(format!("panicked: {said}")))))
            })
            .await;
        let _entered = span.as_ref().map(tracing::Span::enter);
        tracing::info!(%id, %kind, %subject, ?answer, "a message was taken");
        answer
    }

    pub(crate) async fn audit(&self, audit: Audit) -> Result<(), NodeError> {
        self.run(move |cell, view, now_ms| Ok((cell.audit(view, audit, now_ms)?, ()))).await
    }

    /// Of these requirements, those that are not met: neither covered by the frontier nor in the entity named.
    pub(crate) async fn missing(&self, requires: Vec<Requirement>) -> Result<Vec<Requirement>, NodeError> {
        self.run(move |cell, view, _| {
            let mut missing = Vec::new();
            for need in requires {
                if !cell.meets(view, &need)? {
                    missing.push(need);
                }
            }
            Ok((Step::default(), missing))
        })
        .await
    }

    /// What the changes of an entity touched beside it.
    pub(crate) fn beside(&self, id: EntityId) -> Result<Vec<EntityId>, NodeError> {
        let Some(entity) = self.entity(id)? else { return Ok(Vec::new()) };
        if id.order().is_some() {
            let reading = Reading::<Order>::of(&entity);
            return Ok(every_permit(&reading).map(|(payment, _)| payment.into()).collect());
        }
        let order = entity.record::<Payment>().map(|(permit, _)| permit.order.into());
        Ok(order.into_iter().collect())
    }

    /// Messages about this entity that nobody needs any more.
    pub(crate) fn hints(&self, id: EntityId) -> Vec<v1::GateHint> {
        let Ok(Some(entity)) = self.entity(id) else { return Vec::new() };
        let state = Reading::<Payment>::of(&entity).state;
        let gone = |kind: MessageKind, why: &str| v1::GateHint {
            subject: bytes::Bytes::copy_from_slice(&id.to_bytes()),
            kind: kind.code(),
            why: why.to_owned(),
            slot: 0,
            epoch: None,
        };
        match state.map(|state| state.phase) {
            Some(PaymentPhase::Ended(how)) => {
                [MessageKind::PayRequest, MessageKind::Withdrawal].map(|kind| gone(kind, how.as_str())).into()
            }
            Some(PaymentPhase::Received | PaymentPhase::Accepted) => {
                vec![gone(MessageKind::PayRequest, "received by the data alone")]
            }
            _ => Vec::new(),
        }
    }

    pub(crate) async fn explain(&self, id: EntityId) -> Result<Option<serde_json::Value>, NodeError> {
        let duties = self.run(move |cell, view, _| Ok((Step::default(), cell.duties(view, id)?))).await?;
        let mut document = explain::explain(&self.working, id, &duties)?;
        if let Err(Unavailable(why)) = self.working.entity_or_lost(id) {
            // Not denied, nor shown as if it were all.
            let document = document.get_or_insert_with(|| serde_json::json!({ "id": id.to_string() }));
            document["status"] = serde_json::json!("withheld");
            document["blocked"] = serde_json::json!(why);
            document["withheld_by"] =
                serde_json::json!(self.working.withheld_by(id).map(|dot| dot.to_string()));
        }
        Ok(document)
    }
}

type Refusals = Vec<(Dot, Refused, Option<Front>)>;

/// Those refused, with what is known of their actors; and how many were this node's own and not known here.
fn replicate_all(
    cell: &mut Cell,
    view: &dyn View,
    changes: &[Incoming],
    now_ms: u64,
    steps: &mut Vec<Step>,
) -> Result<(Refusals, usize), Unavailable> {
    let (mut refused, mut came_back) = (Vec::new(), 0);
    let over = Stacked::new(view);
    for change in changes {
        let dot = change.entry.dot;
        match cell.replicate(&over, change, now_ms)? {
            Ok(step) => {
                let own = dot.actor.node == cell.me().node;
                came_back += usize::from(own && !step.entries.is_empty());
                over.put(&step);
                steps.push(step);
            }
            Err(why) => refused.push((dot, why, cell.fronts().get(&dot.actor).copied())),
        }
    }
    Ok((refused, came_back))
}
