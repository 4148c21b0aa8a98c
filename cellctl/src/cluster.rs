//! Where the regions answer.

use std::path::Path;
use std::time::Duration;

use cell_proto::v1::agent_admin_client::AgentAdminClient;
use cell_proto::v1::node_client::NodeClient;
use serde::Deserialize;
use service_kit::{Problems, Validate, config};
use tonic::transport::{Channel, Endpoint};

use crate::output::Refused;

const CONNECT_WITHIN: Duration = Duration::from_secs(2);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

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
}

impl Validate for Cluster {
    fn validate(&self, problems: &mut Problems) {
        problems.check(!self.regions.is_empty(), "regions", "at least one region is needed");
        for (i, region) in self.regions.iter().enumerate() {
            for (key, address) in [("node", &region.node), ("agent", &region.agent)] {
                let fine = Endpoint::from_shared(address.clone()).is_ok() && address.starts_with("http");
                problems.check(fine, &format!("regions.{i}.{key}"), "not an http:// address");
            }
        }
    }
}

impl Cluster {
    pub(crate) fn load(path: &Path) -> Result<Cluster, Refused> {
        config::load(Some(path), "CELLCTL_SET", &[]).map_err(|error| Refused::Usage(error.to_string()))
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

async fn dial(address: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|error| error.to_string())?;
    let endpoint = endpoint.connect_timeout(CONNECT_WITHIN).timeout(ANSWER_WITHIN);
    endpoint.connect().await.map_err(|_| format!("{address} does not answer"))
}

impl Region {
    pub(crate) async fn node(&self) -> Result<NodeClient<Channel>, String> {
        Ok(NodeClient::new(dial(&self.node).await?).max_decoding_message_size(64 << 20))
    }
    pub(crate) async fn agent(&self) -> Result<AgentAdminClient<Channel>, String> {
        Ok(AgentAdminClient::new(dial(&self.agent).await?).max_decoding_message_size(64 << 20))
    }
}
