//! Messages between regions, and what their gates lose.

use bytes::Bytes;
use cell_proto::v1;
use cell_proto::v1::messages_client::MessagesClient;
use chaos_tests::harness::{LinkState, Role};

use super::stage::{Regions, WITHIN, cellctl, until};

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_message_are_kept_whole_until_an_operator_discards_them() {
    let mut regions = Regions::start().await;
    // What a newer region might send, given to east's message port in south's name.
    let address = messages_of_east(&regions);
    let garbage = Bytes::from_static(b"\xff\xfe from the future");
    let batch = v1::MessageBatch {
        from_region: "south".to_owned(),
        envelopes: vec![garbage.clone()],
        sent_wall_ms: 1,
        ..v1::MessageBatch::default()
    };
    let mut messages = MessagesClient::connect(address.clone()).await.unwrap();
    let stream = tokio_stream::iter(vec![batch]).chain_forever();
    let mut acks = messages.send(stream).await.unwrap().into_inner();
    let ack = tokio::time::timeout(WITHIN, acks.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(ack.accepted.len(), 1, "it is kept, so its sender need not send it again");
    regions.restart(Role::Agent, "east").await;
    let mut agent = regions.agent("east").await;
    let dead = v1::ListHeldRequest { state: "dead".to_owned(), ..v1::ListHeldRequest::default() };
    let listed = agent.list_held(dead.clone()).await.unwrap().into_inner().messages;
    assert_eq!((listed.len(), listed[0].reason.as_str()), (1, "malformed"), "{listed:?}");
    let id = listed[0].id.clone();
    let seen = agent.inspect_held(v1::InspectHeldRequest { id: id.clone() }).await.unwrap().into_inner();
    assert_eq!(seen.raw, garbage);
    let mut discard = v1::DiscardRequest { id: id.clone(), identity: "sre".to_owned(), ..Default::default() };
    let refused = agent.discard(discard.clone()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "without a reason");
    discard.reason = "a test".to_owned();
    until("the node is there to record it", async || match agent.clone().discard(discard.clone()).await {
        Ok(reply) => {
            assert_eq!(reply.into_inner().ids, std::slice::from_ref(&id));
            true
        }
        Err(refused) => {
            assert_eq!(refused.code(), tonic::Code::Unavailable);
            false
        }
    })
    .await;
    assert_eq!(agent.list_held(dead).await.unwrap().into_inner().messages, []);
    // Nobody outside the cluster gets that far.
    let stranger = v1::MessageBatch { from_region: "west".to_owned(), ..v1::MessageBatch::default() };
    let mut messages = MessagesClient::connect(address).await.unwrap();
    let mut refused =
        messages.send(tokio_stream::iter(vec![stranger]).chain_forever()).await.unwrap().into_inner();
    assert_eq!(refused.message().await.unwrap_err().code(), tonic::Code::PermissionDenied);
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_too_large_to_be_kept_is_refused_and_the_agent_lives() {
    let regions = Regions::start().await;
    let address = messages_of_east(&regions);
    let batch = v1::MessageBatch {
        from_region: "south".to_owned(),
        envelopes: vec![Bytes::from(vec![0xff; 20 << 20])],
        sent_wall_ms: 1,
        ..v1::MessageBatch::default()
    };
    let messages = MessagesClient::connect(address).await.unwrap();
    let mut messages = messages.max_encoding_message_size(64 << 20);
    let sent = messages.send(tokio_stream::iter(vec![batch]).chain_forever()).await;
    let answer = match sent {
        Ok(answers) => tokio::time::timeout(WITHIN, answers.into_inner().message()).await.unwrap(),
        Err(refused) => Err(refused),
    };
    assert!(!matches!(answer, Ok(Some(_))), "{answer:?}");
    // A new connection, so that nothing old answers.
    assert_eq!(regions.peer("east", "south").await.region, "south");
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_receiving_gate_lost_with_its_disk_is_sent_again() {
    let mut regions = Regions::start().await;
    let payer = regions.cluster.user_of("east", &["alice"]);
    regions.cluster.data_into("east", LinkState::Held);
    let order = regions.place("k").await;
    let payment = regions.ask_to_pay(&order, &payer, "q").await;
    until("the request waits in east", async || parked_in_east(&regions).await == 1).await;
    regions.cluster.kill(Role::Agent, "east").await.unwrap();
    std::fs::remove_dir_all(regions.cluster.data_folder().join("east/agent")).unwrap();
    regions.cluster.restart(Role::Agent, "east").await.unwrap();
    // The sender owes it still, acknowledged or not; a new link from its node begins with all that is owed.
    regions.restart(Role::Agent, "north").await;
    until("the request waits in east again", async || parked_in_east(&regions).await == 1).await;
    regions.cluster.data_into("east", LinkState::Open);
    until_payer_is_asked(&regions, &payment, &payer).await;
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_in_a_damaged_gate_log_come_again_and_the_others_were_never_away() {
    let mut regions = Regions::start().await;
    let payer = regions.cluster.user_of("east", &["alice"]);
    regions.cluster.data_into("east", LinkState::Held);
    let mut payments = Vec::new();
    for i in 0..3 {
        let order = regions.place(&format!("k{i}")).await;
        payments.push(regions.ask_to_pay(&order, &payer, &format!("q{i}")).await);
        until("the request waits in east", async || parked_in_east(&regions).await == i + 1).await;
    }
    regions.cluster.kill(Role::Agent, "east").await.unwrap();
    // A byte of the second message, inside what was promised.
    let gate = regions.cluster.data_folder().join("east/agent/gate");
    let segment = std::fs::read_dir(gate).unwrap().map(|file| file.unwrap().path());
    let segment = segment.filter(|path| path.extension().is_some_and(|end| end == "seg")).max().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let id = payments[1].parse::<cell_core::id::PaymentId>().unwrap();
    let at = bytes.windows(16).position(|window| window == &id.0.0[..]).unwrap();
    bytes[at] ^= 0x40;
    std::fs::write(&segment, bytes).unwrap();
    regions.cluster.restart(Role::Agent, "east").await.unwrap();
    assert!(
        (1..3).contains(&parked_in_east(&regions).await),
        "what is damaged is gone, and the rest is there"
    );
    // The sender owes it still, acknowledged or not; a new link from its node begins with all that is owed.
    regions.restart(Role::Agent, "north").await;
    until("all wait in east again", async || parked_in_east(&regions).await == 3).await;
    regions.cluster.data_into("east", LinkState::Open);
    for payment in &payments {
        until_payer_is_asked(&regions, payment, &payer).await;
    }
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_a_frozen_node_does_not_take_are_behind_and_not_idle() {
    let regions = Regions::start().await;
    let payer = regions.cluster.user_of("east", &["alice"]);
    let order = regions.place("k").await;
    until("east has the order", async || regions.sees("east", &order).await).await;
    regions.cluster.pause(Role::Node, "east").unwrap();
    let payment = regions.ask_to_pay(&order, &payer, "q").await;
    until("east says that messages are behind, and why", async || {
        let north = regions.peer("east", "north").await;
        north.message_lag_ms > Some(3_000)
            && north.messages == "stalled"
            && north.detail.contains("this region's node has taken no message")
    })
    .await;
    let file = regions.cluster.cluster_file().display().to_string();
    until("who compares with it is told that it is silent, in words", async || {
        let (code, _, said) = cellctl(&["--cluster", &file, "diff", "north", "east"]);
        code == Some(1) && said.contains("the node of east does not answer") && !said.contains("http2")
    })
    .await;
    regions.cluster.resume(Role::Node, "east").unwrap();
    until_payer_is_asked(&regions, &payment, &payer).await;
    until("nothing is behind", async || {
        let north = regions.peer("east", "north").await;
        north.message_lag_ms < Some(1_500) && north.messages == "idle"
    })
    .await;
    regions.cluster.stop().await.unwrap();
}

/// Where east's agent takes messages.
fn messages_of_east(regions: &Regions) -> String {
    let config = std::fs::read_to_string(regions.cluster.data_folder().join("east/agent.toml")).unwrap();
    let port = config.lines().find_map(|line| line.strip_prefix("messages = \"127")).unwrap();
    format!("http://127{}", port.trim_end_matches('"'))
}

/// How many messages wait in east for what they require.
async fn parked_in_east(regions: &Regions) -> usize {
    let list = v1::ListHeldRequest { state: "parked".to_owned(), ..v1::ListHeldRequest::default() };
    regions.agent("east").await.list_held(list).await.unwrap().into_inner().messages.len()
}

async fn until_payer_is_asked(regions: &Regions, payment: &str, payer: &str) {
    until("the payer is asked", async || {
        let seen = regions.shown("east", &format!("/v1/payments/{payment}"), payer).await;
        seen.is_some_and(|seen| seen["status"] == "received")
    })
    .await;
}

/// A stream that stays open behind its items, as an agent's does.
trait Forever: Sized {
    fn chain_forever(self) -> impl futures::Stream<Item = v1::MessageBatch> + Send + 'static;
}

impl Forever for tokio_stream::Iter<std::vec::IntoIter<v1::MessageBatch>> {
    fn chain_forever(self) -> impl futures::Stream<Item = v1::MessageBatch> + Send + 'static {
        futures::StreamExt::chain(self, futures::stream::pending())
    }
}
