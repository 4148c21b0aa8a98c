//! Listening, answering the admin port, winding down, and what whoever started the process sees.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use service_kit::{
    Admin, Announcement, DrainError, Metric, MetricsHandle, Origins, Readiness, Shutdown, Version, bind,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    (status, body)
}

#[tokio::test]
async fn the_admin_port_tells_alive_ready_metrics_and_version() {
    let listener = bind("admin.listen", loopback(), &Origins::default()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let readiness = Readiness::new(&["log-replayed", "accepting"]);
    let metrics = MetricsHandle::install().unwrap();
    let version = Version { service: "kit", version: "1.2.3", formats: BTreeMap::from([("log", 1)]) };
    let operations = axum::Router::new().route("/kit", axum::routing::get(async || "of its own"));
    let admin = Admin { readiness: readiness.clone(), metrics: Some(metrics), version, operations };
    let shutdown = Shutdown::new();
    let last = CancellationToken::new();
    let served = tokio::spawn(admin.serve(listener, shutdown.token(), last.clone()));

    assert_eq!(get(address, "/livez").await, (200, "ok\n".to_owned()));
    assert_eq!(
        get(address, "/readyz").await,
        (503, r#"{"missing":["accepting","log-replayed"],"ready":false}"#.to_owned())
    );
    assert_eq!(get(address, "/kit").await, (200, "of its own".to_owned()));
    readiness.set("accepting", true);
    readiness.set("log-replayed", true);
    assert_eq!(get(address, "/readyz").await, (200, r#"{"missing":[],"ready":true}"#.to_owned()));
    metrics_example();
    assert!(get(address, "/metrics").await.1.contains("cell_kit_example_total 1"));
    assert_eq!(
        get(address, "/version").await.1,
        r#"{"service":"kit","version":"1.2.3","formats":{"log":1}}"#
    );

    shutdown.begin();
    while readiness.is_ready() {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        get(address, "/readyz").await,
        (503, r#"{"missing":["not-draining"],"ready":false}"#.to_owned())
    );
    last.cancel();
    served.await.unwrap();
}

fn metrics_example() {
    metrics::counter!("cell_kit_example_total").increment(1);
}

#[test]
fn declared_metrics_are_described_and_their_counters_begin_at_zero() {
    const METRICS: &[Metric] = &[
        Metric::counter(
            "cell_kit_alarms_total",
            &[("kind", &["orphan", "forked"]), ("peer", &[])],
            "What it warned of.",
        ),
        Metric::counter("cell_kit_open_total", &[("route", &[])], "As they come."),
        Metric::gauge("cell_kit_up", &[], "Whether it is up."),
    ];
    let handle = MetricsHandle::install().unwrap();
    handle.declare(METRICS, &[("peer", vec!["east".to_owned()])]);
    metrics::gauge!("cell_kit_up").set(1.0);
    let page = handle.render();
    for line in [
        "# HELP cell_kit_alarms_total What it warned of.",
        "cell_kit_alarms_total{kind=\"orphan\",peer=\"east\"} 0",
        "cell_kit_alarms_total{kind=\"forked\",peer=\"east\"} 0",
        "# HELP cell_kit_up Whether it is up.",
    ] {
        assert!(page.contains(line), "{line} in\n{page}");
    }
    assert!(!page.contains("cell_kit_open_total{"), "{page}");
    assert_eq!(
        METRICS[0].to_string(),
        "| `cell_kit_alarms_total` | counter | `kind`: orphan, forked; `peer` | What it warned of. |"
    );
}

#[tokio::test]
async fn a_port_in_use_is_one_line_that_names_key_and_address() {
    let taken = bind("http.listen", loopback(), &Origins::default()).await.unwrap();
    let address = taken.local_addr().unwrap();
    let error = bind("http.listen", address, &Origins::default()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("http.listen: cannot listen on {address}: the port is in use by another process")
    );
}

#[tokio::test(start_paused = true)]
async fn drain_waits_for_tasks_that_watch_the_shutdown() {
    let shutdown = Shutdown::new();
    let watching = shutdown.clone();
    let task = shutdown.spawn("flush", async move {
        watching.begun().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        7
    });
    assert_eq!(shutdown.drain(Duration::from_secs(5)).await, Ok(()));
    assert_eq!(task.await.unwrap(), 7);
}

#[tokio::test(start_paused = true)]
async fn drain_names_the_tasks_that_do_not_end() {
    let shutdown = Shutdown::new();
    shutdown.spawn("ends", async {});
    shutdown.spawn("stuck", std::future::pending::<()>());
    let error = shutdown.drain(Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(error, DrainError::Deadline { deadline_ms: 5000, tasks: vec!["stuck"] });
    assert_eq!(error.to_string(), "not finished within 5000 ms: stuck");
}

#[tokio::test]
async fn a_task_that_panics_ends_the_service() {
    let shutdown = Shutdown::new();
    shutdown.spawn("writer", async { panic!("the disk is gone") });
    shutdown.begun().await;
    let error = shutdown.drain(Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(error, DrainError::Panicked { tasks: vec!["writer"] });
}

#[tokio::test]
async fn a_part_ends_with_the_whole_but_not_the_other_way_round() {
    let whole = Shutdown::new();
    let (one, other) = (whole.child(), whole.child());
    one.begin();
    assert!(!whole.is_begun() && !other.is_begun());
    whole.begin();
    assert!(other.is_begun());
}

#[test]
fn the_announcement_reads_back() {
    let address = "127.0.0.1:1234".parse().unwrap();
    let told = Announcement::of_this_process("region-node", &[("http", address)]);
    let line = told.to_line();
    assert!(
        line.starts_with(
            r#"{"ready":true,"service":"region-node","listen":{"http":"127.0.0.1:1234"},"pid":"#
        )
    );
    assert_eq!(Announcement::from_line(&line), Some(told));
    assert_eq!(Announcement::from_line("INFO starting"), None);
}

#[tokio::test]
async fn a_service_that_cannot_go_on_ends_and_does_not_end_well() {
    let shutdown = Shutdown::new();
    shutdown.fail("the disk is gone");
    shutdown.fail("and then some");
    assert!(shutdown.is_begun());
    let drained = shutdown.drain(Duration::from_secs(5)).await;
    assert_eq!(drained, Err(DrainError::Failed { why: "the disk is gone".to_owned() }));
}
