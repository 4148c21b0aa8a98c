//! What the processes take: memory, and room on the disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::harness::Role;
use crate::real::deployment::Deployment;

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Bytes by (role, region).
pub(super) type Resident = BTreeMap<(Role, String), u64>;

#[derive(Debug, Default)]
struct Seen {
    pids: BTreeMap<(Role, String), u32>,
    most: Resident,
    /// The log's folder of each region.
    logs: BTreeMap<String, (PathBuf, u64)>,
}

/// Looks all the time, until it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    seen: Arc<Mutex<Seen>>,
    looking: JoinHandle<()>,
}

impl Watch {
    pub(super) fn start(it: &Deployment) -> Watch {
        let logs = it.cluster.regions().iter();
        let logs = logs.map(|region| (region.clone(), (log_folder(it, region), 0))).collect();
        let seen = Arc::new(Mutex::new(Seen { logs, ..Seen::default() }));
        let looks = Arc::clone(&seen);
        let looking = tokio::spawn(async move {
            loop {
                open(&looks).look();
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        let watch = Watch { seen, looking };
        watch.look_at(it);
        watch
    }

    /// The processes are others than before.
    pub(super) fn look_at(&self, it: &Deployment) {
        let mut seen = open(&self.seen);
        seen.pids.clear();
        for region in it.cluster.regions() {
            for role in [Role::Node, Role::Agent] {
                let pid = it.cluster.pid(role, region);
                seen.pids.extend(pid.map(|pid| ((role, region.clone()), pid)));
            }
        }
        seen.look();
    }

    /// The most that each process had since this was asked last.
    pub(super) fn most(&self) -> Resident {
        let mut seen = open(&self.seen);
        seen.look();
        std::mem::take(&mut seen.most)
    }

    /// The most that a region's log took.
    pub(super) fn longest_log(&self, region: &str) -> u64 {
        open(&self.seen).logs.get(region).map_or(0, |(_, bytes)| *bytes)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

fn open(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seen {
    fn look(&mut self) {
        for (who, pid) in &self.pids {
            let most = self.most.entry(who.clone()).or_default();
            *most = resident_bytes(*pid).max(*most);
        }
        for (folder, most) in self.logs.values_mut() {
            *most = folder_bytes(folder).max(*most);
        }
    }
}

/// Bytes that a process has in memory; 0 where it is gone.
pub(super) fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

pub(super) fn log_folder(it: &Deployment, region: &str) -> PathBuf {
    it.node_folder(region).join("log")
}

/// Bytes of all files below; what goes away meanwhile does not count.
pub(super) fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    bytes.sum()
}
