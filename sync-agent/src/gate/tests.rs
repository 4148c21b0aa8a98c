use std::collections::BTreeMap;

use cell_core::gate::Config;
use cell_core::placement::Placement;
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

#[tokio::test]
async fn while_there_is_no_room_for_messages_everybody_else_is_listened_to() {
    let (own, shutdown) = (region("east"), Shutdown::new());
    let board = Board::new(own, [region("north")]);
    let (handle, inbox) = GateHandle::new();
    let node = NodeLink::new(own, crate::transport::channel("http://127.0.0.1:1").unwrap(), board.clone());
    let (peers, homes) = (Peers::new(BTreeMap::new()), Homes::new(Placement::initial(vec![own], |_| own)));
    let (post, _queues) = Post::new(own, homes, handle.clone(), []);
    let courier = Courier::new(own, handle.clone(), node, peers, post, shutdown.clone());
    let disk = FaultMedium::new(1);
    let shelf = shelf_on(&disk);
    disk.fill(true);
    let (gate, first) = Gate::restore(own, Config::default(), 7, now_ms(), std::iter::empty());
    let runner = GateRunner::new(gate, shelf, courier, board);
    let running = tokio::spawn(runner.run(inbox, first, shutdown.clone()));
    let (back, mut verdicts) = mpsc::channel(MANY);
    let bringing = handle.clone();
    let brought = tokio::spawn(async move {
        for n in 0..MANY as u32 {
            let mut envelope = message(1);
            envelope.id.0[..4].copy_from_slice(&n.to_be_bytes());
            bringing.arrived(envelope, back.clone()).await;
        }
    });
    tokio::time::timeout(WITHIN, async {
        while handle.look(|_, shelf| shelf.is_full()).await != Some(true) {}
        for _ in 0..MANY {
            handle.tell(Input::Applied { upto: Vec::new() }).await;
        }
    })
    .await
    .expect("what the node applied is heard");
    assert!(!brought.is_finished() && verdicts.try_recv().is_err(), "nothing is promised meanwhile");
    disk.fill(false);
    tokio::time::timeout(WITHIN, async {
        for _ in 0..MANY {
            assert!(verdicts.recv().await.unwrap().accepted);
        }
    })
    .await
    .expect("all are taken once there is room");
    assert_eq!(handle.look(|_, shelf| shelf.is_full()).await, Some(false));
    shutdown.begin();
    running.await.unwrap();
}
