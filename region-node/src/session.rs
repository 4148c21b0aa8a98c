//! Sessions: a reader who saw something in another region is answered here once it is here.
//!
//! What is durable here stands beside a list of those who wait. The writer looks at that list whenever it published
//! something, and wakes whom it may concern; nobody polls. The rule itself is the kernel's ([`Cell::reached`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cell_core::cell::{Cell, Reached};
use cell_core::id::{ActorId, EntityId};
use cell_core::version::Dot;
use tokio::sync::{Notify, watch};

use crate::node::Node;
use crate::writer::{Group, NodeError};

/// Readers who wait at once; further ones are told at once that it is not here.
const WAITING_MAX: usize = 4_096;

/// Why a reader is not answered. Nothing was touched.
#[derive(Debug)]
pub(crate) enum Unmet {
    /// Not within the bound; it may still come.
    NotHere,
    /// As far as is known this version is lost, or late.
    Never(Dot),
    Node(NodeError),
}

impl From<NodeError> for Unmet {
    fn from(error: NodeError) -> Unmet {
        Unmet::Node(error)
    }
}

/// What readers wait for. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Sessions {
    list: Arc<Mutex<List>>,
    /// Up to which position of the log the view shows everything.
    shown: Arc<watch::Sender<u64>>,
}

#[derive(Debug, Default)]
struct List {
    /// What is durable here of each actor.
    durable: BTreeMap<ActorId, u64>,
    /// (actor, seq, reader)
    dots: BTreeMap<(ActorId, u64, u64), Arc<Notify>>,
    /// (what is read, reader)
    entities: BTreeMap<(EntityId, u64), Arc<Notify>>,
    readers: u64,
    waiting: usize,
}

/// A reader on the list, until it is dropped.
struct Waiting {
    sessions: Sessions,
    reader: u64,
    dots: Vec<Dot>,
    about: Option<EntityId>,
    wake: Arc<Notify>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut list = self.sessions.list();
        for dot in &self.dots {
            list.dots.remove(&(dot.actor, dot.seq, self.reader));
        }
        if let Some(about) = self.about {
            list.entities.remove(&(about, self.reader));
        }
        list.waiting -= 1;
        metrics::gauge!("cell_sessions_waiting").set(list.waiting as f64);
    }
}

impl Sessions {
    /// Of a node that has just brought its view up to its log.
    pub(crate) fn new(cell: &Cell, position: u64) -> Sessions {
        let durable = cell.fronts().actors().map(|actor| (*actor, cell.whole_to(actor))).collect();
        let list = List { durable, ..List::default() };
        Sessions { list: Arc::new(Mutex::new(list)), shown: Arc::new(watch::Sender::new(position)) }
    }

    fn list(&self) -> MutexGuard<'_, List> {
        // Each change of it is whole on its own.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A group is durable, and in the working state: whom it may concern looks again.
    pub(crate) fn published(&self, cell: &Cell, group: &Group) {
        let mut list = self.list();
        // What stands behind a hole is for the kernel to judge.
        list.durable.extend(group.frontier.keys().map(|actor| (*actor, cell.whole_to(actor))));
        if list.waiting == 0 {
            return;
        }
        let ends = group.lives.iter().filter(|life| life.last.is_some()).map(|life| life.actor);
        for actor in group.frontier.keys().copied().chain(ends) {
            let known = group.frontier.get(&actor).map(|front| front.seq);
            let known = known.or_else(|| list.durable.get(&actor).copied()).unwrap_or(0);
            // Who waits for more of an actor that ended hears of that.
            let ended = cell.lives().ended_at(&actor).is_some_and(|last| last <= known)
                || cell.fronts().closed().contains_key(&actor);
            let upto = if ended { u64::MAX } else { known };
            let woken = list.dots.range((actor, 0, 0)..=(actor, upto, u64::MAX));
            woken.for_each(|(_, wake)| wake.notify_one());
        }
        for id in group.entities.keys() {
            let woken = list.entities.range((*id, 0)..=(*id, u64::MAX));
            woken.for_each(|(_, wake)| wake.notify_one());
        }
    }

    /// Up to which position the view shows everything.
    pub(crate) fn shown_watch(&self) -> watch::Receiver<u64> {
        self.shown.subscribe()
    }

    /// The view shows everything up to this position.
    pub(crate) fn shown(&self, position: u64) {
        self.shown.send_replace(position);
    }

    /// Those that are not durable here.
    fn lacking(&self, dots: &[Dot]) -> Vec<Dot> {
        let list = self.list();
        let lacks = |dot: &&Dot| list.durable.get(&dot.actor).is_none_or(|durable| *durable < dot.seq);
        dots.iter().filter(lacks).copied().collect()
    }

    fn enter(&self, dots: Vec<Dot>, about: Option<EntityId>) -> Option<Waiting> {
        let mut list = self.list();
        if list.waiting >= WAITING_MAX {
            return None;
        }
        list.readers += 1;
        list.waiting += 1;
        metrics::gauge!("cell_sessions_waiting").set(list.waiting as f64);
        let (reader, wake) = (list.readers, Arc::new(Notify::new()));
        for dot in &dots {
            list.dots.insert((dot.actor, dot.seq, reader), wake.clone());
        }
        if let Some(about) = about {
            list.entities.insert((about, reader), wake.clone());
        }
        Some(Waiting { sessions: self.clone(), reader, dots, about, wake })
    }
}

impl Node {
    /// Waits until whoever reads `about` here, or anything, sees at least these versions; with `in_lists` also in what is
    /// read from the view.
    ///
    /// # Errors
    /// [`Unmet`], after `within` at the latest.
    pub(crate) async fn at_least(
        &self,
        dots: &[Dot],
        about: Option<EntityId>,
        in_lists: bool,
        within: Duration,
    ) -> Result<(), Unmet> {
        let waited = async {
            let lacking = self.sessions().lacking(dots);
            if !lacking.is_empty() {
                self.wait_for(lacking, about).await?;
            }
            if in_lists {
                let durable = self.durable_position();
                let _waits = self.hurry().wait();
                // It holds the sender: there is an end.
                let _ = self.sessions().shown.subscribe().wait_for(|shown| *shown >= durable).await;
            }
            Ok(())
        };
        let met = tokio::time::timeout(within, waited).await.unwrap_or(Err(Unmet::NotHere));
        let outcome = match &met {
            Ok(()) => "met",
            Err(Unmet::NotHere) => "not-here",
            Err(Unmet::Never(_)) => "never",
            Err(Unmet::Node(_)) => "unavailable",
        };
        metrics::counter!("cell_sessions_total", "outcome" => outcome).increment(1);
        met
    }

    async fn wait_for(&self, lacking: Vec<Dot>, about: Option<EntityId>) -> Result<(), Unmet> {
        // On the list before it is looked: what comes in between wakes it.
        let waiting = self.sessions().enter(lacking, about).ok_or(Unmet::NotHere)?;
        loop {
            let mut open = false;
            for (dot, reached) in self.reached(waiting.dots.clone(), about).await? {
                match reached {
                    Reached::Here => {}
                    Reached::NotYet => open = true,
                    Reached::Never => return Err(Unmet::Never(dot)),
                }
            }
            if !open {
                return Ok(());
            }
            waiting.wake.notified().await;
        }
    }
}
