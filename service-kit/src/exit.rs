//! Exit codes, the same for every binary: 0 done, 1 failed, 2 usage or configuration, 130 second signal.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::bind::BindError;
use crate::config::ConfigError;
use crate::drain::DrainError;
use crate::print::{line, remark, unwritten};
use crate::secret::SecretError;
use crate::telemetry::TelemetryError;

/// Why a binary ends without success.
#[derive(Debug)]
pub enum Exit {
    /// The work failed: exit code 1.
    Failed(String),
    /// The operator must change the command line or the configuration: exit code 2.
    Usage(String),
}

impl Exit {
    /// A failure with its causes on one line.
    pub fn failed(error: &(dyn Error + 'static)) -> Self {
        Self::Failed(one_line(error))
    }

    /// Something the operator must correct, with its causes on one line.
    pub fn usage(error: &(dyn Error + 'static)) -> Self {
        Self::Usage(one_line(error))
    }
}

impl From<ConfigError> for Exit {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<BindError> for Exit {
    fn from(error: BindError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<SecretError> for Exit {
    fn from(error: SecretError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<TelemetryError> for Exit {
    fn from(error: TelemetryError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<DrainError> for Exit {
    fn from(error: DrainError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<std::io::Error> for Exit {
    fn from(error: std::io::Error) -> Self {
        Self::failed(&error)
    }
}

/// Runs a binary's body and turns its result into an exit code, printing `service: problem` on stderr, one line per
/// problem.
///
/// The process takes its memory in small pages: while the kernel clears two megabytes, whoever touched the first byte of
/// them stands still, and what an allocator gives back and takes again is cleared anew.
pub fn main_exit(service: &str, body: impl FnOnce() -> Result<(), Exit>) -> ExitCode {
    // Where the system does not allow it, it is only slower.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    take_all_handles();
    let (code, message) = match body() {
        Ok(()) => match unwritten() {
            None => return ExitCode::SUCCESS,
            Some(why) => (1, why.to_owned()),
        },
        Err(Exit::Failed(message)) => (1, message),
        Err(Exit::Usage(message)) => (2, message),
    };
    message.lines().for_each(|line| remark(format_args!("{service}: {line}")));
    ExitCode::from(code)
}

/// The answer to `--check-config`, after everything that can be wrong was looked at.
pub fn config_is_valid(file: Option<&Path>) {
    match file {
        Some(file) => line(format_args!("{}: nothing is wrong with it", file.display())),
        None => line("nothing is wrong with the configuration"),
    }
}

/// As many open files as this process may have: connections must leave some to the store.
fn take_all_handles() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where the system does not allow it, it is as it was.
    let _ = setrlimit(Resource::Nofile, limit);
}

fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Many errors print their cause themselves.
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line.replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_every_handle_that_it_may_have() {
        let allowed = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, rustix::process::Rlimit { current: Some(128), ..allowed }).unwrap();
        assert_eq!(main_exit("test", || Ok(())), ExitCode::SUCCESS);
        assert_eq!(getrlimit(Resource::Nofile).current, allowed.maximum);
    }
}
