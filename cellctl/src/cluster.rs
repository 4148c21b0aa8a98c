//! Where the regions answer.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cell_core::id::RegionId;
use cell_proto::v1::agent_admin_client::AgentAdminClient;
use cell_proto::v1::node_client::NodeClient;
use serde::Deserialize;
use service_kit::{ConfigError, Problems, Validate, config};
use tonic::transport::{Channel, Endpoint};

use crate::output::Refused;

const CONNECT_WITHIN: Duration = Duration::from_secs(2);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Who does not answer a ping for as long again is gone.
const PING_EVERY: Duration = Duration::from_secs(5);

/// One region's addresses, as `http://host:port`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Region {
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) agent: String,
}

/// The cluster file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cluster {
    pub(crate) regions: Vec<Region>,
    #[serde(skip)]
    pub(crate) file: PathBuf,
}

impl Validate for Cluster {
    fn validate(&self, problems: &mut Problems) {
        problems.check(!self.regions.is_empty(), "regions", "at least one region is needed");
        let mut named = BTreeSet::new();
        for (i, region) in self.regions.iter().enumerate() {
            let key = format!("regions[{i}].name");
            if let Err(error) = RegionId::new(&region.name) {
                problems.push(&key, error);
            }
            problems.check(named.insert(&region.name), &key, format!("'{}' is named twice", region.name));
            for (key, address) in [("node", &region.node), ("agent", &region.agent)] {
                let fine = Endpoint::from_shared(address.clone()).is_ok() && address.starts_with("http://");
                let detail = format!("'{address}' is not http:// and a host and a port");
                problems.check(fine, &format!("regions[{i}].{key}"), detail);
            }
        }
    }
}

impl Cluster {
    pub(crate) fn load(path: &Path) -> Result<Cluster, Refused> {
        let unusable = |error: ConfigError| {
            let hint = if path.exists() { "" } else { "\n--cluster names the cluster file" };
            Refused::Usage(format!("{error}{hint}"))
        };
        let cluster: Cluster = config::load(Some(path), "CELLCTL_SET", &[]).map_err(unusable)?;
        Ok(Cluster { file: path.to_path_buf(), ..cluster })
    }

    /// The region named, or all.
    pub(crate) fn some(&self, name: Option<&str>) -> Result<Vec<&Region>, Refused> {
        let found: Vec<_> =
            self.regions.iter().filter(|region| name.is_none_or(|name| region.name == name)).collect();
        match (found.is_empty(), name) {
            (true, Some(name)) => {
                let known: Vec<_> = self.regions.iter().map(|region| region.name.as_str()).collect();
                Err(Refused::Usage(format!("no region '{name}'; there are {}", known.join(", "))))
            }
            _ => Ok(found),
        }
    }
}

async fn dial(address: &str, answers_within: Duration) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|error| error.to_string())?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_WITHIN)
        .timeout(answers_within)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY);
    endpoint.connect().await.map_err(|_| format!("{address} does not answer"))
}

/// What a refusal from `address` says, or that nothing came from there.
pub(crate) fn refusal(address: &str, status: &tonic::Status) -> String {
    let broke = std::error::Error::source(status).is_some();
    let late = matches!(status.code(), tonic::Code::Cancelled | tonic::Code::DeadlineExceeded);
    if broke || late { format!("{address} does not answer") } else { status.message().to_owned() }
}

impl Region {
    pub(crate) async fn node(&self) -> Result<NodeClient<Channel>, String> {
        Ok(NodeClient::new(dial(&self.node, ANSWER_WITHIN).await?).max_decoding_message_size(64 << 20))
    }
    /// Of which something is asked that takes as long as it takes.
    pub(crate) async fn patient_node(&self) -> Result<NodeClient<Channel>, String> {
        Ok(NodeClient::new(dial(&self.node, Duration::from_secs(24 * 3_600)).await?))
    }
    pub(crate) async fn agent(&self) -> Result<AgentAdminClient<Channel>, String> {
        Ok(AgentAdminClient::new(dial(&self.agent, ANSWER_WITHIN).await?).max_decoding_message_size(64 << 20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_file_that_cannot_be_right_is_refused_by_file_line_and_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.toml");
        let region = |name: &str, node: &str| {
            format!("[[regions]]\nname = {name:?}\nnode = {node:?}\nagent = \"http://127.0.0.1:2\"\n")
        };
        let refused = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let Err(Refused::Usage(said)) = Cluster::load(&path) else { panic!("taken: {text}") };
            said.replace(&path.display().to_string(), "FILE")
        };
        let fine = region("north", "http://127.0.0.1:1");
        assert_eq!(refused(""), "regions: is required and not set (FILE)");
        assert_eq!(refused(&fine.repeat(2)), "regions[1].name: 'north' is named twice (FILE:6)");
        let wrong = refused(&(fine + &region("east", "127.0.0.1:1")));
        assert_eq!(wrong, "regions[1].node: '127.0.0.1:1' is not http:// and a host and a port (FILE:7)");
    }
}
