//! The service as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    router::process(std::env::args_os())
}
