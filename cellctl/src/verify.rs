//! `verify`: whether what regions wrote is still what their disks give back.

use cell_proto::v1::VerifyRequest;
use clap::Args;
use futures::future::join_all;
use serde::Serialize;

use crate::cluster::{Cluster, Region, silent};
use crate::output::{Format, Refused, Silent, line, show};

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Only this region; all without it.
    region: Option<String>,
}

#[derive(Debug, Serialize)]
struct Row {
    region: String,
    /// Keys of the view that were read.
    keys: u64,
    /// Records of the log that were read.
    records: u64,
    /// What was not as it was written.
    found: Vec<String>,
}

pub(crate) async fn run(cluster: &Cluster, args: VerifyArgs, format: Format) -> Result<(), Refused> {
    let asked = cluster.some(args.region.as_deref())?;
    let (mut rows, mut unheard) = (Vec::new(), Silent::default());
    for (region, answer) in asked.iter().zip(join_all(asked.iter().map(|region| verify(region))).await) {
        match answer {
            Ok(row) => rows.push(row),
            Err(error) => unheard.note(&region.name, error),
        }
    }
    let cells = rows.iter().map(|row| {
        let found = if row.found.is_empty() { "as it was written".to_owned() } else { row.found.join("; ") };
        vec![row.region.clone(), row.keys.to_string(), row.records.to_string(), found]
    });
    show(format, &["region", "keys of the view", "records of the log", "found"], cells.collect(), &rows);
    let damaged: Vec<_> = rows.iter().filter(|row| !row.found.is_empty()).collect();
    if format == Format::Table && !damaged.is_empty() {
        line(
            "what peers have comes from them by itself: `cellctl diff` with each of them says when it is back",
        );
    }
    unheard.end()?;
    let names: Vec<_> = damaged.iter().map(|row| row.region.as_str()).collect();
    let damaged = || Refused::Failed(format!("not as it was written in {}", names.join(", ")));
    if names.is_empty() { Ok(()) } else { Err(damaged()) }
}

async fn verify(region: &Region) -> Result<Row, String> {
    let answer = region.patient_node().await?.verify(VerifyRequest {}).await;
    let answer = answer.map_err(|status| {
        silent(&region.node, &status).unwrap_or_else(|| match status.code() {
            tonic::Code::Unimplemented => "its node is of an older version, which cannot be asked".to_owned(),
            _ => status.message().to_owned(),
        })
    });
    let reply = answer?.into_inner();
    let (keys, records, found) = (reply.keys, reply.records, reply.found);
    Ok(Row { region: region.name.clone(), keys, records, found })
}
