//! A short, bounded memory of what has ended, so that a copy arriving right behind is not delivered once more.
//!
//! It is never the truth: a need that a sender still sees after a while is real, and is delivered again.

use std::collections::{BTreeMap, VecDeque};

use super::MessageId;
use crate::placement::Epoch;

#[derive(Debug, Default)]
pub(super) struct Ended {
    known: BTreeMap<MessageId, (Epoch, u64)>,
    order: VecDeque<MessageId>,
}

impl Ended {
    pub(super) fn remember(&mut self, id: MessageId, epoch: Epoch, now_ms: u64, max: usize) {
        if max == 0 {
            return;
        }
        while self.order.len() >= max {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
        self.order.push_back(id);
        self.known.insert(id, (epoch, now_ms));
    }

    /// Whether this message, or a later epoch's, ended less than `for_ms` ago.
    pub(super) fn covers(&self, id: &MessageId, epoch: &Epoch, now_ms: u64, for_ms: u64) -> bool {
        let recent = |(known, at_ms): &(Epoch, u64)| epoch <= known && now_ms.abs_diff(*at_ms) < for_ms;
        self.known.get(id).is_some_and(recent)
    }

    pub(super) fn clear(&mut self) {
        self.known.clear();
        self.order.clear();
    }
}
