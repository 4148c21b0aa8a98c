//! The service a user would write instead: orders over HTTP into one table of PostgreSQL, durable before they are answered.
//!
//! A private cluster in a temporary folder, reached over a Unix socket, with its usual settings but for a larger cache and
//! fewer checkpoints; in front of it a small axum service with a pool of connections (tokio-postgres, deadpool). It checks what a reader of JSON
//! checks, keeps a repeat from making a second order, and does nothing else: no versions, no regions, no history.

mod front;

use std::ffi::OsString;
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use chaos_tests::harness::{Process, Spec};
use deadpool_postgres::tokio_postgres::NoTls;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::machine::cpu_seconds;

/// The role of this program in which it is the service in front.
pub(super) const ROLE: &str = "postgres-front";
/// Whom PostgreSQL knows.
const ROLE_IN_IT: &str = "bench";
/// Whoever PostgreSQL runs as where this program runs as root, which PostgreSQL refuses.
const ITS_USER: &str = "postgres";
const STARTS_WITHIN: Duration = Duration::from_secs(30);
const SETTINGS: [&str; 6] = [
    "listen_addresses=",
    "max_connections=300",
    "shared_buffers=512MB",
    "max_wal_size=8GB",
    "checkpoint_timeout=15min",
    "log_min_messages=warning",
];

/// A running cluster and the service in front of it. Dropping it ends both.
#[derive(Debug)]
pub(super) struct Postgres {
    server: Child,
    front: Process,
    /// Behind the processes: it goes when they are gone.
    folder: TempDir,
}

/// Plays the role of the service in front.
pub(super) fn play(args: impl Iterator<Item = OsString>) -> ExitCode {
    front::play(args)
}

impl Postgres {
    /// # Errors
    /// PostgreSQL is not installed, or does not come up.
    pub(super) async fn start(data: Option<&Path>, pool: usize) -> Result<Postgres> {
        let programs = programs()?;
        let folder = super::served::folder_in(data)?;
        // Another user has to get through.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        let cluster = folder.path().join("cluster");
        std::fs::create_dir(&cluster)?;
        let user = other_user().await?;
        if let Some((uid, gid)) = user {
            chown(&cluster, Some(uid), Some(gid))?;
        }
        let made = as_user(user, &programs.join("initdb"))
            .args(["--auth=trust", "--username", ROLE_IN_IT, "--encoding=UTF8", "--locale=C", "-D"])
            .arg(&cluster)
            .output()
            .await?;
        ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let mut server = as_user(user, &programs.join("postgres"));
        server.arg("-D").arg(&cluster).arg("-k").arg(&cluster);
        for setting in SETTINGS {
            server.args(["-c", setting]);
        }
        let log = std::fs::File::create(folder.path().join("postgres.log"))?;
        let server = server.stdout(log.try_clone()?).stderr(log).kill_on_drop(true).spawn()?;
        let begun = Instant::now();
        let (client, connection) = loop {
            match front::config(&cluster).connect(NoTls).await {
                Ok(connected) => break connected,
                Err(error) if begun.elapsed() > STARTS_WITHIN => return Err(error).context("PostgreSQL"),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        let connection = tokio::spawn(connection);
        client.batch_execute(front::TABLE).await?;
        drop(client);
        connection.await??;
        let args =
            [crate::demo::ROLE.to_owned(), ROLE.to_owned(), cluster.display().to_string(), pool.to_string()];
        let front = Process::start(&Spec {
            name: ROLE.to_owned(),
            program: std::env::current_exe()?,
            args: args.into(),
            log: folder.path().join("front.log"),
        })
        .await?;
        Ok(Postgres { server, front, folder })
    }

    pub(super) fn address(&self) -> Result<SocketAddr> {
        self.front.address("http").context("the front does not say where it listens")
    }

    /// Processor seconds of the service in front, and of it and PostgreSQL with all its processes.
    pub(super) fn cpu(&self) -> (f64, f64) {
        let front = self.front.pid().map_or(0.0, cpu_seconds);
        let server = self
            .server
            .id()
            .map_or(0.0, |pid| cpu_seconds(pid) + children(pid).map(cpu_seconds).sum::<f64>());
        (front, front + server)
    }

    pub(super) async fn stop(mut self) -> Result<()> {
        self.front.stop().await?;
        let Some(pid) = self.server.id() else { bail!("PostgreSQL ended by itself") };
        // A fast shutdown, in PostgreSQL's words.
        Command::new("kill").args(["-INT", &pid.to_string()]).status().await?;
        self.server.wait().await?;
        self.folder.close()?;
        Ok(())
    }
}

/// Where PostgreSQL's programs are: as Debian puts them, the newest.
fn programs() -> Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .context("PostgreSQL is not installed (package postgresql)")?;
    let bin = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    let newest = bin.filter(|bin| bin.join("initdb").exists()).max();
    newest.context("PostgreSQL is not installed (package postgresql)")
}

/// Ids of the user that PostgreSQL runs as, if this program runs as root.
async fn other_user() -> Result<Option<(u32, u32)>> {
    let id = async |args: &[&str]| {
        let said = Command::new("id").args(args).output().await?;
        let number = String::from_utf8_lossy(&said.stdout).trim().parse::<u32>();
        number.with_context(|| format!("id {args:?}"))
    };
    if id(&["-u"]).await? != 0 {
        return Ok(None);
    }
    Ok(Some((id(&["-u", ITS_USER]).await?, id(&["-g", ITS_USER]).await?)))
}

fn as_user(user: Option<(u32, u32)>, program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    // It may not be allowed to be where this program is.
    command.current_dir("/");
    command
}

fn children(parent: u32) -> impl Iterator<Item = u32> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(move |pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let of =
            stat.rsplit(')').next().and_then(|fields| fields.split_whitespace().nth(1)?.parse::<u32>().ok());
        of == Some(parent)
    })
}
