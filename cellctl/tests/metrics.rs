//! What the services count is what the glossary says they count.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use service_kit::{Metric, MetricKind};

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The rows under a service's heading.
fn rows(service: &str) -> Vec<String> {
    let glossary = std::fs::read_to_string(file("docs/glossary.md")).unwrap();
    let (_, behind) = glossary.split_once(&format!("### `{service}`\n")).expect("the service has a heading");
    let section = behind.split("\n#").next().unwrap();
    section.lines().filter(|line| line.starts_with("| `")).map(str::to_owned).collect()
}

/// Name and kind of every metric that a file or folder of source records.
fn recorded(path: &Path, found: &mut BTreeSet<(String, String)>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            recorded(&entry.unwrap().path(), found);
        }
        return;
    }
    let text = std::fs::read_to_string(path).unwrap();
    for kind in ["counter", "gauge", "histogram"] {
        for behind in text.split(&format!("{kind}!(")).skip(1) {
            let name = behind.trim_start().strip_prefix('"').and_then(|behind| behind.split('"').next());
            let name =
                name.unwrap_or_else(|| panic!("{}: a metric without a name of its own", path.display()));
            found.insert((name.to_owned(), kind.to_owned()));
        }
    }
}

fn agree(service: &str, metrics: &[Metric]) {
    let told: Vec<String> = metrics.iter().map(ToString::to_string).collect();
    assert_eq!(rows(service), told, "the glossary should say:\n{}\n", told.join("\n"));
    let mut found = BTreeSet::new();
    recorded(&file(service).join("src"), &mut found);
    let kind = |metric: &Metric| match metric.kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram => "histogram",
    };
    let table = metrics.iter().map(|metric| (metric.name.to_owned(), kind(metric).to_owned()));
    assert_eq!(found, table.collect(), "what {service} records, and its table");
}

#[test]
fn every_metric_of_the_node_is_in_its_table_and_in_the_glossary() {
    agree("region-node", region_node::METRICS);
}

#[test]
fn every_metric_of_the_agent_is_in_its_table_and_in_the_glossary() {
    agree("sync-agent", sync_agent::METRICS);
}

#[test]
fn every_metric_of_the_router_is_in_its_table_and_in_the_glossary() {
    agree("router", router::METRICS);
}
