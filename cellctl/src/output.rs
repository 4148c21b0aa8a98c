//! Printing: one table or one JSON document on stdout, nothing else.

use std::io::Write;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

/// Why nothing, or not everything, was done.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The command line or the cluster file is at fault.
    Usage(String),
    Failed(String),
    /// A safety rule says no.
    Unsafe(String),
}

impl From<String> for Refused {
    fn from(message: String) -> Refused {
        Refused::Failed(message)
    }
}
impl From<tonic::Status> for Refused {
    fn from(status: tonic::Status) -> Refused {
        match status.code() {
            tonic::Code::InvalidArgument => Refused::Usage(status.message().to_owned()),
            tonic::Code::FailedPrecondition => Refused::Unsafe(status.message().to_owned()),
            code => Refused::Failed(format!("{code:?}: {}", status.message())),
        }
    }
}

/// Prints `rows` under `head`, or `json`.
pub(crate) fn show(format: Format, head: &[&str], rows: Vec<Vec<String>>, json: &impl Serialize) {
    match format {
        Format::Json => match serde_json::to_string_pretty(json) {
            Ok(text) => line(text),
            Err(error) => eprintln!("cellctl: {error}"),
        },
        Format::Table => {
            let mut table = Table::new();
            table.load_style(presets::NOTHING);
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_header(head);
            rows.into_iter().for_each(|row| {
                table.add_row(row);
            });
            line(table);
        }
    }
}

/// A duration for people.
pub(crate) fn age(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", ms as f64 / 1e3),
        60_000..3_600_000 => format!("{} min", ms / 60_000),
        _ => format!("{:.1} h", ms as f64 / 3.6e6),
    }
}

/// Prints a line; a reader who has seen enough is no error.
pub(crate) fn line(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
