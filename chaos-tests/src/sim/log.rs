//! The log: appended, synced after a while, and only then visible to anybody.

use std::collections::BTreeSet;

use cell_core::cell::Step;
use cell_core::gate::{EntryMessage, Filter, Input, MessageKind, Requirement};

use super::disk::Logged;
use super::museum::Exhibit;
use super::node::{Effect, Node};
use super::world::{Event, World};

impl World {
    /// Appends what a step produced; its effects wait for the disk.
    pub(crate) fn commit(&mut self, i: usize, step: Step, effect: Option<Effect>) {
        self.coverage.rows(&step.rows);
        let node = &mut self.nodes[i];
        let placed = !step.lost.is_empty();
        for (id, entity) in step.entities {
            node.shelf.put(id, entity);
            node.dirty.insert(id);
        }
        if placed {
            node.dirty.extend(node.shelf.entities.keys().copied());
        }
        let from = node.disk.log.end();
        if !step.quarantined.is_empty() {
            self.coverage.fault("change-quarantined");
            for kept in &step.quarantined {
                self.note(|| {
                    format!("{i} quarantines {}: {} by '{}'", kept.entry.dot, kept.detail, kept.software)
                });
            }
        }
        let log = &mut self.nodes[i].disk.log;
        // What was adopted holds them itself.
        let quarantined = step.quarantined.into_iter().filter(|_| step.adopted.is_none());
        quarantined.for_each(|kept| log.push(Logged::Quarantined(kept)));
        step.entries.into_iter().for_each(|entry| log.push(Logged::Entry(entry)));
        if !step.merged.is_empty() {
            log.push(Logged::Merged(step.merged));
        }
        step.adopted.into_iter().for_each(|baseline| log.push(Logged::Adopted(baseline)));
        let at = log.end();
        if let Some(effect) = effect {
            let node = &self.nodes[i];
            if node.is_synced() && node.waiting.is_empty() {
                self.carry_out(i, effect);
            } else {
                self.nodes[i].waiting.push_back((at, effect));
            }
        }
        if self.planted(Exhibit::AttemptNotDurable) && at > from {
            self.refresh(i);
            self.work(i);
        }
        if self.planted(Exhibit::StreamBeyondDurable) && at > from {
            self.stream_unsynced(i, from);
        }
        self.start_sync(i);
        if self.nodes[i].is_synced() && !self.nodes[i].dirty.is_empty() {
            self.after_sync(i, &BTreeSet::new());
        }
    }

    fn start_sync(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        if node.syncing || node.is_synced() {
            return;
        }
        node.syncing = true;
        let (life, upto) = (node.life, node.disk.log.end());
        let slow = self.now_ms < node.slow_until_ms;
        let delay_ms = if self.calm {
            2
        } else if slow {
            self.rng.between(100, 1_500)
        } else {
            self.rng.between(1, 8)
        };
        self.after(delay_ms, Event::Sync { node: i, life, upto });
    }

    /// The disk says that everything up to `upto` is there.
    pub(crate) fn synced(&mut self, i: usize, upto: usize) {
        let node = &mut self.nodes[i];
        node.syncing = false;
        let (me, started_as) = (node.cell.me(), node.started_as);
        let mut actors = BTreeSet::new();
        for logged in node.disk.log.between(node.disk.log.synced(), upto) {
            if let Some(entry) = logged.entry() {
                let held = node.durable.entry(entry.dot.actor).or_default();
                actors.insert(entry.dot.actor);
                // What was quarantined before is logged again, also behind a gap.
                let next = entry.dot.seq == held.seq() + 1;
                let known = held.has(entry.dot.seq);
                if known && !next && self.journal.hashes.get(&entry.dot) == Some(&entry.hash) {
                    continue;
                }
                if !next {
                    let detail = format!("{} after {} changes in {}", entry.dot, held.seq(), node.region);
                    self.journal.violate("D3 prefix", detail);
                }
                held.push(entry.clone());
                let own = entry.dot.actor == me || started_as == Some(entry.dot.actor);
                self.journal.synced(entry, own);
            }
            if let Logged::Adopted(baseline) = logged {
                for (actor, front) in baseline.fronts().filter(|(actor, _)| *actor != me) {
                    node.durable.entry(actor).or_default().adopt(front);
                    actors.insert(actor);
                }
            }
        }
        node.disk.log.sync(upto);
        while self.nodes[i].waiting.front().is_some_and(|(at, _)| *at <= upto) {
            if let Some((_, effect)) = self.nodes[i].waiting.pop_front() {
                self.carry_out(i, effect);
            }
        }
        self.start_sync(i);
        self.after_sync(i, &actors);
        for peer in self.peers(i) {
            self.stream(i, peer);
        }
    }

    fn carry_out(&mut self, i: usize, effect: Effect) {
        match effect {
            Effect::Reply { call, reply, dot } => self.reply(i, call, *reply, dot),
            Effect::Answer { agent, id, attempt, answer } => {
                if self.nodes[i].linked && self.nodes[i].agent.life == agent {
                    self.tell_gate(i, Input::Answered { id, attempt, answer });
                }
            }
            Effect::Read { reader, looks } => self.read_when_synced(i, reader, looks),
            Effect::MadeGood => {
                let node = &mut self.nodes[i];
                (node.lacking, node.disk.view.lacking) = (false, false);
            }
            Effect::Fetched { wanted } => {
                let present: Vec<Requirement> =
                    wanted.into_iter().filter(|requirement| self.nodes[i].holds(requirement)).collect();
                if self.nodes[i].linked && !present.is_empty() {
                    self.tell_gate(i, Input::Present { present });
                }
            }
        }
    }

    /// Tells the gate, and looks at the duties of what changed.
    fn after_sync(&mut self, i: usize, actors: &BTreeSet<cell_core::id::ActorId>) {
        let node = &self.nodes[i];
        if node.linked && node.agent.up {
            let upto: Vec<_> = actors.iter().map(|actor| (*actor, node.whole_seq(actor))).collect();
            if !upto.is_empty() {
                self.tell_gate(i, Input::Applied { upto });
            }
            self.tell_beyond_holes(i);
            self.tell_homes(i);
        }
        if self.nodes[i].is_synced() {
            if self.nodes[i].agent.gate.counts() != cell_core::gate::Counts::default() {
                self.sweep(i);
            }
            self.refresh(i);
            self.work(i);
        }
        self.wake_readers(i);
    }

    /// What is here behind a hole and does not build on it wakes whom it concerns.
    fn tell_beyond_holes(&mut self, i: usize) {
        let node = &self.nodes[i];
        if node.cell.quarantined().next().is_none() {
            return;
        }
        let entries = node.agent.gate.list(node.local(self.now_ms), &Filter::default(), None, 64);
        let missing =
            entries.into_iter().filter_map(|entry| entry.message).flat_map(|message| message.missing);
        let present: Vec<Requirement> = missing.filter(|need| node.holds(need)).collect();
        if !present.is_empty() {
            self.tell_gate(i, Input::Present { present });
        }
    }

    pub(crate) fn tell_homes(&mut self, i: usize) {
        for slot in self.slots.clone() {
            let node = &mut self.nodes[i];
            let home = *node.cell.placement().home(slot);
            let Some(actor) = home.actor else { continue };
            let epoch = cell_core::placement::Epoch { term: home.term, step: home.step, actor };
            if node.agent.told_homes.get(&slot) != Some(&epoch) {
                node.agent.told_homes.insert(slot, epoch);
                self.tell_gate(i, Input::SlotHome { slot, epoch });
            }
        }
    }

    /// What nobody needs any more in this node's view, or what can never come, waits for nothing.
    pub(crate) fn sweep(&mut self, i: usize) {
        let node = &self.nodes[i];
        if !(node.up && node.linked && node.agent.up && node.is_synced()) {
            return;
        }
        let entries = node.agent.gate.list(node.local(self.now_ms), &Filter::default(), None, 64);
        for entry in entries {
            let Some(message) = entry.message else { continue };
            let why = self.nodes[i].unneeded(&message);
            if let Some(why) = why {
                self.tell_gate(i, Input::NeedGone { id: entry.id, why: why.to_owned() });
            }
        }
    }
}

impl Node {
    fn unneeded(&self, message: &EntryMessage) -> Option<&'static str> {
        let lost = |need: &Requirement| {
            self.cell.fronts().closed().get(&need.dot.actor).is_some_and(|last| *last < need.dot.seq)
        };
        if message.missing.iter().any(lost) {
            return Some("it waits for what was lost with its actor");
        }
        match message.kind {
            MessageKind::PayRequest | MessageKind::Withdrawal => {
                let ended = self.payment(message.subject.payment()?, |reading| {
                    reading.state.as_ref().is_some_and(|state| state.ended().is_some())
                });
                (ended == Some(true)).then_some("the payment has ended")
            }
            MessageKind::Result => {
                let payment = message.requires.first()?.entity.payment()?;
                let closed = self.order(message.subject.order()?, |reading| {
                    let permit = reading.state.as_ref()?.permits.get(&payment)?;
                    permit.closed
                });
                closed.flatten().map(|_| "the permit is closed")
            }
            MessageKind::RefundOrder | MessageKind::StalledNotice => None,
        }
    }
}
