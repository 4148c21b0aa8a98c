//! Every stored, hashed or sent shape: cell-core and prost write the same bytes, core.proto and gate.proto say all that
//! cell-core declares, and the bytes and numbers of version 1 never change.

mod convert;
mod declared;
mod golden;
mod samples;

use std::sync::Arc;

use bytes::Bytes;
use cell_core::event::{Change, Event};
use cell_core::id::{EntityId, Hash};
use cell_proto::v1;
use proptest::prelude::*;
use prost::Message as _;

use crate::samples::{Sample, Samples};

fn differences(samples: Vec<Sample>) -> Vec<String> {
    let differs = |sample: &Sample| sample.by_prost != sample.canon || sample.by_core != sample.canon;
    samples.into_iter().filter(differs).map(|sample| sample.name).collect()
}

#[test]
fn prost_and_cell_core_write_the_same_bytes_for_empty_ordinary_and_extreme_values() {
    for size in 0..3 {
        assert_eq!(differences(Samples::Plain(size).all()), Vec::<String>::new(), "size {size}");
    }
}

proptest! {
    #[test]
    fn prost_and_cell_core_write_the_same_bytes_for_any_values(numbers in prop::collection::vec(any::<u64>(), 1..300)) {
        prop_assert_eq!(differences(Samples::drawn(numbers).all()), Vec::<String>::new());
    }
}

/// An event whose body is of kind 99, as a newer version would write it.
fn event_of_kind_99(entity: EntityId) -> Bytes {
    let entities = vec![Bytes::copy_from_slice(&entity.to_bytes())];
    let mut bytes = v1::EventShape { entities, body: None }.encode_to_vec();
    bytes.extend_from_slice(&[0x12, 0x08, 0x9a, 0x06, 5, b'l', b'a', b't', b'e', b'r']);
    Bytes::from(bytes)
}

#[test]
fn an_event_of_an_unknown_kind_keeps_its_bytes_its_hash_and_its_entities() {
    let entity = Samples::Plain(1).entity().id;
    let bytes = event_of_kind_99(entity);
    let event = Event::decode(bytes.clone()).unwrap();
    let expected = Event { entities: vec![entity], body: None, hash: Hash::of(&bytes), bytes, proves: None };
    assert_eq!(event, expected);
}

#[test]
fn a_change_with_an_event_of_an_unknown_kind_is_sealed_again_to_the_same_entry() {
    let entity = Samples::Plain(1).entity().id;
    let shape = Samples::Plain(1).change();
    let event = Event::decode(event_of_kind_99(entity)).unwrap();
    let change = Change { dot: shape.dot, at: shape.at, trace: shape.trace, events: vec![Arc::new(event)] };
    let entry = change.seal(&Hash::ZERO);
    let again = Change::decode(&entry.bytes).unwrap();
    assert_eq!((again.seal(&Hash::ZERO), again), (entry, change));
}
