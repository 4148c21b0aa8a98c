//! The example configuration is loaded by the services' own loaders, and its parts fit together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use service_kit::{Validate, config};

const REGIONS: [&str; 3] = ["north", "east", "south"];

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(name)
}

fn load<T: serde::de::DeserializeOwned + Validate>(name: &str) -> T {
    config::load_from::<T>(Some(&example(name)), "UNSET", [], &[])
        .unwrap_or_else(|error| panic!("{name}: {error}"))
        .0
}

fn http(address: SocketAddr) -> String {
    format!("http://{address}")
}

#[test]
fn the_example_of_three_regions_fits_together() {
    let nodes: BTreeMap<_, region_node::Config> =
        REGIONS.map(|region| (region, load(&format!("{region}/node.toml")))).into();
    let agents: BTreeMap<_, sync_agent::Config> =
        REGIONS.map(|region| (region, load(&format!("{region}/agent.toml")))).into();
    let gateway: sandbox_gateway::Config = load("gateway.toml");
    let (router, origins) = router::Config::load(Some(&example("router.toml")), &[]).unwrap();
    router::Router::check(&router, &origins).unwrap();
    let mut ports = BTreeSet::from([router.listen, router.admin.listen, gateway.listen]);
    for region in REGIONS {
        let (node, agent) = (&nodes[region], &agents[region]);
        assert_eq!((node.region.as_str(), agent.region.as_str()), (region, region));
        assert_eq!(agent.node, http(node.listen.grpc));
        assert_eq!(router.upstreams[region], node.listen.http.to_string());
        assert_eq!(node.gateway.url, http(gateway.listen));
        assert_eq!(
            node.gateway.secret_file.load().unwrap().expose(),
            gateway.secret_file.load().unwrap().expose()
        );
        assert_eq!(node.gateway.callback_urls[0], format!("{}/v1/payments/callback", http(node.listen.http)));
        for peer in &agent.peers {
            let theirs = &agents[peer.region.as_str()].listen;
            assert_eq!((&peer.data, &peer.messages), (&http(theirs.data), &http(theirs.messages)));
        }
        assert_eq!(agent.peers.len(), 2);
        let listen = [node.listen.http, node.listen.grpc, node.listen.admin, agent.listen.data];
        ports.extend(listen);
        ports.extend([agent.listen.messages, agent.listen.grpc, agent.listen.admin]);
        assert_ne!(node.data_dir, agent.data_dir);
    }
    assert_eq!(ports.len(), 3 + 3 * 7, "no port is used twice");
    let cluster = std::fs::read_to_string(example("cluster.toml")).unwrap();
    for region in REGIONS {
        for address in [nodes[region].listen.grpc, agents[region].listen.grpc] {
            assert!(cluster.contains(&http(address)), "{region}: {address}");
        }
    }
}

#[test]
fn what_the_example_shows_as_default_is_the_default() {
    let node: region_node::Config = load("north/node.toml");
    assert_eq!(node.rules.rules(), region_node::RulesConfig::default().rules());
    let agent: sync_agent::Config = load("north/agent.toml");
    assert_eq!(agent.gate.gate(), sync_agent::GateConfig::default().gate());
}
