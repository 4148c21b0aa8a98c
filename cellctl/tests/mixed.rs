//! Regions of different versions: what only a newer one can read, and what is spoken between them.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use cell_core::canon::Message;
use cell_core::clock::Hlc;
use cell_core::event::{Beat, Body, ChangeShape, Entry, Event, EventAddress};
use cell_core::id::{ActorId, EntityId, Hash, NodeId};
use cell_core::version::Dot;
use cell_proto::v1;
use cell_proto::v1::messages_client::MessagesClient;
use cell_proto::v1::node_client::NodeClient;
use cell_proto::v1::replication_client::ReplicationClient;
use chaos_tests::harness::{self, Api, Cluster, Kind, LinkState, Plan, Role};
use serde_json::json;
use tokio_stream::StreamExt;
use tonic::transport::Channel;

const WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

fn program(role: Role) -> (PathBuf, Vec<String>) {
    (env!("CARGO_BIN_EXE_cellctl").into(), vec!["role".to_owned(), role.program().to_owned()])
}

async fn start(regions: &[&str]) -> (Cluster, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan::new(regions, folder.path(), program);
    (Cluster::start(plan).await.unwrap(), folder)
}

async fn node(cluster: &Cluster, region: &str) -> NodeClient<Channel> {
    NodeClient::connect(format!("http://{}", cluster.node_grpc(region).unwrap())).await.unwrap()
}

async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let so = harness::until(WITHIN, LOOK_AGAIN, async || is().await.then_some(()).ok_or(()));
    so.await.unwrap_or_else(|()| panic!("{what}: not within {WITHIN:?}"));
}

/// What a node of a later version might write about an order: an event of kind 99, one with a field more in its body, one
/// with a field more around it, and a field more around them all.
fn from_the_future(order: EntityId) -> (Entry, Vec<Bytes>) {
    let mut unknown_kind = EventAddress { entities: vec![order] }.to_canon();
    unknown_kind.extend([0x12, 8, 0x9a, 0x06, 5, b'l', b'a', b't', b'e', b'r']);
    // EventShape { body(2): Body { beat(6): Beat { wall_ms(1): 5, later(9): 1 } } }
    let more_inside = vec![0x12, 6, 0x32, 4, 0x08, 5, 0x48, 1];
    let mut more_around = Event::new(Vec::new(), Body::Beat(Beat { wall_ms: 5 })).bytes.to_vec();
    more_around.extend([0x78, 1]);
    let events: Vec<Bytes> = [unknown_kind, more_inside, more_around].map(Bytes::from).into();
    let actor = ActorId { node: NodeId { region: "north".parse().unwrap(), index: 1 }, start: 1, nonce: 1 };
    let dot = Dot { actor, seq: 1 };
    let shape = ChangeShape { dot, at: Hlc::default(), trace: String::new(), events: events.clone() };
    let mut bytes = shape.to_canon();
    bytes.extend([0x7a, 2, b'h', b'i']);
    let bytes = Bytes::from(bytes);
    (Entry { dot, hash: Entry::chain(&Hash::ZERO, &dot, &bytes), bytes }, events)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_newer_version_can_read_goes_through_two_old_ones_unharmed_and_is_not_denied() {
    let (cluster, _folder) = start(&["north", "east", "south"]).await;
    let (api, buyer) = (Api::default(), cluster.user_of("north", &["bob"]));
    let body = json!({ "content": { "currency": "CNY",
        "lines": [{ "sku": "tea", "quantity": 1, "unit_minor": 700 }] } });
    let placed = api.call(cluster.router(), "POST", "/v1/orders", &buyer, "k1", &body).await.unwrap();
    let order = placed.body["id"].as_str().unwrap().to_owned();
    let status = async |region: &str, path: &str| {
        let at = cluster.node_http(region).unwrap();
        api.get(at, path, &buyer).await.map_or(0, |answer| answer.status)
    };
    let path = format!("/v1/orders/{order}");
    until("south has the order", async || status("south", &path).await == 200).await;
    // What south gets of north from now on, it gets through east.
    cluster.link("north", "south", Kind::Data).unwrap().set(LinkState::Cut);
    let id: EntityId = order.parse().unwrap();
    let (entry, events) = from_the_future(id);
    let batch = v1::ApplyBatch { batch: 1, entries: vec![entry.clone().into()] };
    let replies = node(&cluster, "north").await.apply(tokio_stream::iter([batch])).await.unwrap();
    let reply = replies.into_inner().message().await.unwrap().unwrap();
    assert_eq!(reply.refusals, []);
    let request = v1::TailRequest { tailer: "test".to_owned(), from_position: 0, rest_ms: 0 };
    let mut tail = node(&cluster, "south").await.tail(request).await.unwrap().into_inner();
    let arrives = async {
        loop {
            let batch = tail.message().await.unwrap().unwrap();
            let dot = Some(v1::Dot::from(entry.dot));
            let mut entries = batch.items.into_iter().filter_map(|item| item.entry);
            if let Some(found) = entries.find(|found| found.dot == dot) {
                return found;
            }
        }
    };
    let arrived = tokio::time::timeout(WITHIN, arrives).await.unwrap();
    assert_eq!(arrived, v1::Entry::from(entry.clone()), "byte for byte");
    // The state of the order keeps the event as it was written, too.
    let wanted =
        v1::EntitiesRequest { entities: vec![Bytes::copy_from_slice(&id.to_bytes())], ..Default::default() };
    let state = node(&cluster, "south").await.read_entities(wanted).await.unwrap().into_inner().entities;
    assert!(state[0].items.iter().any(|item| item.event == events[0]), "{state:?}");
    // Its fold is frozen; that is no hole, and no reason to deny it.
    for region in ["north", "east", "south"] {
        until("the order is frozen", async || status(region, &path).await == 503).await;
        assert_eq!(status(region, "/v1/orders").await, 503, "nor does a list leave it out");
        let reply = node(&cluster, region).await.status(v1::StatusRequest::default()).await.unwrap();
        assert_eq!(reply.into_inner().holes, []);
    }
    cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lower_of_both_newest_protocols_is_spoken_on_every_link_or_the_refusal_says_why() {
    let (cluster, _folder) = start(&["north", "east"]).await;
    let config = std::fs::read_to_string(cluster.data_folder().join("east/agent.toml")).unwrap();
    let port = |name: &str| {
        let line = config.lines().find_map(|line| line.strip_prefix(&format!("{name} = \"127"))).unwrap();
        format!("http://127{}", line.trim_end_matches('"'))
    };
    let too_new = "protocol 7 to 9 is spoken there, and protocol 1 here: upgrade the older side first";
    // The data channel.
    let mut data = ReplicationClient::connect(port("data")).await.unwrap();
    let members = vec!["east".to_owned(), "north".to_owned()];
    let first = |protocol_min| v1::SubscribeRequest {
        region: "north".to_owned(),
        members: members.clone(),
        protocol: 9,
        protocol_min,
        ..v1::SubscribeRequest::default()
    };
    // The stream of requests stays open.
    let open = |first| tokio_stream::iter([first]).chain(tokio_stream::pending());
    let mut spoken = data.subscribe(open(first(1))).await.unwrap().into_inner();
    assert_eq!(spoken.message().await.unwrap().unwrap().protocol, 1);
    let mut refused = data.subscribe(open(first(7))).await.unwrap().into_inner();
    let refused = refused.message().await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (tonic::Code::FailedPrecondition, too_new));
    // The message channel.
    let mut messages = MessagesClient::connect(port("messages")).await.unwrap();
    let batch = v1::MessageBatch {
        from_region: "north".to_owned(),
        protocol: 9,
        protocol_min: 7,
        ..v1::MessageBatch::default()
    };
    let mut refused =
        messages.send(tokio_stream::iter([batch]).chain(tokio_stream::pending())).await.unwrap().into_inner();
    assert_eq!(refused.message().await.unwrap_err().message(), too_new);
    // Between agent and node.
    let mut node = node(&cluster, "east").await;
    let said = |protocol_min| v1::StatusRequest { protocol: 9, protocol_min };
    assert_eq!(node.status(said(1)).await.unwrap().into_inner().protocol, 1);
    assert_eq!(node.status(said(7)).await.unwrap_err().message(), too_new);
    // Operators see what is spoken.
    let agent = format!("http://{}", cluster.agent_grpc("east").unwrap());
    let agent = v1::agent_admin_client::AgentAdminClient::connect(agent).await.unwrap();
    until("east speaks with north", async || {
        let status = agent.clone().agent_status(v1::AgentStatusRequest {}).await.unwrap().into_inner();
        status.node_protocol == 1 && status.peers[0].protocol == 1
    })
    .await;
    cluster.stop().await.unwrap();
}
