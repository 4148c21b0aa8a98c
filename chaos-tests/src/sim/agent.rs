//! A region's sync-agent as far as messages go: the gate and its log.

use std::collections::{BTreeMap, VecDeque};

use cell_core::gate::{Config, Envelope, Gate, MessageId, Output, Place, Record};
use cell_core::id::{ActorId, RegionId, Slot};
use cell_core::placement::Epoch;

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) gate: Gate,
    pub(crate) up: bool,
    /// Rises at every crash.
    pub(crate) life: u64,
    pub(crate) log: Vec<Record>,
    pub(crate) synced: usize,
    /// Outputs that wait for the log, in order, each with the position it waits for.
    pub(crate) pending: VecDeque<(usize, Vec<Output>)>,
    pub(crate) told_front: BTreeMap<ActorId, u64>,
    pub(crate) told_homes: BTreeMap<Slot, Epoch>,
    /// When the alarm rings, in true time, and the time by the agent's clock that was asked for.
    pub(crate) tick_at_ms: Option<u64>,
    pub(crate) asked_tick_ms: u64,
}

impl Agent {
    pub(crate) fn new(region: RegionId) -> Agent {
        Agent {
            gate: Gate::new(region, config(), 7),
            up: true,
            life: 0,
            log: Vec::new(),
            synced: 0,
            pending: VecDeque::new(),
            told_front: BTreeMap::new(),
            told_homes: BTreeMap::new(),
            tick_at_ms: None,
            asked_tick_ms: 0,
        }
    }

    /// Loses what was not synced, and everything volatile.
    pub(crate) fn crash(&mut self, with_disk: bool) {
        self.up = false;
        self.life += 1;
        self.log.truncate(if with_disk { 0 } else { self.synced });
        self.synced = self.log.len();
        self.pending.clear();
        self.told_front.clear();
        self.told_homes.clear();
        self.tick_at_ms = None;
    }

    /// Appends what the gate persists.
    pub(crate) fn keep(&mut self, outputs: &[Output]) {
        for output in outputs {
            if let Output::Persist { record } = output {
                self.gate.placed(record, Place(self.log.len() as u64));
                self.log.push((**record).clone());
            }
        }
    }

    /// Deliveries of messages all of whose records are durable.
    pub(crate) fn take_early(&self, outputs: &mut Vec<Output>) -> Vec<Output> {
        let undurable: Vec<MessageId> = self.log[self.synced..].iter().map(Record::id).collect();
        let is_early = |output: &mut Output| output.waits_for().is_some_and(|id| !undurable.contains(&id));
        outputs.extract_if(.., is_early).collect()
    }

    /// The message kept under this id; `None` if it has ended, or a newer copy of it is not durable yet, which will
    /// ask for itself.
    pub(crate) fn message(&self, id: &MessageId) -> Option<&Envelope> {
        let Place(at) = self.gate.place(id)?;
        match self.log[..self.synced].get(usize::try_from(at).ok()?)? {
            Record::Accepted(accepted) => {
                assert_eq!(accepted.envelope.id, *id, "the gate says that the record of {id} is elsewhere");
                Some(&accepted.envelope)
            }
            _ => None,
        }
    }

    pub(crate) fn start(&mut self, region: RegionId, local_ms: u64) -> Vec<Output> {
        self.up = true;
        let records = (0..).map(Place).zip(self.log.iter().cloned());
        let (gate, outputs) = Gate::restore(region, config(), 7 + self.life, local_ms, records);
        self.gate = gate;
        outputs
    }
}

/// The gate's patience, shrunk like the kernel's rules.
pub(crate) fn config() -> Config {
    Config { ended_for_ms: 5_000, answer_within_ms: 5_000, retry_pause_max_ms: 4_000, ..Config::default() }
}
