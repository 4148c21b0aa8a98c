//! What goes wrong: crashes, disks, backups, clones, clocks, links, and homes that are replaced while they live.

use std::collections::{BTreeMap, BTreeSet};

use cell_core::cell::{Ability, Cell};
use cell_core::id::{ActorId, NodeId, Slot};
use cell_core::order::RefundCase;

use super::agent::Agent;
use super::disk::{Disk, Held, Logged, Stored};
use super::museum::Exhibit;
use super::net::Channel;
use super::node::{Effect, Node, Shelf};
use super::script::{Line, Op};
use super::world::{Event, World, placement, region};

impl World {
    /// Carries a fault out. `false` if the line is a user's.
    pub(crate) fn fault(&mut self, line: &Line) -> bool {
        let place = line.region;
        let i = self.node_at(place);
        match (&line.op, i) {
            (Op::Crash { for_ms }, Some(i)) => self.crash(i, *for_ms),
            (Op::CrashAgent { for_ms }, Some(i)) => self.crash_agent(i, *for_ms, false),
            (Op::LoseGate, Some(i)) => self.crash_agent(i, 500, true),
            (Op::Unlink { for_ms }, Some(i)) => self.unlink(i, *for_ms),
            (Op::LoseDisk { for_ms }, Some(i)) => self.lose_disk(i, *for_ms),
            (Op::Backup, Some(i)) => self.back_up(i),
            (Op::RestoreBackup { for_ms }, Some(i)) => self.restore_backup(i, *for_ms),
            (Op::LoseView { older, for_ms }, Some(i)) => self.lose_view(i, *older, *for_ms),
            (Op::CloneMachine { .. }, Some(i)) => self.clone_machine(i),
            (Op::Cut { to, channel, both, for_ms }, _) => {
                self.net.cut(place, *to, *channel, self.now_ms + for_ms);
                if *both {
                    self.net.cut(*to, place, *channel, self.now_ms + for_ms);
                }
            }
            (Op::Decree { users }, Some(i)) => {
                let slots = users.iter().map(|user| self.users[*user].id.slot()).collect();
                self.decree(i, slots);
            }
            (Op::MoveClock { by_ms }, Some(i)) => {
                self.coverage.fault("clock-moved");
                self.nodes[i].offset_ms = *by_ms;
            }
            (Op::CloseLost, Some(_)) => self.close_ended(),
            (Op::Trim { keep }, Some(i)) => self.trim(i, *keep),
            (Op::ForgetKeys, _) => {
                if self.gateway.forget(self.now_ms) {
                    self.coverage.fault("gateway-keys-forgotten");
                }
            }
            (Op::RefundByHand { part }, _) => self.refund_by_hand(*part),
            (Op::Redrive, Some(i)) => self.redrive(i),
            (Op::OldSoftware { bytes_max, for_ms }, Some(i)) => self.run_old_software(i, *bytes_max, *for_ms),
            (Op::SlowDisk { for_ms }, Some(i)) => self.nodes[i].slow_until_ms = self.now_ms + for_ms,
            (
                Op::Place { .. }
                | Op::Ask { .. }
                | Op::Pay { .. }
                | Op::Accept { .. }
                | Op::Decline { .. }
                | Op::Withdraw { .. }
                | Op::Cancel { .. }
                | Op::Refund { .. }
                | Op::Amend { .. },
                _,
            ) => return false,
            (_, None) => {}
        }
        true
    }

    // === processes ===

    pub(crate) fn blank(&mut self, place: usize) -> Node {
        let name = region(place);
        let me = ActorId { node: NodeId { region: name, index: 0 }, start: 0, nonce: 0 };
        Node {
            region: name,
            place,
            up: false,
            life: 0,
            started_as: None,
            offset_ms: 0,
            slow_until_ms: 0,
            ability: Ability::default(),
            cell: Cell::new(me, placement(), self.rules.clone()),
            shelf: Shelf::default(),
            disk: Disk::default(),
            lacking: false,
            syncing: false,
            waiting: std::collections::VecDeque::new(),
            readers: BTreeSet::new(),
            backup: None,
            durable: BTreeMap::new(),
            exchange: None,
            sent: BTreeMap::new(),
            differs: BTreeMap::new(),
            dirty: BTreeSet::new(),
            duties: BTreeMap::new(),
            paces: BTreeMap::new(),
            work_at_ms: None,
            listing: BTreeSet::new(),
            list_until_ms: 0,
            list_next_ms: 0,
            linked: false,
            linked_at_ms: 0,
            agent: Agent::new(name),
        }
    }

    /// Ends a node's process: what was not synced is gone, and nobody was told of it.
    pub(crate) fn stop(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        if !node.is_synced() {
            self.coverage.fault("unsynced-lost");
        }
        let node = &mut self.nodes[i];
        node.up = false;
        node.life += 1;
        node.disk.log.lose_unsynced();
        node.syncing = false;
        node.linked = false;
        node.waiting.clear();
        node.readers.clear();
        node.sent.clear();
        node.exchange = None;
        node.differs.clear();
        node.dirty.clear();
        node.duties.clear();
        node.paces.clear();
        node.work_at_ms = None;
        node.listing.clear();
        for other in &mut self.nodes {
            other.sent.remove(&i);
        }
    }

    pub(crate) fn crash(&mut self, i: usize, for_ms: u64) {
        self.coverage.fault("crash-node");
        self.stop(i);
        self.after(for_ms, Event::NodeUp { node: i });
    }

    /// Starts as a new actor, from what its disk holds; it decides once it heard its peers, or heard of none in time.
    pub(crate) fn start(&mut self, i: usize) {
        let unfounded = self.planted(Exhibit::AdoptedUnfounded);
        let node = &self.nodes[i];
        let now_ms = node.local(self.now_ms);
        let me = node.cell.me();
        let nobody = ActorId { node: me.node, start: 0, nonce: 0 };
        let mut blank = Cell::new(nobody, placement(), self.rules.clone());
        blank.ability = node.ability.clone();
        blank.hold_back();
        let Ok((cell, shelf)) = node.disk.restore(blank, now_ms, unfounded) else { return };
        let old = cell.fronts().actors().filter(|actor| actor.node == me.node).max().copied();
        let fresh =
            ActorId { node: me.node, start: old.map_or(0, |old| old.start) + 1, nonce: self.rng.next() };
        let actor = if self.planted(Exhibit::SequenceReused) && me.start > 0 { me } else { fresh };
        self.journal.started.insert(actor);
        let node = &mut self.nodes[i];
        (node.cell, node.shelf) = (cell.succeeded_by(actor), shelf);
        node.lacking = node.disk.view.lacking;
        if node.disk.has_gap() {
            self.coverage.fault("start-with-a-gap");
            // The view goes on from there, and is in doubt at the next start, too.
            node.lacking = true;
            node.store_view();
        }
        node.started_as = Some(actor);
        node.up = true;
        let old = old.filter(|old| *old != actor);
        if let Ok(step) = node.cell.start(&node.shelf, old, now_ms) {
            self.commit(i, step, None);
        }
        self.go_on_behind_holes(i);
        self.retry_quarantined(i);
        self.subscribe_all(i);
        self.after(20, Event::Link { node: i });
        if self.nodes[i].life == 0 {
            // The cluster's first start: nobody has been here before.
            return self.recovered(i);
        }
        let (life, wait_ms) = (self.nodes[i].life, 1 + self.rng.below(400));
        self.after(wait_ms, Event::Recovered { node: i, life });
    }

    /// What another software could not apply is tried again.
    pub(crate) fn retry_quarantined(&mut self, i: usize) {
        let now_ms = self.nodes[i].local(self.now_ms);
        for kept in self.nodes[i].quarantined() {
            let node = &mut self.nodes[i];
            if kept.software == node.ability.software {
                continue;
            }
            let Ok(step) = node.cell.retry(&node.shelf, &kept, now_ms) else { continue };
            self.note(|| format!("{i} tries {} again: {:?}", kept.entry.dot, step.released));
            if !step.released.is_empty() {
                self.coverage.fault("quarantine-released");
            }
            self.commit(i, step, None);
        }
    }

    /// For a while a node runs a software that cannot take larger changes.
    pub(crate) fn run_old_software(&mut self, i: usize, bytes_max: usize, for_ms: u64) {
        let ability =
            Ability { software: "old".to_owned(), change_bytes_max: bytes_max, ..Ability::default() };
        self.run_software(i, ability);
        self.after(for_ms, Event::Upgrade { node: i });
    }

    /// The node is started with this software.
    pub(crate) fn run_software(&mut self, i: usize, ability: Ability) {
        let was_up = self.nodes[i].up;
        self.nodes[i].ability = ability;
        if was_up {
            self.stop(i);
            self.start(i);
        }
    }

    /// What reachable peers hold of its predecessors is here: from now on it decides.
    pub(crate) fn recovered(&mut self, i: usize) {
        let now_ms = self.nodes[i].local(self.now_ms);
        let (life, reachable) = (self.nodes[i].life, self.reachable(i));
        let whole = |peer: &usize| self.nodes[*peer].may_be_built_on();
        let lacks = !whole(&i);
        if lacks && !reachable.iter().any(whole) {
            // Nobody says what is lacking: it goes on waiting, and decides nothing.
            self.coverage.fault("start-waits-for-a-peer");
            return self.after(200, Event::Recovered { node: i, life });
        }
        if !self.pool(i, &reachable, now_ms) {
            return self.after(20, Event::Recovered { node: i, life });
        }
        // With a peer's state came what its software could not apply.
        self.retry_quarantined(i);
        let (before, nonce) = (self.nodes[i].cell.me(), self.rng.next());
        let node = &mut self.nodes[i];
        let fresh = |start| ActorId { node: before.node, start, nonce };
        if let Ok(step) = node.cell.recovered(&node.shelf, fresh, now_ms) {
            if self.note_actor(i, before) {
                self.coverage.fault("outranked-by-a-predecessor");
            }
            self.commit(i, step, lacks.then_some(Effect::MadeGood));
        }
        self.decides(i);
    }

    /// Whether the node is another actor than it was.
    fn note_actor(&mut self, i: usize, before: ActorId) -> bool {
        let me = self.nodes[i].cell.me();
        self.journal.started.insert(me);
        me != before
    }

    /// From now on it decides, also about what was under way.
    fn decides(&mut self, i: usize) {
        self.wake_all(i);
        let slots = self.slots.clone();
        self.list_for_a_while(i, slots);
    }

    /// A sign of life.
    pub(crate) fn beat(&mut self, i: usize) {
        let now_ms = self.nodes[i].local(self.now_ms);
        // Of its own: what is drawn is the same whether it needs one or not.
        let (before, nonce) = (self.nodes[i].cell.me(), self.now_ms * 8 + i as u64);
        let node = &mut self.nodes[i];
        let fresh = |start| ActorId { node: before.node, start, nonce };
        let Ok(step) = node.cell.beat(&node.shelf, fresh, now_ms) else { return };
        let other = self.note_actor(i, before);
        self.commit(i, step, None);
        if other {
            self.coverage.fault("outranked-by-a-late-predecessor");
            self.decides(i);
        }
    }

    pub(crate) fn reachable(&self, i: usize) -> Vec<usize> {
        let place = self.nodes[i].place;
        let open = |j: &usize| {
            let other = self.nodes[*j].place;
            !self.net.is_cut(place, other, Channel::Data, self.now_ms)
                && !self.net.is_cut(other, place, Channel::Data, self.now_ms)
        };
        self.peers(i).into_iter().filter(open).collect()
    }

    /// Takes from the peers what they hold beyond this node's log, before deciding anything. `false`: not all of it can
    /// be had at this moment.
    fn pool(&mut self, i: usize, peers: &[usize], now_ms: u64) -> bool {
        for peer in peers {
            let theirs = self.nodes[*peer].durable.clone();
            let have = |actor: &ActorId| self.nodes[i].cell.fronts().seq(actor);
            let source = &self.nodes[*peer];
            let as_state = theirs.iter().any(|(actor, held)| held.behind(have(actor)).is_none());
            if as_state && source.may_be_built_on() {
                if !source.is_synced() {
                    return false;
                }
                self.coverage.fault("state-taken-over");
                let (baseline, entities) = (source.baseline(), source.shelf.entities.values());
                let merged = entities.map(|entity| Logged::Merged(vec![(**entity).clone()]));
                let state: Vec<Logged> = merged.chain([Logged::Adopted(baseline)]).collect();
                self.nodes[i].take_in(state, now_ms);
            }
            let node = &mut self.nodes[i];
            for (actor, held) in theirs {
                let have = node.cell.fronts().seq(&actor);
                let news = held.behind(have).unwrap_or_default();
                node.take_in(news.iter().cloned().map(Logged::Entry), now_ms);
            }
        }
        true
    }

    pub(crate) fn crash_agent(&mut self, i: usize, for_ms: u64, with_disk: bool) {
        self.coverage.fault(if with_disk { "gate-lost" } else { "crash-agent" });
        self.nodes[i].linked = false;
        self.nodes[i].agent.crash(with_disk);
        self.after(for_ms, Event::AgentUp { node: i });
    }

    pub(crate) fn start_agent(&mut self, i: usize) {
        if self.nodes[i].agent.up {
            return;
        }
        let now_ms = self.nodes[i].local(self.now_ms);
        let name = self.nodes[i].region;
        let outputs = self.nodes[i].agent.start(name, now_ms);
        self.gate_said(i, outputs);
        self.after(5, Event::Link { node: i });
    }

    fn unlink(&mut self, i: usize, for_ms: u64) {
        self.coverage.fault("node-agent-unlinked");
        self.nodes[i].linked = false;
        self.after(for_ms, Event::Link { node: i });
    }

    // === disks ===

    /// The node gets an empty disk, and starts again.
    pub(crate) fn lose_disk(&mut self, i: usize, for_ms: u64) {
        self.coverage.fault("disk-lost");
        self.nodes[i].backup = None;
        self.replace_disk(i, Disk::default(), for_ms);
    }

    fn back_up(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        if node.is_synced() {
            node.store_view();
            node.backup = Some(node.disk.clone());
        }
    }

    fn restore_backup(&mut self, i: usize, for_ms: u64) {
        if let Some(backup) = self.nodes[i].backup.clone() {
            self.coverage.fault("backup-restored");
            self.replace_disk(i, backup, for_ms);
        }
    }

    fn replace_disk(&mut self, i: usize, disk: Disk, for_ms: u64) {
        self.stop(i);
        self.forget_disk(i, disk);
        self.after(for_ms, Event::NodeUp { node: i });
    }

    /// Has another disk from now on, and notes what exists nowhere else any more: the report of what may be missing.
    pub(crate) fn forget_disk(&mut self, i: usize, disk: Disk) {
        self.journal.disks_lost.insert(self.nodes[i].place);
        self.put_disk(i, disk, true);
    }

    /// The view is gone, or an older copy takes its place; the log stays. In one region after the other.
    pub(crate) fn lose_view(&mut self, i: usize, older: bool, for_ms: u64) {
        if self.nodes.iter().any(|node| !node.may_be_built_on()) {
            return;
        }
        let view = match &self.nodes[i].backup {
            Some(backup) if older => {
                self.coverage.fault("view-older");
                backup.view.clone()
            }
            _ => {
                self.coverage.fault("view-lost");
                Stored::default()
            }
        };
        self.stop(i);
        let log = self.nodes[i].disk.log.clone();
        // What was trimmed is in another region, as long as no disk is lost there.
        let place = self.nodes[i].place;
        let report = self.journal.disks_lost.iter().any(|lost| *lost != place);
        self.put_disk(i, Disk { log, view }, report);
        self.nodes[i].lacking = self.nodes[i].disk.has_gap();
        self.after(for_ms, Event::NodeUp { node: i });
    }

    fn put_disk(&mut self, i: usize, disk: Disk, report: bool) {
        let unfounded = self.planted(Exhibit::AdoptedUnfounded);
        let node = &mut self.nodes[i];
        let before: Vec<_> = node.durable.iter().map(|(actor, held)| (*actor, held.last())).collect();
        node.durable = disk.held(unfounded);
        node.disk = disk;
        for (actor, last) in before.into_iter().filter(|_| report) {
            let known = self.nodes.iter().filter_map(|node| node.durable.get(&actor));
            let mut held = known.clone().map(Held::seq).max().unwrap_or(0);
            while known.clone().any(|of_node| of_node.has(held + 1)) {
                held += 1;
            }
            if held < last {
                let range = self.journal.lost.entry(actor).or_insert((held + 1, last));
                *range = (range.0.min(held + 1), range.1.max(last));
            }
        }
    }

    /// Where a hole stays that nobody can fill any more, its actor is closed in front of it. Returns whether there is one.
    pub(crate) fn close_hopeless(&mut self) -> bool {
        let hopeless = self.hopeless();
        if !hopeless.is_empty() {
            self.coverage.fault("hole-given-up");
            self.close_ended();
        }
        !hopeless.is_empty()
    }

    /// Where that does not come about, since a region has more than it can hand on beside its hole, an operator takes the
    /// disk away.
    pub(crate) fn replace_hopeless(&mut self) {
        self.hopeless().into_iter().for_each(|i| self.lose_disk(i, 50));
    }

    fn hopeless(&self) -> Vec<usize> {
        let is_hopeless = |i: &usize| self.nodes[*i].up && !self.nodes[*i].hopeless(&self.nodes).is_empty();
        (0..self.nodes.len()).filter(is_hopeless).collect()
    }

    /// A second machine starts from a copy of the disk, while the first goes on.
    pub(crate) fn clone_machine(&mut self, i: usize) {
        if self.nodes.len() > 3 {
            return;
        }
        self.coverage.fault("machine-cloned");
        let place = self.nodes[i].place;
        let mut twin = self.blank(place);
        let original = &self.nodes[i];
        twin.disk = original.disk.clone();
        twin.disk.log.lose_unsynced();
        twin.durable = original.durable.clone();
        self.nodes.push(twin);
        self.start(self.nodes.len() - 1);
    }

    // === homes ===

    /// The node takes slots, whoever has them.
    pub(crate) fn decree(&mut self, i: usize, slots: BTreeSet<Slot>) {
        self.coverage.fault("decree");
        let others = (0..self.nodes.len()).filter(|j| *j != i && self.nodes[*j].up);
        let owned_elsewhere =
            others.into_iter().any(|j| slots.iter().any(|slot| self.nodes[j].cell.owned(*slot).is_some()));
        if owned_elsewhere {
            self.coverage.fault("decree-with-old-home-alive");
        }
        for slot in &slots {
            if let Some((at_ms, other)) = self.decrees.insert(*slot, (self.now_ms, i))
                && other != i
                && at_ms + 2_000 > self.now_ms
            {
                self.coverage.fault("decrees-at-once");
            }
        }
        let now_ms = self.nodes[i].local(self.now_ms);
        let node = &mut self.nodes[i];
        let term = slots.iter().map(|slot| node.cell.placement().home(*slot).term).max().unwrap_or(1) + 1;
        if let Ok(step) = node.cell.decree(&node.shelf, slots.iter().copied().collect(), term, 0, now_ms) {
            self.commit(i, step, None);
        }
        self.wake_all(i);
        self.list_for_a_while(i, slots);
    }

    /// Closes every ended actor of which every region has reported the same last change.
    pub(crate) fn close_ended(&mut self) {
        if self.nodes.iter().take(3).any(|node| !node.up) {
            return;
        }
        let living: BTreeSet<ActorId> =
            self.nodes.iter().filter(|node| node.up).map(|node| node.cell.me()).collect();
        // Also those of which nothing is left but their name in the gateway's metadata.
        let actors = self.journal.started.clone();
        for actor in actors.difference(&living) {
            let reported: BTreeSet<u64> = self.nodes.iter().map(|node| node.durable_seq(actor)).collect();
            if reported.len() > 1 {
                continue;
            }
            self.coverage.fault("actor-closed");
            let last = reported.first().copied().unwrap_or(0);
            let now_ms = self.nodes[0].local(self.now_ms);
            let node = &mut self.nodes[0];
            if let Ok(step) = node.cell.close_actor(&node.shelf, *actor, last, now_ms) {
                self.commit(0, step, None);
            }
        }
    }

    // === the outside ===

    /// Somebody gives money back at the gateway's own console, whole or in part, and nobody asked for it.
    pub(crate) fn refund_by_hand(&mut self, part: bool) {
        let mut captured =
            self.gateway.intents.values().filter(|intent| intent.refunded_minor < intent.captured_minor());
        let Some(intent) = captured.next_back() else { return };
        let (id, charge) = (intent.id.clone(), intent.charge.clone());
        let left = intent.captured_minor() - intent.refunded_minor;
        let amount_minor = if part { (left / 2).max(1) } else { left };
        let mut case = RefundCase::whole(&format!("hand {id} {}", self.now_ms), charge.payment, amount_minor);
        case.intent = id;
        if let Some(fact) = self.gateway.refund(&case, charge.permit.order, self.now_ms) {
            self.coverage.fault("refund-by-hand");
            let node = self.rng.index(3);
            self.after(30, Event::Callback { node, fact });
        }
    }
}

impl Node {
    /// Applies and logs what a peer holds, without deciding anything.
    fn take_in(&mut self, state: impl IntoIterator<Item = Logged>, now_ms: u64) {
        for logged in state {
            let Ok(step) = logged.replay(&mut self.cell, &self.shelf, now_ms) else { return };
            step.entities.into_iter().for_each(|(id, entity)| self.shelf.put(id, entity));
            self.disk.log.push(logged);
        }
    }
}
