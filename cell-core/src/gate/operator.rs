//! What operators see and do.

use std::ops::Bound;

use super::item::{Errand, Item, Stage, State};
use super::names::Names;
use super::record::{Discarded, Gone, Record};
use super::{Action, DeadReason, Ending, Gate, Kept, MessageId, MessageKind, Output, Requirement, persist};
use crate::id::{EntityId, RegionId, Slot};
use crate::placement::Epoch;

/// Which messages are meant: those that fit everything given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub stage: Option<Stage>,
    pub reason: Option<DeadReason>,
    /// Where it came from.
    pub region: Option<RegionId>,
    /// What it is about or requires: a payment, or an order.
    pub entity: Option<EntityId>,
    /// It arrived at least this long ago.
    pub older_than_ms: Option<u64>,
}

/// One message as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: MessageId,
    pub from: RegionId,
    pub arrived_ms: u64,
    pub stage: Stage,
    /// Of a dead letter.
    pub reason: Option<DeadReason>,
    /// The handler's or the decoder's error, or the operator's reason for a discard; else empty.
    pub detail: String,
    /// `None` if the message cannot be read.
    pub message: Option<EntryMessage>,
}

/// What is known of a message that could be read. Its body and trace are with its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryMessage {
    pub kind: MessageKind,
    pub subject: EntityId,
    pub from_slot: Slot,
    pub to_slot: Slot,
    pub epoch: Epoch,
    pub requires: Vec<Requirement>,
    /// What of it is not known to be present.
    pub missing: Vec<Requirement>,
    /// Times handed to the node since this start of the gate, and how often its handler failed.
    pub attempts: u32,
    pub failures: u32,
    pub discarded: bool,
    /// 0: none.
    pub deadline_ms: u64,
    /// 0: none.
    pub until_ms: u64,
}

// === queries ===

impl Gate {
    /// Up to `limit` messages that fit, in id order, beginning behind `after`.
    #[must_use]
    pub fn list(&self, now_ms: u64, filter: &Filter, after: Option<MessageId>, limit: usize) -> Vec<Entry> {
        let ids = self.matching(now_ms, filter, after, limit);
        ids.iter().filter_map(|id| self.inspect(id)).collect()
    }

    #[must_use]
    pub fn inspect(&self, id: &MessageId) -> Option<Entry> {
        if let Some(kept) = self.undecoded.get(id) {
            return Some(Entry {
                id: *id,
                from: kept.from,
                arrived_ms: kept.arrived_ms,
                stage: Stage::Dead,
                reason: Some(DeadReason::Malformed),
                detail: kept.reason.clone(),
                message: None,
            });
        }
        let item = self.items.get(self.items.find(id)?)?;
        let names = &self.index.names;
        let detail = item.note.as_deref().map_or("", |note| match &note.discard {
            Some(discard) if note.detail.is_empty() => &discard.reason,
            _ => &note.detail,
        });
        Some(Entry {
            id: *id,
            from: item.from(names),
            arrived_ms: item.arrived_ms,
            stage: item.state.stage(),
            reason: dead_reason(item),
            detail: detail.to_owned(),
            message: Some(EntryMessage {
                kind: item.kind,
                subject: item.subject,
                from_slot: item.from_slot,
                to_slot: item.to_slot,
                epoch: item.epoch(names),
                requires: item.requires(names),
                missing: item.missing(names),
                attempts: item.attempt,
                failures: u32::from(item.failures),
                discarded: item.is_discarded(),
                deadline_ms: never_is_zero(item.deadline_ms),
                until_ms: never_is_zero(item.until_ms),
            }),
        })
    }

    fn matching(
        &self,
        now_ms: u64,
        filter: &Filter,
        after: Option<MessageId>,
        limit: usize,
    ) -> Vec<MessageId> {
        let names = &self.index.names;
        let items = self.items.by_id(after).filter(|item| filter.fits(now_ms, item, names));
        let behind = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let kept = self.undecoded.range(behind).filter(|(_, kept)| filter.fits_kept(now_ms, kept));
        let kept = kept.map(|(id, _)| *id);
        let mut ids: Vec<MessageId> = items.map(|item| item.id).take(limit).chain(kept.take(limit)).collect();
        ids.sort_unstable();
        ids.truncate(limit);
        ids
    }
}

impl Filter {
    fn fits(&self, now_ms: u64, item: &Item, names: &Names) -> bool {
        self.fits_common(now_ms, item.state.stage(), dead_reason(item), item.from(names), item.arrived_ms)
            && self.entity.is_none_or(|entity| item.concerns(&entity))
    }

    fn fits_kept(&self, now_ms: u64, kept: &Kept) -> bool {
        self.fits_common(now_ms, Stage::Dead, Some(DeadReason::Malformed), kept.from, kept.arrived_ms)
            && self.entity.is_none()
    }

    fn fits_common(
        &self,
        now_ms: u64,
        stage: Stage,
        reason: Option<DeadReason>,
        from: RegionId,
        arrived_ms: u64,
    ) -> bool {
        self.stage.is_none_or(|wanted| wanted == stage)
            && self.reason.is_none_or(|wanted| Some(wanted) == reason)
            && self.region.is_none_or(|wanted| wanted == from)
            && self.older_than_ms.is_none_or(|age_ms| now_ms.saturating_sub(arrived_ms) >= age_ms)
    }
}

fn dead_reason(item: &Item) -> Option<DeadReason> {
    match item.state {
        State::Dead(reason) => Some(reason),
        _ => None,
    }
}

fn never_is_zero(ms: u64) -> u64 {
    if ms == super::item::NEVER { 0 } else { ms }
}

// === actions ===

impl Gate {
    /// Carries one action out. Its audit comes before its effects, also when it has none.
    pub(super) fn operate(&mut self, now_ms: u64, identity: String, action: Action, out: &mut Vec<Output>) {
        let mut effects = Vec::new();
        let ids = match &action {
            Action::Redrive { id } => self.redrive_all(now_ms, vec![*id], &mut effects),
            Action::RedriveMatching { filter, after, limit } => {
                let filter = Filter { stage: Some(Stage::Dead), ..filter.clone() };
                let ids = self.matching(now_ms, &filter, *after, *limit);
                self.redrive_all(now_ms, ids, &mut effects)
            }
            Action::Discard { id, reason } => {
                let discarded =
                    Discarded { id: *id, identity: identity.clone(), reason: reason.clone(), at_ms: now_ms };
                if self.discard(now_ms, discarded, &mut effects) { vec![*id] } else { Vec::new() }
            }
        };
        out.push(Output::Audit { identity, action, ids });
        out.append(&mut effects);
    }

    fn redrive_all(&mut self, now_ms: u64, ids: Vec<MessageId>, out: &mut Vec<Output>) -> Vec<MessageId> {
        ids.into_iter().filter(|&id| self.redrive(now_ms, id, out)).collect()
    }

    /// Tries again now. What is missing is asked for and fetched; nothing is delivered before it is there. What is
    /// under way already is left alone, so any number of redrives has the effect of one.
    fn redrive(&mut self, now_ms: u64, id: MessageId, out: &mut Vec<Output>) -> bool {
        if self.undecoded.contains_key(&id) {
            out.push(Output::Decode { id });
            return true;
        }
        let Some(ix) = self.items.find(&id) else {
            return false;
        };
        let Some(item) = self.items.get_mut(ix) else {
            return false;
        };
        match item.state {
            State::Ready | State::InFlight(_) => return false,
            State::Waiting | State::Dead(_) => {
                if item.is_complete() || item.errand(now_ms) != Errand::Deliver {
                    self.make_ready(now_ms, ix);
                } else {
                    self.index.register(ix, item);
                    let missing = item.missing(&self.index.names);
                    out.push(Output::Check { id, requires: missing.clone() });
                    out.push(Output::Fetch { id, missing });
                }
            }
            State::Retrying => self.make_ready(now_ms, ix),
        }
        true
    }

    fn discard(&mut self, now_ms: u64, discarded: Discarded, out: &mut Vec<Output>) -> bool {
        let id = discarded.id;
        if self.undecoded.remove(&id).is_some() {
            persist(Record::Gone(Gone { id }), out);
            out.push(Output::Ended { id, ending: Ending::Discarded });
            return true;
        }
        let Some(ix) = self.items.find(&id) else {
            return false;
        };
        let Some(item) = self.items.get_mut(ix) else {
            return false;
        };
        if item.is_discarded() {
            return false;
        }
        item.failures = 0;
        item.note_mut().discard = Some(Box::new(discarded.clone()));
        persist(Record::Discarded(discarded), out);
        self.make_ready(now_ms, ix);
        true
    }
}
