//! Real processes: started, awaited until they say they are ready, ended gently or with SIGKILL, never left behind.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use service_kit::{Announcement, EXIT_WITH_STDIN_ENV};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

/// How long a process has to say that it is ready.
pub const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long it has to drain after SIGTERM.
pub const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// Why a process is not there.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("{name}: cannot be started: {source}")]
    Start { name: String, source: io::Error },
    /// It ended, or closed its output, before it was ready; its last lines are in the message.
    #[error("{name}: ended before it was ready: {tail}")]
    Ended { name: String, tail: String },
    #[error("{name}: not ready within {READY_WITHIN:?}; see {}", log.display())]
    NotReady { name: String, log: PathBuf },
    #[error("{name}: did not end within {ENDS_WITHIN:?} and was killed")]
    Stuck { name: String },
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Unique in the run, such as `north/node`.
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<String>,
    /// Standard error goes here, appended over restarts.
    pub log: PathBuf,
}

/// A running process. Dropping it closes its standard input, which ends it, and kills what is left.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    listen: BTreeMap<String, SocketAddr>,
}

impl Process {
    /// Starts it and waits for its one line of readiness.
    ///
    /// # Errors
    /// [`ProcessError`]; nothing is left running.
    pub async fn start(spec: &Spec) -> Result<Process, ProcessError> {
        let name = spec.name.clone();
        let (mut child, said_before) = spawn(spec)?;
        let stdin = child.stdin.take();
        let Some(stdout) = child.stdout.take() else {
            return Err(ProcessError::Ended { name, tail: String::new() });
        };
        let mut lines = BufReader::new(stdout).lines();
        let ready = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(announcement) = Announcement::from_line(&line) {
                    return Some(announcement);
                }
            }
            None
        };
        match tokio::time::timeout(READY_WITHIN, ready).await {
            Err(_) => Err(ProcessError::NotReady { name, log: spec.log.clone() }),
            Ok(None) => Err(ProcessError::Ended { name, tail: tail(&spec.log, said_before) }),
            Ok(Some(announcement)) => {
                // Whatever it prints later must not block it.
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                let listen = announcement.listen.into_iter().collect();
                Ok(Process { name, child, stdin, listen })
            }
        }
    }

    /// Starts it, and ends it with SIGKILL after so long, whatever it has come to.
    ///
    /// # Errors
    /// [`ProcessError::Start`]; nothing is left running.
    pub async fn start_and_kill(spec: &Spec, after: Duration) -> Result<(), ProcessError> {
        let (mut child, _) = spawn(spec)?;
        tokio::time::sleep(after).await;
        child.kill().await.map_err(|source| ProcessError::Start { name: spec.name.clone(), source })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Where it listens, by the name of the port.
    #[must_use]
    pub fn address(&self, port: &str) -> Option<SocketAddr> {
        self.listen.get(port).copied()
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn kill(mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// Ends it as an operator would, by the end of its standard input, and waits for a clean exit.
    ///
    /// # Errors
    /// [`ProcessError::Stuck`] if it had to be killed.
    pub async fn stop(mut self) -> Result<ExitStatus, ProcessError> {
        drop(self.stdin.take());
        match tokio::time::timeout(ENDS_WITHIN, self.child.wait()).await {
            Ok(Ok(status)) => Ok(status),
            Ok(Err(source)) => Err(ProcessError::Start { name: self.name.clone(), source }),
            Err(_) => {
                let _ = self.child.kill().await;
                Err(ProcessError::Stuck { name: self.name.clone() })
            }
        }
    }

    /// SIGSTOP: it does nothing any more, and its connections stay up.
    ///
    /// # Errors
    /// It is gone.
    pub fn pause(&self) -> io::Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT: it goes on where it was stopped.
    ///
    /// # Errors
    /// It is gone.
    pub fn resume(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = self.pid().and_then(as_pid).ok_or(io::ErrorKind::NotFound)?;
        Ok(kill_process(pid, signal)?)
    }

    /// Gives way to every other process from now on, as if those had processors of their own: it runs only while a
    /// processor has nothing else to do. Threads that it starts later do as well.
    ///
    /// # Errors
    /// It is gone, or `chrt` of util-linux is not installed.
    pub async fn give_way(&self) -> io::Result<()> {
        let pid = self.pid().ok_or(io::ErrorKind::NotFound)?.to_string();
        let done = Command::new("chrt").args(["-a", "-i", "-p", "0", &pid]).output().await;
        let done =
            done.map_err(|error| io::Error::new(error.kind(), format!("chrt of util-linux: {error}")))?;
        if done.status.success() {
            return Ok(());
        }
        Err(io::Error::other(format!("chrt: {}", String::from_utf8_lossy(&done.stderr).trim())))
    }

    /// Its exit status, if it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

fn as_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// The process, and how long its log was before.
fn spawn(spec: &Spec) -> Result<(Child, u64), ProcessError> {
    let failed = |source| ProcessError::Start { name: spec.name.clone(), source };
    let log = File::options().create(true).append(true).open(&spec.log).map_err(failed)?;
    // What earlier runs said is none of this one's.
    let said_before = log.metadata().map_err(failed)?.len();
    let child = Command::new(&spec.program)
        .args(&spec.args)
        .env(EXIT_WITH_STDIN_ENV, "1")
        // Ctrl-C at the terminal is for whoever started it: that one ends its processes in order.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    Ok((child, said_before))
}

/// The last lines of a log behind its first `from` bytes, on one line.
#[must_use]
pub fn tail(log: &Path, from: u64) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let from = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
    let text = String::from_utf8_lossy(&bytes[from..]);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_that_does_not_come_up_is_told_of_by_its_own_last_lines_only() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        std::fs::write(&log, "an older run: on fire\n").unwrap();
        let args = ["-c", "echo 'no such key' >&2; exit 2"].map(str::to_owned).into();
        let spec = Spec { name: "north/node".to_owned(), program: "/bin/sh".into(), args, log };
        let error = Process::start(&spec).await.unwrap_err().to_string();
        assert_eq!(error, "north/node: ended before it was ready: no such key");
    }
}
