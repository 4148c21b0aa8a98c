//! Where the runtime keeps what the gate persisted. The gate carries it with the message, so that the runtime needs no
//! index of its own; what it means is the runtime's.

use super::item::Item;
use super::{Gate, MessageId, Record};

/// Where the runtime put a record: a position in its log, for instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(pub u64);

impl Place {
    /// Of what was not written yet.
    pub(super) const UNKNOWN: Place = Place(u64::MAX);

    fn known(self) -> Option<Place> {
        (self != Place::UNKNOWN).then_some(self)
    }
}

impl Gate {
    /// The runtime wrote a record there: for the first time, or once more to be rid of the rest of its log. To be said
    /// of every record in the order written, and in one go with the steps that ask for them. Nothing but
    /// [`Place`]s changes.
    pub fn placed(&mut self, record: &Record, place: Place) {
        let id = record.id();
        if let Record::Undecoded(_) = record {
            if let Some(kept) = self.undecoded.get_mut(&id) {
                kept.place = place;
            }
            return;
        }
        let Some(item) = self.items.find(&id).and_then(|ix| self.items.get_mut(ix)) else { return };
        match record {
            Record::Accepted(_) => {
                item.place = place;
                // What was noted before it is void. It may also be about a copy that has ended by now.
                if let Some(note) = item.note.as_deref_mut() {
                    (note.dead, note.discarded) = (Place::UNKNOWN, Place::UNKNOWN);
                }
            }
            Record::DeadLettered(_) => item.note_mut().dead = place,
            Record::Discarded(_) => item.note_mut().discarded = place,
            Record::Undecoded(_) | Record::Gone(_) => {}
        }
    }

    /// Where the message is, or the bytes that are kept under this id; `None` if nothing is.
    #[must_use]
    pub fn place(&self, id: &MessageId) -> Option<Place> {
        let kept = || self.undecoded.get(id).map(|kept| kept.place);
        self.item(id).map(|item| item.place).or_else(kept)?.known()
    }

    /// Where what was noted about a message is, in the order written. Written once more, it comes behind the message.
    pub fn notes(&self, id: &MessageId) -> impl Iterator<Item = Place> + use<> {
        let note = self.item(id).and_then(|item| item.note.as_deref());
        let mut places = note.map_or([Place::UNKNOWN; 2], |note| [note.dead, note.discarded]);
        places.sort_unstable();
        places.into_iter().filter_map(Place::known)
    }

    /// Where everything kept is, [`Gate::notes`] excepted: one place a message, in no order.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        let kept = self.undecoded.values().map(|kept| kept.place);
        self.items.iter().map(|(_, item)| item.place).chain(kept).filter_map(Place::known)
    }

    /// How many messages are kept, what cannot be read included: as many as there are [`Gate::places`].
    #[must_use]
    pub fn kept(&self) -> usize {
        self.items.len() + self.undecoded.len()
    }

    fn item(&self, id: &MessageId) -> Option<&Item> {
        self.items.find(id).and_then(|ix| self.items.get(ix))
    }
}
