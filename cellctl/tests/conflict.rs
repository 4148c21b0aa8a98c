//! `cellctl conflict` against real regions: a human case, shown in one and resolved through another.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use chaos_tests::harness::{self, Api, Cluster, Plan, Role};
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

fn program(role: Role) -> (PathBuf, Vec<String>) {
    (env!("CARGO_BIN_EXE_cellctl").into(), vec!["role".to_owned(), role.program().to_owned()])
}

fn ask(cluster: &Cluster, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cellctl"));
    command.arg("--cluster").arg(cluster.cluster_file()).args(args).output().unwrap()
}

fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Asks again until it is so.
async fn until<T>(what: &str, mut is: impl AsyncFnMut() -> Option<T>) -> T {
    let found = harness::until(WITHIN, LOOK_AGAIN, async || is().await.ok_or(()));
    found.await.unwrap_or_else(|()| panic!("{what}: not within {WITHIN:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_case_is_listed_shown_and_resolved_through_any_region() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan::new(&["north", "east"], folder.path(), program);
    let mut cluster = Cluster::start(plan).await.unwrap();
    let (api, router, gateway) = (Api::default(), cluster.router(), cluster.gateway());
    let buyer = cluster.user_of("north", &["bob"]);
    let content = json!({ "content": { "currency": "CNY",
        "lines": [{ "sku": "tea", "quantity": 1, "unit_minor": 700 }] } });
    let order =
        api.call(router, "POST", "/v1/orders", &buyer, "o", &content).await.unwrap().body["id"].clone();
    let order = order.as_str().unwrap();
    let (path, pay) = (format!("/v1/orders/{order}"), format!("/v1/orders/{order}/pay"));
    let card = json!({ "card_token": "visa" });
    let paid = api.call(router, "POST", &pay, &buyer, "p", &card).await.unwrap().body;
    let payment = paid["payment"]["id"].as_str().unwrap();
    let status = async |status: &str| {
        let seen = api.get(router, &path, &buyer).await.ok()?.body;
        (seen["status"] == status).then_some(())
    };
    until("it is paid", async || status("Paid").await).await;
    // By hand, at the gateway's own console, which reports it to north.
    let intents = format!("/v1/intents?reference={payment}");
    let intent = api.get(gateway, &intents, "").await.unwrap().body[0]["id"].clone();
    let callback = format!("http://{}/v1/payments/callback", cluster.node_http("north").unwrap());
    let refund = json!({ "key": "by hand, ticket 4711", "intent_id": intent, "amount_minor": 100,
        "reference": "", "metadata": {}, "callback_urls": [callback] });
    let back = api.call(gateway, "POST", "/v1/refunds", "", "r", &refund).await.unwrap();
    assert_eq!(back.status, 200, "{}", back.body);

    let open = ["-o", "json", "conflict", "list", "--open", "--region", "east"];
    let case = until("east knows of the case", async || {
        json_of(&ask(&cluster, &open)).as_array().unwrap().first().cloned()
    })
    .await;
    let id = case["id"].as_str().unwrap();
    let table = String::from_utf8(ask(&cluster, &["conflict", "show", id]).stdout).unwrap();
    for said in ["refund", "case-opened", "nobody owed", "--with refund", "--with keep", "--with cancel"] {
        assert!(table.contains(said), "{said} is missing:\n{table}");
    }
    // The same at the admin port, for whoever has no cellctl.
    let admin = cluster.node_admin("east").unwrap();
    let page = api.get(admin, "/conflicts?open=true&class=unasked&of=north", "").await.unwrap();
    // Who derived the commands does not know how the cluster is named where they are pasted.
    let named = format!(" --cluster {}", cluster.cluster_file().display());
    assert!(case["commands"][0].as_str().unwrap().contains(&named), "{case}");
    let case: Value = serde_json::from_str(&case.to_string().replace(&named, "")).unwrap();
    assert_eq!((page.status, &page.body), (200, &json!({ "items": [case] })));
    assert_eq!(api.get(admin, &format!("/conflicts/{id}"), "").await.unwrap().body, case);
    for (path, status) in [
        ("/conflicts?kind=x", 400),
        ("/conflicts?cursor=x", 400),
        ("/conflicts?opne=true", 400),
        ("/conflicts/x", 400),
        (&*format!("/conflicts/{order}:0000000000000000"), 404),
    ] {
        let answer = api.get(admin, path, "").await.unwrap();
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        assert!(answer.body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{path}");
    }
    let resolve = |cluster: &Cluster, extra: &[&str]| {
        ask(cluster, &[&["conflict", "resolve", id, "--region", "east", "--as", "mo"], extra].concat())
    };
    assert_eq!(resolve(&cluster, &["--with", "refund"]).status.code(), Some(2), "a reason is needed");
    assert_eq!(
        resolve(&cluster, &["--with", "refund", "--reason", "  "]).status.code(),
        Some(2),
        "a reason says something"
    );
    assert_eq!(resolve(&cluster, &["--with", "burn", "--reason", "x"]).status.code(), Some(2));
    let reason = ["--with", "refund", "--reason", "the shop agreed"];
    assert!(resolve(&cluster, &[&reason[..], &["--dry-run"]].concat()).status.success());
    assert_eq!(json_of(&ask(&cluster, &open)).as_array().unwrap().len(), 1, "nothing was done");
    cluster.kill(Role::Node, "north").await.unwrap();
    let homeless = resolve(&cluster, &[&reason[..], &["--dry-run"]].concat());
    assert_eq!(homeless.status.code(), Some(1), "nobody would do it");
    cluster.restart(Role::Node, "north").await.unwrap();
    // East is asked; north is the home and does it.
    until("north decides again", async || resolve(&cluster, &reason).status.success().then_some(())).await;
    until("the rest went back", async || status("Refunded").await).await;
    until("nothing is open in east", async || {
        json_of(&ask(&cluster, &open)).as_array().unwrap().is_empty().then_some(())
    })
    .await;
    let late = ["--with", "keep", "--reason", "on second thoughts"];
    assert_eq!(resolve(&cluster, &late).status.code(), Some(1));
    let said = resolve(&cluster, &[&late[..], &["--dry-run"]].concat());
    assert_eq!(said.status.code(), Some(1), "nothing is left to resolve");
    let metrics = api.text(cluster.node_admin("north").unwrap(), "/metrics").await.unwrap();
    for line in [
        "cell_conflicts_total{class=\"unasked\"} 1",
        "cell_conflicts_open{class=\"unasked\"} 0",
        "cell_conflicts_open{class=\"paid-versus-cancelled\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} is missing");
    }
    cluster.stop().await.unwrap();
}
