//! A run: chaos with safety checked, then healing, then liveness checked at rest.

use std::fmt::Debug;

use cell_core::cell::{Ability, SILENT_BEATS};
use cell_core::entity::{Kind, Reading};
use cell_core::id::Slot;
use service_kit::line;

use super::coverage::Coverage;
use super::disk::Disk;
use super::invariants::Violation;
use super::museum::Exhibit;
use super::node::Node;
use super::rng::Rng;
use super::script::{Script, generate};
use super::work::is_over;
use super::world::{BEAT_EVERY_MS, Event, T0, World};

/// How long users and faults go on.
const CHAOS_MS: u64 = 90_000;
/// Virtual time after healing within which the world has to come to rest.
const REST_MS_MAX: u64 = 1_200_000;
const SLICE_MS: u64 = 10_000;
/// Slices in which a hole that nobody can fill may end by itself.
const HOPELESS_MAX: u32 = 10;

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    pub script: Script,
    pub violations: Vec<Violation>,
    pub coverage: Coverage,
    /// Events that happened in the world.
    pub events: u64,
}

impl Outcome {
    #[must_use]
    pub fn passed(&self) -> bool {
        self.violations.is_empty()
    }
    /// Seed, script, what was violated, and how to see it again.
    #[must_use]
    pub fn report(&self) -> String {
        let violations: Vec<String> = self.violations.iter().map(ToString::to_string).collect();
        format!(
            "seed {}\n{}{}\nreplay: cargo run --release -p chaos-tests -- sim --seed {}",
            self.seed,
            self.script,
            violations.join("\n"),
            self.seed
        )
    }
}

/// Runs the script that `seed` writes.
#[must_use]
pub fn run_seed(seed: u64, verbose: bool) -> Outcome {
    run_with(seed, None, verbose)
}

pub(crate) fn run_with(seed: u64, bug: Option<Exhibit>, verbose: bool) -> Outcome {
    let script = generate(&mut Rng::new(seed.wrapping_mul(0x9e37_79b9)), CHAOS_MS);
    run(seed, script, bug, verbose)
}

/// Runs a given script, for instance a shortened one, with the chance of `seed`.
#[must_use]
pub fn run_script(seed: u64, script: Script, verbose: bool) -> Outcome {
    run(seed, script, None, verbose)
}

fn run(seed: u64, script: Script, bug: Option<Exhibit>, verbose: bool) -> Outcome {
    let mut world = World::new(seed, false, bug);
    world.verbose = verbose;
    for (nth, line) in script.0.iter().enumerate() {
        let event = Event::Script { nth, line: line.clone(), tries: 0 };
        world.at(T0 + 500 + line.at_ms, event);
    }
    let last_ms = script.0.iter().map(|line| line.at_ms).max().unwrap_or(0);
    world.run_until(T0 + CHAOS_MS.max(last_ms + 2_000));
    if world.journal.violations.is_empty() {
        world.settle_down();
    }
    if verbose && let Some(violation) = world.journal.violations.first() {
        line(world.explain(&violation.detail));
    }
    cell_core::museum::plant(None);
    Outcome {
        seed,
        script,
        violations: std::mem::take(&mut world.journal.violations),
        coverage: world.coverage,
        events: world.events,
    }
}

impl World {
    /// Heals everything, waits for rest, and checks what has to hold there.
    pub(crate) fn settle_down(&mut self) {
        self.heal();
        self.beats_until_ms = self.now_ms;
        let end_ms = self.now_ms + REST_MS_MAX;
        let mut twin = self.nodes.len() > 3;
        let (mut followed, mut closed, mut hopeless) = (false, false, 0);
        while self.now_ms < end_ms && self.journal.violations.is_empty() {
            self.run(SLICE_MS);
            if self.close_hopeless() {
                (hopeless, followed) = (hopeless + 1, false);
            }
            if hopeless > HOPELESS_MAX {
                self.replace_hopeless();
                hopeless = 0;
            }
            if !self.has_converged() {
                continue;
            }
            if !followed {
                // Long enough for who has ended to be missed.
                self.beats_until_ms = self.now_ms + u64::from(SILENT_BEATS + 2) * BEAT_EVERY_MS;
                followed = true;
                self.run_until(self.beats_until_ms);
            } else if twin {
                // Everything it wrote is everywhere: the second machine is switched off.
                self.stop(3);
                self.forget_disk(3, Disk::default());
                self.nodes.truncate(3);
                self.nodes.iter_mut().for_each(|node| {
                    node.sent.remove(&3);
                });
                (twin, followed) = (false, false);
            } else if !closed {
                self.close_ended();
                self.run(2_000);
                (0..3).for_each(|i| self.wake_all(i));
                closed = true;
            } else if self.unrest().is_none() {
                break;
            } else if self.nodes.iter().any(|node| Slot::all().any(|slot| node.cell.is_outranked(slot))) {
                // It heard of an actor above it when nobody gave signs of life any more.
                (followed, closed) = (false, false);
            }
        }
        if self.journal.violations.is_empty()
            && let Some(unrest) = self.unrest()
        {
            self.journal.violate("D10 settled", format!("no rest: {unrest}"));
        }
        self.check_safety();
        if self.journal.violations.is_empty() {
            self.check_rest();
        }
    }

    pub(crate) fn heal(&mut self) {
        self.net.heal();
        self.gateway_loss = 0;
        for i in 0..self.nodes.len() {
            self.nodes[i].slow_until_ms = 0;
            if self.nodes[i].ability != Ability::default() {
                self.run_software(i, Ability::default());
            }
            if !self.nodes[i].up {
                self.start(i);
            }
            self.start_agent(i);
            self.after(50, Event::Link { node: i });
        }
    }

    /// The histories of every entity that a violation names, and of those around it, as each region sees them.
    pub(crate) fn explain(&self, detail: &str) -> String {
        let mut text = String::new();
        for (node, slot) in
            self.nodes.iter().flat_map(|node| self.slots.iter().map(move |slot| (node, *slot)))
        {
            let home = node.cell.placement().home(slot);
            text += &format!(
                "{} says {slot:?} is at {}.{} {:?}\n",
                node.cell.me(),
                home.term,
                home.step,
                home.actor
            );
        }
        for node in &self.nodes {
            let named: Vec<_> =
                node.shelf.entities.keys().filter(|id| detail.contains(&id.to_string())).collect();
            let around: std::collections::BTreeSet<_> =
                named.into_iter().flat_map(|id| node.shelf.around(*id)).collect();
            for id in around {
                text +=
                    &format!("{} {id} owned here: {}\n", node.region, node.cell.owned(id.slot()).is_some());
                if let Some(order) = id.order() {
                    text += &node.order(order, history_of).unwrap_or_default();
                }
                if let Some(payment) = id.payment() {
                    text += &node.payment(payment, history_of).unwrap_or_default();
                }
            }
        }
        text
    }

    fn has_converged(&self) -> bool {
        let front = self.nodes[0].durable_front();
        let same = |node: &Node| node.up && node.is_synced() && node.durable_front() == front;
        self.nodes.iter().all(|node| same(node) && node.may_be_built_on())
    }

    /// Why this is not rest yet.
    pub(crate) fn unrest(&self) -> Option<String> {
        for (i, node) in self.nodes.iter().enumerate() {
            if !node.up || !node.is_synced() || !node.dirty.is_empty() {
                let (up, synced, dirty) = (node.up, node.is_synced(), node.dirty.len());
                return Some(format!("{i} is busy: up {up}, synced {synced}, dirty {dirty}"));
            }
            if !node.may_be_built_on() {
                return Some(format!("{i} lacks something"));
            }
            if node.durable_front() != self.nodes[0].durable_front() {
                return Some(format!("{i} has other changes than 0"));
            }
            // What nobody streams any more is compared; not before it is clear that its changes do not come.
            let holed = |node: &Node| node.cell.quarantined().next().is_some();
            let same = node.cell.digests().all() == self.nodes[0].cell.digests().all();
            let agree = same && self.agrees(i, 0);
            if !agree && !holed(node) && !holed(&self.nodes[0]) {
                return Some(format!("{i} has other state than 0"));
            }
            let now_ms = node.local(self.now_ms);
            let open = node.duties.values().flatten().find(|duty| !is_over(&duty.act, now_ms));
            if let Some(duty) = open {
                return Some(format!("{i} still has to do {duty:?}"));
            }
            // What no region can apply stays a hole everywhere.
            let holes = |node: &Node| node.cell.quarantined().map(|(dot, _)| *dot).collect::<Vec<_>>();
            if holes(node) != holes(&self.nodes[0]) {
                return Some(format!("{i} has other holes than 0: {:?}", holes(node)));
            }
            if !node.listing.is_empty() {
                return Some(format!("{i} is listing"));
            }
            let parked = node.agent.gate.list(now_ms, &cell_core::gate::Filter::default(), None, 1);
            if let Some(entry) = parked.first() {
                return Some(format!("{i} still keeps {entry:?}"));
            }
        }
        None
    }
}

fn history_of<K: Kind<Decision: Debug>>(reading: &Reading<'_, K>) -> String {
    let links = reading.history.iter().map(|link| ("", link));
    let strays = reading.strays.iter().map(|link| ("STRAY ", link));
    let told =
        links.chain(strays).map(|(what, link)| format!("{what}{:?} @ {}", link.body, link.decided.epoch));
    let facts = reading.known_facts().map(|(_, fact)| format!("FACT {fact:?}"));
    let lines = told.chain(facts).chain([format!("blocked {:?}", reading.blocked)]);
    lines.map(|line| format!("      {line}\n")).collect()
}
