//! The sandbox gateway as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    sandbox_gateway::process(std::env::args_os())
}
