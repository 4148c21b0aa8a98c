//! What the machine says of itself: processor time of a process, time stolen by the host.

use std::fs;

/// Clock ticks per second in `/proc`; fixed for user space on Linux.
const TICKS_PER_S: f64 = 100.0;

/// Processor seconds that a process has used, all its threads together; 0 where `/proc` does not say.
pub(super) fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold spaces; what follows it does not. User and system time are fields 14 and 15.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |nth: usize| fields.get(nth).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / TICKS_PER_S
}

/// Bytes that a process has in memory; 0 where `/proc` does not say.
pub(super) fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// Ticks of all processors together: (stolen by the host, all).
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticks {
    steal: f64,
    all: f64,
}

impl Ticks {
    pub(super) fn now() -> Ticks {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let first = stat.lines().next().unwrap_or_default();
        let ticks: Vec<f64> = first.split_whitespace().skip(1).filter_map(|tick| tick.parse().ok()).collect();
        Ticks { steal: ticks.get(7).copied().unwrap_or(0.0), all: ticks.iter().take(8).sum() }
    }

    /// Percent of the time since then that the host took.
    pub(super) fn steal_since(&self, before: &Ticks) -> f64 {
        let all = self.all - before.all;
        if all > 0.0 { (self.steal - before.steal) / all * 100.0 } else { 0.0 }
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
}
