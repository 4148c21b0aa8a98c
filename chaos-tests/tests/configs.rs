//! The example configuration is loaded by the services' own loaders, and its parts fit together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use service_kit::{Origins, Validate, config};
use toml::{Table, Value};

const REGIONS: [&str; 3] = ["north", "east", "south"];

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(name)
}

fn load_traced<T: DeserializeOwned + Validate>(name: &str) -> (T, Origins) {
    config::load_from::<T>(Some(&example(name)), "UNSET", [], &[])
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn load<T: DeserializeOwned + Validate>(name: &str) -> T {
    load_traced(name).0
}

/// The file behind a path, however it was written.
fn file(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn http(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// What `cellctl --cluster` reads.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cluster {
    regions: Vec<ClusterRegion>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterRegion {
    name: String,
    node: String,
    agent: String,
}

impl Validate for Cluster {}

/// All of the deployment.
struct Example {
    nodes: BTreeMap<&'static str, region_node::Config>,
    agents: BTreeMap<&'static str, sync_agent::Config>,
    routers: BTreeMap<&'static str, router::Config>,
    gateway: sandbox_gateway::Config,
}

impl Example {
    fn load() -> Example {
        let router = |region| {
            let (config, origins) = load_traced(&format!("{region}/router.toml"));
            router::Router::check(&config, &origins).unwrap();
            (region, config)
        };
        Example {
            nodes: REGIONS.map(|region| (region, load(&format!("{region}/node.toml")))).into(),
            agents: REGIONS.map(|region| (region, load(&format!("{region}/agent.toml")))).into(),
            routers: REGIONS.map(router).into(),
            gateway: load("gateway.toml"),
        }
    }

    /// Others than `region`, in no particular order.
    fn others(region: &str) -> impl Iterator<Item = &'static str> {
        REGIONS.into_iter().filter(move |other| *other != region)
    }
}

#[test]
fn every_part_of_the_example_is_of_its_region_and_goes_by_the_one_placement() {
    let example_of = Example::load();
    let shared = file(&example("placement.toml"));
    let placement = cell_proto::placement_file::load(&shared).unwrap();
    assert_eq!(placement.members().iter().map(|member| member.as_str()).collect::<Vec<_>>(), REGIONS);
    let mut data_dirs = BTreeSet::new();
    for region in REGIONS {
        let Example { nodes, agents, routers, .. } = &example_of;
        let (node, agent, router) = (&nodes[region], &agents[region], &routers[region]);
        assert_eq!([&node.region, &agent.region, &router.region], [region; 3]);
        for path in [&node.placement_file, &agent.placement_file, &router.placement_file] {
            assert_eq!(file(path), shared, "{region}");
        }
        data_dirs.extend([node.data_dir.clone(), agent.data_dir.clone()]);
    }
    assert_eq!(data_dirs.len(), 6, "each process has a folder of its own: {data_dirs:?}");
}

#[test]
fn every_address_in_the_example_is_where_the_other_side_listens() {
    let Example { nodes, agents, routers, gateway } = Example::load();
    let apis: BTreeMap<String, String> =
        nodes.iter().map(|(region, node)| (region.to_string(), node.listen.http.to_string())).collect();
    let callback = |region: &str| format!("{}/v1/payments/callback", http(nodes[region].listen.http));
    for region in REGIONS {
        let (node, agent) = (&nodes[region], &agents[region]);
        assert_eq!(agent.node, http(node.listen.grpc));
        assert_eq!(routers[region].upstreams, apis, "{region}");
        assert_eq!(node.gateway.url, http(gateway.listen));
        assert_eq!(file(node.gateway.secret_file.path()), file(gateway.secret_file.path()));
        let callbacks: Vec<String> =
            std::iter::once(region).chain(Example::others(region)).map(callback).collect();
        assert_eq!(node.gateway.callback_urls, callbacks, "its own first");
        let named: BTreeSet<(&str, &str, &str)> = agent
            .peers
            .iter()
            .map(|peer| (peer.region.as_str(), peer.data.as_str(), peer.messages.as_str()))
            .collect();
        let peers: Vec<_> = Example::others(region)
            .map(|other| (other, http(agents[other].listen.data), http(agents[other].listen.messages)))
            .collect();
        let peers = peers.iter().map(|(other, data, messages)| (*other, data.as_str(), messages.as_str()));
        assert_eq!(named, peers.collect());
    }
    let region = |name: &str| ClusterRegion {
        name: name.to_owned(),
        node: http(nodes[name].listen.grpc),
        agent: http(agents[name].listen.grpc),
    };
    assert_eq!(load::<Cluster>("cluster.toml"), Cluster { regions: REGIONS.map(region).into() });
}

#[test]
fn the_example_listens_on_this_machine_only_and_on_no_port_twice() {
    let Example { nodes, agents, routers, gateway } = Example::load();
    let mut all = vec![gateway.listen];
    for region in REGIONS {
        let (node, agent, router) = (&nodes[region].listen, &agents[region].listen, &routers[region]);
        all.extend([node.http, node.grpc, node.admin, router.listen, router.admin.listen]);
        all.extend([agent.data, agent.messages, agent.grpc, agent.admin]);
    }
    assert!(all.iter().all(|address| address.ip().is_loopback()), "{all:?}");
    assert_eq!(all.iter().map(SocketAddr::port).collect::<BTreeSet<_>>().len(), all.len(), "{all:?}");
}

#[test]
fn what_the_example_shows_as_default_is_the_default() {
    for region in REGIONS {
        for (name, required) in [
            ("node", &["region", "listen", "data_dir", "placement_file", "gateway"][..]),
            ("agent", &["region", "listen", "node", "data_dir", "placement_file", "peers"]),
            ("router", &["region", "listen", "placement_file", "admin", "upstreams"]),
        ] {
            let name = format!("{region}/{name}.toml");
            let shown = table(&name);
            let mut needed = shown.clone();
            needed.retain(|key, _| required.contains(&key));
            if let Some(Value::Table(gateway)) = needed.get_mut("gateway") {
                gateway.retain(|key, _| ["url", "secret_file", "callback_urls"].contains(&key));
            }
            let (shown, needed) = match name.rsplit_once('/').unwrap().1 {
                "node.toml" => (read::<Node>(shown), read::<Node>(needed)),
                "agent.toml" => (read::<Agent>(shown), read::<Agent>(needed)),
                _ => (read::<Router>(shown), read::<Router>(needed)),
            };
            assert_eq!(shown, needed, "{name}");
        }
    }
}

#[test]
fn the_example_shows_every_key() {
    for region in REGIONS {
        let node = ["", "listen", "gateway", "rules", "telemetry"];
        shows_every_key::<region_node::Config>(&format!("{region}/node.toml"), &node);
        let agent = ["", "listen", "peers", "gate", "limits", "telemetry"];
        shows_every_key::<sync_agent::Config>(&format!("{region}/agent.toml"), &agent);
        let router = ["", "admin", "timeouts", "limits", "telemetry"];
        shows_every_key::<router::Config>(&format!("{region}/router.toml"), &router);
    }
    shows_every_key::<sandbox_gateway::Config>("gateway.toml", &[""]);
}

type Node = region_node::Config;
type Agent = sync_agent::Config;
type Router = router::Config;

fn table(name: &str) -> Table {
    std::fs::read_to_string(example(name)).unwrap().parse().unwrap()
}

/// The whole configuration as its `Debug` shows it, options that have a default filled in.
fn read<T: DeserializeOwned + Effective>(table: Table) -> String {
    T::effective(Value::Table(table).try_into().unwrap())
}

/// A configuration with its defaults in place, to be compared.
trait Effective: Sized {
    fn effective(self) -> String;
}

impl Effective for Node {
    fn effective(mut self) -> String {
        let rules = self.rules.rules();
        self.rules = Default::default();
        format!("{self:?} {rules:?}")
    }
}

impl Effective for Agent {
    fn effective(mut self) -> String {
        let gate = self.gate.gate();
        self.gate = Default::default();
        format!("{self:?} {gate:?}")
    }
}

impl Effective for Router {
    fn effective(self) -> String {
        format!("{self:?}")
    }
}

/// An unknown key is refused with the list of those that are known: the example has all of them.
fn shows_every_key<T: DeserializeOwned + Debug>(name: &str, sections: &[&str]) {
    for section in sections {
        let mut whole = table(name);
        let shown = match (*section, whole.get_mut(*section)) {
            ("", _) => &mut whole,
            (_, Some(Value::Table(table))) => table,
            (_, Some(Value::Array(entries))) => entries[0].as_table_mut().unwrap(),
            (_, other) => panic!("{name}: [{section}] is {other:?}"),
        };
        let keys: BTreeSet<String> = shown.keys().cloned().collect();
        shown.insert("no-such-key".to_owned(), true.into());
        let refused = Value::Table(whole).try_into::<T>().unwrap_err();
        let (_, known) = refused.message().split_once(", expected ").unwrap();
        let known: BTreeSet<String> = known.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        assert_eq!(keys, known, "{name}: [{section}]");
    }
}
