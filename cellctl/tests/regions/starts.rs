//! Nodes that start again, with another disk or the same.

use std::path::Path;

use cell_proto::v1;
use chaos_tests::harness::Role;

use super::stage::{Regions, WITHIN, node_folder, node_status, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_comes_back_from_its_peers_as_the_home_it_was() {
    let mut regions = Regions::start().await;
    let orders = regions.place_many(60).await;
    until("south has them", async || regions.sees("south", &orders[59]).await).await;
    until("east has them", async || regions.sees("east", &orders[59]).await).await;
    regions.wipe("north").await;
    // Writes go on meanwhile; a repeat of what was lost is the same order.
    let again = regions.place_answer("k7").await;
    assert!(matches!(again.status, 200 | 201), "{}", again.body);
    assert_eq!(again.body["id"], orders[7].as_str());
    regions.cluster.ready(Role::Node, "north").await.unwrap();
    for order in &orders {
        until("what was wiped is back", async || regions.sees("north", order).await).await;
    }
    // It decides on what it knew before, and the others agree.
    let done = regions.cancel(regions.cluster.router(), &orders[3]).await;
    assert_eq!(done.status, 201, "{}", done.body);
    regions.until_cancelled(&["east", "south"], &orders[3]).await;
    // It is another actor than the one that was wiped.
    let actors = regions.frontier("east").await.into_iter().filter(|(region, ..)| region == "north").count();
    assert!(actors >= 2, "{actors}");
    regions.cluster.stop().await.unwrap();
}

/// Waits until every region has heard every other one since it was installed: before, it may have lost what they wrote.
async fn heard_each_other(regions: &Regions) {
    for region in ["north", "east", "south"] {
        until("it has heard the others", async || node_status(regions, region).await.unheard.is_empty())
            .await;
    }
}

/// A peer whose agent answers and whose node is down holds up nobody whom another peer confirms.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_does_not_wait_for_an_agent_without_a_node() {
    let mut regions = Regions::start_with(&["recovery_wait_ms = 600000"], &[]).await;
    let order = regions.place("k").await;
    until("east has it", async || regions.sees("east", &order).await).await;
    heard_each_other(&regions).await;
    regions.cluster.kill(Role::Node, "south").await.unwrap();
    regions.wipe("north").await;
    regions.cluster.ready(Role::Node, "north").await.unwrap();
    until("it is back", async || regions.sees("north", &order).await).await;
    let at = regions.cluster.node_http("north").unwrap();
    until("it decides", async || regions.cancel(at, &order).await.status == 201).await;
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn three_that_lost_their_disks_do_not_tell_each_other_that_there_never_was_anything() {
    let mut regions = Regions::start().await;
    let order = regions.place("k").await;
    for region in ["east", "south"] {
        until("all have it", async || regions.sees(region, &order).await).await;
    }
    heard_each_other(&regions).await;
    for region in ["north", "east", "south"] {
        regions.cluster.kill(Role::Node, region).await.unwrap();
    }
    for region in ["north", "east", "south"] {
        std::fs::remove_dir_all(node_folder(&regions, region)).unwrap();
        regions.cluster.restart(Role::Node, region).await.unwrap();
    }
    for region in ["north", "east", "south"] {
        let lost = async || {
            let log = regions.cluster.data_folder().join(region).join("agent.log");
            std::fs::read_to_string(log).unwrap().contains("every region lacks a part of what it says it has")
        };
        let at = regions.cluster.node_http(region).unwrap();
        let begun = std::time::Instant::now();
        // Half a minute for somebody to come who lost nothing.
        while !lost().await {
            assert!(begun.elapsed() < 2 * WITHIN, "{region} does not say what is lost");
            let answer = regions.api.get(at, &format!("/v1/orders/{order}"), &regions.buyer).await;
            assert!(answer.is_err() || answer.unwrap().status == 503, "it was denied before that was said");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_that_hears_nobody_denies_nothing() {
    let mut regions = Regions::start_with(&["recovery_wait_ms = 300"], &[]).await;
    let order = regions.place("k").await;
    let neighbour = regions.cluster.user_of("south", &["carol"]);
    let answer = regions.place_at(regions.cluster.router(), &neighbour, "k").await;
    let of_south = format!("/v1/orders/{}", answer.body["id"].as_str().unwrap());
    until("north has south's", async || regions.shown("north", &of_south, &neighbour).await.is_some()).await;
    until("south has it", async || regions.sees("south", &order).await).await;
    for starts in [2, 3] {
        regions.restart(Role::Node, "south").await;
        until("north has heard of the newer actor", async || {
            let of_north = regions.frontier("north").await.into_iter();
            of_north.filter(|(region, ..)| region == "south").count() == starts
        })
        .await;
    }
    heard_each_other(&regions).await;
    for region in ["north", "east"] {
        regions.cluster.kill(Role::Agent, region).await.unwrap();
    }
    regions.wipe("south").await;
    regions.cluster.ready(Role::Node, "south").await.unwrap();
    let (at, admin) = (regions.cluster.node_http("south"), regions.cluster.node_admin("south").unwrap());
    let at = at.unwrap();
    until("it decides", async || {
        regions.api.get(admin, "/readyz", "nobody").await.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    // So it does at each further start; its agent knows by now that it lacks something.
    regions.restart(Role::Node, "south").await;
    regions.cluster.ready(Role::Node, "south").await.unwrap();
    until("it decides once more", async || {
        let placed = regions.place_at(at, &neighbour, "again").await;
        let path = format!("/v1/orders/{}/cancel", placed.body["id"].as_str().unwrap_or_default());
        let body = serde_json::json!({});
        let done = regions.api.call(at, "POST", &path, &neighbour, "c", &body).await.unwrap();
        matches!(done.status, 200 | 201)
    })
    .await;
    let paths = ["/v1/orders", "/v1/notifications", "/v1/pay-requests?role=payer", "/v1/events"];
    for path in paths.map(str::to_owned).into_iter().chain([format!("/v1/orders/{order}")]) {
        let answer = regions.api.get(at, &path, &regions.buyer).await.unwrap();
        assert_eq!(answer.status, 503, "{path}: {}", answer.body);
    }
    // Nor of its own, which it knows nothing of any more; what is new it takes.
    let answer = regions.api.get(at, &of_south, &neighbour).await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.body);
    let answer = regions.api.get(at, "/v1/orders", &neighbour).await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.body);
    let placed = regions.place_at(at, &neighbour, "new").await;
    assert_eq!(placed.status, 201, "{}", placed.body);
    regions.cluster.restart(Role::Agent, "north").await.unwrap();
    until("it is back", async || regions.sees("south", &order).await).await;
    until("and so are lists", async || {
        let seen = regions.shown("south", "/v1/orders", &regions.buyer).await;
        seen.is_some_and(|seen| seen["items"][0]["id"] == order.as_str())
    })
    .await;
    until("its own, too", async || {
        let seen = regions.shown("south", "/v1/orders", &neighbour).await;
        seen.is_some_and(|seen| seen["items"].as_array().is_some_and(|items| items.len() == 3))
    })
    .await;
    // It counted its starts from the beginning, and those that come back outrank it until it follows them.
    until("it decides on what it has heard of", async || {
        let (path, body) = (format!("{of_south}/cancel"), serde_json::json!({}));
        let done = regions.api.call(at, "POST", &path, &neighbour, "c", &body).await.unwrap();
        assert!(matches!(done.status, 201 | 200 | 503), "{}", done.body);
        done.status != 503
    })
    .await;
    until("nobody waits for a sign of life of those that ended", async || {
        let lives = node_status(&regions, "north").await.lives.into_iter();
        let region = |life: &v1::ActorLife| life.actor.clone()?.node.map(|node| node.region);
        let of_south = |life: &v1::ActorLife| region(life).as_deref() == Some("south");
        lives.filter(|life| of_south(life) && life.last.is_none()).count() == 1
    })
    .await;
    let said = std::fs::read_to_string(regions.cluster.data_folder().join("south/node.log")).unwrap();
    assert!(said.contains("this one follows it and decides"), "{said}");
    assert!(!said.contains("end one of the two"), "there was one alone: {said}");
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_on_an_older_disk_that_hears_nobody_denies_nothing() {
    let limits = ["compare_every_ms = 300"];
    let mut regions = Regions::start_with(&["recovery_wait_ms = 300"], &limits).await;
    let first = regions.place("k").await;
    until("south has the first", async || regions.sees("south", &first).await).await;
    heard_each_other(&regions).await;
    // Who is in doubt on a new disk itself could not say that nothing is lacking.
    for region in ["north", "east", "south"] {
        until("no doubt is left of the start", async || {
            let admin = regions.cluster.node_admin(region).unwrap();
            let metrics = regions.api.metrics(admin).await.unwrap();
            metrics.get("cell_doubted_slots").is_none_or(|slots| *slots == 0.0)
        })
        .await;
    }
    let (folder, older) = (node_folder(&regions, "south"), regions.cluster.data_folder().join("older"));
    regions.cluster.kill(Role::Node, "south").await.unwrap();
    copy(&folder, &older);
    regions.cluster.restart(Role::Node, "south").await.unwrap();
    regions.cluster.ready(Role::Node, "south").await.unwrap();
    let neighbour = regions.cluster.user_of("south", &["carol"]);
    let at = regions.cluster.node_http("south").unwrap();
    let own = regions.place_at(at, &neighbour, "own").await.body["id"].as_str().unwrap().to_owned();
    let own = format!("/v1/orders/{own}");
    until("north has south's", async || regions.shown("north", &own, &neighbour).await.is_some()).await;
    let later = regions.place("later").await;
    until("south has the later one", async || regions.sees("south", &later).await).await;
    regions.cluster.kill(Role::Node, "south").await.unwrap();
    for region in ["north", "east"] {
        regions.cluster.kill(Role::Agent, region).await.unwrap();
    }
    std::fs::remove_dir_all(&folder).unwrap();
    copy(&older, &folder);
    regions.cluster.restart(Role::Node, "south").await.unwrap();
    regions.cluster.ready(Role::Node, "south").await.unwrap();
    until("its agent has seen that it lost something", async || {
        let answer = regions.api.get(at, "/v1/orders", &regions.buyer).await.unwrap();
        answer.status == 503
    })
    .await;
    assert!(regions.sees("south", &first).await, "what it has it shows");
    for (path, user) in [(&format!("/v1/orders/{later}"), &regions.buyer), (&own, &neighbour)] {
        let answer = regions.api.get(at, path, user).await.unwrap();
        assert_eq!(answer.status, 503, "{path}: {}", answer.body);
    }
    regions.cluster.restart(Role::Agent, "north").await.unwrap();
    until("the later one is back", async || regions.sees("south", &later).await).await;
    until("its own, too", async || regions.shown("south", &own, &neighbour).await.is_some()).await;
    until("lists are whole again", async || {
        let seen = regions.shown("south", "/v1/orders", &regions.buyer).await;
        seen.is_some_and(|seen| seen["items"].as_array().is_some_and(|items| items.len() == 2))
    })
    .await;
    regions.cluster.stop().await.unwrap();
}

/// Neither tells the other that there never was what only the third one has, whatever restarts meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_disk_and_a_wiped_one_deny_nothing_while_the_third_is_away() {
    let mut regions = Regions::start_with(&["recovery_wait_ms = 300"], &["compare_every_ms = 300"]).await;
    let first = regions.place("k").await;
    until("south has the first", async || regions.sees("south", &first).await).await;
    until("east has it", async || regions.sees("east", &first).await).await;
    heard_each_other(&regions).await;
    let (folder, older) = (node_folder(&regions, "north"), regions.cluster.data_folder().join("older"));
    regions.cluster.kill(Role::Node, "north").await.unwrap();
    copy(&folder, &older);
    regions.cluster.restart(Role::Node, "north").await.unwrap();
    regions.cluster.ready(Role::Node, "north").await.unwrap();
    let later = regions.place("later").await;
    for region in ["south", "east"] {
        until("all have the later one", async || regions.sees(region, &later).await).await;
    }
    regions.cluster.kill(Role::Agent, "south").await.unwrap();
    for region in ["south", "north", "east"] {
        regions.cluster.kill(Role::Node, region).await.unwrap();
    }
    std::fs::remove_dir_all(&folder).unwrap();
    copy(&older, &folder);
    regions.cluster.restart(Role::Node, "north").await.unwrap();
    until("its agent has seen that it lost something", async || {
        let status =
            regions.api.get(regions.cluster.node_http("north").unwrap(), "/v1/orders", &regions.buyer);
        status.await.is_ok_and(|answer| answer.status == 503) && node_status(&regions, "north").await.lacking
    })
    .await;
    std::fs::remove_dir_all(node_folder(&regions, "east")).unwrap();
    regions.cluster.restart(Role::Node, "east").await.unwrap();
    let denies_nothing = async |regions: &Regions| {
        // Half a second and more apart: time enough for each to hear the other's word.
        let enough = regions.compared("north", "east").await + 8;
        until("they are compared again and again", async || {
            for region in ["north", "east"] {
                let at = regions.cluster.node_http(region).unwrap();
                for path in ["/v1/orders".to_owned(), format!("/v1/orders/{later}")] {
                    let seen = regions.api.get(at, &path, &regions.buyer).await;
                    assert!(seen.is_err() || seen.unwrap().status == 503, "{region} denies {path}");
                }
            }
            regions.compared("north", "east").await >= enough
        })
        .await;
    };
    denies_nothing(&regions).await;
    // Another agent has not seen that the node knew more.
    regions.restart(Role::Agent, "north").await;
    denies_nothing(&regions).await;
    regions.restart(Role::Node, "north").await;
    denies_nothing(&regions).await;
    regions.cluster.restart(Role::Node, "south").await.unwrap();
    regions.cluster.restart(Role::Agent, "south").await.unwrap();
    for region in ["north", "east"] {
        until("the later one is back", async || regions.sees(region, &later).await).await;
        until("lists are whole again", async || {
            let seen = regions.shown(region, "/v1/orders", &regions.buyer).await;
            seen.is_some_and(|seen| seen["items"].as_array().is_some_and(|items| items.len() == 2))
        })
        .await;
        until("nothing is lacking", async || !node_status(&regions, region).await.lacking).await;
    }
    regions.cluster.stop().await.unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, to) = {
            let entry = entry.unwrap();
            (entry.path(), to.join(entry.file_name()))
        };
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_takes_over_state_where_no_log_reaches_back_while_writes_go_on() {
    let node = ["log = { segment_kib = 64, keep_mib = 0 }"];
    let mut regions = Regions::start_with(&node, &["upkeep_every_ms = 100", "compare_every_ms = 500"]).await;
    let mut orders = Vec::new();
    let trimmed = async |regions: &Regions| {
        let mut all = true;
        for region in ["north", "east", "south"] {
            all &= node_status(regions, region).await.first_position > 300;
        }
        all
    };
    while !trimmed(&regions).await {
        assert!(orders.len() < 5_000, "no log is trimmed");
        for _ in 0..50 {
            orders.push(regions.place(&format!("k{}", orders.len())).await);
        }
    }
    let last = orders.last().unwrap().clone();
    for region in ["south", "east"] {
        until("peers have all of them", async || regions.sees(region, &last).await).await;
    }
    // One peer is enough.
    heard_each_other(&regions).await;
    regions.cluster.kill(Role::Agent, "south").await.unwrap();
    regions.cluster.kill(Role::Node, "south").await.unwrap();
    regions.wipe("north").await;
    let at = regions.cluster.node_http("north").unwrap();
    let mut placed = 0;
    until("north decides again", async || {
        // What is not here yet is not denied.
        let first = regions.api.get(at, &format!("/v1/orders/{}", orders[0]), &regions.buyer).await.unwrap();
        assert!(matches!(first.status, 200 | 503), "{}", first.body);
        let answer = regions.place_answer(&format!("meanwhile{placed}")).await;
        placed += usize::from(answer.status == 201);
        !node_status(&regions, "north").await.recovering
    })
    .await;
    for order in &orders {
        until("what was wiped is back", async || regions.sees("north", order).await).await;
    }
    let admin = regions.cluster.node_admin("north").unwrap();
    let metrics = regions.api.metrics(admin).await.unwrap();
    assert_eq!(metrics.get("cell_baselines_adopted_total"), Some(&1.0), "it came by another way");
    // It decides on what it knew before, and whoever comes back learns of it all.
    regions.cluster.restart(Role::Node, "south").await.unwrap();
    regions.cluster.restart(Role::Agent, "south").await.unwrap();
    let done = regions.cancel(at, &orders[3]).await;
    assert_eq!(done.status, 201, "{}", done.body);
    regions.until_cancelled(&["east", "south"], &orders[3]).await;
    until("a comparison agrees", async || regions.peer("north", "east").await.agreed_ms.is_some()).await;
    let (known, digit) = orders[0].split_at(orders[0].len() - 1);
    let unknown = format!("/v1/orders/{known}{}", if digit == "0" { "1" } else { "0" });
    until("what is unknown is denied again", async || {
        regions.api.get(at, &unknown, &regions.buyer).await.unwrap().status == 404
    })
    .await;
    // So it is where the log is there and the view is not: what is left of the log makes no whole view.
    regions.cluster.kill(Role::Node, "east").await.unwrap();
    std::fs::remove_dir_all(node_folder(&regions, "east").join("view")).unwrap();
    regions.cluster.restart(Role::Node, "east").await.unwrap();
    let at = regions.cluster.node_http("east").unwrap();
    for order in &orders {
        until("what the view lost is back", async || {
            let seen = regions.api.get(at, &format!("/v1/orders/{order}"), &regions.buyer).await.unwrap();
            assert!(matches!(seen.status, 200 | 503), "{}", seen.body);
            seen.status == 200
        })
        .await;
    }
    regions.cluster.ready(Role::Node, "east").await.unwrap();
    // Two that lack the same do not confirm each other that there is nothing more: the third one has it.
    regions.cluster.kill(Role::Agent, "north").await.unwrap();
    for region in ["east", "south"] {
        regions.cluster.kill(Role::Node, region).await.unwrap();
        std::fs::remove_dir_all(node_folder(&regions, region).join("view")).unwrap();
    }
    for region in ["east", "south"] {
        regions.cluster.restart(Role::Node, region).await.unwrap();
    }
    for (region, peer) in [("east", "south"), ("south", "east")] {
        // Half a second apart: time enough for a start that waits for nobody else, too.
        let enough = regions.compared(region, peer).await + 6;
        until("they are compared again and again", async || {
            let status = node_status(&regions, region).await;
            let (lacking, recovering) = (status.lacking, status.recovering);
            assert!(lacking && recovering, "{region} without what north has: {lacking}, {recovering}");
            let at = regions.cluster.node_http(region).unwrap();
            let seen =
                regions.api.get(at, &format!("/v1/orders/{}", orders[0]), &regions.buyer).await.unwrap();
            assert!(matches!(seen.status, 200 | 503), "{}", seen.body);
            regions.compared(region, peer).await >= enough
        })
        .await;
    }
    regions.cluster.restart(Role::Agent, "north").await.unwrap();
    for region in ["east", "south"] {
        until("it has what north had", async || {
            let status = node_status(&regions, region).await;
            !status.lacking && !status.recovering && regions.sees(region, &orders[0]).await
        })
        .await;
    }
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_make_no_frontier_longer() {
    let mut regions = Regions::start_with(&[], &["upkeep_every_ms = 100", "close_after_ms = 0"]).await;
    for start in 0..4 {
        regions.place(&format!("k{start}")).await;
        regions.restart(Role::Node, "north").await;
        regions.cluster.ready(Role::Node, "north").await.unwrap();
    }
    for region in ["north", "east", "south"] {
        until("ended actors are closed", async || {
            let status = node_status(&regions, region).await;
            let closed = |front: &v1::ActorFrontier| {
                let actor = front.actor.as_ref();
                status.closed.iter().any(|it| it.actor.as_ref() == actor && it.last == front.seq)
            };
            let named = status.frontier.iter().filter(|front| !closed(front)).count();
            named == 3 && status.frontier.len() >= 7 && status.lives.len() == 3
        })
        .await;
    }
    // Who does not know what the stamp stands for is told everything: nothing of it is lost with a disk.
    let order = regions.place("last").await;
    until("east has the last", async || regions.sees("east", &order).await).await;
    regions.wipe("east").await;
    regions.cluster.ready(Role::Node, "east").await.unwrap();
    for start in 0..4 {
        let again = regions.place_answer(&format!("k{start}")).await;
        let order = again.body["id"].as_str().unwrap().to_owned();
        until("east has what was written long ago", async || regions.sees("east", &order).await).await;
    }
    until("east folds again", async || node_status(&regions, "east").await.closed.len() >= 4).await;
    regions.cluster.stop().await.unwrap();
}
