//! A whole deployment on one machine: a node and an agent per region, a router, a payment gateway, and links between the
//! regions that can be slow, held or cut.
//!
//! Every process keeps its ports over restarts, so what dials it need not be told. Agents reach each other only through
//! links; everything else is inside a region.

use std::collections::BTreeMap;
use std::fs::{File, Metadata, TryLockError};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use cell_core::id::UserId;

use super::{Api, Latency, Link, LinkState, Process, ProcessError, Spec};

/// Below the ports that the system hands out for outgoing connections: nobody takes one while its process restarts.
const PORTS: Range<u16> = 20_000..32_000;
/// Ports of one deployment: enough for eight regions.
const BLOCK: u16 = 60;
/// From the last process on its ports to a cluster that decides.
const READY_WITHIN: Duration = Duration::from_secs(30);
const SLOTS: usize = 1_024;
/// In a deployment's folder: locked while the deployment runs.
pub const CLAIM: &str = ".lock";
const SECRET: &str = "callbacks of the sandbox are signed with this";

/// Which program a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Node,
    Agent,
    Router,
    Gateway,
}

impl Role {
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Role::Node => "region-node",
            Role::Agent => "sync-agent",
            Role::Router => "router",
            Role::Gateway => "sandbox-gateway",
        }
    }
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Plan {
    pub regions: Vec<String>,
    /// Data, configuration and logs.
    pub folder: PathBuf,
    /// How a role is started: the program, and the arguments before its own.
    pub program: fn(Role) -> (PathBuf, Vec<String>),
    /// Between regions, each way.
    pub latency: Latency,
    /// Lines added to every node's configuration, `key = value` at its top.
    pub node: Vec<String>,
    /// Lines added to every agent's configuration, under `[limits]`.
    pub limits: Vec<String>,
    /// Lines added to every node's configuration, `key = value` under `[rules]`.
    pub rules: Vec<String>,
    /// Lines added to every agent's configuration, under `[gate]`.
    pub gate: Vec<String>,
    /// Pause between two questions at the gateway about one payment.
    pub ask_every_ms: u64,
    /// Level directives of every process.
    pub levels: String,
    /// What keeps the nodes' views: `sled` or `memory`.
    pub engine: String,
    /// The first region is home of every slot, for loads that go to one node; else slots are shared out evenly.
    pub all_in_first: bool,
}

impl Plan {
    /// The usual settings, views on sled, slots shared out, and nothing between the regions that slows them down.
    pub fn new(regions: &[&str], folder: &Path, program: fn(Role) -> (PathBuf, Vec<String>)) -> Plan {
        Plan {
            regions: regions.iter().map(|region| (*region).to_owned()).collect(),
            folder: folder.to_owned(),
            program,
            latency: Latency::NONE,
            node: Vec::new(),
            limits: Vec::new(),
            rules: Vec::new(),
            gate: Vec::new(),
            ask_every_ms: 500,
            levels: "info".to_owned(),
            engine: "sled".to_owned(),
            all_in_first: false,
        }
    }
}

/// The deployment could not be brought up, or a part of it not restarted.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    /// Another deployment runs on the folder, which is left as it is.
    #[error("{}: in use by another demo", .0.display())]
    InUse(PathBuf),
    #[error("{}: cannot be used: {source}", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("no free ports from {} on", PORTS.start)]
    NoPorts,
    #[error("there is no region '{0}'")]
    NoRegion(String),
    #[error("{0} does not run")]
    NotRunning(String),
    #[error("not ready within {READY_WITHIN:?}: {0}")]
    NotReady(String),
}

fn io<E: std::fmt::Display>(what: E) -> impl FnOnce(std::io::Error) -> ClusterError {
    let what = what.to_string();
    move |source| ClusterError::Io { what, source }
}

/// What travels between two regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Data,
    Messages,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    http: u16,
    node_grpc: u16,
    node_admin: u16,
    data: u16,
    messages: u16,
    agent_grpc: u16,
    agent_admin: u16,
}

/// A running deployment. Dropping it ends every process.
#[derive(Debug)]
pub struct Cluster {
    plan: Plan,
    ports: BTreeMap<String, Ports>,
    router_ports: [u16; 2],
    gateway_port: u16,
    /// By (from, to, kind): in which direction the payload flows.
    links: BTreeMap<(String, String, Kind), Link>,
    running: BTreeMap<(Role, String), Process>,
    _ports: Block,
    /// Behind the processes: the folder is somebody else's only when they are gone.
    _folder: Claim,
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A deployment's folder, for as long as this lives; the system lets go of it however the process ends.
#[derive(Debug)]
struct Claim {
    _file: File,
}

impl Claim {
    fn take(folder: &Path) -> Result<Claim, ClusterError> {
        let unusable = |source| ClusterError::Folder { path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(unusable)?;
        let file = File::options().create(true).append(true).open(folder.join(CLAIM)).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => Ok(Claim { _file: file }),
            Err(TryLockError::WouldBlock) => Err(ClusterError::InUse(folder.to_owned())),
            Err(TryLockError::Error(source)) => Err(unusable(source)),
        }
    }
}

/// A block of ports that is one deployment's for as long as this lives, against every other on this machine.
#[derive(Debug)]
struct Block {
    first: u16,
    path: PathBuf,
    /// Locked; the system lets go of it however the process ends.
    _claim: File,
}

impl Block {
    /// The first block that no other deployment has and whose ports nobody listens on.
    fn claim() -> Result<Block, ClusterError> {
        for first in PORTS.step_by(usize::from(BLOCK)) {
            let path = std::env::temp_dir().join(format!("homecell-ports-{first}"));
            // A file of another user's: their block.
            let Ok(claim) = File::options().create(true).append(true).open(&path) else { continue };
            let free = |port: u16| TcpListener::bind(at(port)).is_ok();
            // Whoever had the block before may have removed the file in between: then the lock is on no file at all.
            let number = |metadata: std::io::Result<Metadata>| metadata.map(|it| it.ino()).ok();
            if claim.try_lock().is_err() || number(claim.metadata()) != number(path.metadata()) {
                continue;
            }
            let block = Block { first, path, _claim: claim };
            if block.ports().all(free) {
                return Ok(block);
            }
        }
        Err(ClusterError::NoPorts)
    }

    fn ports(&self) -> Range<u16> {
        self.first..self.first + BLOCK
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // While it is locked still; a file that stays behind harms nobody.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The slots of the `nth` of `count` regions, both ends included.
fn slots_of(nth: usize, count: usize) -> (usize, usize) {
    (nth * SLOTS / count, (nth + 1) * SLOTS / count - 1)
}

impl Cluster {
    /// Starts everything, in an order in which nobody waits: but any order works.
    ///
    /// # Errors
    /// [`ClusterError`]; nothing is left running. A folder in use is left as it is.
    pub async fn start(plan: Plan) -> Result<Cluster, ClusterError> {
        let claim = Claim::take(&plan.folder)?;
        let block = Block::claim()?;
        let mut free = block.ports();
        let mut next = || free.next().ok_or(ClusterError::NoPorts);
        let mut ports = BTreeMap::new();
        for region in &plan.regions {
            let these = Ports {
                http: next()?,
                node_grpc: next()?,
                node_admin: next()?,
                data: next()?,
                messages: next()?,
                agent_grpc: next()?,
                agent_admin: next()?,
            };
            ports.insert(region.clone(), these);
        }
        let (router_ports, gateway_port) = ([next()?, next()?], next()?);
        let mut links = BTreeMap::new();
        let mut seed = 1;
        for (from, theirs) in &ports {
            for to in ports.keys().filter(|to| *to != from) {
                // A subscriber dials the region it wants the data of; a sender dials the region its messages are for.
                for (kind, port) in [(Kind::Data, theirs.data), (Kind::Messages, ports[to].messages)] {
                    seed += 1;
                    let link = Link::start(at(port), plan.latency, seed).await.map_err(io("a link"))?;
                    links.insert((from.clone(), to.clone(), kind), link);
                }
            }
        }
        let mut cluster = Cluster {
            plan,
            ports,
            router_ports,
            gateway_port,
            links,
            running: BTreeMap::new(),
            _ports: block,
            _folder: claim,
        };
        cluster.write_configs()?;
        cluster.start_one(Role::Gateway, "").await?;
        for region in cluster.plan.regions.clone() {
            cluster.start_one(Role::Node, &region).await?;
            cluster.start_one(Role::Agent, &region).await?;
        }
        cluster.start_one(Role::Router, "").await?;
        for region in &cluster.plan.regions {
            cluster.ready(Role::Node, region).await?;
            cluster.ready(Role::Agent, region).await?;
        }
        Ok(cluster)
    }

    /// Waits until a region's node or agent says that it is ready.
    ///
    /// # Errors
    /// [`ClusterError::NotReady`].
    pub async fn ready(&self, role: Role, region: &str) -> Result<(), ClusterError> {
        let admin = if role == Role::Node { self.node_admin(region)? } else { self.agent_admin(region)? };
        let (api, begun) = (Api::default(), Instant::now());
        loop {
            match api.get(admin, "/readyz", "").await {
                Ok(answer) if answer.status == 200 => return Ok(()),
                seen if begun.elapsed() > READY_WITHIN => {
                    let seen = seen.map_or_else(|error| error.to_string(), |answer| answer.body.to_string());
                    return Err(ClusterError::NotReady(format!("{region} {}: {seen}", role.program())));
                }
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    // === configuration ===

    fn folder(&self) -> &Path {
        &self.plan.folder
    }

    fn write(&self, name: &str, text: &str) -> Result<(), ClusterError> {
        let path = self.folder().join(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io(folder.display()))?;
        }
        std::fs::write(&path, text).map_err(io(path.display()))
    }

    fn write_configs(&self) -> Result<(), ClusterError> {
        let regions = &self.plan.regions;
        let mut placement = format!("version = 1\nregions = {regions:?}\n");
        for (nth, region) in regions.iter().enumerate() {
            let (from, to) =
                if self.plan.all_in_first { (0, SLOTS - 1) } else { slots_of(nth, regions.len()) };
            if self.plan.all_in_first && nth > 0 {
                break;
            }
            placement += &format!("\n[[slots]]\nfrom = {from}\nto = {to}\nhome = {region:?}\n");
        }
        self.write("placement.toml", &placement)?;
        self.write("gateway.secret", SECRET)?;
        for region in regions {
            self.write(&format!("{region}/node.toml"), &self.node_config(region))?;
            self.write(&format!("{region}/agent.toml"), &self.agent_config(region))?;
        }
        self.write("router.toml", &self.router_config())?;
        let gateway = format!(
            "listen = \"{}\"\nsecret_file = {:?}\nledger_path = {:?}\n",
            at(self.gateway_port),
            self.folder().join("gateway.secret"),
            self.folder().join("ledger.json"),
        );
        self.write("gateway.toml", &gateway)?;
        let mut cluster = String::new();
        for (region, ports) in &self.ports {
            let (node, agent) = (at(ports.node_grpc), at(ports.agent_grpc));
            cluster += &format!(
                "[[regions]]\nname = {region:?}\nnode = \"http://{node}\"\nagent = \"http://{agent}\"\n\n"
            );
        }
        self.write("cluster.toml", &cluster)
    }

    fn node_config(&self, region: &str) -> String {
        let ports = self.ports[region];
        let own = std::iter::once(region);
        let others = self.plan.regions.iter().map(String::as_str).filter(|other| *other != region);
        let callbacks: Vec<String> = own
            .chain(others)
            .map(|region| format!("http://{}/v1/payments/callback", at(self.ports[region].http)))
            .collect();
        format!(
            "region = {region:?}\ndata_dir = {:?}\nplacement_file = {:?}\nengine = {:?}\n{}\n\n\
             [listen]\nhttp = \"{}\"\ngrpc = \"{}\"\nadmin = \"{}\"\n\n\
             [gateway]\nurl = \"http://{}\"\nsecret_file = {:?}\ncallback_urls = {callbacks:?}\n\
             ask_every_ms = {}\n\n[rules]\n{}\n\n[telemetry]\nlevels = {:?}\n",
            self.folder().join(region).join("node"),
            self.folder().join("placement.toml"),
            self.plan.engine,
            self.plan.node.join("\n"),
            at(ports.http),
            at(ports.node_grpc),
            at(ports.node_admin),
            at(self.gateway_port),
            self.folder().join("gateway.secret"),
            self.plan.ask_every_ms,
            self.plan.rules.join("\n"),
            self.plan.levels,
        )
    }

    fn agent_config(&self, region: &str) -> String {
        let ports = self.ports[region];
        let mut peers = String::new();
        for peer in self.plan.regions.iter().filter(|peer| *peer != region) {
            let address =
                |from: &str, to: &str, kind| self.links[&(from.to_owned(), to.to_owned(), kind)].address();
            peers += &format!(
                "[[peers]]\nregion = {peer:?}\ndata = \"http://{}\"\nmessages = \"http://{}\"\n\n",
                address(peer, region, Kind::Data),
                address(region, peer, Kind::Messages),
            );
        }
        format!(
            "region = {region:?}\nnode = \"http://{}\"\ndata_dir = {:?}\nplacement_file = {:?}\n\n\
             [listen]\ndata = \"{}\"\nmessages = \"{}\"\ngrpc = \"{}\"\nadmin = \"{}\"\n\n\
             {peers}[gate]\n{}\n\n[limits]\n{}\n\n[telemetry]\nlevels = {:?}\n",
            at(ports.node_grpc),
            self.folder().join(region).join("agent"),
            self.folder().join("placement.toml"),
            at(ports.data),
            at(ports.messages),
            at(ports.agent_grpc),
            at(ports.agent_admin),
            self.plan.gate.join("\n"),
            self.plan.limits.join("\n"),
            self.plan.levels,
        )
    }

    fn router_config(&self) -> String {
        let upstreams: String =
            self.ports.iter().map(|(region, ports)| format!("{region} = \"{}\"\n", at(ports.http))).collect();
        format!(
            "listen = \"{}\"\nregion = {:?}\nplacement_file = \"placement.toml\"\n\n[admin]\nlisten = \"{}\"\n\n\
             [upstreams]\n{upstreams}\n[telemetry]\nlevels = {:?}\n",
            at(self.router_ports[0]),
            self.plan.regions[0],
            at(self.router_ports[1]),
            self.plan.levels,
        )
    }

    // === processes ===

    async fn start_one(&mut self, role: Role, region: &str) -> Result<(), ClusterError> {
        let process = Process::start(&self.spec(role, region)).await?;
        self.running.insert((role, region.to_owned()), process);
        Ok(())
    }

    fn spec(&self, role: Role, region: &str) -> Spec {
        let (program, mut args) = (self.plan.program)(role);
        let (name, config) = match role {
            Role::Node => (format!("{region}/node"), format!("{region}/node.toml")),
            Role::Agent => (format!("{region}/agent"), format!("{region}/agent.toml")),
            Role::Router => ("router".to_owned(), "router.toml".to_owned()),
            Role::Gateway => ("gateway".to_owned(), "gateway.toml".to_owned()),
        };
        args.extend(["--config".to_owned(), self.folder().join(config).display().to_string()]);
        let log = self.folder().join(format!("{name}.log"));
        Spec { name, program, args, log }
    }

    /// Starts a region's node or agent, which does not run, and kills it after so long.
    ///
    /// # Errors
    /// [`ClusterError`]; it does not run.
    pub async fn start_and_kill(
        &self,
        role: Role,
        region: &str,
        after: Duration,
    ) -> Result<(), ClusterError> {
        Ok(Process::start_and_kill(&self.spec(role, region), after).await?)
    }

    /// Starts a region's node or agent again, on its ports and its data.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn restart(&mut self, role: Role, region: &str) -> Result<(), ClusterError> {
        self.start_one(role, region).await
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// It does not run, or the system refuses.
    pub async fn kill(&mut self, role: Role, region: &str) -> Result<(), ClusterError> {
        let process = self.running.remove(&(role, region.to_owned()));
        let process =
            process.ok_or_else(|| ClusterError::NotRunning(format!("{region} {}", role.program())))?;
        process.kill().await.map_err(io("kill"))
    }

    /// Ends one as an operator would, and waits for it.
    ///
    /// # Errors
    /// It does not run, or did not end in time and was killed.
    pub async fn end(&mut self, role: Role, region: &str) -> Result<ExitStatus, ClusterError> {
        let process = self.running.remove(&(role, region.to_owned()));
        let process =
            process.ok_or_else(|| ClusterError::NotRunning(format!("{region} {}", role.program())))?;
        Ok(process.stop().await?)
    }

    /// How a process has ended by itself; it counts as running no more.
    pub fn ended(&mut self, role: Role, region: &str) -> Option<ExitStatus> {
        let key = (role, region.to_owned());
        let status = self.running.get_mut(&key)?.ended()?;
        self.running.remove(&key);
        Some(status)
    }

    /// Ends everything in order: no new requests, then agents, nodes, the gateway. The first that did not end cleanly is
    /// the error, after all have been ended.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn stop(mut self) -> Result<(), ClusterError> {
        let mut failed = None;
        for role in [Role::Router, Role::Agent, Role::Node, Role::Gateway] {
            let of_role: Vec<_> = self.running.keys().filter(|(it, _)| *it == role).cloned().collect();
            let stopping = of_role.iter().filter_map(|key| self.running.remove(key)).map(|process| async {
                let name = process.name().to_owned();
                match process.stop().await {
                    Ok(status) if status.success() => None,
                    Ok(status) => Some(ClusterError::NotRunning(format!("{name} ended with {status}; it"))),
                    Err(error) => Some(error.into()),
                }
            });
            failed = failed.or(futures::future::join_all(stopping).await.into_iter().flatten().next());
        }
        failed.map_or(Ok(()), Err)
    }

    fn process(&self, role: Role, region: &str) -> Result<&Process, ClusterError> {
        let process = self.running.get(&(role, region.to_owned()));
        process.ok_or_else(|| ClusterError::NotRunning(format!("{region} {}", role.program())))
    }

    /// SIGSTOP, until it is resumed.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&self, role: Role, region: &str) -> Result<(), ClusterError> {
        self.process(role, region)?.pause().map_err(io("SIGSTOP"))
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// It does not run.
    pub fn resume(&self, role: Role, region: &str) -> Result<(), ClusterError> {
        self.process(role, region)?.resume().map_err(io("SIGCONT"))
    }

    /// A region's node and agent give way to all others on this machine until they are restarted, as if each region had
    /// processors of its own.
    ///
    /// # Errors
    /// One of them does not run, or `chrt` of util-linux is not installed.
    pub async fn give_way(&self, region: &str) -> Result<(), ClusterError> {
        for role in [Role::Node, Role::Agent] {
            self.process(role, region)?.give_way().await.map_err(io("priorities"))?;
        }
        Ok(())
    }

    /// The process that plays a role, if it runs.
    #[must_use]
    pub fn pid(&self, role: Role, region: &str) -> Option<u32> {
        self.running.get(&(role, region.to_owned())).and_then(Process::pid)
    }

    /// Every process that runs.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.running.values().filter_map(Process::pid).collect()
    }

    /// Processes that have ended without being asked to.
    pub fn dead(&mut self) -> Vec<String> {
        let dead = self.running.values_mut().filter_map(|process| {
            let status = process.ended()?;
            Some(format!("{} ({status})", process.name()))
        });
        dead.collect()
    }

    // === links ===

    /// The link on which `kind` travels from one region to another.
    ///
    /// # Errors
    /// [`ClusterError::NoRegion`].
    pub fn link(&self, from: &str, to: &str, kind: Kind) -> Result<&Link, ClusterError> {
        let link = self.links.get(&(from.to_owned(), to.to_owned(), kind));
        link.ok_or_else(|| ClusterError::NoRegion(format!("{from} or {to}")))
    }

    /// Sets every data link into a region: what it lacks reaches it by no detour either.
    pub fn data_into(&self, region: &str, state: LinkState) {
        let into = self.links.iter().filter(|((_, to, kind), _)| to == region && *kind == Kind::Data);
        into.for_each(|(_, link)| link.set(state));
    }

    // === addresses ===

    #[must_use]
    pub fn regions(&self) -> &[String] {
        &self.plan.regions
    }
    #[must_use]
    pub fn data_folder(&self) -> &Path {
        &self.plan.folder
    }
    /// The file for `cellctl --cluster`.
    #[must_use]
    pub fn cluster_file(&self) -> PathBuf {
        self.folder().join("cluster.toml")
    }
    #[must_use]
    pub fn router(&self) -> SocketAddr {
        at(self.router_ports[0])
    }
    #[must_use]
    pub fn router_admin(&self) -> SocketAddr {
        at(self.router_ports[1])
    }
    #[must_use]
    pub fn gateway(&self) -> SocketAddr {
        at(self.gateway_port)
    }
    /// A node's API.
    ///
    /// # Errors
    /// [`ClusterError::NoRegion`].
    pub fn node_http(&self, region: &str) -> Result<SocketAddr, ClusterError> {
        Ok(at(self.ports_of(region)?.http))
    }
    /// # Errors
    /// [`ClusterError::NoRegion`].
    pub fn node_grpc(&self, region: &str) -> Result<SocketAddr, ClusterError> {
        Ok(at(self.ports_of(region)?.node_grpc))
    }
    /// # Errors
    /// [`ClusterError::NoRegion`].
    pub fn node_admin(&self, region: &str) -> Result<SocketAddr, ClusterError> {
        Ok(at(self.ports_of(region)?.node_admin))
    }
    /// # Errors
    /// [`ClusterError::NoRegion`].
    pub fn agent_grpc(&self, region: &str) -> Result<SocketAddr, ClusterError> {
        Ok(at(self.ports_of(region)?.agent_grpc))
    }
    /// # Errors
    /// [`ClusterError::NoRegion`].
    pub fn agent_admin(&self, region: &str) -> Result<SocketAddr, ClusterError> {
        Ok(at(self.ports_of(region)?.agent_admin))
    }

    fn ports_of(&self, region: &str) -> Result<Ports, ClusterError> {
        self.ports.get(region).copied().ok_or_else(|| ClusterError::NoRegion(region.to_owned()))
    }

    /// The first of `names` whose home is `region`, or else a numbered user.
    #[must_use]
    pub fn user_of(&self, region: &str, names: &[&str]) -> String {
        let Some(nth) = self.plan.regions.iter().position(|it| it == region) else { return String::new() };
        let (from, to) = slots_of(nth, self.plan.regions.len());
        let numbered = (1..).map(|i| format!("user-{i}"));
        let mut names = names.iter().map(|name| (*name).to_owned()).chain(numbered);
        let home = |name: &String| {
            UserId::new(name).is_ok_and(|user| (from..=to).contains(&usize::from(user.slot().number())))
        };
        names.find(home).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_ports_is_nobody_elses_and_leaves_no_file_behind() {
        let one = Block::claim().unwrap();
        let other = Block::claim().unwrap();
        assert_ne!(one.first, other.first);
        // Held open, so that no other file gets its number.
        let (path, file) = (one.path.clone(), File::open(&one.path).unwrap());
        drop(one);
        let there = path.metadata().ok().map(|there| there.ino());
        assert_ne!(there, Some(file.metadata().unwrap().ino()));
    }

    #[test]
    fn a_folder_is_taken_once_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let claim = Claim::take(folder.path()).unwrap();
        assert!(
            matches!(Claim::take(folder.path()), Err(ClusterError::InUse(path)) if path == folder.path())
        );
        drop(claim);
        Claim::take(folder.path()).unwrap();
        assert!(matches!(Claim::take(Path::new("/proc/homecell")), Err(ClusterError::Folder { .. })));
    }
}
