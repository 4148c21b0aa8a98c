//! Telling whoever started the process that it is ready and which ports it got.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The one line of JSON a service prints on stdout when it accepts work:
/// `{"ready":true,"service":"region-node","listen":{"http":"127.0.0.1:41234"},"pid":4711}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Always true; it makes the line easy to find.
    pub ready: bool,
    /// Name of the binary's role.
    pub service: String,
    /// Real address per listener name, port 0 resolved.
    pub listen: BTreeMap<String, SocketAddr>,
    /// Process id, to send signals to.
    pub pid: u32,
}

impl Announcement {
    /// What this process would announce.
    pub fn of_this_process(service: &str, listen: &[(&str, SocketAddr)]) -> Self {
        Self {
            ready: true,
            service: service.to_owned(),
            listen: listen.iter().map(|(name, address)| (name.to_string(), *address)).collect(),
            pid: std::process::id(),
        }
    }

    /// Reads a line of a service's stdout; `None` if it is not an announcement.
    pub fn from_line(line: &str) -> Option<Self> {
        serde_json::from_str(line.trim()).ok()
    }

    /// The line, without its end.
    pub fn to_line(&self) -> String {
        // Strings, numbers and addresses under string keys: serde_json cannot refuse them.
        serde_json::to_string(self).expect("an announcement is always valid JSON")
    }
}

/// Prints the announcement on stdout and flushes it. Nothing else may be printed on a service's stdout: logs go to stderr.
///
/// # Errors
/// Stdout is closed; whoever waits for the line will not get it.
pub fn announce(service: &str, listen: &[(&str, SocketAddr)]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", Announcement::of_this_process(service, listen).to_line())?;
    stdout.flush()
}
