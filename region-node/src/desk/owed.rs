//! Messages that are owed to other regions, in the order in which they are due.
//!
//! What is owed to a region that is away piles up and comes due again and again. It takes its turns: what was never said goes
//! before it, and nothing is kept waiting by it for longer than a turn of all takes. Taking costs what is taken, however
//! much is owed.

use std::collections::{BTreeMap, BTreeSet};

use cell_core::gate::{Envelope, MessageId};
use cell_core::id::EntityId;

/// Pause before a message is said again, doubled up to five times; and once it was acknowledged.
const RESEND_FIRST_MS: u64 = 500;
const RESEND_ACKED_MS: u64 = 30_000;
/// What could not be handed over is asked about more and more seldom; not so seldom that it comes late to a region that is
/// back.
const RESEND_REFUSED_MAX_MS: u64 = 2_000;

fn pause_ms(tries: u32) -> u64 {
    RESEND_FIRST_MS << tries.min(5)
}

#[derive(Debug)]
struct Letter {
    entity: EntityId,
    envelope: Envelope,
    tries: u32,
    next_ms: u64,
}

impl Letter {
    /// The same content: another requirement or another owner is said at once, not at the old one's pace.
    fn says(&self, envelope: &Envelope) -> bool {
        *envelope == Envelope { trace: envelope.trace.clone(), ..self.envelope.clone() }
    }
}

#[derive(Debug, Default)]
pub(super) struct Owed {
    letters: BTreeMap<MessageId, Letter>,
    by_entity: BTreeMap<EntityId, Vec<MessageId>>,
    /// Of every letter, when it is due.
    due: BTreeSet<(u64, MessageId)>,
}

impl Owed {
    /// All that is owed on an entity now, in place of what was. Says whether anything is.
    pub(super) fn put(&mut self, entity: EntityId, envelopes: Vec<Envelope>) -> bool {
        let gone = self.by_entity.remove(&entity).unwrap_or_default();
        let gone: Vec<Letter> = gone.iter().filter_map(|id| self.remove(entity, id)).collect();
        if envelopes.is_empty() {
            return false;
        }
        self.by_entity.insert(entity, envelopes.iter().map(|envelope| envelope.id).collect());
        for envelope in envelopes {
            let known = gone.iter().find(|letter| letter.envelope.id == envelope.id);
            let known = known.filter(|letter| letter.says(&envelope));
            let (tries, next_ms) = known.map_or((0, 0), |letter| (letter.tries, letter.next_ms));
            let id = envelope.id;
            let letter = Letter { entity, envelope, tries, next_ms };
            if let Some(other) = self.letters.insert(id, letter) {
                self.due.remove(&(other.next_ms, id));
            }
            self.due.insert((next_ms, id));
        }
        true
    }

    fn remove(&mut self, entity: EntityId, id: &MessageId) -> Option<Letter> {
        self.letters.get(id).filter(|letter| letter.entity == entity)?;
        let letter = self.letters.remove(id)?;
        self.due.remove(&(letter.next_ms, *id));
        Some(letter)
    }

    /// Somebody new listens: everything is due.
    pub(super) fn afresh(&mut self) {
        self.due.clear();
        for (id, letter) in &mut self.letters {
            (letter.tries, letter.next_ms) = (0, 0);
            self.due.insert((0, *id));
        }
    }

    /// What has been due for longest; none of it is due again before its next pause.
    pub(super) fn take(&mut self, now_ms: u64, limit: usize) -> Vec<Envelope> {
        let mut taken = Vec::new();
        while taken.len() < limit
            && let Some((next_ms, id)) = self.due.first().copied().filter(|(next_ms, _)| *next_ms <= now_ms)
        {
            self.due.remove(&(next_ms, id));
            let Some(letter) = self.letters.get_mut(&id) else { continue };
            letter.tries += 1;
            letter.next_ms = now_ms + pause_ms(letter.tries);
            self.due.insert((letter.next_ms, id));
            taken.push(letter.envelope.clone());
        }
        taken
    }

    /// What became of a message that was handed over. An acknowledgement only paces: the need decides.
    pub(super) fn sent(&mut self, id: &MessageId, accepted: bool, now_ms: u64) {
        let Some(letter) = self.letters.get_mut(id) else { return };
        self.due.remove(&(letter.next_ms, *id));
        let refused_ms = || pause_ms(letter.tries.saturating_sub(1)).min(RESEND_REFUSED_MAX_MS);
        letter.next_ms = now_ms + if accepted { RESEND_ACKED_MS } else { refused_ms() };
        self.due.insert((letter.next_ms, *id));
    }
}
