//! The start: log and view are opened, the one is brought up to the other, and a new actor begins.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use cell_core::cell::Cell;
use cell_core::id::{ActorId, NodeId, RegionId, Slot};
use cell_store::{DiskMedium, Engine, Log, LogConfig, Medium, Position, StoreError};
use service_kit::Shutdown;
use tokio::sync::{broadcast, watch};

use super::announce::Announce;
use super::recovery::random64;
use super::{Identity, Node, Running};
use crate::config::{EngineName, LogSettings};
use crate::desk::Tray;
use crate::scrub::Scrub;
use crate::session::Sessions;
use crate::traces::Traces;
use crate::upkeep::Retention;
use crate::view::{self, StartError};
use crate::working::Working;
use crate::writer::{Group, Writer, now_ms};
use crate::{conflict, stopped};

/// Change signals a slow listener may miss before it has to look for itself.
const SIGNALS_MAX: usize = 1_024;

/// Why a node cannot start; nothing was served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the folder, or it cannot be used.
    #[error("{0}")]
    Folder(String),
    /// The view in the folder was made by another engine.
    #[error("{0}")]
    Engine(String),
    /// What is on the disk cannot be used.
    #[error("{0}")]
    Damaged(String),
    /// The view is damaged; it can be made anew from the log.
    #[error("{0}")]
    View(String),
}

/// Log and view, the one brought up to the other.
struct Opened {
    log: Log,
    records: u64,
    working: Working,
    traces: Traces,
    cell: Cell,
    replayed: u64,
    /// Records are gone that the view does not have either.
    gap: bool,
    end_lost: bool,
    /// Something of what the log or the view held may be gone, or the node is new.
    lacking: bool,
    /// There was none, or nothing in it.
    without_view: bool,
}

impl Opened {
    fn open(
        dir: &Path,
        engine: EngineName,
        medium: Arc<dyn Medium>,
        settings: LogSettings,
        closed_at: Option<Position>,
        mut cell: Cell,
    ) -> Result<Opened, OpenError> {
        let folder = |error: &dyn std::fmt::Display| OpenError::Folder(error.to_string());
        let view_dir = dir.join(stopped::VIEW);
        let of_view = |error: StoreError| match error {
            StoreError::Damaged(_) => OpenError::View(format!("{}: {error}", view_dir.display())),
            error => OpenError::Folder(format!("{}: {error}", view_dir.display())),
        };
        let store = cell_store::open(engine.into(), &view_dir).map_err(|error| match error {
            StoreError::OtherEngine { .. } => other_engine(dir, &error),
            error @ StoreError::Damaged(_) => OpenError::View(error.to_string()),
            error => folder(&error),
        })?;
        let (working, traces) = (Working::open(store).map_err(of_view)?, Traces::default());
        view::check_owner(&working, cell.me().node).map_err(of_view)?;
        // What is in the view, or was when it was closed, was in the log: its positions are not given out again.
        let position = view::position(working.store()).map_err(of_view)?;
        let is_at = position.unwrap_or(Position(0));
        // One that is made anew has lost nothing that the log or a peer does not bring.
        let lost = |closed_at: &Position| position.is_some_and(|is_at| is_at < *closed_at);
        if let Some(closed_at) = closed_at.filter(lost) {
            tracing::error!(
                closed_at = closed_at.0,
                is_at = is_at.0,
                "the view lost its end: it is of an earlier moment than when it was closed. The log has the rest"
            );
        }
        let least = closed_at.map_or(is_at, |closed_at| closed_at.max(is_at));
        let segment_bytes_max = settings.segment_kib.saturating_mul(1 << 10);
        let config = LogConfig { least, segment_bytes_max, ..LogConfig::default() };
        let (log, recovery) = Log::open(medium, config).map_err(|error| folder(&error))?;
        for damage in &recovery.damage {
            let cell_store::Damage { segment, offset, lost, reason } = damage;
            tracing::error!(
                segment,
                offset,
                ?lost,
                ?reason,
                "the log is damaged here. What the view lacks of it comes from the peers; the file stays as it is until \
                 it is trimmed, and this is said at every start"
            );
        }
        let (gap, trimmed) = view::gap(working.store(), recovery.first).map_err(of_view)?;
        if gap {
            tracing::error!(
                first = recovery.first.0,
                "the view lacks what the log has no more: it is asked of the peers"
            );
        } else if !trimmed {
            tracing::error!(
                first = recovery.first.0,
                folder = %dir.join(stopped::LOG).display(),
                "the log's beginning is gone, and this node did not delete it. The view has what was in it: nothing has to \
                 be done, and a peer that lacks it takes over state"
            );
        }
        if !trimmed {
            // Said once; and a view that was made anew does not know where the log was cut before.
            view::put_trimmed(&working, recovery.first.0).map_err(of_view)?;
        }
        let replayed = view::restore(&mut cell, &working, &traces, &log.reader(), random64());
        let replayed = replayed.map_err(|error| match error {
            StartError::Store(error) => of_view(error),
            // What the log goes on from cannot be read, damaged or by the disk's fault: the log has it, or the peers.
            StartError::View(error) => OpenError::View(format!("{}: {error}", view_dir.display())),
            // All that it shows is in the log. Else the peers are needed, and an operator says when.
            error @ StartError::OtherFormat if log.reader().first() == Position(0) => {
                OpenError::View(error.to_string())
            }
            error => OpenError::Damaged(error.to_string()),
        })?;
        let lacking = position.is_none() || recovery.cut_bytes > 0 || !recovery.is_clean();
        let (end_lost, without_view) = (recovery.lost_its_end(), position.is_none());
        if gap {
            view::put_gap(&working).map_err(of_view)?;
        }
        let records = recovery.records;
        Ok(Opened { log, records, working, traces, cell, replayed, gap, end_lost, lacking, without_view })
    }
}

fn other_engine(dir: &Path, error: &StoreError) -> OpenError {
    let hint = match error {
        StoreError::OtherEngine { found, asked, .. } => format!(
            "; set it to \"{found}\", or run `cellctl store migrate --data {} --to {asked}` first",
            dir.display()
        ),
        _ => String::new(),
    };
    OpenError::Engine(format!("{error}{hint}"))
}

impl Node {
    /// That the folder, if it has a view, is this engine's. A damaged one is healed at the start.
    ///
    /// # Errors
    /// [`OpenError::Engine`].
    pub fn fits(dir: &Path, engine: EngineName) -> Result<(), OpenError> {
        let (folder, asked) = (dir.join(stopped::VIEW), Engine::from(engine));
        match cell_store::engine_of(&folder) {
            // What is kept in memory leaves the folder alone.
            Ok(Some(found)) if found != asked && asked != Engine::Memory => {
                Err(other_engine(dir, &StoreError::OtherEngine { folder, found, asked }))
            }
            _ => Ok(()),
        }
    }

    /// Opens the folder, brings the view up to the log, and starts as a new actor.
    ///
    /// # Errors
    /// [`OpenError`]; nothing is left running.
    pub fn open(
        identity: Identity,
        dir: &Path,
        engine: EngineName,
        shutdown: &Shutdown,
    ) -> Result<(Node, Running), OpenError> {
        let folder = |error: &dyn std::fmt::Display| OpenError::Folder(error.to_string());
        for name in [stopped::LOG, stopped::VIEW] {
            cell_store::clear_for_folder(&dir.join(name)).map_err(|error| folder(&error))?;
        }
        let medium = DiskMedium::open(dir.join(stopped::LOG)).map_err(|error| folder(&error))?;
        let medium: Arc<dyn Medium> = Arc::new(medium);
        let node = NodeId { region: identity.region, index: identity.index };
        cell_store::has_room(dir).map_err(|error| folder(&error))?;
        cell_store::claim(dir, &node.to_string()).map_err(|error| folder(&error))?;
        stopped::clear(dir);
        let members = identity.placement.members().to_vec();
        let cell = || {
            let placeholder = ActorId { node, start: 0, nonce: 0 };
            let mut cell = Cell::new(placeholder, identity.placement.clone(), identity.rules.clone());
            cell.ability = identity.ability.clone();
            cell
        };
        let aside = |why: &dyn std::fmt::Display| {
            let aside = stopped::put_aside(dir).map_err(|error| folder(&error))?;
            tracing::error!(%why, aside = %aside.display(), "the view is damaged; it is made anew from the log, and from the peers what the log has no more");
            Ok::<_, OpenError>(())
        };
        let condemned = stopped::is_condemned(dir);
        if condemned {
            aside(&"found by the last start")?;
        }
        let closed_at = stopped::closed_at(dir);
        let opened = match Opened::open(dir, engine, medium.clone(), identity.log, closed_at, cell()) {
            Err(OpenError::View(why)) => {
                aside(&why)?;
                Opened::open(dir, engine, medium, identity.log, closed_at, cell())?
            }
            opened => {
                let opened = opened?;
                if opened.without_view && !condemned && (opened.records > 0 || closed_at.is_some()) {
                    tracing::error!(
                        view = %dir.join(stopped::VIEW).display(),
                        records = opened.records,
                        "the view is empty or gone, and this node did not delete it: it is made anew from the log, and from \
                         the peers what the log has no more"
                    );
                }
                opened
            }
        };
        let Opened {
            log, records, working, traces, cell: restored, replayed, gap, end_lost, lacking, ..
        } = opened;
        let (reader, trimmer) = (log.reader(), log.trimmer());
        let lineage = view::Lineage::read(working.store()).map_err(|error| folder(&error))?;
        conflict::count_open(working.store()).map_err(|error| folder(&error))?;
        let holed = restored.holes().map(|(actor, ..)| actor);
        let known = restored.fronts().actors().copied().chain(holed);
        let old = known.filter(|actor| actor.node == node).max();
        let me = ActorId { node, start: old.map_or(0, |old| old.start) + 1, nonce: random64() };
        let mut cell = restored.succeeded_by(me);
        let recovering = !identity.recovery_wait.is_zero() && members.len() > 1;
        if end_lost && recovering {
            // The view may have been behind the log, and nobody here knows how far.
            view::put_gap(&working).map_err(|error| folder(&error))?;
        }
        let has_gap = view::has_gap(&working);
        if recovering {
            cell.hold_back();
        }
        working.recovering().send_replace(recovering);
        if recovering {
            let unheard = view::distrusted(&working);
            let homes = Slot::all().map(|slot| (slot, identity.placement.home(slot).node.region));
            // Of its own a node knows what it lacks, unless it has nothing at all.
            let may_lack = |home: &RegionId| lacking && (*home != identity.region || records == 0);
            working.distrust(homes.filter(|(_, home)| may_lack(home) || unheard.contains(home)));
            view::put_distrusted(&working).map_err(|error| folder(&error))?;
        }
        tracing::info!(actor = %me, replayed, records, "opened");
        let (signals, _) = broadcast::channel(SIGNALS_MAX);
        let tray = Tray::default();
        let sessions = Sessions::new(&cell, log.durable().0);
        let told = Announce {
            signals: signals.clone(),
            shutdown: shutdown.clone(),
            alarmed: Mutex::default(),
            ahead: Mutex::default(),
            tray: tray.clone(),
            sessions: sessions.clone(),
        };
        let (apply_to, apply_traces, apply_dir) = (working.clone(), traces.clone(), dir.to_owned());
        let scrub = Scrub::default();
        let applied_scrub = scrub.clone();
        let (shown, _) = broadcast::channel(SIGNALS_MAX);
        let show = shown.clone();
        let applied_sessions = sessions.clone();
        let mut groups = 0u64;
        let apply = move |group: Group| {
            let mut pass = applied_scrub.pass();
            pass.grow(&group.grown);
            let users = view::apply(&apply_to, &apply_traces, &group).map_err(|error| {
                if matches!(error, StoreError::Damaged(_)) {
                    stopped::condemn(&apply_dir);
                }
                error.to_string()
            })?;
            drop(pass);
            applied_sessions.shown(group.end.0);
            if !users.is_empty() {
                // Nobody listens: nobody misses anything.
                let _ = show.send(Arc::new(users.into_iter().collect()));
            }
            groups += 1;
            if groups.is_multiple_of(1_000) {
                apply_to.store().sync().map_err(|error| error.to_string())?;
            }
            Ok(())
        };
        let writer =
            Writer::start(cell, log, working.clone(), traces, told, apply).map_err(|error| folder(&error))?;
        let node = Node {
            submit: writer.submit.clone(),
            working,
            durable: writer.durable.clone(),
            signals,
            shown,
            low_on_disk: Arc::default(),
            tray,
            sessions,
            hurry: writer.hurry.clone(),
            log: reader,
            trimmer,
            members,
            me: Arc::new(Mutex::new(me)),
            was: Arc::default(),
            lineage: Arc::new(lineage),
            scrub,
            recovery_wait: identity.recovery_wait,
            ability: Arc::new(identity.ability),
            more: Arc::new(watch::Sender::new(Instant::now())),
            // Also if an earlier start found that, and it is not made good yet.
            must_hear: gap || has_gap,
            retention: Retention::new(identity.log),
            said_lost: Arc::default(),
            started_ms: now_ms(),
        };
        Ok((node.with_start(old), Running { writer, dir: dir.to_path_buf() }))
    }

    /// The first work of the new actor: to say whom it follows.
    fn with_start(self, old: Option<ActorId>) -> Node {
        let first = self.clone();
        tokio::spawn(async move {
            let started = first.run(move |cell, view, now_ms| Ok((cell.start(view, old, now_ms)?, ()))).await;
            if let Err(error) = started {
                tracing::error!(%error, "the first change could not be written");
            }
            first.retry_after_upgrade().await;
        });
        self
    }
}

#[cfg(test)]
mod tests {
    use cell_core::cell::Baseline;
    use cell_core::placement::Placement;
    use cell_core::rules::Rules;
    use cell_store::FaultMedium;

    use super::*;
    use crate::record::Record;

    #[test]
    fn a_view_made_anew_takes_the_log_as_it_was_trimmed() {
        let (folder, medium) = (tempfile::tempdir().unwrap(), FaultMedium::new(1));
        let config = LogConfig { segment_bytes_max: 1, ..LogConfig::default() };
        let (mut log, _) = Log::open(Arc::new(medium.clone()), config).unwrap();
        let nothing = Baseline {
            fronts: Vec::new(),
            closed: Vec::new(),
            placed: Vec::new(),
            lives: Vec::new(),
            quarantined: Vec::new(),
        };
        for _ in 0..2 {
            log.append(&[Record::Adopted(nothing.clone()).to_bytes()]).unwrap();
            log.sync().unwrap();
        }
        let first = log.trimmer().delete_before(Position(1)).unwrap();
        assert_eq!(first, Position(1));
        drop(log);
        let north = RegionId::new("north").unwrap();
        let nobody = ActorId { node: NodeId { region: north, index: 0 }, start: 0, nonce: 0 };
        for is_new in [true, false] {
            let cell = Cell::new(nobody, Placement::initial(vec![north], |_| north), Rules::default());
            let medium = Arc::new(medium.clone());
            let opened =
                Opened::open(folder.path(), EngineName::Sled, medium, LogSettings::default(), None, cell)
                    .unwrap();
            assert_eq!(opened.gap, is_new, "what was in front of it is lacking, until it is here");
            assert!(view::gap(opened.working.store(), first).unwrap().1, "it was this node that deleted it");
            let (mut own, mut batch) = (opened.working.own(), cell_store::Batch::new());
            own.put(&mut batch, crate::keys::POSITION, first.0.to_be_bytes().to_vec());
            own.seal(&mut batch);
            opened.working.store().write(batch).unwrap();
        }
    }
}
