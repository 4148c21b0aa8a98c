//! What an operator is told.

use chaos_tests::harness::Role;

use super::stage::{Regions, cellctl, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_setting_is_one_line_that_names_file_and_key() {
    let regions = Regions::start().await;
    let folder = regions.cluster.data_folder().to_owned();
    let run = |role: &str, config: &str, sets: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_cellctl"))
            .args(["role", role, "--config"])
            .arg(folder.join(config))
            .args(sets.iter().flat_map(|set| ["--set", set]))
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).trim().to_owned())
    };
    let any = ["listen.data", "listen.messages", "listen.grpc", "listen.admin"];
    let free: Vec<String> = any.iter().map(|key| format!("{key}=127.0.0.1:0")).collect();
    let free: Vec<&str> = free.iter().map(String::as_str).collect();
    let of_agent = format!("data_dir={}", folder.join("east/agent").display());
    let of_node = format!("data_dir={}", folder.join("east/node").display());
    let of_node_free = vec!["listen.http=127.0.0.1:0", "listen.grpc=127.0.0.1:0", "listen.admin=127.0.0.1:0"];
    let cases: [(&str, &str, Vec<&str>, &str); 10] = [
        (
            "region-node",
            "east/node.toml",
            [&of_node_free[..], &[of_agent.as_str()]].concat(),
            "is a sync-agent's",
        ),
        ("sync-agent", "east/agent.toml", [&free[..], &[of_node.as_str()]].concat(), "is a region-node's"),
        ("sync-agent", "east/agent.toml", vec![], "listen.data"),
        ("sync-agent", "east/agent.toml", free.clone(), "data_dir"),
        ("sync-agent", "east/agent.toml", vec!["gate.patience=5"], "gate.patience"),
        ("sync-agent", "east/agent.toml", vec!["region=west"], "region"),
        (
            "router",
            "router.toml",
            vec!["region=west"],
            "region: 'west' is no member of the placement (--set)",
        ),
        ("region-node", "cluster.toml", vec![], "cluster.toml)"),
        ("region-node", "east/node.toml", vec![], "listen.http"),
        ("region-node", "east/node.toml", of_node_free, "data_dir"),
    ];
    for (role, config, sets, key) in cases {
        let (code, said) = run(role, config, &sets);
        assert_eq!(code, Some(2), "{role} {sets:?}: {said}");
        assert!(said.contains(key), "{role} {sets:?}: {said}");
    }
    let right =
        [("region-node", "east/node.toml"), ("sync-agent", "east/agent.toml"), ("router", "router.toml")];
    for (role, config) in right.into_iter().chain([("sandbox-gateway", "gateway.toml")]) {
        let config = folder.join(config).display().to_string();
        let (code, printed, said) = cellctl(&["role", role, "--config", &config, "--check-config"]);
        assert_eq!((code, printed), (Some(0), format!("{config}: nothing is wrong with it")), "{said}");
    }
    regions.cluster.stop().await.unwrap();
}

/// `cellctl` as an operator calls it: its exit code, what it printed, what it said.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_a_deployment_runs_on_is_left_as_it_is() {
    let regions = Regions::start().await;
    let folder = regions.cluster.data_folder().to_owned();
    let configs = || {
        ["cluster.toml", "router.toml", "east/node.toml"]
            .map(|name| std::fs::read(folder.join(name)).unwrap())
    };
    let before = configs();
    let shown = folder.canonicalize().unwrap().display().to_string();
    let (code, _, said) = cellctl(&["demo", "--data", &shown]);
    assert_eq!((code, said), (Some(2), format!("cellctl: --data {shown}: in use by another demo")));
    assert_eq!(configs(), before);
    let (code, _, said) = cellctl(&["demo", "--data", &shown, "--engine", "fjall"]);
    assert!(code == Some(2) && said.contains("was made with the other one"), "{said}");
    assert_eq!(configs(), before);
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_what_answered_and_by_the_code_that_not_all_did() {
    let mut regions = Regions::start().await;
    let order = regions.place("k").await;
    let cluster = regions.cluster.cluster_file().display().to_string();
    for region in ["east", "south"] {
        until("all have it", async || regions.sees(region, &order).await).await;
    }
    let commands = [
        &["region", "status"][..],
        &["dlq", "list"],
        &["order", "get", &order],
        &["order", "explain", &order],
    ];
    let run = |args: &[&str]| cellctl(&[&["--cluster", &cluster, "-o", "json"], args].concat());
    for args in commands {
        let (code, _, said) = run(args);
        assert_eq!(code, Some(0), "{args:?}: {said}");
    }
    let page = async |admin| regions.api.text(admin, "/metrics").await.unwrap();
    let (node, agent) =
        (regions.cluster.node_admin("east").unwrap(), regions.cluster.agent_admin("east").unwrap());
    for (admin, lines) in [
        (
            node,
            &[
                "# HELP cell_alarms_total ",
                "cell_alarms_total{kind=\"forked\"} 0",
                "cell_problems_total{type=\"busy\"} 0",
            ][..],
        ),
        (
            agent,
            &[
                "cell_gate_warnings_total 0",
                "cell_gate_dead_lettered_total{reason=\"poison\"} 0",
                "cell_gate_fetched_total{from=\"north\"} 0",
            ],
        ),
        (
            regions.cluster.router_admin(),
            &["cell_router_refused_total{reason=\"moving\"} 0", "# HELP cell_router_requests_total "],
        ),
    ] {
        let page = page(admin).await;
        lines.iter().for_each(|line| assert!(page.contains(line), "{line} in\n{page}"));
    }
    let (_, printed, _) = run(&["order", "explain", &order]);
    let document: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let versions = ["north", "east", "south"].map(|region| document[region]["version"].as_str().unwrap());
    assert!(
        versions.iter().all(|version| *version == versions[0] && version.starts_with("north-0.")),
        "{printed}"
    );

    regions.cluster.kill(Role::Agent, "south").await.unwrap();
    regions.cluster.kill(Role::Node, "south").await.unwrap();
    for args in commands {
        let (code, printed, said) = run(args);
        assert_eq!(code, Some(1), "{args:?}: {said}");
        assert!(said.starts_with("cellctl: south: ") && said.contains("does not answer"), "{args:?}: {said}");
        assert!(serde_json::from_str::<serde_json::Value>(&printed).is_ok(), "{args:?}: {printed}");
    }
    let (_, printed, _) = run(&["region", "status"]);
    let rows: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let row = |name: &str| rows.as_array().unwrap().iter().find(|row| row["region"] == name).unwrap();
    assert!(row("north")["node"]["durable_position"].is_u64(), "{printed}");
    assert!(row("south")["node"]["unreachable"].is_string(), "{printed}");
    let (code, _, said) = run(&["order", "explain", "ord_zzz"]);
    assert_eq!((code, said.lines().count()), (Some(2), 1), "{said}");
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_others_say_is_shown_where_a_region_stands_still() {
    let regions = Regions::start().await;
    let order = regions.place("k").await;
    until("south has it", async || regions.sees("south", &order).await).await;
    let file = regions.cluster.cluster_file().display().to_string();
    // The first of those that are asked.
    regions.cluster.pause(Role::Agent, "east").unwrap();
    let ask = &|args: &[&str]| cellctl(&[&["--cluster", &file], args].concat());
    let nothing = "00000000000000000000000000000000";
    let commands = [
        &["dlq", "list"][..],
        &["dlq", "redrive", "--all"],
        &["dlq", "discard", nothing, "--reason", "none"],
        &["order", "get", &order],
    ];
    // Each waits for the one that does not answer.
    std::thread::scope(|scope| {
        for args in commands {
            scope.spawn(move || {
                let (code, shown, said) = ask(args);
                assert!(code == Some(1) && said.contains("east: "), "{args:?}: {code:?} {shown} {said}");
                assert!(!said.contains("south: ") && !said.contains("north: "), "{args:?}: {said}");
            });
        }
    });
    regions.cluster.resume(Role::Agent, "east").unwrap();
    regions.cluster.stop().await.unwrap();
}
