//! Printing: one table or one JSON document on stdout, nothing else.

use std::time::{SystemTime, UNIX_EPOCH};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
pub(crate) use service_kit::{line, remark};

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
}

/// What a dry run ends with, on stderr.
pub(crate) const NOTHING_DONE: &str = "a dry run: nothing was done";

/// Why nothing, or not everything, was done.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The command line or the cluster file is at fault.
    Usage(String),
    /// It failed, or somebody who was asked did not answer.
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
            _ if std::error::Error::source(&status).is_some() => Refused::Failed(
                "the connection to a region that is needed for this broke: `cellctl region status` says who answers"
                    .to_owned(),
            ),
            tonic::Code::InvalidArgument => Refused::Usage(status.message().to_owned()),
            tonic::Code::FailedPrecondition => Refused::Unsafe(status.message().to_owned()),
            // These say everything in words.
            tonic::Code::NotFound | tonic::Code::Aborted | tonic::Code::Unavailable => {
                Refused::Failed(status.message().to_owned())
            }
            tonic::Code::Cancelled | tonic::Code::DeadlineExceeded => Refused::Failed(
                "a region that is needed for this did not answer in time: `cellctl region status` says which"
                    .to_owned(),
            ),
            code => Refused::Failed(format!("{code:?}: {}", status.message())),
        }
    }
}

/// Prints `rows` under `head`, or `json`.
pub(crate) fn show(format: Format, head: &[&str], rows: Vec<Vec<String>>, json: &impl Serialize) {
    match format {
        Format::Json => match serde_json::to_string_pretty(json) {
            Ok(text) => line(text),
            Err(error) => remark(format_args!("cellctl: {error}")),
        },
        Format::Table if rows.is_empty() => line("none"),
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

/// Those who did not answer; whoever asks several prints what the others said, and then this.
#[derive(Debug, Default)]
pub(crate) struct Silent(Vec<String>);

impl Silent {
    pub(crate) fn note(&mut self, region: &str, error: impl std::fmt::Display) {
        self.0.push(format!("{region}: {error}"));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// # Errors
    /// Somebody did not answer.
    pub(crate) fn end(self) -> Result<(), Refused> {
        if self.is_empty() { Ok(()) } else { Err(Refused::Failed(self.0.join("; "))) }
    }

    /// That something is not known, and to whom of those asked it might be.
    pub(crate) fn not_found(self, what: String) -> Refused {
        match self.is_empty() {
            true => Refused::Failed(what),
            false => Refused::Failed(format!("{what} that answers; {}", self.0.join("; "))),
        }
    }
}

/// Wall milliseconds of now.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// How far a moment is from now, either way.
pub(crate) fn relative(at_ms: u64, now_ms: u64) -> String {
    match at_ms > now_ms {
        true => format!("in {}", age(at_ms - now_ms)),
        false => format!("{} ago", age(now_ms - at_ms)),
    }
}

/// A moment as RFC 3339 has it, in UTC, to the millisecond.
pub(crate) fn rfc3339(at_ms: u64) -> String {
    let (days, ms) = (at_ms / 86_400_000, at_ms % 86_400_000);
    // Civil from days (Hinnant): years begin in March, so that the day that may be missing is the last one.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
}

/// A word as a shell reads it.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@%".contains(&byte);
    match !word.is_empty() && word.bytes().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_as_the_calendar_has_it() {
        for (at_ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_827_696_789, "2000-02-29T12:34:56.789Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(at_ms), text);
        }
    }

    #[test]
    fn a_shell_reads_a_quoted_word_as_one() {
        assert_eq!(quoted("/tmp/a-b/cluster.toml"), "/tmp/a-b/cluster.toml");
        assert_eq!(quoted("my cluster.toml"), "'my cluster.toml'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_moment_is_told_from_now() {
        assert_eq!(relative(13_000, 1_000), "in 12.0 s");
        assert_eq!(relative(1_000, 121_000), "2 min ago");
    }
}
