//! One folder, first one engine's, then another's.

use cell_store::Engine;
use region_node::{EngineName, StoppedError, StoppedNode};
use serde_json::Value;
use service_kit::{Exit, Origins, Shutdown};

use crate::support::{Service, config, start, user_of};

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_found_by_every_road_after_the_view_moved_to_another_engine() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), EngineName::Sled).await;
    let config = |engine| config(folder.path(), engine, node.gateway, "north");
    let data = config(EngineName::Sled).data_dir;
    let a = user_of("north", 0);
    let mut orders = Vec::new();
    for n in 0..5 {
        orders.push(node.place(&a, &format!("k{n}")).await);
    }
    assert!(matches!(StoppedNode::open(&data), Err(StoppedError::InUse { .. })));
    let wanted = [EngineName::Fjall, EngineName::Sled, EngineName::Fjall].map(&config);
    node.stop().await;

    for config in wanted {
        // Its own folder, but not its own engine's: one line, and the operator's to correct.
        let engine = Engine::from(config.engine);
        let refused = region_node::build(config.clone(), &Origins::default(), None, Shutdown::new()).await;
        let Err(Exit::Usage(said)) = refused else { panic!("the folder is another engine's") };
        let command = format!("cellctl store migrate --data {} --to {engine}", data.display());
        assert!(said.contains(&command) && said.lines().count() == 1, "{said}");

        let checked = region_node::Node::fits(&data, config.engine).unwrap_err().to_string();
        assert!(checked.contains(&command), "also where it is only checked: {checked}");

        let moved = StoppedNode::open(&data).unwrap().migrate(engine, |_| {}).unwrap();
        assert!(moved.keys > 5 && moved.from != engine);
        let node = Service::of(config).await;
        let (_, list) = node.call("GET", "/v1/orders", &a, "", Value::Null).await;
        let mut listed: Vec<_> =
            list["items"].as_array().unwrap().iter().map(|item| item["id"].clone()).collect();
        listed.reverse();
        assert_eq!(listed, orders, "by the index of the user's orders, newest first");
        for (n, order) in orders.iter().enumerate() {
            assert_eq!(node.call("GET", &format!("/v1/orders/{order}"), &a, "", Value::Null).await.0, 200);
            assert_eq!(node.place(&a, &format!("k{n}")).await, *order, "a repeat is the same order");
        }
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_interrupted_move_left_is_gone_after_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), EngineName::Fjall).await;
    let config = config(folder.path(), EngineName::Fjall, node.gateway, "north");
    node.stop().await;
    let left = config.data_dir.join("view.new");
    drop(cell_store::open(Engine::Sled, &left).unwrap());
    Service::of(config).await.stop().await;
    assert!(!left.exists());
}
