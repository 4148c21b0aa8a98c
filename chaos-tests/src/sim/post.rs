//! Messages: over the network into the gate, out of it into the node, and the answers back.

use cell_core::cell::{Answer as NodeAnswer, Delivery};
use cell_core::duty::stalled_notice;
use cell_core::gate::{Action, Answer, Envelope, Filter, Input, MessageId, Output, Requirement, Stage};

use super::museum::Exhibit;
use super::net::Channel;
use super::node::Effect;
use super::world::{Event, World};

/// What an agent asks its node.
#[derive(Clone, Debug)]
pub(crate) enum Errand {
    Check {
        id: MessageId,
        requires: Vec<Requirement>,
    },
    /// With the message as it was when it was handed over: a newer copy may be waiting by the time of the answer.
    Hand {
        envelope: Box<Envelope>,
        attempt: u32,
        why: Delivery,
    },
}

impl World {
    /// Sends a message to some node of a region.
    pub(crate) fn post(&mut self, from: usize, envelope: Envelope, place: usize) {
        let Some(to) = self.node_at(place) else { return };
        self.journal.envelopes.insert(envelope.id, envelope.clone());
        self.packet(from, to, Channel::Message, Event::Message { to, from, envelope });
    }

    pub(crate) fn message(&mut self, i: usize, from: usize, envelope: Envelope) {
        if self.nodes[i].agent.up {
            let id = envelope.id;
            self.tell_gate(i, Input::Arrived { envelope });
            if self.nodes[i].agent.gate.holds(&id) {
                self.packet(i, from, Channel::Message, Event::Acked { to: from, id });
            }
        }
    }

    /// An acknowledgement only paces the re-sending; the duty stays for as long as the need shows.
    pub(crate) fn acked(&mut self, i: usize, id: MessageId) {
        let retire = self.planted(Exhibit::RetiredByAck);
        let node = &mut self.nodes[i];
        let now_ms = node.local(self.now_ms);
        if let Some(pace) = node.paces.get_mut(&id.0) {
            pace.next_ms = if retire { u64::MAX } else { pace.next_ms.max(now_ms + 6_000) };
        }
    }

    // === the gate ===

    pub(crate) fn tell_gate(&mut self, i: usize, input: Input) {
        if !self.nodes[i].agent.up {
            return;
        }
        let now_ms = self.nodes[i].local(self.now_ms);
        let outputs = self.nodes[i].agent.gate.step(now_ms, input);
        self.gate_said(i, outputs);
    }

    /// Outputs happen in order, and nothing behind a record before that record is durable; a delivery waits for those of
    /// its own message alone.
    pub(crate) fn gate_said(&mut self, i: usize, mut outputs: Vec<Output>) {
        let agent = &mut self.nodes[i].agent;
        agent.keep(&outputs);
        let early = if agent.log.len() == agent.synced { Vec::new() } else { agent.take_early(&mut outputs) };
        if !early.is_empty() {
            self.coverage.fault("early-delivery");
            self.gate_does(i, early);
        }
        if outputs.is_empty() {
            return;
        }
        let agent = &mut self.nodes[i].agent;
        let at = agent.log.len();
        if at == agent.synced && agent.pending.is_empty() {
            self.gate_does(i, outputs);
            return;
        }
        agent.pending.push_back((at, outputs));
        let life = agent.life;
        let delay_ms = if self.calm {
            1
        } else if self.rng.chance(300) {
            // The disk is busy, and what comes meanwhile is behind it.
            self.rng.between(20, 400)
        } else {
            self.rng.between(1, 6)
        };
        self.after(delay_ms, Event::GateSync { node: i, life });
    }

    pub(crate) fn gate_synced(&mut self, i: usize) {
        let Some((at, outputs)) = self.nodes[i].agent.pending.pop_front() else { return };
        self.nodes[i].agent.synced = at;
        self.gate_does(i, outputs);
    }

    fn gate_does(&mut self, i: usize, outputs: Vec<Output>) {
        for output in outputs {
            let life = self.nodes[i].agent.life;
            let ask = |world: &mut World, errand| {
                let delay_ms = if world.calm { 1 } else { world.rng.between(1, 3) };
                world.after(delay_ms, Event::AskNode { node: i, agent: life, errand });
            };
            let body = |world: &World, id| world.nodes[i].agent.message(&id).cloned();
            match output {
                Output::Persist { .. } | Output::Ack { .. } | Output::Refuse { .. } | Output::Warn { .. } => {
                }
                Output::Ended { .. } | Output::Audit { .. } | Output::Decode { .. } => {}
                Output::Check { id, requires } => ask(self, Errand::Check { id, requires }),
                Output::Deliver { id, attempt } => {
                    if let Some(envelope) = body(self, id) {
                        ask(
                            self,
                            Errand::Hand { envelope: Box::new(envelope), attempt, why: Delivery::Ready },
                        );
                    }
                }
                Output::HandExpired { id, attempt } => {
                    if let Some(envelope) = body(self, id) {
                        ask(
                            self,
                            Errand::Hand { envelope: Box::new(envelope), attempt, why: Delivery::Expired },
                        );
                    }
                }
                Output::HandDiscarded { id, attempt, .. } => {
                    if let Some(envelope) = body(self, id) {
                        ask(
                            self,
                            Errand::Hand { envelope: Box::new(envelope), attempt, why: Delivery::Discarded },
                        );
                    }
                }
                Output::Fetch { missing, .. } => self.fetch(i, missing),
                Output::DeadLetter { .. } => self.coverage.fault("dead-letter"),
                Output::StalledNotice { id, to, missing, .. } => self.send_stalled(i, id, to, &missing),
                Output::WakeAt { ms } => {
                    self.nodes[i].agent.asked_tick_ms = ms;
                    self.set_gate_alarm(i);
                }
            }
        }
    }

    fn set_gate_alarm(&mut self, i: usize) {
        let agent = &self.nodes[i].agent;
        let life = agent.life;
        let due_ms = self.true_time(i, agent.asked_tick_ms);
        self.nodes[i].agent.tick_at_ms = Some(due_ms);
        self.at(due_ms, Event::GateTick { node: i, life, due_ms });
    }

    /// The alarm rings; if the clock was set back meanwhile it is not time yet.
    pub(crate) fn ring_gate(&mut self, i: usize) {
        if self.nodes[i].local(self.now_ms) < self.nodes[i].agent.asked_tick_ms {
            self.set_gate_alarm(i);
        } else {
            self.tell_gate(i, Input::Tick);
        }
    }

    fn send_stalled(
        &mut self,
        i: usize,
        id: MessageId,
        to: cell_core::id::RegionId,
        missing: &[Requirement],
    ) {
        let node = &self.nodes[i];
        let what = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let Some(request) = node.agent.message(&id) else { return };
        let notice = stalled_notice(request, &what, node.region, node.local(self.now_ms));
        if let (Some(notice), Some(place)) = (notice, self.place_of(to)) {
            self.post(i, notice, place);
        }
    }

    // === what the node answers ===

    pub(crate) fn asked(&mut self, i: usize, agent: u64, errand: Errand) {
        let node = &self.nodes[i];
        if !node.linked {
            return;
        }
        if !node.up {
            if let Errand::Hand { envelope, attempt, .. } = errand {
                let id = envelope.id;
                self.tell_gate(i, Input::Answered { id, attempt, answer: Answer::Unreachable });
            }
            return;
        }
        match errand {
            Errand::Check { id, requires } => {
                let all = self.planted(Exhibit::DeliveryBeforeVersion);
                let present = requires.into_iter().filter(|need| all || self.nodes[i].holds(need)).collect();
                self.tell_gate(i, Input::Checked { id, present });
            }
            Errand::Hand { envelope, attempt, why } => self.hand(i, agent, &envelope, attempt, why),
        }
    }

    fn hand(&mut self, i: usize, agent: u64, envelope: &Envelope, attempt: u32, why: Delivery) {
        let id = envelope.id;
        let now_ms = self.nodes[i].local(self.now_ms);
        if why == Delivery::Ready {
            let node = &self.nodes[i];
            let early = envelope.requires.iter().find(|requirement| {
                !node.holds(requirement)
                    && !node
                        .shelf
                        .entities
                        .get(&requirement.entity)
                        .is_some_and(|e| e.contains(&requirement.dot))
            });
            if let Some(requirement) = early {
                let detail = format!("{} {id} handed over without {requirement}", envelope.kind);
                self.journal.violate("P5 no-endless-wait", detail);
            }
        }
        let node = &mut self.nodes[i];
        let Ok((step, answer)) = node.cell.deliver(&node.shelf, envelope, why, now_ms) else { return };
        let answer = match answer {
            NodeAnswer::Done => Answer::Done,
            NodeAnswer::Refused(reason) => Answer::Refused { reason },
            NodeAnswer::Moved => Answer::Moved,
            NodeAnswer::Busy => Answer::Busy,
            NodeAnswer::Failed(error) => Answer::Failed { error },
        };
        self.note(|| format!("{i} handed {} {id} ({why:?}): {answer:?}", envelope.kind));
        self.commit(i, step, Some(Effect::Answer { agent, id, attempt, answer }));
    }

    // === operators ===

    pub(crate) fn redrive(&mut self, i: usize) {
        let dead = Filter { stage: Some(Stage::Dead), ..Filter::default() };
        let action = Action::RedriveMatching { filter: dead.clone(), after: None, limit: 100 };
        if !self.nodes[i].agent.gate.list(0, &dead, None, 1).is_empty() {
            self.coverage.fault("redriven");
        }
        self.tell_gate(i, Input::Operator { identity: "ops".to_owned(), action });
    }

    /// The link between an agent and its node is up again: whatever was said meanwhile was missed.
    pub(crate) fn relink(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        node.linked = true;
        node.linked_at_ms = self.now_ms;
        node.agent.told_homes.clear();
        if !self.planted(Exhibit::WakeLost) {
            self.tell_gate(i, Input::Reconnected);
        }
        self.tell_homes(i);
    }
}
