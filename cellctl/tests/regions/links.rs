//! Links that are held and cut; processes that are away.

use chaos_tests::harness::{Kind, LinkState, Role};

use super::stage::{Regions, cellctl, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_one_peer_cannot_reach_is_served_by_the_third_and_says_so() {
    let regions = Regions::start().await;
    let first = regions.place("k1").await;
    until("south has the first order", async || regions.sees("south", &first).await).await;
    let link = regions.cluster.link("north", "south", Kind::Data).unwrap();
    link.set(LinkState::Cut);
    until("south says that north's changes do not come from there", async || {
        regions.peer("south", "north").await.changes == "unreachable"
    })
    .await;
    let second = regions.place("k2").await;
    until("east relays the second order", async || regions.sees("south", &second).await).await;
    let seen = regions.peer("south", "north").await;
    assert_eq!(seen.changes, "unreachable", "{seen:?}");
    assert!(
        seen.change_lag_ms.is_some_and(|lag_ms| lag_ms < 10_000),
        "heartbeats come by the detour: {seen:?}"
    );
    link.set(LinkState::Open);
    until("the link is there again", async || regions.peer("south", "north").await.changes == "idle").await;
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lag_grows_while_nothing_comes_and_nothing_is_lost_when_it_does() {
    let mut regions = Regions::start().await;
    until("north's first heartbeat is in south", async || {
        regions.peer("south", "north").await.change_lag_ms.is_some()
    })
    .await;
    regions.cluster.data_into("south", LinkState::Held);
    let orders = regions.place_many(50).await;
    until("south says how far behind it is", async || {
        let north = regions.peer("south", "north").await;
        north.change_lag_ms.is_some_and(|lag_ms| lag_ms > 2_000) && north.changes != "idle"
    })
    .await;
    // Two that are compared differ in nothing that was not on its way.
    let file = regions.cluster.cluster_file().display().to_string();
    let diff = |here, there| cellctl(&["--cluster", &file, "diff", here, there]);
    until("the comparison says so, too", async || diff("north", "south").2.contains("behind north")).await;
    until("and nothing of one that follows", async || {
        let (code, _, said) = diff("north", "east");
        code == Some(0) && said.is_empty()
    })
    .await;
    // Meanwhile its agent is killed: what it had under way comes again.
    regions.restart(Role::Agent, "south").await;
    until("the new agent knows how far behind its node is", async || {
        regions.peer("south", "north").await.change_lag_ms.is_some_and(|lag_ms| lag_ms > 2_000)
    })
    .await;
    regions.cluster.data_into("south", LinkState::Open);
    for order in &orders {
        until("every order arrives", async || regions.sees("south", order).await).await;
    }
    until("it is idle and the lag is small", async || {
        let north = regions.peer("south", "north").await;
        north.changes == "idle" && north.change_lag_ms.is_some_and(|lag_ms| lag_ms < 1_500)
    })
    .await;
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_was_away_catches_up_and_its_own_changes_reach_the_others() {
    let mut regions = Regions::start().await;
    regions.cluster.kill(Role::Node, "east").await.unwrap();
    regions.cluster.kill(Role::Agent, "east").await.unwrap();
    let orders = regions.place_many(300).await;
    // Its agent comes first, and finds no node.
    regions.cluster.restart(Role::Agent, "east").await.unwrap();
    regions.cluster.restart(Role::Node, "east").await.unwrap();
    until("east has the last order", async || regions.sees("east", &orders[299]).await).await;
    for order in &orders {
        assert!(regions.sees("east", order).await, "{order} is missing");
    }
    until("all three are equally far", async || {
        let north = regions.frontier("north").await;
        // Heartbeats go on, so two looks may differ by one.
        let near = |others: &[(String, u64, u64)]| {
            others.len() == north.len()
                && others.iter().zip(&north).all(|(a, b)| a.0 == b.0 && a.1 == b.1 && a.2.abs_diff(b.2) <= 2)
        };
        near(&regions.frontier("east").await) && near(&regions.frontier("south").await)
    })
    .await;
    regions.cluster.stop().await.unwrap();
}
