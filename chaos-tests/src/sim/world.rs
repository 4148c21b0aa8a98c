//! The world: everything there is, one queue of what happens next, and one source of chance.

use std::collections::{BTreeMap, BTreeSet};

use cell_core::cell::{Ability, Baseline};
use cell_core::digest::Digest;
use cell_core::entity::Entity;
use cell_core::event::{Entry, Fact, FailureKind};
use cell_core::fronts::Said;
use cell_core::gate::{Envelope, MessageId, Requirement};
use cell_core::id::{EntityId, RegionId, Slot, UserId};
use cell_core::placement::Placement;
use cell_core::rules::Rules;
use service_kit::line;

use super::client::{Handle, Request, User};
use super::coverage::Coverage;
use super::gateway::Gateway;
use super::journal::Journal;
use super::museum::Exhibit;
use super::net::{Channel, Net};
use super::node::Node;
use super::post::Errand;
use super::reader::Reader;
use super::rng::Rng;
use super::script::{Line, Op, USERS};
use super::work::{Call, Found};

pub(crate) const T0: u64 = 1_000_000;
/// How often a node gives a sign of life.
pub(crate) const BEAT_EVERY_MS: u64 = 3_000;
/// Names of the regions, in order of their places.
pub(crate) const REGIONS: [&str; 3] = ["north", "east", "south"];

/// Something that happens at a moment.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Sync { node: usize, life: u64, upto: usize },
    GateSync { node: usize, life: u64 },
    GateTick { node: usize, life: u64, due_ms: u64 },
    AskNode { node: usize, agent: u64, errand: Errand },
    Batch { from: usize, to: usize, entries: Vec<Entry> },
    Subscribe { to: usize, from: usize, said: Said },
    NameAll { node: usize, peer: usize, stamp: Digest },
    OnlyAsState { node: usize, peer: usize },
    AskBaseline { to: usize, from: usize },
    Baseline { node: usize, peer: usize, baseline: Baseline, has: Vec<EntityId> },
    AskState { to: usize, from: usize, wanted: Vec<EntityId> },
    State { node: usize, peer: usize, entities: Vec<Entity>, of: Vec<EntityId> },
    SubscribeOnce { node: usize, life: u64 },
    SubscribeTimer,
    BeatTimer,
    Message { to: usize, from: usize, envelope: Envelope },
    Acked { to: usize, id: MessageId },
    Fetch { to: usize, from: usize, missing: Vec<Requirement> },
    Fetched { node: usize, entities: Vec<Entity>, wanted: Vec<Requirement> },
    Work { node: usize, life: u64, due_ms: u64 },
    GatewayCalled { node: usize, life: u64, at_ms: u64, call: Call },
    GatewayAnswered { node: usize, life: u64, found: Found },
    IntentDone { intent: String, failure: Option<FailureKind> },
    Callback { node: usize, fact: Fact },
    Request { node: usize, nth: usize },
    Unanswered { nth: usize, tries: u32 },
    Read { node: usize, reader: usize, looks: u32 },
    ReadOver { node: usize, reader: usize, looks: u32 },
    NodeUp { node: usize },
    Upgrade { node: usize },
    Recovered { node: usize, life: u64 },
    AgentUp { node: usize },
    Link { node: usize },
    Script { nth: usize, line: Line, tries: u32 },
    Check,
}

impl Event {
    /// Whom it happens to, and who caused it.
    fn machines(&self) -> [Option<usize>; 2] {
        match self {
            Event::Sync { node, .. }
            | Event::GateSync { node, .. }
            | Event::GateTick { node, .. }
            | Event::AskNode { node, .. }
            | Event::SubscribeOnce { node, .. }
            | Event::Fetched { node, .. }
            | Event::Work { node, .. }
            | Event::GatewayCalled { node, .. }
            | Event::GatewayAnswered { node, .. }
            | Event::Callback { node, .. }
            | Event::Request { node, .. }
            | Event::Read { node, .. }
            | Event::ReadOver { node, .. }
            | Event::NodeUp { node }
            | Event::Upgrade { node }
            | Event::Recovered { node, .. }
            | Event::AgentUp { node }
            | Event::Link { node } => [Some(*node), None],
            Event::Batch { from, to, .. }
            | Event::Subscribe { from, to, .. }
            | Event::Message { from, to, .. }
            | Event::AskBaseline { from, to }
            | Event::AskState { from, to, .. }
            | Event::Fetch { from, to, .. } => [Some(*from), Some(*to)],
            Event::NameAll { node, peer, .. }
            | Event::OnlyAsState { node, peer }
            | Event::Baseline { node, peer, .. }
            | Event::State { node, peer, .. } => [Some(*node), Some(*peer)],
            Event::Acked { to, .. } => [Some(*to), None],
            Event::SubscribeTimer
            | Event::BeatTimer
            | Event::IntentDone { .. }
            | Event::Unanswered { .. }
            | Event::Script { .. }
            | Event::Check => [None, None],
        }
    }
}

/// All of it. Public only so that it can be named; everything is done through scripts and schedules.
#[derive(Debug)]
pub struct World {
    pub(crate) now_ms: u64,
    pub(crate) rng: Rng,
    /// No chance at all: fixed delays, nothing lost. For named schedules.
    pub(crate) calm: bool,
    queue: BTreeMap<(u64, u64), Event>,
    serial: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) net: Net,
    last_arrival: BTreeMap<(usize, usize, Channel), u64>,
    pub(crate) gateway: Gateway,
    /// Per mille of calls, and of answers, that are lost or late.
    pub(crate) gateway_loss: u64,
    /// In a calm world: copies of each callback, and where they enter.
    pub(crate) callbacks: u32,
    pub(crate) callbacks_at: Option<usize>,
    pub(crate) rules: Rules,
    pub(crate) users: Vec<User>,
    /// Slots of the users.
    pub(crate) slots: BTreeSet<Slot>,
    pub(crate) orders: Vec<Handle>,
    pub(crate) requests: Vec<Request>,
    pub(crate) readers: Vec<Reader>,
    pub(crate) readers_rng: Rng,
    pub(crate) journal: Journal,
    pub(crate) checked: usize,
    pub(crate) coverage: Coverage,
    pub(crate) bug: Option<Exhibit>,
    pub(crate) decrees: BTreeMap<Slot, (u64, usize)>,
    pub(crate) events: u64,
    /// Nodes give signs of life until then: with them nothing comes to rest.
    pub(crate) beats_until_ms: u64,
    /// Says what happens, line by line.
    pub(crate) verbose: bool,
}

pub(crate) fn region(place: usize) -> RegionId {
    RegionId::new(REGIONS[place % 3]).unwrap_or_else(|error| unreachable!("{error}"))
}

/// Times shrunk so that a few minutes hold many of them.
pub(crate) fn rules() -> Rules {
    Rules {
        permit_window_ms: 60_000,
        attempt_margin_ms: 2_000,
        close_margin_ms: 10_000,
        message_deadline_ms: 25_000,
        attempts_max: 3,
        refund_expiry_ms: 300_000,
    }
}

pub(crate) fn placement() -> Placement {
    Placement::initial((0..3).map(region).collect(), |slot| region(usize::from(slot.number() % 3)))
}

/// Users whose home is region 0, 1, 2, 0, 1, 2.
fn users() -> Vec<User> {
    let mut found = Vec::new();
    let mut names = (0..).map(|i| format!("user{i}"));
    for place in 0..USERS {
        let name = names.find_map(|name| {
            let id = UserId::new(&name).ok()?;
            let fits = usize::from(id.slot().number() % 3) == place % 3;
            let fresh = found.iter().all(|user: &User| user.id.slot() != id.slot());
            (fits && fresh).then_some(id)
        });
        found.extend(name.map(|id| User { id }));
    }
    found
}

impl World {
    /// A world with three regions that have just started.
    pub(crate) fn new(seed: u64, calm: bool, bug: Option<Exhibit>) -> World {
        let users = users();
        let slots = users.iter().map(|user| user.id.slot()).collect();
        let mut world = World {
            now_ms: T0,
            rng: Rng::new(seed),
            calm,
            queue: BTreeMap::new(),
            serial: 0,
            nodes: Vec::new(),
            net: if calm { Net::calm() } else { Net::rough() },
            last_arrival: BTreeMap::new(),
            gateway: Gateway::default(),
            gateway_loss: if calm { 0 } else { 60 },
            callbacks: 1,
            callbacks_at: None,
            rules: rules(),
            users,
            slots,
            orders: Vec::new(),
            requests: Vec::new(),
            readers: Vec::new(),
            readers_rng: Rng::new(seed.rotate_left(32)),
            journal: Journal::default(),
            checked: 0,
            coverage: Coverage::default(),
            bug,
            decrees: BTreeMap::new(),
            events: 0,
            beats_until_ms: u64::MAX,
            verbose: false,
        };
        cell_core::museum::plant(bug.and_then(Exhibit::kernel));
        for place in 0..3 {
            let node = world.blank(place);
            world.nodes.push(node);
            world.start(place);
        }
        world.at(T0 + 1, Event::SubscribeTimer);
        world.at(T0 + 1_500, Event::BeatTimer);
        world.at(T0 + 1, Event::Check);
        world
    }

    // === time ===

    pub(crate) fn at(&mut self, at_ms: u64, event: Event) {
        self.serial += 1;
        self.queue.insert((at_ms.max(self.now_ms), self.serial), event);
    }
    pub(crate) fn after(&mut self, delay_ms: u64, event: Event) {
        self.at(self.now_ms + delay_ms, event);
    }
    /// When a node's clock shows `local_ms`.
    pub(crate) fn true_time(&self, i: usize, local_ms: u64) -> u64 {
        local_ms.saturating_add_signed(-self.nodes[i].offset_ms).max(self.now_ms)
    }
    pub(crate) fn run_until(&mut self, until_ms: u64) {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > until_ms {
                break;
            }
            self.now_ms = entry.key().0;
            let event = entry.remove();
            self.events += 1;
            self.happen(event);
        }
        self.now_ms = until_ms;
    }
    pub(crate) fn run(&mut self, for_ms: u64) {
        self.run_until(self.now_ms + for_ms);
    }
    pub(crate) fn note(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            line(format_args!("{:>9} {}", self.now_ms - T0, what()));
        }
    }
    pub(crate) fn planted(&self, exhibit: Exhibit) -> bool {
        self.bug == Some(exhibit)
    }

    // === space ===

    /// A living node of the region, if there is one.
    pub(crate) fn node_at(&self, place: usize) -> Option<usize> {
        let alive: Vec<usize> =
            (0..self.nodes.len()).filter(|i| self.nodes[*i].place == place && self.nodes[*i].up).collect();
        // Of a cloned machine either may answer.
        alive.get(self.now_ms as usize % alive.len().max(1)).copied()
    }
    pub(crate) fn place_of(&self, name: RegionId) -> Option<usize> {
        REGIONS.iter().position(|region| *region == name.as_str())
    }

    /// Sends something between two nodes; what arrives, when, and how often is the network's affair.
    pub(crate) fn packet(&mut self, from: usize, to: usize, channel: Channel, event: Event) {
        let (a, b) = (self.nodes[from].place, self.nodes[to].place);
        if self.net.is_cut(a, b, channel, self.now_ms) {
            let data = channel == Channel::Data;
            self.coverage.fault(if data { "partition-data" } else { "partition-messages" });
            return;
        }
        if self.rng.chance(self.net.loss_per_mille) {
            self.coverage.fault("packet-lost");
            return;
        }
        let copies = 1 + u64::from(self.rng.chance(self.net.duplicate_per_mille));
        if copies > 1 {
            self.coverage.fault("packet-duplicated");
        }
        for _ in 0..copies {
            let arrival = self.now_ms + self.net.delay(&mut self.rng);
            let last = self.last_arrival.entry((a, b, channel)).or_default();
            if arrival < *last {
                self.coverage.fault("packet-reordered");
            }
            *last = arrival.max(*last);
            self.at(arrival, event.clone());
        }
    }

    // === what happens ===

    fn happen(&mut self, event: Event) {
        // A cloned machine may have been switched off for good meanwhile.
        if event.machines().into_iter().flatten().any(|node| node >= self.nodes.len()) {
            return;
        }
        let alive =
            |world: &World, node: usize, life: u64| world.nodes[node].up && world.nodes[node].life == life;
        let agent = |world: &World, node: usize, life: u64| {
            world.nodes[node].agent.up && world.nodes[node].agent.life == life
        };
        match event {
            Event::Sync { node, life, upto } if alive(self, node, life) => self.synced(node, upto),
            Event::GateSync { node, life } if agent(self, node, life) => self.gate_synced(node),
            Event::GateTick { node, life, due_ms }
                if agent(self, node, life) && self.nodes[node].agent.tick_at_ms == Some(due_ms) =>
            {
                self.nodes[node].agent.tick_at_ms = None;
                self.ring_gate(node);
            }
            Event::AskNode { node, agent: life, errand } if agent(self, node, life) => {
                self.asked(node, life, errand);
            }
            Event::Batch { from, to, entries } => self.batch(to, from, entries),
            Event::Subscribe { to, from, said } => self.subscribed(to, from, said),
            Event::NameAll { node, peer, stamp } => self.name_all(node, peer, stamp),
            Event::OnlyAsState { node, peer } => self.only_as_state(node, peer),
            Event::AskBaseline { to, from } => self.baseline_asked(to, from),
            Event::Baseline { node, peer, baseline, has } => self.baseline_given(node, peer, baseline, has),
            Event::AskState { to, from, wanted } => self.state_asked(to, from, wanted),
            Event::State { node, peer, entities, of } => self.state_given(node, peer, entities, &of),
            Event::SubscribeOnce { node, life } if alive(self, node, life) => self.subscribe_all(node),
            Event::SubscribeTimer => {
                for i in 0..self.nodes.len() {
                    if self.nodes[i].up {
                        self.subscribe_all(i);
                        self.sweep(i);
                        self.operator_looks(i);
                        self.compare(i);
                    }
                }
                self.after(3_000, Event::SubscribeTimer);
            }
            Event::BeatTimer => {
                for i in 0..self.nodes.len() {
                    if self.nodes[i].up && self.now_ms < self.beats_until_ms {
                        self.beat(i);
                    }
                }
                self.after(BEAT_EVERY_MS, Event::BeatTimer);
            }
            Event::Message { to, from, envelope } => self.message(to, from, envelope),
            Event::Acked { to, id } => self.acked(to, id),
            Event::Fetch { to, from, missing } => self.fetch_asked(to, from, missing),
            Event::Fetched { node, entities, wanted } => self.fetched(node, entities, wanted),
            Event::Work { node, life, due_ms }
                if alive(self, node, life) && self.nodes[node].work_at_ms == Some(due_ms) =>
            {
                self.nodes[node].work_at_ms = None;
                self.work(node);
            }
            Event::GatewayCalled { node, life, at_ms, call } => self.gateway_called(node, life, at_ms, call),
            Event::GatewayAnswered { node, life, found } if alive(self, node, life) => {
                self.gateway_answered(node, found);
            }
            Event::IntentDone { intent, failure } => self.intent_done(&intent, failure),
            Event::Callback { node, fact } => self.callback(node, fact),
            Event::Request { node, nth } => self.requested(node, nth),
            Event::Unanswered { nth, tries } => self.unanswered(nth, tries),
            Event::Read { node, reader, looks } => self.read(node, reader, looks),
            Event::ReadOver { node, reader, looks } => self.read_over(node, reader, looks),
            Event::NodeUp { node } if !self.nodes[node].up => self.start(node),
            Event::Upgrade { node } => self.run_software(node, Ability::default()),
            Event::Recovered { node, life } if alive(self, node, life) => self.recovered(node),
            Event::AgentUp { node } => self.start_agent(node),
            Event::Link { node }
                if self.nodes[node].up && self.nodes[node].agent.up && !self.nodes[node].linked =>
            {
                self.relink(node);
            }
            Event::Script { nth, line, tries } => self.play(nth, &line, tries),
            Event::Check => {
                self.check_safety();
                self.after(1_000, Event::Check);
            }
            _ => {}
        }
    }

    /// Plays one line. Users who find nothing to act upon yet look again.
    fn play(&mut self, nth: usize, line: &Line, tries: u32) {
        self.note(|| format!("-- {line}"));
        if self.fault(line) {
            return;
        }
        if self.user_acts(nth, line.region, &line.op).is_none() && tries < 12 {
            let again = Event::Script { nth, line: line.clone(), tries: tries + 1 };
            self.after(700, again);
        }
    }

    /// Plays one operation now and hands back the number of the request, if it was a user's.
    pub(crate) fn act_now(&mut self, place: usize, op: Op) -> Option<usize> {
        let nth = self.requests.len() + 1_000;
        let line = Line { at_ms: 0, region: place, op };
        self.note(|| format!("-- {line}"));
        if self.fault(&line) { None } else { self.user_acts(nth, place, &line.op) }
    }
}
