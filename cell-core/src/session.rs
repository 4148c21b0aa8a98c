//! Replication between two regions, the sender's side: which log entries a subscriber gets now, and in which order.
//!
//! It stands between a node's durable log and the stream to another region's agent. The subscriber says, again and
//! again, how far its own node is; [`Feed`] is offered the log's entries and hands out those that are missing there.
//!
//! ```text
//! log order ──► offer ──► held per actor ──► take(now, budget) ──► stream
//!                              ▲
//!                subscriber's frontier: report
//! ```
//!
//! - Entries of the serving region's own actors go at once.
//! - Entries of the subscriber's own region are what it wrote itself. It gets back what it has lost: what it still does
//!   not report after a moment. Without that wait everything it writes would come back to it.
//! - Entries of other regions usually reach the subscriber from there. They are **relayed** only when it has lacked
//!   something of that actor for `relay_after_ms`; news of the actor from elsewhere begins that wait anew.
//! - Per actor the order is kept and no seq is skipped. Among actors the shortest backlog goes first: what is fresh
//!   does not queue behind what is old.
//! - What is held is bounded; when it is full the caller stops reading the log, and goes on where it stopped.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::cell::Front;
use crate::event::Entry;
use crate::fronts::Fronts;
use crate::id::{ActorId, RegionId};

/// What an entry costs beside its bytes, about.
const ENTRY_OVERHEAD_BYTES: usize = 96;

/// A subscriber says how far it is several times within this.
const OWN_BACK_AFTER_MS: u64 = 300;

/// Times in milliseconds, sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedConfig {
    /// Something of another region lacked for this long is relayed.
    pub relay_after_ms: u64,
    /// Entries offered and not taken yet.
    pub held_bytes_max: usize,
}

impl Default for FeedConfig {
    fn default() -> Self {
        FeedConfig { relay_after_ms: 1_000, held_bytes_max: 8 << 20 }
    }
}

/// What became of an offered entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// Held; it will be handed out, unless the subscriber gets it elsewhere.
    Held,
    /// The subscriber has it, or was sent it in this stream.
    Known,
    /// An earlier entry of its actor was not offered yet. Nothing was kept.
    Early,
    /// There is no room. Nothing was kept: offer it again later.
    Full,
    /// The subscriber has another entry under this dot. Nothing more of this actor is handed out.
    Conflict,
}

/// How one actor stands with the subscriber.
#[derive(Debug, Default)]
struct Progress {
    reported: Option<Front>,
    /// Handed out up to here, or reported, whichever is more.
    sent: u64,
    /// `sent + 1`, `sent + 2`, …
    held: VecDeque<Entry>,
    /// Since when something offered is not reported back.
    lacking_since_ms: Option<u64>,
    /// Offered in log order while something before it had not been: the least and the greatest such seq.
    passed: Option<(u64, u64)>,
    stopped: bool,
}

/// The sender's side of one stream. It lives as long as the stream: a subscriber that starts again gets a new one.
#[derive(Debug)]
pub struct Feed {
    own: RegionId,
    subscriber: RegionId,
    config: FeedConfig,
    actors: BTreeMap<ActorId, Progress>,
    held_bytes: usize,
}

impl Feed {
    /// A stream from region `own` to region `subscriber`, of which nothing is known yet.
    #[must_use]
    pub fn new(own: RegionId, subscriber: RegionId, config: FeedConfig) -> Feed {
        Feed { own, subscriber, config, actors: BTreeMap::new(), held_bytes: 0 }
    }

    /// The subscriber's node is this far. What it lacks of actors it does not name, it lacks from the first on.
    pub fn report(&mut self, now_ms: u64, frontier: impl IntoIterator<Item = (ActorId, Front)>) {
        for (actor, front) in frontier {
            let progress = self.actors.entry(actor).or_default();
            if progress.reported.is_some_and(|known| known.seq >= front.seq) {
                continue;
            }
            progress.reported = Some(front);
            let elsewhere = front.seq > progress.sent;
            if elsewhere {
                while progress.held.front().is_some_and(|entry| entry.dot.seq <= front.seq) {
                    self.held_bytes -= progress.held.pop_front().map_or(0, |entry| cost(&entry));
                }
                progress.sent = front.seq;
            }
            if progress.held.is_empty() && front.seq == progress.sent {
                progress.lacking_since_ms = None;
            } else if elsewhere {
                progress.lacking_since_ms = Some(now_ms);
            }
        }
    }

    /// Offers the next entry of the log. If the log has a hole, what is behind it cannot be sent for now; see
    /// [`Feed::wants_rewind`].
    pub fn offer(&mut self, now_ms: u64, entry: &Entry) -> Offered {
        let offered = self.consider(now_ms, entry);
        if offered == Offered::Early
            && let Some(progress) = self.actors.get_mut(&entry.dot.actor)
        {
            let (least, _) = progress.passed.unwrap_or((entry.dot.seq, 0));
            progress.passed = Some((least, entry.dot.seq));
        }
        offered
    }

    /// Offers an entry from ahead of the place the log was read to: fresh entries while a backlog is being read. It is
    /// held if it is its actor's next; else the log will bring it in its turn.
    pub fn offer_ahead(&mut self, now_ms: u64, entry: &Entry) -> Offered {
        self.consider(now_ms, entry)
    }

    fn consider(&mut self, now_ms: u64, entry: &Entry) -> Offered {
        let progress = self.actors.entry(entry.dot.actor).or_default();
        let seq = entry.dot.seq;
        if progress.stopped {
            return Offered::Known;
        }
        if progress.reported.is_some_and(|known| known.seq == seq && known.hash != entry.hash) {
            progress.stopped = true;
            self.held_bytes -= progress.held.drain(..).map(|entry| cost(&entry)).sum::<usize>();
            return Offered::Conflict;
        }
        let next = progress.sent + progress.held.len() as u64 + 1;
        if seq < next {
            return Offered::Known;
        }
        if seq > next {
            return Offered::Early;
        }
        if self.held_bytes > 0 && self.held_bytes + cost(entry) > self.config.held_bytes_max {
            return Offered::Full;
        }
        self.held_bytes += cost(entry);
        progress.held.push_back(entry.clone());
        progress.lacking_since_ms.get_or_insert(now_ms);
        Offered::Held
    }

    /// Hands out what is due, up to `bytes_max` of entries, or one larger entry alone. Each entry is handed out once.
    pub fn take(&mut self, now_ms: u64, bytes_max: usize) -> Vec<Entry> {
        let due = self.actors.iter().filter(|(actor, progress)| {
            !progress.held.is_empty() && self.due_ms(actor, progress).is_some_and(|due_ms| due_ms <= now_ms)
        });
        let mut due: Vec<(usize, ActorId)> =
            due.map(|(actor, progress)| (progress.held.len(), *actor)).collect();
        due.sort_unstable();
        let (mut taken, mut bytes) = (Vec::new(), 0);
        for (_, actor) in due {
            let Some(progress) = self.actors.get_mut(&actor) else { continue };
            while let Some(entry) = progress.held.front() {
                if !taken.is_empty() && bytes + cost(entry) > bytes_max {
                    return taken;
                }
                let Some(entry) = progress.held.pop_front() else { break };
                bytes += cost(&entry);
                self.held_bytes -= cost(&entry);
                progress.sent = entry.dot.seq;
                taken.push(entry);
            }
        }
        taken
    }

    /// When [`Feed::take`] has something, if nothing is offered or reported until then. May be in the past.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<u64> {
        let held = self.actors.iter().filter(|(_, progress)| !progress.held.is_empty());
        held.filter_map(|(actor, progress)| self.due_ms(actor, progress)).min()
    }

    fn due_ms(&self, actor: &ActorId, progress: &Progress) -> Option<u64> {
        let since_ms = progress.lacking_since_ms?;
        let after_ms = match actor.region() {
            region if region == self.own => 0,
            region if region == self.subscriber => OWN_BACK_AFTER_MS,
            _ => self.config.relay_after_ms,
        };
        Some(since_ms.saturating_add(after_ms))
    }

    /// Bytes offered and not taken yet.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Actors of which the subscriber lacks what this log cannot bring: it was deleted, or came here as state. With
    /// `read`, this region's own knowledge, once everything in the log was offered; without, what is certain before.
    #[must_use]
    pub fn unable(&self, read: Option<&Fronts>) -> Vec<ActorId> {
        let next = |progress: &Progress| progress.sent + progress.held.len() as u64 + 1;
        let passed = |progress: &Progress| progress.passed.is_some_and(|(least, _)| least > next(progress));
        let missing = self.actors.iter().filter(|(_, progress)| !progress.stopped && passed(progress));
        let mut unable: BTreeSet<ActorId> = missing.map(|(actor, _)| *actor).collect();
        for (actor, front) in read.iter().flat_map(|fronts| fronts.iter()) {
            let lacks = self
                .actors
                .get(actor)
                .map_or(front.seq > 0, |progress| !progress.stopped && next(progress) <= front.seq);
            unable.extend(lacks.then_some(*actor));
        }
        unable.into_iter().collect()
    }

    /// `true` once after the subscriber got elsewhere what the log here has lost, so that entries that were passed over
    /// can be sent now: offer the log anew, from a place that the subscriber's frontier covers.
    pub fn wants_rewind(&mut self) -> bool {
        let mut wanted = false;
        for progress in self.actors.values_mut() {
            let next = progress.sent + progress.held.len() as u64 + 1;
            if let Some((least, greatest)) = progress.passed
                && next >= least
            {
                progress.passed = None;
                wanted |= next <= greatest;
            }
        }
        if wanted {
            self.actors.values_mut().for_each(|progress| progress.passed = None);
        }
        wanted
    }
}

fn cost(entry: &Entry) -> usize {
    entry.bytes.len() + ENTRY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests;
