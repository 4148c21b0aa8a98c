//! Conversions: total, checked, and of one mind with the canonical encoding.

use bytes::Bytes;
use cell_core::canon::Message as _;
use cell_core::entity::EntityShape;
use cell_core::event::Entry;
use cell_core::gate::{Envelope, Requirement};
use cell_core::id::ActorId;
use cell_core::placement::Epoch;
use cell_core::version::Dot;
use cell_proto::{BadWire, Frontier, v1};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;

use crate::samples::Samples;

/// Converts there and back, and compares the bytes that the two sides write.
macro_rules! same_both_ways {
    ($wire:ident, $value:expr) => {{
        let value = $value;
        let wire = v1::$wire::from(value.clone());
        assert_eq!(wire.encode_to_vec(), value.to_canon(), stringify!($wire));
        assert_eq!(wire.try_into(), Ok(value), stringify!($wire));
    }};
}

fn check_both_ways(samples: &Samples) {
    let entry = samples.entry();
    let requirement = samples.requirement();
    same_both_ways!(ActorId, entry.dot.actor);
    same_both_ways!(Dot, entry.dot);
    same_both_ways!(Requirement, requirement);
    for (_, body) in samples.message_bodies() {
        let envelope = samples.envelope(&body);
        same_both_ways!(Epoch, envelope.epoch);
        same_both_ways!(Envelope, envelope);
    }
    let frontier = Frontier { actor: entry.dot.actor, seq: entry.dot.seq, hash: entry.hash };
    assert_eq!(v1::ActorFrontier::from(frontier).try_into(), Ok(frontier));
    same_both_ways!(Entry, entry);
    same_both_ways!(EntityShape, samples.entity());
}

#[test]
fn what_is_converted_comes_back_and_has_its_canonical_bytes_on_the_way() {
    (0..3).for_each(|size| check_both_ways(&Samples::Plain(size)));
}

#[test]
fn the_bytes_of_an_entry_are_handed_over_and_not_copied() {
    let entry = Entry { bytes: Bytes::from(vec![7; 1_000]), ..Samples::Plain(1).entry() };
    let address = entry.bytes.as_ptr();
    let wire = v1::Entry::from(entry);
    assert_eq!(wire.bytes.as_ptr(), address);
    assert_eq!(Entry::try_from(wire).unwrap().bytes.as_ptr(), address);
}

#[test]
fn what_is_wrong_is_named_by_message_and_field() {
    let samples = Samples::Plain(1);
    let good = v1::Envelope::from(samples.envelope(&samples.message_bodies()[0].1));
    type Spoil = fn(&mut v1::Envelope);
    let cases: [(Spoil, &str); 10] = [
        (|wire| wire.id = Bytes::new(), "Envelope.id: 0 bytes instead of 16"),
        (|wire| wire.kind = 0, "Envelope.kind: missing"),
        (|wire| wire.kind = 99, "Envelope.kind: needs a newer version"),
        (|wire| wire.from = "North".into(), "Envelope.from: a region is"),
        (|wire| wire.to_slot = 1024, "Envelope.to_slot: a slot is a number below 1024"),
        (|wire| wire.from_slot = 1 << 16, "Envelope.from_slot: 65536 is no slot"),
        (|wire| wire.subject = Bytes::from_static(&[1; 16]), "Envelope.subject: 16 bytes instead of 17"),
        (|wire| wire.epoch = None, "Envelope.epoch: missing"),
        (|wire| wire.requires[0].dot = None, "Requirement.dot: missing"),
        (|wire| wire.epoch = Some(v1::Epoch::default()), "Epoch.actor: missing"),
    ];
    for (spoil, expected) in cases {
        let mut wire = good.clone();
        spoil(&mut wire);
        let error: BadWire = Envelope::try_from(wire).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error} instead of {expected}");
    }
    let hash = Bytes::from_static(&[0; 31]);
    let entry = v1::Entry { hash, ..v1::Entry::from(samples.entry()) };
    let expected = BadWire { message: "Entry", field: "hash", why: "31 bytes instead of 32".into() };
    assert_eq!(Entry::try_from(entry), Err(expected));
}

// === messages as prost can build them, sound or not ===

fn blob(len: usize) -> impl Strategy<Value = Bytes> {
    prop_oneof![20 => vec(any::<u8>(), len), 1 => vec(any::<u8>(), 0..40)].prop_map(Bytes::from)
}

/// Mostly there.
fn some<S: Strategy>(strategy: S) -> impl Strategy<Value = Option<S::Value>> {
    prop::option::weighted(0.97, strategy)
}

fn region() -> impl Strategy<Value = String> {
    prop_oneof![20 => "[a-z][a-z0-9-]{0,15}", 1 => "\\PC{0,18}"]
}

fn actor() -> impl Strategy<Value = v1::ActorId> {
    let node = (region(), any::<u64>()).prop_map(|(region, index)| v1::NodeId { region, index });
    let parts = (some(node), any::<u64>(), any::<u64>());
    parts.prop_map(|(node, start, nonce)| v1::ActorId { node, start, nonce })
}

fn dot() -> impl Strategy<Value = v1::Dot> {
    (some(actor()), any::<u64>()).prop_map(|(actor, seq)| v1::Dot { actor, seq })
}

fn entry() -> impl Strategy<Value = v1::Entry> {
    let parts = (some(dot()), blob(32), vec(any::<u8>(), 0..99));
    parts.prop_map(|(dot, hash, bytes)| v1::Entry { dot, hash, bytes: bytes.into() })
}

fn entity() -> impl Strategy<Value = v1::EntityShape> {
    let hlc = (any::<u64>(), any::<u64>()).prop_map(|(wall_ms, counter)| v1::Hlc { wall_ms, counter });
    let origin = (some(dot()), any::<u64>()).prop_map(|(dot, place)| v1::EventId { dot, place });
    let item = (vec(any::<u8>(), 0..99), vec(origin, 0..3), some(hlc));
    let item = item.prop_map(|(event, origins, since)| v1::ItemShape { event: event.into(), origins, since });
    (blob(17), vec(item, 0..3)).prop_map(|(id, items)| v1::EntityShape { id, items })
}

fn envelope() -> impl Strategy<Value = v1::Envelope> {
    let requirement = (blob(17), some(dot())).prop_map(|(entity, dot)| v1::Requirement { entity, dot });
    let epoch = (any::<u64>(), any::<u64>(), some(actor()));
    let epoch = epoch.prop_map(|(term, step, actor)| v1::Epoch { term, step, actor });
    let slot = || prop_oneof![20 => 0..1024u64, 1 => any::<u64>()];
    let kind = prop_oneof![20 => 1..=5, 1 => any::<i32>()];
    (
        (blob(16), kind, region(), slot(), blob(17), vec(requirement, 0..3)),
        (some(epoch), any::<u64>(), any::<u64>(), "\\PC{0,20}", slot()),
        (vec(any::<u8>(), 0..99), any::<u64>()),
    )
        .prop_map(|(who, when, what)| {
            let (id, kind, from, to_slot, subject, requires) = who;
            let (epoch, deadline_ms, until_ms, trace, from_slot) = when;
            let (body, created_ms) = (what.0.into(), what.1);
            v1::Envelope {
                id,
                kind,
                from,
                to_slot,
                subject,
                requires,
                epoch,
                deadline_ms,
                until_ms,
                trace,
                from_slot,
                body,
                created_ms,
            }
        })
}

/// Field by field and through the bytes there is one answer, and what is accepted is written as prost wrote it.
macro_rules! of_one_mind {
    ($core:ident, $wire:expr) => {{
        let wire = $wire;
        let bytes = wire.encode_to_vec();
        let (by_bytes, by_field) = ($core::decode(&bytes), $core::try_from(wire));
        prop_assert_eq!(by_bytes.as_ref().ok(), by_field.as_ref().ok());
        if let Ok(value) = by_bytes {
            prop_assert_eq!(value.to_canon(), bytes);
        }
    }};
}

proptest! {
    #[test]
    fn any_values_come_back_and_have_their_canonical_bytes_on_the_way(numbers in vec(any::<u64>(), 1..200)) {
        check_both_ways(&Samples::drawn(numbers));
    }

    #[test]
    fn whatever_prost_builds_is_accepted_or_refused_alike_by_conversion_and_canonical_decoding(
        actor in actor(), dot in dot(), entry in entry(), entity in entity(), envelope in envelope(),
    ) {
        for requirement in envelope.requires.iter().cloned() {
            of_one_mind!(Requirement, requirement);
        }
        for epoch in envelope.epoch.iter().cloned() {
            of_one_mind!(Epoch, epoch);
        }
        of_one_mind!(ActorId, actor);
        of_one_mind!(Dot, dot);
        of_one_mind!(Entry, entry);
        of_one_mind!(EntityShape, entity);
        of_one_mind!(Envelope, envelope);
    }
}
