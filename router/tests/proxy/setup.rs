//! Configuration that works, configuration that does not, and the admin port.

use std::path::{Path, PathBuf};

use cell_proto::placement_file;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use router::{Config, Router};
use service_kit::Origins;

use crate::edge::{Edge, PLACEMENT, config, echo};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(name)
}

#[test]
fn the_example_configuration_is_complete_and_shares_the_slots_evenly() {
    let (config, origins) = Config::load(Some(&example("north/router.toml")), &[]).unwrap();
    Router::check(&config, &origins).unwrap();
    assert_eq!((&config.timeouts, &config.limits), (&Default::default(), &Default::default()));
    let placement = placement_file::load(&config.placement_file).unwrap();
    let homes = cell_core::id::Slot::all().map(|slot| placement.home(slot).node.region);
    let mut shares = std::collections::BTreeMap::new();
    homes.for_each(|home| *shares.entry(home.to_string()).or_insert(0) += 1);
    let shares: Vec<_> = shares.into_iter().collect();
    assert_eq!(shares, [("east".into(), 341), ("north".into(), 341), ("south".into(), 342)]);
}

#[tokio::test]
async fn a_placement_with_a_gap_is_one_line_that_names_key_and_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("placement.toml");
    std::fs::write(&path, PLACEMENT.replace("511", "500")).unwrap();
    let config = config(path.clone(), &[("north", "127.0.0.1:1".parse().unwrap())]);
    let error = Router::build(config, &Origins::default()).await.unwrap_err().to_string();
    assert_eq!(error, format!("placement_file: {}: slots 501..=511 have no home", path.display()));
}

#[tokio::test]
async fn a_port_in_use_is_one_line_that_names_key_and_address() {
    let north = echo("north").await;
    let edge = Edge::start(&[("north", north)]).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("placement.toml");
    std::fs::write(&path, PLACEMENT).unwrap();
    let mut config = config(path, &[("north", north)]);
    config.listen = edge.address;
    let error = Router::build(config, &Origins::default()).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("listen: cannot listen on {}", edge.address)), "{error}");
}

#[tokio::test]
async fn the_admin_port_says_ready_and_counts_requests_and_refusals() {
    let edge = Edge::start(&[("north", echo("north").await)]).await;
    edge.send(edge.get("alice", "/v1/notifications")).await;
    edge.send(edge.get("alice", "/nowhere")).await;
    assert!(admin(&edge, "/readyz").await.contains("\"ready\":true"));
    let page = admin(&edge, "/metrics").await;
    for line in [
        "cell_router_requests_total{route=\"/v1/notifications\",region=\"north\",status=\"2xx\"} ",
        "cell_router_refused_total{reason=\"unknown-route\"} ",
        "cell_router_upstream_seconds_bucket{region=\"north\",",
    ] {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }
}

async fn admin(edge: &Edge, path: &str) -> String {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let uri = format!("http://{}{path}", edge.admin).parse().unwrap();
    let body = client.get(uri).await.unwrap().into_body();
    String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
}
