//! Logs and views that are damaged.

use bytes::Bytes;
use cell_core::id::{EntityId, OrderId};
use cell_proto::v1;
use cell_proto::v1::node_client::NodeClient;
use chaos_tests::harness::{LinkState, Role};
use serde_json::json;

use super::stage::{
    Regions, damage_log, damage_log_at, node_folder, node_status, until, until_within, zero_log,
};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_damaged_behind_a_nodes_back_is_found_and_healed_with_nothing_restarted() {
    let node = ["allow_damage = true", "scrub_every_ms = 300"];
    let regions = Regions::start_with(&node, &["compare_every_ms = 200"]).await;
    let orders = regions.place_many(20).await;
    until("east has them", async || regions.sees("east", &orders[19]).await).await;
    let status_of = async |order: &str| {
        let at = regions.cluster.node_http("east").unwrap();
        regions.api.get(at, &format!("/v1/orders/{order}"), &regions.buyer).await.unwrap().status
    };
    let east = format!("http://{}", regions.cluster.node_grpc("east").unwrap());
    let node = NodeClient::connect(east).await.unwrap();
    for (order, how) in [(&orders[3], "forget"), (&orders[11], "flip")] {
        let id = EntityId::from(order.parse::<OrderId>().unwrap());
        let damage = v1::DamageRequest {
            entity: Bytes::copy_from_slice(&id.to_bytes()),
            how: how.to_owned(),
            part: String::new(),
        };
        until("it is in the view", async || node.clone().damage(damage.clone()).await.is_ok()).await;
    }
    assert_ne!(status_of(&orders[11]).await, 404, "damaged is not unknown");
    until("the agent sees that something differs", async || {
        let metrics = regions.api.metrics(regions.cluster.agent_admin("east").unwrap()).await.unwrap();
        metrics.get("cell_repaired_entities_total").is_some_and(|repaired| *repaired > 0.0)
    })
    .await;
    for order in [&orders[3], &orders[11]] {
        until("it is there again", async || status_of(order).await == 200).await;
    }
    until("the regions agree, and nothing is in doubt", async || {
        let peer = regions.peer("east", "north").await;
        peer.diverged_ms.is_none() && peer.agreed_ms.is_some()
    })
    .await;
    let ask = |args: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_cellctl"))
            .arg("--cluster")
            .arg(regions.cluster.cluster_file())
            .args(["-o", "json"])
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    assert_eq!(ask(&["diff", "north", "east"])[0]["slots"], json!([]));
    let repaired = ask(&["repair", "east", "north", "--as", "sre"]);
    assert_eq!((&repaired[0]["repaired"], &repaired[1]["repaired"]), (&json!(0), &json!(0)));
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_something_unnoticed_ends_nobodys_doubt_and_a_region_rebuilt_from_it_not_its_own() {
    let node = ["allow_damage = true", "recovery_wait_ms = 300", "log = { segment_kib = 64, keep_mib = 0 }"];
    let limits = ["upkeep_every_ms = 100", "compare_every_ms = 200"];
    let mut regions = Regions::start_with(&node, &limits).await;
    let mut orders = regions.place_many(50).await;
    let trimmed = async || {
        let mut least = u64::MAX;
        for region in ["north", "east", "south"] {
            least = least.min(node_status(&regions, region).await.first_position);
        }
        least > 100
    };
    while !trimmed().await {
        assert!(orders.len() < 5_000, "no log is trimmed");
        for _ in 0..50 {
            orders.push(regions.place(&format!("more{}", orders.len())).await);
        }
    }
    let last = orders.last().unwrap();
    for region in ["east", "south"] {
        until("all have them", async || regions.sees(region, last).await).await;
    }
    regions.cluster.kill(Role::Agent, "south").await.unwrap();
    regions.cluster.kill(Role::Node, "south").await.unwrap();
    let east = format!("http://{}", regions.cluster.node_grpc("east").unwrap());
    let node = NodeClient::connect(east).await.unwrap();
    let id = EntityId::from(orders[7].parse::<OrderId>().unwrap());
    let entity = Bytes::copy_from_slice(&id.to_bytes());
    let damage = v1::DamageRequest { entity, how: "forget".to_owned(), part: String::new() };
    regions.cluster.kill(Role::Node, "north").await.unwrap();
    std::fs::remove_dir_all(node_folder(&regions, "north")).unwrap();
    until("it is forgotten", async || node.clone().damage(damage.clone()).await.is_ok()).await;
    regions.cluster.restart(Role::Node, "north").await.unwrap();
    until("north has what east has", async || regions.sees("north", last).await).await;
    let enough = regions.compared("north", "east").await + 12;
    until("they are compared again and again", async || {
        let at = regions.cluster.node_http("north").unwrap();
        for path in ["/v1/orders".to_owned(), format!("/v1/orders/{}", orders[7])] {
            let seen = regions.api.get(at, &path, &regions.buyer).await.unwrap();
            assert_eq!(seen.status, 503, "north denies {path}: {:?}", seen.body);
        }
        regions.compared("north", "east").await >= enough
    })
    .await;
    // East has counted what it has by now, and north says nothing but what east told it.
    for round in 0..2 {
        let enough = regions.compared("east", "north").await + 6;
        until("they are compared again and again", async || {
            let at = regions.cluster.node_http("east").unwrap();
            let seen = regions.api.get(at, &format!("/v1/orders/{}", orders[7]), &regions.buyer).await;
            assert!(seen.is_err() || seen.unwrap().status == 503, "east denies it in round {round}");
            regions.compared("east", "north").await >= enough
        })
        .await;
        regions.restart(Role::Node, "east").await;
    }
    regions.cluster.restart(Role::Node, "south").await.unwrap();
    regions.cluster.restart(Role::Agent, "south").await.unwrap();
    for region in ["north", "east"] {
        until("it is back", async || regions.sees(region, &orders[7]).await).await;
        until("lists are whole again", async || {
            regions.shown(region, "/v1/orders", &regions.buyer).await.is_some()
        })
        .await;
        until("nothing is lacking", async || !node_status(&regions, region).await.lacking).await;
    }
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_whether_the_disk_is_as_it_was_written_hears_what_is_not() {
    let regions = Regions::start_with(&["allow_damage = true"], &["compare_every_ms = 200"]).await;
    let orders = regions.place_many(5).await;
    until("east has them", async || regions.sees("east", &orders[4]).await).await;
    let cellctl = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cellctl"));
        let asked = command.arg("--cluster").arg(regions.cluster.cluster_file()).args(args).output().unwrap();
        (asked.status.code(), String::from_utf8(asked.stdout).unwrap())
    };
    let (code, said) = cellctl(&["verify", "-o", "json"]);
    assert_eq!(code, Some(0), "{said}");
    for row in serde_json::from_str::<serde_json::Value>(&said).unwrap().as_array().unwrap() {
        assert!(row["keys"].as_u64() > Some(10) && row["records"].as_u64() > Some(4), "{row}");
        assert_eq!(row["found"], json!([]));
    }
    let east = format!("http://{}", regions.cluster.node_grpc("east").unwrap());
    let node = NodeClient::connect(east).await.unwrap();
    let id = EntityId::from(orders[1].parse::<OrderId>().unwrap());
    for (how, part) in [("forget", "list"), ("forget", "entity")] {
        let entity = Bytes::copy_from_slice(&id.to_bytes());
        let damage = v1::DamageRequest { entity, how: how.to_owned(), part: part.to_owned() };
        until("it is in the view", async || node.clone().damage(damage.clone()).await.is_ok()).await;
    }
    damage_log(&node_folder(&regions, "north"));
    let (code, said) = cellctl(&["verify", "east"]);
    assert!(code == Some(1) && said.contains("1 slots lack what was written"), "{said}");
    let (code, said) = cellctl(&["verify", "north"]);
    assert!(code == Some(1) && said.contains("of the log cannot be read any more"), "{said}");
    // What its peers have is back soon; the log is as it is until it is trimmed.
    until("the peers agree", async || cellctl(&["diff", "east", "north"]).0 == Some(0)).await;
    until("all is as it was written", async || cellctl(&["verify", "east"]).0 == Some(0)).await;
    assert!(regions.sees("east", &orders[1]).await);
    let metrics = regions.api.metrics(regions.cluster.node_admin("north").unwrap()).await.unwrap();
    assert!(metrics["cell_log_damaged_records"] > 0.0);
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_in_one_batch_with_a_change_of_an_unreadable_entity_is_not_lost() {
    let mut regions = Regions::start_with(&["allow_damage = true"], &["compare_every_ms = 200"]).await;
    // Of different users, so that what heals one of them touches no other.
    let mut orders = Vec::new();
    let of_north = |user: &String| regions.cluster.user_of("north", &[user]) == *user;
    for user in (0..).map(|n| format!("buyer-{n}")).filter(of_north).take(6) {
        let placed = regions.place_at(regions.cluster.router(), &user, "k").await;
        orders.push((user, format!("/v1/orders/{}", placed.body["id"].as_str().unwrap())));
    }
    for (user, path) in &orders {
        until("east has them", async || regions.shown("east", path, user).await.is_some()).await;
    }
    // What is cancelled meanwhile comes together.
    regions.cluster.kill(Role::Agent, "east").await.unwrap();
    for (user, path) in &orders {
        let (at, path) = (regions.cluster.router(), format!("{path}/cancel"));
        let answer = regions.api.call(at, "POST", &path, user, "c", &json!({})).await.unwrap();
        assert_eq!(answer.status, 201, "{}", answer.body);
    }
    let east = format!("http://{}", regions.cluster.node_grpc("east").unwrap());
    let node = NodeClient::connect(east).await.unwrap();
    let id = EntityId::from(orders[5].1.rsplit('/').next().unwrap().parse::<OrderId>().unwrap());
    let entity = Bytes::copy_from_slice(&id.to_bytes());
    let damage = v1::DamageRequest { entity, how: "flip".to_owned(), part: String::new() };
    until("it is in the view", async || node.clone().damage(damage.clone()).await.is_ok()).await;
    regions.cluster.restart(Role::Agent, "east").await.unwrap();
    for (user, path) in &orders {
        until("the cancel is in east", async || {
            let seen = regions.shown("east", path, user).await;
            seen.is_some_and(|seen| seen["status"] == "Cancelled")
        })
        .await;
    }
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sum_that_is_wrong_over_sound_entities_is_counted_anew() {
    let regions = Regions::start_with(&["allow_damage = true"], &["compare_every_ms = 200"]).await;
    let order = regions.place("k").await;
    until("east has it", async || regions.sees("east", &order).await).await;
    let east = format!("http://{}", regions.cluster.node_grpc("east").unwrap());
    let mut node = NodeClient::connect(east).await.unwrap();
    let id = EntityId::from(order.parse::<OrderId>().unwrap());
    let entity = Bytes::copy_from_slice(&id.to_bytes());
    let damage = v1::DamageRequest { entity, how: "flip".to_owned(), part: "sum".to_owned() };
    node.damage(damage).await.unwrap();
    let differs = async || regions.peer("east", "north").await.diverged_ms.is_some();
    until("the regions differ", differs).await;
    until("they agree, with nothing repaired", async || !differs().await).await;
    let metrics = regions.api.metrics(regions.cluster.agent_admin("east").unwrap()).await.unwrap();
    let repaired = metrics.get("cell_repaired_entities_total");
    assert!(repaired.is_none_or(|repaired| *repaired == 0.0), "{repaired:?}");
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_damaged_log_lost_is_never_denied_and_comes_back_from_the_peers() {
    let mut regions = Regions::start().await;
    let orders = regions.place_many(30).await;
    for region in ["east", "south"] {
        until("peers have all of them", async || regions.sees(region, orders.last().unwrap()).await).await;
    }
    let before = regions.frontier("east").await;
    regions.cluster.kill(Role::Agent, "north").await.unwrap();
    regions.cluster.kill(Role::Node, "north").await.unwrap();
    let folder = node_folder(&regions, "north");
    damage_log(&folder);
    std::fs::remove_dir_all(folder.join("view")).unwrap();
    regions.cluster.data_into("north", LinkState::Cut);
    regions.cluster.restart(Role::Node, "north").await.unwrap();
    regions.cluster.restart(Role::Agent, "north").await.unwrap();
    let status_of = async |order: &str| {
        let at = regions.cluster.node_http("north").unwrap();
        regions.api.get(at, &format!("/v1/orders/{order}"), &regions.buyer).await.unwrap().status
    };
    let mut lost = 0;
    for order in &orders {
        let status = status_of(order).await;
        assert!(status == 200 || status == 503, "{order}: {status}");
        lost += usize::from(status == 503);
    }
    assert!(lost > 0, "the damage hit no order");
    // Nothing is decided on what may be half known.
    let at = regions.cluster.node_http("north").unwrap();
    let refused = regions.cancel(at, &orders[0]).await;
    assert_eq!(refused.status, 503, "{}", refused.body);
    regions.cluster.data_into("north", LinkState::Open);
    for order in &orders {
        until("what was lost is back", async || status_of(order).await == 200).await;
    }
    until("it decides again", async || matches!(regions.cancel(at, &orders[0]).await.status, 200 | 201))
        .await;
    let of_north = |frontier: &[(String, u64, u64)]| {
        let first = frontier.iter().find(|(region, start, _)| region == "north" && *start == 1).unwrap();
        first.2
    };
    assert!(of_north(&regions.frontier("north").await) >= of_north(&before), "without a gap");
    regions.cluster.stop().await.unwrap();
}

/// The node goes on meanwhile: what its log lost is in its view, in memory what it wrote last.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_running_nodes_log_lost_comes_to_who_lacks_it() {
    let limits = ["compare_every_ms = 200", "upkeep_every_ms = 100"];
    let mut regions = Regions::start_with(&[], &limits).await;
    let known = regions.place("known").await;
    for region in ["east", "south"] {
        until("it has it", async || regions.sees(region, &known).await).await;
        regions.cluster.kill(Role::Agent, region).await.unwrap();
    }
    let line = |n| json!({ "sku": format!("tea-{n:060}"), "quantity": 1, "unit_minor": 1 });
    let lines: Vec<_> = (0..100).map(line).collect();
    let body = json!({ "content": { "currency": "CNY", "lines": lines } });
    let (api, at, mut orders) = (&regions.api, regions.cluster.node_http("north").unwrap(), Vec::new());
    for n in 0..1_600 {
        let key = format!("large{n}");
        let placed = api.call(at, "POST", "/v1/orders", &regions.buyer, &key, &body).await.unwrap();
        assert_eq!(placed.status, 201, "{}", placed.body);
        orders.push(placed.body["id"].as_str().unwrap().to_owned());
    }
    damage_log_at(&node_folder(&regions, "north"), 0.05);
    let log = node_folder(&regions, "north").join("log");
    let bytes: u64 =
        std::fs::read_dir(log).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes > 10 << 20, "the node has not all of it in memory: {bytes}");
    let north = format!("http://{}", regions.cluster.node_grpc("north").unwrap());
    let verified = NodeClient::connect(north).await.unwrap().verify(v1::VerifyRequest {}).await.unwrap();
    assert_eq!(verified.into_inner().found.len(), 1);
    for region in ["east", "south"] {
        regions.cluster.restart(Role::Agent, region).await.unwrap();
    }
    for order in orders.iter().step_by(20) {
        for region in ["east", "south"] {
            until("it is there", async || regions.sees(region, order).await).await;
        }
    }
    for region in ["east", "south"] {
        until("nothing is owed, and nothing differs", async || {
            let peer = regions.peer(region, "north").await;
            peer.changes == "idle" && peer.diverged_ms.is_none() && peer.agreed_ms.is_some()
        })
        .await;
    }
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_region_has_any_more_is_given_up_and_what_stands_behind_it_is_not() {
    let limits = ["close_after_ms = 500", "upkeep_every_ms = 100", "compare_every_ms = 200"];
    let mut regions = Regions::start_with(&[], &limits).await;
    let known = regions.place_many(20).await;
    for region in ["east", "south"] {
        until("it has them", async || regions.sees(region, &known[19]).await).await;
        regions.cluster.kill(Role::Agent, region).await.unwrap();
    }
    let mut alone = Vec::new();
    for n in 0..40 {
        alone.push(regions.place(&format!("alone{n}")).await);
    }
    let folder = node_folder(&regions, "north");
    regions.cluster.kill(Role::Node, "north").await.unwrap();
    std::fs::remove_dir_all(folder.join("view")).unwrap();
    damage_log_at(&folder, 0.75);
    regions.cluster.restart(Role::Node, "north").await.unwrap();
    for region in ["east", "south"] {
        regions.cluster.restart(Role::Agent, region).await.unwrap();
    }
    let at = regions.cluster.node_http("north").unwrap();
    let status_of = async |path: &str| regions.api.get(at, path, &regions.buyer).await.unwrap().status;
    until("it is known that nobody has it", async || {
        !node_status(&regions, "north").await.lacking && status_of("/v1/orders").await == 200
    })
    .await;
    let mut left = Vec::new();
    for order in known.iter().chain(&alone) {
        if status_of(&format!("/v1/orders/{order}")).await == 200 {
            left.push(order);
        }
    }
    assert!((45..60).contains(&left.len()), "some are lost, and few: {} are left", left.len());
    assert_eq!(left.last(), Some(&alone.last().unwrap()), "what stood behind the damage is there");
    for order in left {
        for region in ["east", "south"] {
            until("what is left is everywhere", async || regions.sees(region, order).await).await;
        }
    }
    until("nothing differs", async || {
        let peer = regions.peer("east", "north").await;
        peer.diverged_ms.is_none() && peer.agreed_ms.is_some()
    })
    .await;
    let said = std::fs::read_to_string(regions.cluster.data_folder().join("north/node.log")).unwrap();
    assert!(said.contains("are in no other region: they are lost"), "{said}");
    regions.cluster.stop().await.unwrap();
}

/// Every region lost its view and the beginning of its log, each another stretch of it: nobody knows an actor's first change.
#[tokio::test(flavor = "multi_thread")]
async fn what_all_regions_lost_differently_is_denied_only_once_nobody_can_have_it() {
    let limits = ["close_after_ms = 1500", "upkeep_every_ms = 100", "compare_every_ms = 200"];
    let mut regions = Regions::start_with(&[], &limits).await;
    let orders = regions.place_many(60).await;
    for region in ["east", "south"] {
        until("it has them", async || regions.sees(region, &orders[59]).await).await;
    }
    for region in ["north", "east", "south"] {
        regions.cluster.kill(Role::Node, region).await.unwrap();
    }
    for (region, from, to) in [("north", 0.01, 0.35), ("east", 0.01, 0.5), ("south", 0.01, 0.7)] {
        let folder = node_folder(&regions, region);
        std::fs::remove_dir_all(folder.join("view")).unwrap();
        zero_log(&folder, from, to);
    }
    for region in ["north", "east", "south"] {
        regions.cluster.restart(Role::Node, region).await.unwrap();
    }
    let status_of = async |region: &str, path: &str| {
        let at = regions.cluster.node_http(region).unwrap();
        regions.api.get(at, path, &regions.buyer).await.map_or(0, |answer| answer.status)
    };
    let mut whole = Vec::new();
    // Half a minute is what nodes that all lack something wait for one that does not.
    until_within(std::time::Duration::from_secs(90), "lists are whole again", async || {
        for region in ["north", "east", "south"] {
            if !whole.contains(&region) && status_of(region, "/v1/orders").await == 200 {
                whole.push(region);
            }
            if whole.contains(&region) {
                // Who says that lists are whole denies nothing that north has, which lost least.
                for order in orders.iter().rev().take(30) {
                    let status = status_of(region, &format!("/v1/orders/{order}")).await;
                    assert_eq!(status, 200, "{region} denies what others have");
                }
            }
        }
        whole.len() == 3
    })
    .await;
    for peer in ["north", "south"] {
        until("nothing differs", async || {
            let peer = regions.peer("east", peer).await;
            peer.diverged_ms.is_none() && peer.agreed_ms.is_some()
        })
        .await;
    }
    let lists = async |region: &str| {
        let seen = regions.shown(region, "/v1/orders?limit=100", &regions.buyer).await.unwrap();
        seen["items"].as_array().unwrap().len()
    };
    let left = lists("north").await;
    assert!((30..60).contains(&left), "{left}");
    assert_eq!((lists("east").await, lists("south").await), (left, left));
    regions.cluster.stop().await.unwrap();
}
