//! Every stored or hashed shape: prost yields the bytes that cell-core's canonical encoding yields, and the v1 bytes in
//! `golden/` never change. `GOLDEN_WRITE=1 cargo test -p cell-proto` adds missing golden files; it never overwrites one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use cell_core::canon::Message as Canon;
use cell_core::clock::Hlc;
use cell_core::duty::{
    MessageBody, PayRequestBody, RefundOrderBody, ResultBody, StalledBody, WithdrawalBody,
};
use cell_core::entity::{EntityShape, ItemShape};
use cell_core::event as ev;
use cell_core::gate::{Envelope, MessageId, MessageKind, Requirement};
use cell_core::id::{ActorId, Hash, NodeId, OrderId, PaymentId, PublicId, RegionId, Slot, UserId};
use cell_core::order as or;
use cell_core::payment as pa;
use cell_core::placement::Epoch;
use cell_core::version::{Dot, EventId};
use cell_proto::v1;
use prost::Message as _;

/// What a shape's sample has to survive.
struct Sample {
    name: String,
    canon: Vec<u8>,
    by_prost: Vec<u8>,
    by_core: Vec<u8>,
}

struct Samples {
    /// 0: everything empty or zero that may be; 1: ordinary values; 2: extremes.
    size: u8,
    all: Vec<Sample>,
}

impl Samples {
    fn add<C: Canon, W: prost::Message + Default>(&mut self, name: &str, value: &C) {
        let canon = value.to_canon();
        let wire = W::decode(canon.as_slice()).unwrap_or_else(|error| panic!("{name}: prost: {error}"));
        let core = C::decode(&canon).unwrap_or_else(|error| panic!("{name}: canon: {error}"));
        let (by_prost, by_core) = (wire.encode_to_vec(), core.to_canon());
        self.all.push(Sample { name: format!("{name}.{}", self.size), canon, by_prost, by_core });
    }

    fn num(&self) -> u64 {
        [0, 300, u64::MAX][usize::from(self.size)]
    }
    fn text(&self) -> String {
        ["", "paid, 已付", &"x".repeat(20_000)][usize::from(self.size)].to_owned()
    }
    fn blob(&self) -> Bytes {
        Bytes::from(vec![0xab; [0, 9, 9_000][usize::from(self.size)]])
    }
    fn many<T: Clone>(&self, one: T) -> Vec<T> {
        vec![one; [0, 1, 3][usize::from(self.size)]]
    }
    fn maybe<T>(&self, one: T) -> Option<T> {
        (self.size > 0).then_some(one)
    }

    fn actor(&self) -> ActorId {
        let node = NodeId { region: RegionId::new("north").unwrap(), index: self.num() };
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
    fn hash(&self) -> Hash {
        Hash([self.size; 32])
    }
    fn user(&self) -> UserId {
        UserId::new(["a", "alice", &"u".repeat(128)][usize::from(self.size)]).unwrap()
    }
    fn slot(&self) -> Slot {
        Slot::new([0, 5, 1023][usize::from(self.size)]).unwrap()
    }
    fn order(&self) -> OrderId {
        OrderId(PublicId::new(self.num(), self.slot(), &self.hash()))
    }
    fn payment(&self) -> PaymentId {
        PaymentId(PublicId::new(self.num(), self.slot(), &self.hash()))
    }
    fn content(&self) -> or::OrderContent {
        let n = self.num();
        let line = or::Line { sku: self.text(), title: self.text(), quantity: n, unit_minor: n };
        or::OrderContent {
            currency: self.text(),
            lines: self.many(line),
            promotions_minor: n,
            coupon_minor: n,
            points_minor: n,
            foreign_shipping_minor: n,
            forwarding_fee_minor: n,
            service_fee_minor: n,
            duty_minor: n,
        }
    }
    fn permit(&self) -> pa::Permit {
        pa::Permit {
            order: self.order(),
            buyer: self.user(),
            payer: self.user(),
            amount_minor: self.num(),
            currency: self.text(),
            content: self.hash(),
            until_ms: self.num(),
            until_from_command: self.size > 0,
            command: [self.size; 16],
        }
    }
    fn refund(&self) -> or::RefundCase {
        let case = [self.size; 16];
        or::RefundCase { case, intent: self.text(), payment: self.payment(), amount_minor: self.num() }
    }
    fn reconciled(&self) -> or::Reconciled {
        let verdict = or::Verdict {
            place: self.num(),
            hash: self.hash(),
            ruling: or::Ruling::Withdrawn,
            asks: self.maybe(self.refund()),
            user: self.maybe(self.user()),
            command: self.maybe([1; 16]),
        };
        or::Reconciled { epoch: self.epoch(), from: self.num(), to: self.num(), verdicts: self.many(verdict) }
    }
    fn noted(&self) -> or::FactNoted {
        or::FactNoted { kind: self.num(), outside: self.text() }
    }
    fn case(&self) -> or::CaseOpened {
        or::CaseOpened { subject: self.text(), reason: self.text() }
    }

    fn order_decisions(&self) -> Vec<or::OrderDecision> {
        use or::OrderDecision as D;
        let (payment, refund) = (self.payment(), self.maybe(self.refund()));
        vec![
            D::PermitOpened(or::PermitOpened { permit: self.permit() }),
            D::PermitClosing(or::PermitClosing { payment, why: or::Why::Cancel }),
            D::PermitClosed(or::PermitClosed { payment, how: or::How::Expired }),
            D::CaptureSettled(or::CaptureSettled {
                intent: self.text(),
                payment,
                amount_minor: self.num(),
                verdict: or::CaptureVerdict::Applied,
                refund: refund.clone(),
            }),
            D::RefundSettled(or::RefundSettled {
                refund: self.text(),
                intent: self.text(),
                case: [2; 16],
                amount_minor: self.num(),
                verdict: or::RefundVerdict::Settled,
            }),
            D::Cancelled(or::Cancelled { refund }),
            D::Expired(or::Expired {}),
            D::Reconciled(self.reconciled()),
            D::Stalled(or::Stalled { payment, missing: self.text() }),
            D::CaseOpened(self.case()),
            D::RefundGranted(or::RefundGranted { refund: self.refund() }),
            D::Amended(or::Amended { content: self.content() }),
            D::FactNoted(self.noted()),
        ]
    }

    fn payment_decisions(&self) -> Vec<pa::PaymentDecision> {
        use pa::PaymentDecision as D;
        let (k, text) = (self.num(), self.text());
        vec![
            D::Received(pa::Received {}),
            D::Accepted(pa::Accepted { card: text.clone() }),
            D::AttemptStarted(pa::AttemptStarted { k, key: [4; 16], expires_at_ms: k }),
            D::AttemptEnded(pa::AttemptEnded { k, end: pa::AttemptEnd::Closed, code: text.clone() }),
            D::Ended(pa::Ended { how: or::How::Declined, code: text.clone() }),
            D::EndAmended(pa::EndAmended { intent: text }),
            D::FactNoted(self.noted()),
            D::Reconciled(self.reconciled()),
            D::ClosingAsked(pa::ClosingAsked { why: or::Why::Expiry }),
            D::RefundOrphan(pa::RefundOrphan { refund: self.refund() }),
            D::CaseOpened(self.case()),
        ]
    }

    fn facts(&self) -> Vec<ev::Fact> {
        let (payment, order, n) = (self.payment(), self.order(), self.num());
        vec![
            ev::Fact::Capture(ev::Capture {
                intent: self.text(),
                key: [5; 16],
                k: n,
                permit: self.permit(),
                amount_minor: n,
                currency: self.text(),
                at_ms: n,
                order_epoch: self.maybe(self.epoch()),
                payment_epoch: self.maybe(self.epoch()),
            }),
            ev::Fact::Refund(ev::Refund {
                refund: self.text(),
                intent: self.text(),
                case: [6; 16],
                payment,
                order,
                amount_minor: n,
                currency: self.text(),
                at_ms: n,
            }),
            ev::Fact::Failure(ev::Failure {
                intent: self.text(),
                key: [7; 16],
                k: n,
                payment,
                order,
                kind: ev::FailureKind::Retryable,
                code: self.text(),
            }),
            ev::Fact::Barred(ev::Barred { payment, order }),
        ]
    }

    fn bodies(&self) -> Vec<(&'static str, ev::Body)> {
        use ev::Body as B;
        let record = or::OrderRecord {
            user: self.user(),
            key: self.text(),
            content: self.content(),
            pay_window_ms: self.num(),
            external_ref: self.text(),
            sealed: self.blob(),
            sealed_key: self.text(),
            attributes: self.text(),
            time_ms: self.num(),
        };
        let command = ev::CommandRef { user: self.user(), op: ev::Op::Ask, id: [8; 16], digest: [9; 16] };
        let decided = |body| {
            let inherits = self.many(self.hash());
            let command = self.maybe(command.clone());
            B::Decided(ev::Decided { epoch: self.epoch(), place: self.num(), command, inherits, body })
        };
        let origin = EventId { dot: self.dot(), place: self.num() };
        let mut all = vec![
            ("record-order", B::Record(ev::Record::Order(record))),
            ("record-permit", B::Record(ev::Record::Permit(self.permit()))),
            ("carried", B::Carried(ev::Carried { origin, at: self.hlc(), event: self.blob() })),
            (
                "succeeds",
                B::Succeeds(ev::Succeeds { old: self.actor(), last: self.num(), hash: self.hash() }),
            ),
            ("beat", B::Beat(ev::Beat { wall_ms: self.num() })),
            ("placed", B::Placed(ev::Placed { slots: self.many(self.slot()), epoch: self.epoch() })),
            ("closed", B::Closed(ev::Closed { actor: self.actor(), last: self.num() })),
            (
                "audit",
                B::Audit(ev::Audit {
                    identity: self.text(),
                    action: self.text(),
                    subject: self.text(),
                    reason: self.text(),
                }),
            ),
        ];
        all.extend(
            self.order_decisions()
                .into_iter()
                .map(|decision| (decision.name(), decided(ev::Decision::Order(decision)))),
        );
        all.extend(
            self.payment_decisions()
                .into_iter()
                .map(|decision| (decision.name(), decided(ev::Decision::Payment(decision)))),
        );
        all.extend(self.facts().into_iter().map(|fact| {
            let name = match &fact {
                ev::Fact::Capture(_) => "fact-capture",
                ev::Fact::Refund(_) => "fact-refund",
                ev::Fact::Failure(_) => "fact-failure",
                ev::Fact::Barred(_) => "fact-barred",
            };
            (name, B::Fact(fact))
        }));
        all
    }

    fn envelope(&self, body: &MessageBody) -> Envelope {
        Envelope {
            id: MessageId([1; 16]),
            kind: MessageKind::Result,
            from: RegionId::new("east").unwrap(),
            to_slot: self.slot(),
            subject: self.payment().into(),
            requires: self.many(Requirement { entity: self.order().into(), dot: self.dot() }),
            epoch: self.epoch(),
            deadline_ms: self.num(),
            until_ms: self.num(),
            trace: self.text(),
            from_slot: self.slot(),
            body: Bytes::from(body.to_canon()),
            created_ms: self.num(),
        }
    }
}

fn samples() -> Vec<Sample> {
    let mut every = Vec::new();
    for size in 0..3 {
        let mut samples = Samples { size, all: Vec::new() };
        for (i, (name, body)) in samples.bodies().into_iter().enumerate() {
            let kind = if matches!(&body, ev::Body::Decided(decided) if matches!(decided.body, ev::Decision::Payment(_)))
            {
                "payment-"
            } else {
                ""
            };
            let shape = ev::EventShape { entities: samples.many(samples.order().into()), body };
            samples.add::<_, v1::EventShape>(&format!("event.{i:02}-{kind}{name}"), &shape);
        }
        let change = ev::ChangeShape {
            dot: samples.dot(),
            at: samples.hlc(),
            trace: samples.text(),
            events: samples.many(samples.blob()),
        };
        samples.add::<_, v1::ChangeShape>("change", &change);
        let entry = ev::Entry { dot: samples.dot(), hash: samples.hash(), bytes: samples.blob() };
        samples.add::<_, v1::Entry>("entry", &entry);
        let origin = EventId { dot: samples.dot(), place: samples.num() };
        let item = ItemShape { event: samples.blob(), origins: samples.many(origin), since: samples.hlc() };
        let entity = EntityShape { id: samples.order().into(), items: samples.many(item) };
        samples.add::<_, v1::EntityShape>("entity", &entity);
        let (permit, payment, order) = (samples.permit(), samples.payment(), samples.order());
        let missing = samples.text();
        let bodies = [
            MessageBody::PayRequest(PayRequestBody { permit: permit.clone() }),
            MessageBody::Withdrawal(WithdrawalBody { permit, why: or::Why::Withdrawal }),
            MessageBody::Result(ResultBody { payment }),
            MessageBody::RefundOrder(RefundOrderBody { refund: samples.refund(), order }),
            MessageBody::Stalled(StalledBody { order, payment, missing }),
        ];
        for (i, body) in bodies.iter().enumerate() {
            samples.add::<_, v1::MessageBody>(&format!("message-body.{i}"), body);
            samples.add::<_, v1::Envelope>(&format!("envelope.{i}"), &samples.envelope(body));
        }
        every.append(&mut samples.all);
    }
    every
}

#[test]
fn prost_and_the_canonical_encoding_yield_the_same_bytes_for_every_shape() {
    for sample in samples() {
        assert_eq!(sample.by_prost, sample.canon, "{} through prost", sample.name);
        assert_eq!(sample.by_core, sample.canon, "{} through cell-core", sample.name);
    }
}

#[test]
fn the_golden_bytes_of_version_1_never_change() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut known: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for sample in samples() {
        // Ordinary values are enough on disk; the extremes are long and say nothing more.
        if sample.name.ends_with(".1") {
            known.insert(format!("{}.hex", sample.name.trim_end_matches(".1")), sample.canon);
        }
    }
    for (name, canon) in &known {
        let hex: String = canon.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = folder.join(name);
        match std::fs::read_to_string(&path) {
            Ok(golden) => {
                assert_eq!(golden.trim_end(), hex, "{name} changed: v1 bytes must be read for ever")
            }
            Err(_) if std::env::var_os("GOLDEN_WRITE").is_some() => {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&path, hex + "\n").unwrap();
            }
            Err(error) => {
                panic!("{name} has no golden file ({error}): run with GOLDEN_WRITE=1 and commit it")
            }
        }
    }
    for file in std::fs::read_dir(&folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(known.contains_key(&name), "{name} is golden and no shape yields it any more");
    }
}

#[test]
fn an_event_of_an_unknown_kind_keeps_its_bytes_and_says_where_it_belongs() {
    let samples = Samples { size: 1, all: Vec::new() };
    let shape = v1::EventShape {
        entities: vec![Bytes::copy_from_slice(&cell_core::id::EntityId::from(samples.order()).to_bytes())],
        body: None,
    };
    let mut bytes = shape.encode_to_vec();
    // Body { 99: "later" }, as a newer version would write it.
    bytes.extend_from_slice(&[0x12, 0x08, 0x9a, 0x06, 5, b'l', b'a', b't', b'e', b'r']);
    let event = ev::Event::decode(Bytes::from(bytes.clone())).unwrap();
    assert_eq!((event.body, event.entities.len(), event.bytes), (None, 1, Bytes::from(bytes)));
}
