use std::collections::BTreeMap;

use cell_core::gate::{Config, Requirement};
use cell_core::placement::Placement;
use cell_core::version::Dot;
use cell_store::FaultMedium;

use super::shelf::tests::{message, region, shelf_on};
use super::*;
use crate::node::NodeLink;
use crate::outbox::Post;
use crate::placement::Homes;
use crate::subscriber::Peers;

const WITHIN: Duration = Duration::from_secs(20);
/// More than wait anywhere.
const MANY: usize = 4 * WAITING_MAX;

/// A gate on a disk of its own, running.
struct Running {
    handle: GateHandle,
    disk: FaultMedium,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(config: Config) -> Running {
        let (own, shutdown) = (region("east"), Shutdown::new());
        let board = Board::new(own, [region("north")]);
        let (handle, inbox) = GateHandle::new();
        let channel = crate::transport::channel("http://127.0.0.1:1").unwrap();
        let node = NodeLink::new(own, channel, board.clone());
        let (peers, homes) =
            (Peers::new(BTreeMap::new()), Homes::new(Placement::initial(vec![own], |_| own)));
        let (post, _queues) = Post::new(own, homes, handle.clone(), []);
        let courier = Courier::new(own, handle.clone(), node, peers, post, shutdown.clone());
        let disk = FaultMedium::new(1);
        let shelf = shelf_on(&disk);
        let (gate, first) = Gate::restore(own, config, 7, now_ms(), std::iter::empty());
        let runner = GateRunner::new(gate, shelf, courier, board);
        let task = tokio::spawn(runner.run(inbox, first, shutdown.clone()));
        Running { handle, disk, shutdown, task }
    }

    /// Brings messages one after the other, all of which lack something.
    fn bring(&self, ids: std::ops::Range<u32>, back: &Back) -> tokio::task::JoinHandle<()> {
        let (handle, back) = (self.handle.clone(), back.clone());
        tokio::spawn(async move {
            for n in ids {
                let mut envelope = message(1);
                envelope.id.0[..4].copy_from_slice(&n.to_be_bytes());
                let dot = Dot { actor: envelope.epoch.actor, seq: 9 };
                envelope.requires.push(Requirement { entity: envelope.subject, dot });
                handle.arrived(envelope, back.clone()).await;
            }
        })
    }

    async fn is_full(&self) -> bool {
        self.handle.look(|_, shelf| shelf.is_full()).await.unwrap()
    }

    async fn stop(mut self) {
        self.shutdown.begin();
        (&mut self.task).await.unwrap();
    }
}

impl Drop for Running {
    /// What waits for room would hold up the end of a test that failed.
    fn drop(&mut self) {
        self.disk.fill(false);
    }
}

#[tokio::test]
async fn while_there_is_no_room_for_messages_everybody_else_is_listened_to() {
    let running = Running::start(Config::default());
    running.disk.fill(true);
    let (back, mut verdicts) = mpsc::channel(MANY);
    let brought = running.bring(0..MANY as u32, &back);
    tokio::time::timeout(WITHIN, async {
        while !running.is_full().await {}
        for _ in 0..MANY {
            running.handle.tell(Input::Applied { upto: Vec::new() }).await;
        }
    })
    .await
    .expect("what the node applied is heard");
    assert!(!brought.is_finished() && verdicts.try_recv().is_err(), "nothing is promised meanwhile");
    let action = Action::Discard { id: message(1).id, reason: "r".to_owned() };
    assert_eq!(running.handle.operate("ops".to_owned(), action).await, Err(Undone::NoRoom));
    running.disk.fill(false);
    tokio::time::timeout(WITHIN, async {
        for _ in 0..MANY {
            assert!(verdicts.recv().await.unwrap().accepted);
        }
    })
    .await
    .expect("all are taken once there is room");
    assert!(!running.is_full().await);
    running.stop().await;
}

#[tokio::test]
async fn what_is_parked_is_asked_for_while_there_is_no_room_and_piles_nothing_up() {
    let often = Config { fetch_after_ms: 1, fetch_pause_max_ms: 1, ..Config::default() };
    let running = Running::start(often);
    let (back, mut verdicts) = mpsc::channel(MANY);
    let parked = WAITING_MAX as u32;
    let _ = running.bring(0..parked, &back).await;
    for _ in 0..parked {
        assert!(verdicts.recv().await.unwrap().accepted);
    }
    running.disk.fill(true);
    let _ = running.bring(parked..parked + 1, &back).await;
    tokio::time::timeout(WITHIN, async {
        while !running.is_full().await {}
        // Each asks for all of them once more.
        for _ in 0..200 {
            tokio::time::sleep(Duration::from_millis(2)).await;
            running.handle.tell(Input::Tick).await;
        }
        assert!(running.is_full().await);
    })
    .await
    .expect("the gate listens");
    running.stop().await;
}

#[tokio::test]
async fn an_operator_hears_of_an_action_once_it_is_durable() {
    let running = Running::start(Config::default());
    let (back, mut verdicts) = mpsc::channel(1);
    let id = message(1).id;
    running.handle.arrived(message(1), back).await;
    assert!(verdicts.recv().await.unwrap().accepted);
    running.disk.fill(true);
    let action = Action::Discard { id, reason: "r".to_owned() };
    let handle = running.handle.clone();
    let mut operating = std::pin::pin!(handle.operate("ops".to_owned(), action));
    tokio::select! {
        done = &mut operating => panic!("nothing of it is on the disk: {done:?}"),
        () = async { while !running.is_full().await {} } => {}
    }
    running.disk.fill(false);
    assert_eq!(tokio::time::timeout(WITHIN, operating).await.expect("there is room"), Ok(vec![id]));
    running.stop().await;
}
