//! The bytes of messages and records: they travel between versions and outlive the process that wrote them.

use super::*;
use crate::canon::Message;

fn records() -> [Record; 5] {
    [
        Record::Accepted(Accepted { envelope: request(1), arrived_ms: T0 }),
        Record::Undecoded(Undecoded {
            id: id(2),
            from: region("north"),
            bytes: Bytes::from_static(b"?"),
            reason: "wire".into(),
            arrived_ms: T0,
        }),
        Record::DeadLettered(DeadLettered {
            id: id(3),
            reason: DeadReason::Poison,
            missing: vec![needs(1, 1)],
            detail: "no".into(),
            at_ms: T0,
        }),
        Record::Discarded(Discarded {
            id: id(4),
            identity: "ops".into(),
            reason: "duplicate".into(),
            at_ms: T0,
        }),
        Record::Gone(Gone { id: id(5) }),
    ]
}

#[test]
fn records_are_read_as_written() {
    for record in records() {
        assert_eq!(Record::decode(&record.to_canon()), Ok(record));
    }
}

#[test]
fn the_bytes_of_every_record_never_change() {
    let seen = records().map(|record| format!("{:?}", Hash::of(&record.to_canon())));
    assert_eq!(seen, GOLDEN);
}
const GOLDEN: [&str; 5] = ["4871b158be60", "f23621c45e67", "f988438c5df4", "7550bfcf2168", "8b7d77bbcd41"];

#[test]
fn a_message_id_survives_its_text() {
    let id = MessageId(std::array::from_fn(|i| i as u8 * 16));
    assert_eq!(id.to_string().parse::<MessageId>(), Ok(id));
    for bad in ["", "00", "+0000000000000000000000000000000", "zz000000000000000000000000000000"] {
        assert!(bad.parse::<MessageId>().is_err(), "{bad}");
    }
}
