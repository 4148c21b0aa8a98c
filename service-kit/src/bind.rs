//! Opening listeners, with an error an operator can act on.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::config::Origins;

/// A listener could not be opened; nothing was started. One line that names key, address and where it was set.
#[derive(Debug, thiserror::Error)]
#[error("{key}: cannot listen on {address}: {reason}{origin}", origin = origin_suffix(origin))]
pub struct BindError {
    /// Configuration key of the address.
    pub key: String,
    /// The address as configured.
    pub address: SocketAddr,
    /// Where the key was set, if known.
    pub origin: Option<String>,
    reason: String,
    source: io::Error,
}

/// Listens on `address`, the value of configuration key `key`. Port 0 takes a free port: read it back with `local_addr`.
///
/// # Errors
/// The port is in use, the address is not this machine's, or the port needs more rights.
pub async fn bind(key: &str, address: SocketAddr, origins: &Origins) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError {
        key: key.to_owned(),
        address,
        origin: origins.describe(key),
        reason: match source.kind() {
            io::ErrorKind::AddrInUse => "the port is in use by another process".to_owned(),
            io::ErrorKind::AddrNotAvailable => "the address does not belong to this machine".to_owned(),
            io::ErrorKind::PermissionDenied => "this user may not open the port".to_owned(),
            _ => source.to_string(),
        },
        source,
    })
}

fn origin_suffix(origin: &Option<String>) -> String {
    origin.as_ref().map(|origin| format!(" ({origin})")).unwrap_or_default()
}
