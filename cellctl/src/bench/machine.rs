//! What the machine says of itself: processor time of a process, time stolen by the host.

use std::collections::BTreeMap;
use std::fs;

/// Clock ticks per second in `/proc`; fixed for user space on Linux.
const TICKS_PER_S: f64 = 100.0;

/// Processor seconds that a process has used, all its threads together; 0 where `/proc` does not say.
pub(super) fn cpu_seconds(pid: u32) -> f64 {
    seconds(&fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default())
}

fn seconds(stat: &str) -> f64 {
    // The name in parentheses may hold spaces; what follows it does not. User and system time are fields 14 and 15.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |nth: usize| fields.get(nth).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / TICKS_PER_S
}

/// Processor seconds of each thread of a process so far, by its number, with its name.
pub(super) fn threads(pid: u32) -> BTreeMap<u32, (String, f64)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let ids = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok());
    let thread = |id: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/task/{id}/stat")).ok()?;
        let (_, name) = stat.split_once('(')?;
        let (name, _) = name.rsplit_once(')')?;
        Some((id, (name.to_owned(), seconds(&stat))))
    };
    ids.filter_map(thread).collect()
}

/// Bytes that a process has caused to be written to disks; 0 where `/proc` does not say.
pub(super) fn written_bytes(pid: u32) -> u64 {
    number(&format!("/proc/{pid}/io"), "write_bytes:")
}

/// Bytes that a process has in memory; 0 where `/proc` does not say.
pub(super) fn resident_bytes(pid: u32) -> u64 {
    number(&format!("/proc/{pid}/status"), "VmRSS:") << 10
}

/// The first number behind this name in a file; 0 where there is none.
fn number(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Ticks of all processors together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticks {
    /// Nothing to do, or waiting for a disk.
    idle: f64,
    /// Taken by the host.
    steal: f64,
    all: f64,
}

impl Ticks {
    pub(super) fn now() -> Ticks {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let first = stat.lines().next().unwrap_or_default();
        let ticks: Vec<f64> = first.split_whitespace().skip(1).filter_map(|tick| tick.parse().ok()).collect();
        let nth = |nth: usize| ticks.get(nth).copied().unwrap_or(0.0);
        Ticks { idle: nth(3) + nth(4), steal: nth(7), all: ticks.iter().take(8).sum() }
    }

    /// Percent of the time since then in which the processors had something to do.
    pub(super) fn busy_since(&self, before: &Ticks) -> f64 {
        self.percent_since(before, |ticks| ticks.all - ticks.idle)
    }

    /// Percent of the time since then that the host took.
    pub(super) fn steal_since(&self, before: &Ticks) -> f64 {
        self.percent_since(before, |ticks| ticks.steal)
    }

    fn percent_since(&self, before: &Ticks, of: impl Fn(&Ticks) -> f64) -> f64 {
        let all = self.all - before.all;
        if all > 0.0 { (of(self) - of(before)) / all * 100.0 } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_time_and_the_machine_has_run() {
        let mut sum = 0u64;
        let before = cpu_seconds(std::process::id());
        while cpu_seconds(std::process::id()) < before + 0.02 {
            sum = (0..100_000u64).fold(sum, |sum, i| sum.wrapping_add(i * i));
        }
        assert!(Ticks::now().all > 0.0, "{sum}");
    }

    #[test]
    fn a_thread_is_named_with_what_it_has_used() {
        let used = || {
            let all = threads(std::process::id());
            all.into_values().find(|(name, _)| name == "burns").map(|(_, used)| used)
        };
        let burn = move || {
            let mut sum = 0u64;
            while used().is_some_and(|used| used < 0.02) {
                sum = (0..100_000u64).fold(sum, |sum, i| sum.wrapping_add(i * i));
            }
            (used(), sum)
        };
        let burning = std::thread::Builder::new().name("burns".to_owned()).spawn(burn).unwrap();
        assert!(burning.join().unwrap().0.is_some_and(|used| used >= 0.02));
    }
}
