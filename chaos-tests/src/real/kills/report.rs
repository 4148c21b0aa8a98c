//! What a run came to.

use anyhow::Result;
use serde::Serialize;
use service_kit::line;

use crate::real::damage::Format;

/// A run in which nothing was lost.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Outcome {
    pub(super) engine: &'static str,
    pub(super) seed: u64,
    /// Kills of nodes that served, of agents that did, of either while it started.
    pub(super) nodes: u64,
    pub(super) agents: u64,
    pub(super) starting: u64,
    /// Kills that waited until the process was ready in full.
    pub(super) decided: u64,
    /// Orders acknowledged, and of them paid.
    pub(super) orders: u64,
    pub(super) paid: u64,
    /// Requests that had no answer, and were repeated.
    pub(super) unanswered: u64,
    pub(super) kill_s: f64,
    /// From the last kill to the end of all looking.
    pub(super) settle_s: f64,
}

impl Outcome {
    pub(super) fn kills(&self) -> u64 {
        self.nodes + self.agents + self.starting
    }

    pub(super) fn print(&self, format: Format) -> Result<()> {
        if format == Format::Json {
            line(serde_json::to_string_pretty(self)?);
            return Ok(());
        }
        let Outcome { engine, seed, nodes, agents, starting, decided, orders, paid, unanswered, .. } = self;
        let per_min = self.kills() as f64 / self.kill_s.max(0.001) * 60.0;
        line(format_args!(
            "{engine}, seed {seed}: {} kills in {:.0} s, {per_min:.0} a minute",
            self.kills(),
            self.kill_s
        ));
        line(format_args!(
            "  {nodes} of nodes, {agents} of agents, {starting} while they started; {decided} when ready in full"
        ));
        line(format_args!(
            "  {orders} orders acknowledged, {paid} of them paid; {unanswered} requests without an answer, repeated"
        ));
        line(format_args!(
            "  nothing lost, nothing twice: regions, lists, repeats, books and digests agree ({:.0} s)",
            self.settle_s
        ));
        Ok(())
    }
}
