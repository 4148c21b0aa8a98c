//! What happened: a fault that never fires and a rule that is never needed prove nothing.

use std::collections::BTreeMap;

use cell_core::settle::Row;

/// A run of at least this many seeds has to exercise every fault and every row.
pub const SEEDS_THAT_COVER: u64 = 3_000;
/// But these, which come two or three times in so many seeds: of this many.
pub const RARE: (&[&str], u64) = (&["hole-given-up"], 20_000);

/// Every kind of fault the world knows.
pub(crate) const FAULTS: &[&str] = &[
    "packet-lost",
    "packet-duplicated",
    "packet-reordered",
    "packet-corrupted",
    "partition-data",
    "partition-messages",
    "crash-node",
    "unsynced-lost",
    "crash-agent",
    "node-agent-unlinked",
    "disk-lost",
    "backup-restored",
    "machine-cloned",
    "gate-lost",
    "clock-moved",
    "gateway-call-lost",
    "gateway-answer-lost",
    "gateway-answer-late",
    "gateway-keys-forgotten",
    "callback-lost",
    "callback-duplicated",
    "callback-elsewhere",
    "refund-by-hand",
    "decree",
    "decree-with-old-home-alive",
    "decrees-at-once",
    "outranked-by-a-predecessor",
    "outranked-by-a-late-predecessor",
    "actor-closed",
    "hole-given-up",
    "log-trimmed",
    "view-lost",
    "view-older",
    "start-with-a-gap",
    "start-waits-for-a-peer",
    "state-taken-over",
    "state-asked-for",
    "stamps-differ",
    "reply-lost",
    "retried-elsewhere",
    "early-delivery",
    "dead-letter",
    "redriven",
    "version-waited-for",
    "version-not-here",
    "version-lost",
    "case-resolved",
    "change-quarantined",
    "quarantine-released",
];

/// How often each fault had an effect and each row of the settling table fired.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    pub faults: BTreeMap<&'static str, u64>,
    pub rows: BTreeMap<&'static str, u64>,
}

impl Coverage {
    pub(crate) fn fault(&mut self, name: &'static str) {
        debug_assert!(FAULTS.contains(&name), "{name}");
        *self.faults.entry(name).or_default() += 1;
    }
    pub(crate) fn rows(&mut self, rows: &[Row]) {
        for row in rows {
            *self.rows.entry(row.as_str()).or_default() += 1;
        }
    }
    pub fn add(&mut self, other: &Coverage) {
        for (name, times) in &other.faults {
            *self.faults.entry(name).or_default() += times;
        }
        for (name, times) in &other.rows {
            *self.rows.entry(name).or_default() += times;
        }
    }
    /// Faults and rows that never fired.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let rows = Row::ALL.iter().map(|row| row.as_str());
        let faults = FAULTS.iter().copied().filter(|name| !self.faults.contains_key(name));
        faults.chain(rows.filter(|name| !self.rows.contains_key(name))).collect()
    }
    /// Those that should have fired in a run of so many seeds: without them it is no proof.
    #[must_use]
    pub fn lacking(&self, seeds: u64) -> Vec<&'static str> {
        let (rare, rare_from) = RARE;
        let from = |name: &&str| if rare.contains(name) { rare_from } else { SEEDS_THAT_COVER };
        self.missing().into_iter().filter(|name| seeds >= from(name)).collect()
    }
    /// (name, times) of every fault and every row, those that never fired included.
    #[must_use]
    pub fn table(&self) -> Vec<(&'static str, &'static str, u64)> {
        let faults = FAULTS.iter().map(|name| ("fault", *name, self.faults.get(name).copied().unwrap_or(0)));
        let rows = Row::ALL.iter().map(|row| row.as_str());
        let rows = rows.map(|name| ("row", name, self.rows.get(name).copied().unwrap_or(0)));
        faults.chain(rows).collect()
    }
}
