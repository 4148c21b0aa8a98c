//! What keeps a node small, and lets another one be made from it: retention of the log, closing of ended actors, and
//! knowledge that is given and taken as state. All of it at the word of the agent, which alone knows how far the others are.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cell_core::cell::{Baseline, Front};
use cell_core::id::{ActorId, SLOT_COUNT};
use cell_store::Position;

use crate::config::LogSettings;
use crate::node::Node;
use crate::scrub;
use crate::view;
use crate::writer::NodeError;

/// A baseline with larger quarantined changes may not fit into one frame of a log.
const QUARANTINED_BYTES_MAX: usize = 8 << 20;
/// How long the view may take to show what is durable.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);
/// Moments between which the log's age is told apart are so far apart at least, and so many of them are told apart.
const MOMENT: Duration = Duration::from_secs(60);
const MOMENTS_MAX: u32 = 4_096;

/// Remembers when the log was how long; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Retention {
    bytes_max: u64,
    age_max: Duration,
    moments: Arc<Mutex<VecDeque<(Instant, u64)>>>,
}

impl Retention {
    pub(crate) fn new(settings: LogSettings) -> Retention {
        Retention {
            bytes_max: settings.keep_mib.saturating_mul(1 << 20),
            age_max: Duration::from_secs(settings.keep_h.saturating_mul(3_600)),
            moments: Arc::default(),
        }
    }

    /// Notes where the log ends now; returns the position before which everything is too old. A start begins anew.
    fn aged(&self, now: Instant, end: u64) -> u64 {
        let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        let apart = MOMENT.max(self.age_max / MOMENTS_MAX);
        if moments.back().is_none_or(|(at, _)| now.duration_since(*at) >= apart) {
            moments.push_back((now, end));
        }
        // Of those that are too old only the last says anything.
        let is_old = |(at, _): &(Instant, u64)| now.duration_since(*at) >= self.age_max;
        while moments.get(1).is_some_and(is_old) {
            moments.pop_front();
        }
        moments.front().filter(|moment| is_old(moment)).map_or(0, |(_, end)| *end)
    }
}

/// Before which position nothing is kept: what all have, and beyond the bounds what somebody has.
fn before(all_have: u64, some_have: u64, beyond: u64) -> u64 {
    all_have.max(beyond.min(some_have))
}

impl Node {
    /// What is known beside the entities, once the view shows everything that it covers.
    pub(crate) async fn baseline(&self) -> Result<Baseline, NodeError> {
        // A region that lacks something itself would hand its holes on as knowledge.
        if !self.working().may_be_built_on() || self.is_recovering() {
            return Err(NodeError::Unavailable("it lacks something itself: ask another region".to_owned()));
        }
        let baseline = self.read(|cell| cell.baseline()).await?;
        if tokio::time::timeout(SHOWN_WITHIN, self.all_shown()).await.is_err() {
            return Err(NodeError::Unavailable("the view is too far behind the log".to_owned()));
        }
        let quarantined = self.quarantined(None, true).await?;
        let bytes: usize = quarantined.iter().map(|kept| kept.entry.bytes.len()).sum();
        match bytes > QUARANTINED_BYTES_MAX {
            false => Ok(Baseline { quarantined, ..baseline }),
            true => {
                Err(NodeError::Unavailable("too much is quarantined here: ask another region".to_owned()))
            }
        }
    }

    /// Waits until the view has what is durable now.
    pub(crate) async fn all_shown(&self) {
        let durable = self.durable_position();
        // It holds the sender: there is an end.
        let _ = self.sessions().shown_watch().wait_for(|shown| *shown >= durable).await;
    }

    /// Everything that this baseline of a peer covers was merged here.
    pub(crate) async fn adopt(&self, baseline: Baseline) -> Result<(), NodeError> {
        let actors = baseline.fronts.len();
        self.run(move |cell, view, now_ms| Ok((cell.adopt(view, baseline, now_ms)?, ()))).await?;
        metrics::counter!("cell_baselines_adopted_total").increment(1);
        // A comparison from before it must not end the doubt.
        self.working().taken_over();
        tracing::info!(actors, "knows from now on what a peer knew");
        // What the peer's software could not apply, this one may. It is read from the view.
        self.all_shown().await;
        self.retry_after_upgrade().await;
        // Whatever waited for one of those actors is decided with the rest of what is due.
        self.look_at_everything_open().await;
        Ok(())
    }

    /// More is to be had of a peer, and it is coming. As state, or since the disk is an older one: until a comparison agrees,
    /// nothing is denied.
    ///
    /// # Errors
    /// The doubt cannot be kept over a restart.
    pub(crate) async fn catching_up(&self, by_state: bool, older: bool) -> Result<(), NodeError> {
        self.heard_of_more().send_replace(Instant::now());
        if by_state || older {
            let known = self.working().doubted().len() == usize::from(SLOT_COUNT);
            match older {
                true => self.working().is_older(),
                false => self.working().take_over(),
            }
            if !known {
                let kept = scrub::keep_doubts(self).await;
                kept.map_err(|error| NodeError::Unavailable(error.to_string()))?;
            }
        }
        Ok(())
    }

    /// Closes ended actors of which every region has everything: this node's, and others' that begin with a hole here and
    /// that no region knows; returns how many.
    pub(crate) async fn close_actors(&self, actors: Vec<(ActorId, Front)>) -> Result<u32, NodeError> {
        if self.is_recovering() {
            return Ok(0);
        }
        self.run_all(move |cell, view, now_ms, steps| {
            for (actor, front) in actors {
                let fronts = cell.fronts();
                let hole = cell.holes().find(|(holed, ..)| *holed == actor);
                let ended = match actor.node == cell.me().node {
                    true => actor < cell.me(),
                    false => hole.is_some_and(|(_, known, _)| known == 0),
                };
                // Of one whose first change is missing nobody knows a front.
                let front_is = fronts.get(&actor).copied().or(hole.map(|_| Front::NONE));
                if ended && front_is == Some(front) && !fronts.is_complete(&actor) {
                    if let Some((_, known, beyond)) = hole {
                        tracing::error!(
                            %actor,
                            behind = known,
                            upto = beyond,
                            "changes that are damaged in this log are in no other region: they are lost. What stands behind \
                             them is kept, and goes to the other regions as state"
                        );
                    }
                    steps.push(cell.close_actor(view, actor, front.seq, now_ms)?);
                }
            }
            Ok(u32::try_from(steps.len()).unwrap_or(u32::MAX))
        })
        .await
    }

    /// Deletes what need not be kept of the log: every other region has everything before `all_have`, and some other
    /// region each change before `some_have`. Returns the first position that is left.
    pub(crate) async fn trim(&self, all_have: u64, some_have: u64) -> Result<u64, NodeError> {
        let log = self.log().clone();
        let aged = self.retention().aged(Instant::now(), log.durable().0);
        let beyond = aged.max(log.first_within(self.retention().bytes_max).0);
        let before = before(all_have, some_have, beyond).min(*self.sessions().shown_watch().borrow());
        let first = log.first().0;
        // A read of the log alone: most of the time no segment ends before it.
        if log.first_after_deleting(Position(before)).0 == first {
            return Ok(first);
        }
        let (working, trimmer) = (self.working().clone(), self.trimmer().clone());
        let trimmed = tokio::task::spawn_blocking(move || {
            let failed = |error: &dyn std::fmt::Display| NodeError::Unavailable(error.to_string());
            // The view is on disk as far as it shows, and says that the log may begin here.
            view::put_trimmed(&working, before).map_err(|error| failed(&error))?;
            working.store().sync().map_err(|error| failed(&error))?;
            trimmer.delete_before(Position(before)).map_err(|error| {
                tracing::warn!(%error, "segments could not be deleted; tried again");
                failed(&error)
            })
        });
        let left = trimmed.await.map_err(|error| NodeError::Unavailable(error.to_string()))??.0;
        metrics::counter!("cell_log_trimmed_records_total").increment(left.saturating_sub(first));
        tracing::info!(from = first, to = left, "deleted a part of the log that others have");
        Ok(left)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use cell_core::cell::{Cell, KnownFront};
    use cell_core::id::{Hash, NodeId, RegionId};
    use cell_core::placement::Placement;
    use cell_core::rules::Rules;
    use cell_store::{Engine, FaultMedium, Log, LogConfig};

    use super::*;
    use crate::record::Record;
    use crate::traces::Traces;
    use crate::working::Working;

    fn known(start: u64, seq: u64) -> Baseline {
        let node = NodeId { region: RegionId::new("east").unwrap(), index: 0 };
        let actor = ActorId { node, start, nonce: 1 };
        let fronts = vec![KnownFront { actor, seq, hash: Hash::ZERO }];
        Baseline {
            fronts,
            closed: Vec::new(),
            placed: Vec::new(),
            lives: Vec::new(),
            quarantined: Vec::new(),
        }
    }

    /// What a node knows that starts from the log alone.
    fn started_from(log: &Log) -> Vec<u64> {
        let north = RegionId::new("north").unwrap();
        let me = ActorId { node: NodeId { region: north, index: 0 }, start: 0, nonce: 0 };
        let mut cell = Cell::new(me, Placement::initial(vec![north], |_| north), Rules::default());
        let working = Working::open(cell_store::open(Engine::Memory, Path::new("")).unwrap()).unwrap();
        view::restore(&mut cell, &working, &Traces::default(), &log.reader(), 1).unwrap();
        cell.fronts().iter().map(|(_, front)| front.seq).collect()
    }

    #[test]
    fn what_was_adopted_counts_only_where_the_log_has_all_that_came_before() {
        let config = LogConfig { segment_bytes_max: 1, ..LogConfig::default() };
        let (mut log, _) = Log::open(Arc::new(FaultMedium::new(1)), config).unwrap();
        for (start, seq) in [(1, 3), (2, 7)] {
            log.append(&[Record::Adopted(known(start, seq)).to_bytes()]).unwrap();
            log.sync().unwrap();
        }
        assert_eq!(started_from(&log), [3, 7]);
        assert_eq!(log.trimmer().delete_before(Position(1)).unwrap(), Position(1));
        assert_eq!(started_from(&log), [0; 0], "the state it came with may have been deleted with the rest");
    }

    #[test]
    fn what_nobody_else_has_is_kept_whatever_the_bounds_say() {
        assert_eq!(before(40, 90, 0), 40, "what all have goes at once");
        assert_eq!(before(40, 90, 70), 70, "who is too far behind gets it as state");
        assert_eq!(before(40, 60, 70), 60, "and what nobody else has stays");
        assert_eq!(before(0, 0, u64::MAX), 0);
    }

    #[test]
    fn a_position_is_as_old_as_the_moment_it_was_the_end() {
        let settings = LogSettings { keep_h: 1, ..LogSettings::default() };
        let (retention, begin) = (Retention::new(settings), Instant::now());
        let half = Duration::from_secs(1_800);
        let aged: Vec<u64> = (0..5).map(|i| retention.aged(begin + i * half, 100 * u64::from(i))).collect();
        assert_eq!(aged, [0, 0, 0, 100, 200]);
    }

    #[test]
    fn the_usual_age_is_reached_by_a_node_that_runs_for_long() {
        let (retention, begin) = (Retention::new(LogSettings::default()), Instant::now());
        let hours = LogSettings::default().keep_h;
        let aged = |minute: u64| retention.aged(begin + Duration::from_secs(60 * minute), minute);
        let of_minutes: Vec<u64> = (0..hours * 60 * 2).map(aged).collect();
        let first = of_minutes.iter().position(|end| *end > 0).unwrap() as u64;
        assert!((hours * 60..hours * 61).contains(&first), "after {first} minutes");
        let last = *of_minutes.last().unwrap();
        assert!(hours * 60 - last < 10, "{last}: only what is too old");
        assert!(retention.moments.lock().unwrap().len() <= MOMENTS_MAX as usize + 2);
    }
}
