use bytes::Bytes;
use cell_core::gate::{Action, Answer, Config, DeadReason, Input, MessageKind, Output, Stage};
use cell_core::id::{ActorId, EntityId, NodeId, RegionId, Slot};
use cell_core::placement::Epoch;
use cell_store::FaultMedium;

use super::*;

pub(crate) fn region(name: &str) -> RegionId {
    RegionId::new(name).unwrap()
}

pub(crate) fn id(n: u8) -> MessageId {
    MessageId([n; 16])
}

pub(crate) fn message(n: u8) -> Envelope {
    let node = NodeId { region: region("north"), index: 0 };
    let actor = ActorId { node, start: 1, nonce: 1 };
    Envelope {
        id: id(n),
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
    }
}

/// A shelf whose log lies in memory.
pub(crate) fn shelf_on(disk: &FaultMedium) -> Shelf {
    let (log, _) = Log::open(Arc::new(disk.clone()), LogConfig::default()).unwrap();
    let reader = log.reader();
    Shelf { log: Some(log), reader, tidied_at: 0, ending: Arc::default(), full: Arc::default() }
}

const OWNER: &str = "sync-agent of east";

/// A gate in east, and its shelf.
struct East {
    gate: Gate,
    shelf: Shelf,
}

impl East {
    fn open(folder: &Path) -> East {
        let config = Config { attempts_max: 1, ..Config::default() };
        let shelf = Shelf::open(folder, OWNER).unwrap();
        let mut records = shelf.records();
        let (gate, _) = Gate::restore(region("east"), config, 7, 5, records.by_ref());
        records.end().unwrap();
        East { gate, shelf }
    }

    /// Takes the inputs as one group; how many records that made.
    async fn take(&mut self, inputs: impl IntoIterator<Item = Input>) -> usize {
        let mut records = Vec::new();
        for input in inputs {
            records.extend(self.gate.step(5, input).into_iter().filter_map(|output| match output {
                Output::Persist { record } => Some(*record),
                _ => None,
            }));
        }
        let written = self.shelf.keep(&records).unwrap().await;
        self.shelf.kept(&mut self.gate, &records, written).unwrap();
        records.len()
    }

    fn body(&self, n: u8) -> Option<Bytes> {
        self.shelf.message(&self.gate, &id(n)).unwrap().map(|envelope| envelope.body)
    }

    fn stage(&self, n: u8) -> Option<(Stage, Option<DeadReason>)> {
        self.gate.inspect(&id(n)).map(|entry| (entry.stage, entry.reason))
    }
}

fn arrived(n: u8) -> Input {
    Input::Arrived { envelope: message(n) }
}

/// The node's handler broke on it, which makes it a dead letter here.
fn failed(n: u8) -> Input {
    Input::Answered { id: id(n), attempt: 1, answer: Answer::Failed { error: "broke".to_owned() } }
}

fn gone(n: u8) -> Input {
    Input::NeedGone { id: id(n), why: String::new() }
}

fn given_up(n: u8) -> Input {
    let action = Action::Discard { id: id(n), reason: "enough".to_owned() };
    Input::Operator { identity: "ops".to_owned(), action }
}

const POISON: Option<(Stage, Option<DeadReason>)> = Some((Stage::Dead, Some(DeadReason::Poison)));

#[tokio::test]
async fn messages_are_found_again_after_a_restart_and_those_gone_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut east = East::open(folder.path());
    assert_eq!(east.take([arrived(1), arrived(2), failed(1)]).await, 3);
    assert_eq!(east.take([gone(2)]).await, 1);
    let bytes = Bytes::from_static(b"what is this");
    let raw = MessageId::of_undecoded(&bytes);
    let reason = "unreadable".to_owned();
    assert_eq!(east.take([Input::Malformed { bytes, from: region("north"), reason }]).await, 1);
    for start in 0..2 {
        let found = (east.body(1), east.body(2), east.stage(1));
        assert_eq!(found, (Some(Bytes::from(vec![1; 100])), None, POISON), "start {start}");
        let kept = east.shelf.undecoded(&east.gate, &raw).unwrap();
        assert_eq!(kept.as_deref(), Some(&b"what is this"[..]), "start {start}");
        drop(east);
        east = East::open(folder.path());
    }
}

#[tokio::test]
async fn what_came_and_ended_and_came_again_in_one_group_is_found_where_it_was_written_last() {
    let folder = tempfile::tempdir().unwrap();
    let mut east = East::open(folder.path());
    east.take([arrived(1), failed(1), gone(1), arrived(2), arrived(1)]).await;
    assert_eq!((east.body(1), east.body(2)), (Some(vec![1; 100].into()), Some(vec![2; 100].into())));
    assert_eq!(east.gate.notes(&id(1)).count(), 0);
}

#[tokio::test]
async fn a_second_agent_on_the_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _shelf = Shelf::open(folder.path(), OWNER).unwrap();
    let refused = Shelf::open(folder.path(), OWNER).unwrap_err();
    assert!(refused.to_string().contains("in use"), "{refused}");
}

#[tokio::test]
async fn another_agents_folder_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    drop(Shelf::open(folder.path(), OWNER).unwrap());
    let refused = Shelf::open(folder.path(), "sync-agent of north").unwrap_err().to_string();
    assert!(
        refused.ends_with("is the folder of sync-agent of east, not of sync-agent of north"),
        "{refused}"
    );
    Shelf::open(folder.path(), OWNER).unwrap();
}

#[tokio::test]
async fn writing_the_log_anew_keeps_what_is_kept_with_its_notes_and_happens_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut east = East::open(folder.path());
    east.take([arrived(1), arrived(3), failed(1), arrived(2), given_up(3)]).await;
    for _ in 0..40 {
        east.take([arrived(9), gone(9)]).await;
    }
    let before = east.shelf.reader.durable().0;
    assert!(east.shelf.wastes_more_than(&east.gate, 50));
    east.shelf.tidy(&mut east.gate).await.unwrap();
    let after = east.shelf.reader.durable().0;
    assert_eq!(after - before, 5, "what is kept was written again");
    assert!(!east.shelf.wastes_more_than(&east.gate, 50), "nothing to do the second time");
    assert_eq!(east.body(1), Some(Bytes::from(vec![1; 100])));
    assert!(east.gate.places().chain(east.gate.notes(&id(1))).all(|Place(at)| at >= before));
    drop(east);
    let east = East::open(folder.path());
    let last: Vec<MessageId> =
        east.shelf.records().skip_while(|(Place(at), _)| *at < before).map(|(_, r)| r.id()).collect();
    assert_eq!(last, [1, 1, 3, 3, 2].map(id), "each with its notes right behind it");
    assert_eq!((east.stage(1), east.body(2), east.body(9)), (POISON, Some(Bytes::from(vec![2; 100])), None));
    assert!(east.gate.inspect(&id(3)).unwrap().message.unwrap().discarded);
}

#[tokio::test]
async fn a_full_disk_holds_up_what_comes_and_nothing_is_promised_before_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let mut east = East::open(folder.path());
    let disk = FaultMedium::new(1);
    east.shelf = shelf_on(&disk);
    disk.fail_next_append(std::io::ErrorKind::StorageFull);
    assert_eq!(east.take([arrived(1), arrived(2)]).await, 2);
    assert_eq!((east.body(1), east.body(2)), (Some(vec![1; 100].into()), Some(vec![2; 100].into())));
    // At the end of the agent nobody waits for room.
    disk.fail_next_append(std::io::ErrorKind::StorageFull);
    east.shelf.end();
    let written = east.shelf.keep(&[]).unwrap().await;
    east.shelf.kept(&mut east.gate, &[], written).unwrap();
    let records: Vec<Record> = east.shelf.records().map(|(_, record)| record).collect();
    let written = east.shelf.keep(&records).unwrap().await;
    let full = east.shelf.kept(&mut east.gate, &records, written).unwrap_err();
    assert!(matches!(full, ShelfError::Log(LogError::Full { .. })), "{full}");
}
