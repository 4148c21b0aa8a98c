//! What begins a shutdown from outside: signals, and the end of whoever started the process.

use std::io::{self, Read};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::drain::Shutdown;

/// Set to `1`, the process shuts down when its stdin reaches end of file. The end of a pipe is the one thing a parent
/// cannot fail to deliver: it comes after SIGKILL too, so a dead test harness leaves no orphans.
pub const EXIT_WITH_STDIN_ENV: &str = "CELL_EXIT_WITH_STDIN";

/// Exit code after a second signal, as a shell reports an interrupted command.
const EXIT_INTERRUPTED: i32 = 130;

/// An orphan has nobody who could send a second signal; it leaves by itself after this time.
const ORPHAN_GRACE: Duration = Duration::from_secs(15);

/// Begins `shutdown` on SIGTERM or SIGINT; a second signal ends the process at once with code 130. With
/// `CELL_EXIT_WITH_STDIN=1` the end of stdin begins it too, so that nothing outlives a parent that holds the other end.
///
/// Call it once, inside the runtime, before anything that takes time.
///
/// # Errors
/// The signal handlers or the thread could not be installed.
pub fn watch_signals(shutdown: &Shutdown) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let on_signal = shutdown.clone();
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if on_signal.is_begun() {
                tracing::warn!(signal = name, "second signal: leaving now");
                std::process::exit(EXIT_INTERRUPTED);
            }
            tracing::info!(signal = name, "shutting down; a second signal leaves at once");
            on_signal.begin();
        }
    });
    if std::env::var(EXIT_WITH_STDIN_ENV).is_ok_and(|value| value == "1") {
        watch_stdin(shutdown.clone())?;
    }
    Ok(())
}

/// A thread of its own: the runtime's stdin would keep the runtime from ending while a read is under way.
fn watch_stdin(shutdown: Shutdown) -> io::Result<()> {
    std::thread::Builder::new().name("parent-pipe".to_owned()).spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut ignored = [0; 256];
        loop {
            match stdin.read(&mut ignored) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        tracing::info!("stdin has ended with its parent: shutting down");
        shutdown.begin();
        std::thread::sleep(ORPHAN_GRACE);
        tracing::warn!(grace_ms = ORPHAN_GRACE.as_millis(), "still running without a parent: leaving now");
        std::process::exit(EXIT_INTERRUPTED);
    })?;
    Ok(())
}
