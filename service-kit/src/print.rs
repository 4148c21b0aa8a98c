//! What a program says to whoever runs it.

use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::sync::OnceLock;

/// Why a result could not be written, the first time.
static UNWRITTEN: OnceLock<String> = OnceLock::new();

/// Prints a line of the result on stdout. A reader who has seen enough is no error; where it cannot be written otherwise,
/// [`main_exit`](crate::main_exit) says so and the program fails.
pub fn line(text: impl Display) {
    keep(writeln!(std::io::stdout(), "{text}"));
}

/// A remark on stderr; nobody has to read it.
pub fn remark(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Why the result is not, or not all, where it was to be written.
pub(crate) fn unwritten() -> Option<&'static str> {
    keep(std::io::stdout().flush());
    UNWRITTEN.get().map(String::as_str)
}

fn keep(written: std::io::Result<()>) {
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
    {
        UNWRITTEN.get_or_init(|| format!("the result could not be written: {error}"));
    }
}
