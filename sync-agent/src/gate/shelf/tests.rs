use bytes::Bytes;
use cell_core::gate::{Accepted, DeadLettered, DeadReason, Gone, MessageKind, Undecoded};
use cell_core::id::{ActorId, EntityId, NodeId, RegionId, Slot};
use cell_core::placement::Epoch;

use super::*;

fn region(name: &str) -> RegionId {
    RegionId::new(name).unwrap()
}

fn accepted(n: u8) -> Record {
    let node = NodeId { region: region("north"), index: 0 };
    let actor = ActorId { node, start: 1, nonce: 1 };
    let envelope = Envelope {
        id: MessageId([n; 16]),
        kind: MessageKind::Withdrawal,
        from: region("north"),
        to_slot: Slot::new(1).unwrap(),
        subject: EntityId::from_bytes(&[2; 17]),
        requires: Vec::new(),
        epoch: Epoch { term: 1, step: 0, actor },
        deadline_ms: 0,
        until_ms: 0,
        trace: String::new(),
        from_slot: Slot::new(2).unwrap(),
        body: Bytes::from(vec![n; 100]),
        created_ms: 1,
    };
    Record::Accepted(Accepted { envelope, arrived_ms: 5 })
}

fn dead(n: u8) -> Record {
    Record::DeadLettered(DeadLettered {
        id: MessageId([n; 16]),
        reason: DeadReason::Poison,
        missing: Vec::new(),
        detail: "broke".to_owned(),
        at_ms: 9,
    })
}

fn gone(n: u8) -> Record {
    Record::Gone(Gone { id: MessageId([n; 16]) })
}

fn body(shelf: &Shelf, n: u8) -> Option<Bytes> {
    shelf.message(&MessageId([n; 16])).unwrap().map(|envelope| envelope.body)
}

#[tokio::test]
async fn messages_are_found_again_after_a_restart_and_those_gone_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let (mut shelf, records) = Shelf::open(folder.path()).unwrap();
    assert_eq!(records, []);
    shelf.keep(vec![accepted(1), accepted(2), dead(1)]).await.unwrap();
    shelf.keep(vec![gone(2)]).await.unwrap();
    let raw = Undecoded {
        id: MessageId([3; 16]),
        from: region("east"),
        bytes: Bytes::from_static(b"what is this"),
        reason: "unreadable".to_owned(),
        arrived_ms: 7,
    };
    shelf.keep(vec![Record::Undecoded(raw.clone())]).await.unwrap();
    drop(shelf);
    let (shelf, records) = Shelf::open(folder.path()).unwrap();
    assert_eq!(records, [accepted(1), accepted(2), dead(1), gone(2), Record::Undecoded(raw)]);
    assert_eq!((body(&shelf, 1), body(&shelf, 2)), (Some(Bytes::from(vec![1; 100])), None));
    let kept = shelf.undecoded(&MessageId([3; 16])).unwrap();
    assert_eq!(kept.as_deref(), Some(&b"what is this"[..]));
}

#[tokio::test]
async fn a_second_agent_on_the_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _shelf = Shelf::open(folder.path()).unwrap();
    let refused = Shelf::open(folder.path()).unwrap_err();
    assert!(refused.to_string().contains("in use"), "{refused}");
}

#[tokio::test]
async fn writing_the_log_anew_keeps_what_is_kept_with_its_notes_and_happens_once() {
    let folder = tempfile::tempdir().unwrap();
    let (mut shelf, _) = Shelf::open(folder.path()).unwrap();
    shelf.keep(vec![accepted(1), dead(1), accepted(2)]).await.unwrap();
    for _ in 0..40 {
        shelf.keep(vec![accepted(9), gone(9)]).await.unwrap();
    }
    let before = shelf.reader.durable().0;
    shelf.tidy_beyond(50).await.unwrap();
    let after = shelf.reader.durable().0;
    assert_eq!(after - before, 3, "what is kept was written again");
    shelf.tidy_beyond(50).await.unwrap();
    assert_eq!(shelf.reader.durable().0, after, "nothing to do the second time");
    assert_eq!(body(&shelf, 1), Some(Bytes::from(vec![1; 100])));
    drop(shelf);
    let (shelf, records) = Shelf::open(folder.path()).unwrap();
    assert!(records.ends_with(&[accepted(1), dead(1), accepted(2)]), "{records:?}");
    assert_eq!((body(&shelf, 2), body(&shelf, 9)), (Some(Bytes::from(vec![2; 100])), None));
}
