//! One sample of everything that is stored, hashed or sent: plain ones for the golden files, drawn ones for the laws.

mod event;

use std::cell::Cell;

use bytes::Bytes;
use cell_core::canon::Message as Canon;
use cell_core::cell::{Baseline, HeldFact, KnownFront, Quarantined};
use cell_core::clock::Hlc;
use cell_core::duty::{
    MessageBody, PayRequestBody, RefundOrderBody, ResultBody, StalledBody, WithdrawalBody,
};
use cell_core::entity::{EntityShape, ItemShape};
use cell_core::event as ev;
use cell_core::gate;
use cell_core::gate::{Envelope, MessageId, MessageKind, Requirement};
use cell_core::id::{ActorId, Hash, NodeId, OrderId, PaymentId, PublicId, RegionId, Slot, UserId};
use cell_core::lives::ActorLife;
use cell_core::order as or;
use cell_core::placement::Epoch;
use cell_core::version::{Dot, EventId};
use cell_proto::v1;

/// A sample's canonical bytes, and what is left of them after prost or cell-core has read and written them.
pub(crate) struct Sample {
    /// `shape` or `shape.kind`.
    pub(crate) name: String,
    pub(crate) canon: Vec<u8>,
    pub(crate) by_prost: Vec<u8>,
    pub(crate) by_core: Vec<u8>,
}

impl Sample {
    fn of<C: Canon, W: prost::Message + Default>(name: String, value: &C) -> Sample {
        let canon = value.to_canon();
        let wire = W::decode(canon.as_slice()).unwrap_or_else(|error| panic!("{name}: prost: {error}"));
        // What prost built, read by cell-core.
        let by_prost = wire.encode_to_vec();
        let core = C::decode(&by_prost).unwrap_or_else(|error| panic!("{name}: canon: {error}"));
        Sample { name, canon, by_prost, by_core: core.to_canon() }
    }
}

/// Where the values of samples come from.
pub(crate) enum Samples {
    /// 0: everything empty or zero that may be; 1: ordinary values; 2: extremes.
    Plain(usize),
    /// Drawn from these numbers, round and round.
    Drawn(Vec<u64>, Cell<usize>),
}

impl Samples {
    pub(crate) fn drawn(numbers: Vec<u64>) -> Samples {
        assert!(!numbers.is_empty(), "there is nothing to draw from");
        Samples::Drawn(numbers, Cell::new(0))
    }

    fn pick<T: Clone>(&self, plain: [T; 3], drawn: impl FnOnce(u64) -> T) -> T {
        match self {
            Samples::Plain(size) => plain[*size].clone(),
            Samples::Drawn(numbers, at) => {
                let i = at.replace(at.get() + 1);
                drawn(numbers[i % numbers.len()].rotate_left((i / numbers.len()) as u32))
            }
        }
    }

    fn num(&self) -> u64 {
        self.pick([0, 300, u64::MAX], |n| match n % 8 {
            0 => 0,
            1 => n >> 57,
            2 => 1 << (n >> 58),
            3 => (1 << (n >> 58)) - 1,
            4 => u64::MAX,
            _ => n >> (n >> 58),
        })
    }
    fn text(&self) -> String {
        self.pick(["".to_owned(), "paid, 已付".to_owned(), "x".repeat(20_000)], |n| {
            ["", "a", "\0", "已付", "🛒 & more of it"][(n % 5) as usize].repeat((n >> 60) as usize)
        })
    }
    fn blob(&self) -> Bytes {
        let bytes = |len| Bytes::from(vec![0xab; len]);
        self.pick([bytes(0), bytes(9), bytes(9_000)], |n| bytes((n % 200) as usize))
    }
    fn many<T>(&self, one: impl Fn() -> T) -> Vec<T> {
        (0..self.pick([0, 1, 3], |n| n % 4)).map(|_| one()).collect()
    }
    fn maybe<T>(&self, one: impl FnOnce() -> T) -> Option<T> {
        self.flag().then(one)
    }
    fn flag(&self) -> bool {
        self.pick([false, true, true], |n| n % 2 == 1)
    }
    /// The same plain value in every size, or any of `all`.
    fn one_of<T: Copy>(&self, plain: T, all: &[T]) -> T {
        self.pick([plain; 3], |n| all[n as usize % all.len()])
    }
    fn id16(&self, plain: u8) -> [u8; 16] {
        self.pick([[plain; 16]; 3], |n| (u128::from(n) << 32).to_be_bytes())
    }
    fn sized_id16(&self) -> [u8; 16] {
        self.pick([[0; 16], [1; 16], [2; 16]], |n| (u128::from(n) << 32).to_be_bytes())
    }
    fn hash(&self) -> Hash {
        self.pick([Hash([0; 32]), Hash([1; 32]), Hash([2; 32])], |n| Hash::of(&n.to_be_bytes()))
    }

    fn region(&self, plain: &str) -> RegionId {
        let all =
            ["n", "north", "east", "south-2", "sixteen-letters0"].map(|name| RegionId::new(name).unwrap());
        self.one_of(RegionId::new(plain).unwrap(), &all)
    }
    fn actor(&self) -> ActorId {
        let node = NodeId { region: self.region("north"), index: self.num() };
        ActorId { node, start: self.num(), nonce: self.num() }
    }
    fn dot(&self) -> Dot {
        Dot { actor: self.actor(), seq: self.num() }
    }
    fn epoch(&self) -> Epoch {
        Epoch { term: self.num(), step: self.num(), actor: self.actor() }
    }
    fn hlc(&self) -> Hlc {
        Hlc { wall_ms: self.num(), counter: self.num() }
    }
    fn event_id(&self) -> EventId {
        EventId { dot: self.dot(), place: self.num() }
    }
    fn user(&self) -> UserId {
        let longest = "u".repeat(128);
        let drawn = |n: u64| ["a", "shop1:用户"][(n % 2) as usize].repeat((n >> 61) as usize + 1);
        UserId::new(&self.pick(["a".to_owned(), "alice".to_owned(), longest], drawn)).unwrap()
    }
    fn slot(&self) -> Slot {
        Slot::new(self.pick([0, 5, 1023], |n| (n % 1024) as u16)).unwrap()
    }
    fn order(&self) -> OrderId {
        OrderId(PublicId::new(self.num(), self.slot(), &self.hash()))
    }
    fn payment(&self) -> PaymentId {
        PaymentId(PublicId::new(self.num(), self.slot(), &self.hash()))
    }

    pub(crate) fn requirement(&self) -> Requirement {
        Requirement { entity: self.order().into(), dot: self.dot() }
    }

    pub(crate) fn envelope(&self, body: &MessageBody) -> Envelope {
        Envelope {
            id: MessageId(self.id16(1)),
            kind: self.one_of(MessageKind::Result, MessageKind::ALL),
            from: self.region("east"),
            to_slot: self.slot(),
            subject: self.payment().into(),
            requires: self.many(|| self.requirement()),
            epoch: self.epoch(),
            deadline_ms: self.num(),
            until_ms: self.num(),
            trace: self.text(),
            from_slot: self.slot(),
            body: Bytes::from(body.to_canon()),
            created_ms: self.num(),
        }
    }

    pub(crate) fn message_bodies(&self) -> Vec<(&'static str, MessageBody)> {
        let (order, payment) = (self.order(), self.payment());
        let why = self.one_of(or::Why::Withdrawal, or::Why::ALL);
        vec![
            ("pay-request", MessageBody::PayRequest(PayRequestBody { permit: self.permit() })),
            ("withdrawal", MessageBody::Withdrawal(WithdrawalBody { permit: self.permit(), why })),
            ("result", MessageBody::Result(ResultBody { payment })),
            ("refund-order", MessageBody::RefundOrder(RefundOrderBody { refund: self.refund(), order })),
            ("stalled", MessageBody::Stalled(StalledBody { order, payment, missing: self.text() })),
        ]
    }

    pub(crate) fn entry(&self) -> ev::Entry {
        ev::Entry { dot: self.dot(), hash: self.hash(), bytes: self.blob() }
    }

    fn quarantined(&self) -> Quarantined {
        Quarantined {
            entry: self.entry(),
            cause: self.text(),
            detail: self.text(),
            entities: self.many(|| self.order().into()),
            obscure: self.flag(),
            since_ms: self.num(),
            software: self.text(),
            given_up: self.flag(),
            facts: Vec::new(),
        }
    }

    pub(crate) fn entity(&self) -> EntityShape {
        let item =
            || ItemShape { event: self.blob(), origins: self.many(|| self.event_id()), since: self.hlc() };
        EntityShape { id: self.order().into(), items: self.many(item) }
    }

    pub(crate) fn change(&self) -> ev::ChangeShape {
        let events = self.many(|| self.blob());
        ev::ChangeShape { dot: self.dot(), at: self.hlc(), trace: self.text(), events }
    }

    fn gate_records(&self) -> Vec<(&'static str, gate::Record)> {
        use gate::Record as R;
        let (id, at_ms, from) = (MessageId(self.id16(3)), self.num(), self.region("south"));
        let envelope = self.envelope(&MessageBody::Result(ResultBody { payment: self.payment() }));
        let dead = gate::DeadLettered {
            id,
            reason: self.one_of(gate::DeadReason::Poison, gate::DeadReason::ALL),
            missing: self.many(|| self.requirement()),
            detail: self.text(),
            at_ms,
        };
        let (bytes, reason, identity) = (self.blob(), self.text(), self.text());
        vec![
            ("accepted", R::Accepted(gate::Accepted { envelope, arrived_ms: at_ms })),
            (
                "undecoded",
                R::Undecoded(gate::Undecoded { id, from, bytes, reason: reason.clone(), arrived_ms: at_ms }),
            ),
            ("dead-lettered", R::DeadLettered(dead)),
            ("discarded", R::Discarded(gate::Discarded { id, identity, reason, at_ms })),
            ("gone", R::Gone(gate::Gone { id })),
        ]
    }

    /// A sample of every shape, one for each kind of event, message body and record.
    pub(crate) fn all(&self) -> Vec<Sample> {
        let mut all = Vec::new();
        for (name, body) in self.bodies() {
            let shape = ev::EventShape { entities: self.many(|| self.order().into()), body };
            all.push(Sample::of::<_, v1::EventShape>(format!("event.{name}"), &shape));
        }
        all.push(Sample::of::<_, v1::ChangeShape>("change".into(), &self.change()));
        all.push(Sample::of::<_, v1::Entry>("entry".into(), &self.entry()));
        all.push(Sample::of::<_, v1::Quarantined>("quarantined".into(), &self.quarantined()));
        let facts = self.many(|| HeldFact { entity: self.order().into(), event: self.hash() });
        let quarantined = Quarantined { facts, ..self.quarantined() };
        all.push(Sample::of::<_, v1::Quarantined>("quarantined.facts".into(), &quarantined));
        all.push(Sample::of::<_, v1::EntityShape>("entity".into(), &self.entity()));
        let life = ActorLife { actor: self.actor(), beat_ms: self.num(), last: self.maybe(|| self.num()) };
        all.push(Sample::of::<_, v1::ActorLife>("actor-life".into(), &life));
        let front = KnownFront { actor: self.actor(), seq: self.num(), hash: self.hash() };
        let baseline = Baseline {
            fronts: vec![front],
            closed: vec![ev::Closed { actor: self.actor(), last: self.num() }],
            placed: vec![ev::Placed { slots: vec![self.slot()], epoch: self.epoch() }],
            lives: vec![life],
            quarantined: Vec::new(),
        };
        all.push(Sample::of::<_, v1::Baseline>("baseline".into(), &baseline));
        let baseline = Baseline { quarantined: vec![self.quarantined()], ..baseline };
        all.push(Sample::of::<_, v1::Baseline>("baseline.quarantined".into(), &baseline));
        for (name, body) in self.message_bodies() {
            all.push(Sample::of::<_, v1::MessageBody>(format!("message-body.{name}"), &body));
            all.push(Sample::of::<_, v1::Envelope>(format!("envelope.{name}"), &self.envelope(&body)));
        }
        for (name, record) in self.gate_records() {
            all.push(Sample::of::<_, v1::GateRecord>(format!("gate-record.{name}"), &record));
        }
        all
    }
}
