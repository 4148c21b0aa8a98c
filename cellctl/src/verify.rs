//! `verify`: whether what regions wrote is still what they read.

use cell_proto::v1::VerifyRequest;
use clap::Args;
use futures::future::join_all;
use serde::Serialize;

use crate::cluster::{Cluster, Region, refusal};
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
    let cells = rows.iter().flat_map(lines).collect();
    show(format, &["region", "keys read", "records read", "found"], cells, &rows);
    let damaged: Vec<_> = rows.iter().filter(|row| !row.found.is_empty()).collect();
    if format == Format::Table && !damaged.is_empty() {
        line(
            "what the view lacks comes from the peers by itself: `cellctl diff` with each says when it is back",
        );
    }
    unheard.end()?;
    let names: Vec<_> = damaged.iter().map(|row| row.region.as_str()).collect();
    let damaged = || Refused::Failed(format!("not as it was written in {}", names.join(", ")));
    if names.is_empty() { Ok(()) } else { Err(damaged()) }
}

/// A line for each thing found.
fn lines(row: &Row) -> Vec<Vec<String>> {
    let sound = ["as it was written".to_owned()];
    let found = if row.found.is_empty() { &sound[..] } else { &row.found };
    let line = |(i, found): (usize, &String)| match i {
        0 => vec![row.region.clone(), row.keys.to_string(), row.records.to_string(), found.clone()],
        _ => vec![String::new(), String::new(), String::new(), found.clone()],
    };
    found.iter().enumerate().map(line).collect()
}

async fn verify(region: &Region) -> Result<Row, String> {
    let answer = region.patient_node().await?.verify(VerifyRequest {}).await;
    let answer = answer.map_err(|status| match status.code() {
        tonic::Code::Unimplemented => "its node is of an older version, which cannot be asked".to_owned(),
        _ => refusal(&region.node, &status),
    });
    let reply = answer?.into_inner();
    let (keys, records, found) = (reply.keys, reply.records, reply.found);
    Ok(Row { region: region.name.clone(), keys, records, found })
}
