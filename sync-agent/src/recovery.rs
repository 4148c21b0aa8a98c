//! After the node's start: what peers hold of its predecessors is there before it decides anything.
//!
//! Its disk may be an older one, or lack a part; what it wrote then exists in the peers alone. A subscription brings it
//! back like any change. Here is found out when nothing more is to be had: every peer that can be reached has no more of
//! this region's actors than the node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cell_core::id::{ActorId, RegionId};
use cell_proto::v1;
use service_kit::Shutdown;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::node::NodeLink;
use crate::transport::cause;

/// With some peers confirming and the others not reached yet, these are waited for this long.
const GRACE: Duration = Duration::from_secs(1);
/// An agent that answers and says nothing of its node is waited for this long.
const SAYS_WITHIN: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A node that lacks something waits for a peer that does not. Where every peer is there and does, too, it waits so long for
/// comparisons to make one of them whole: there is nobody else to ask.
const WHOLE_WITHIN: Duration = Duration::from_secs(30);
/// What does not come for so long is not waited for any longer than the node does by itself.
const MOVED_WITHIN: Duration = Duration::from_secs(5);

/// What a peer's word is worth that it holds nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// It lost nothing of what this region wrote.
    Whole,
    /// It may have lost some of it.
    Lacking,
    /// It is new itself, and has nothing that it could have lost, or has lost everything.
    New,
}

impl Word {
    pub(crate) fn of(lacking: bool, unconfirmed: bool) -> Word {
        match (lacking, unconfirmed) {
            (_, true) => Word::New,
            (true, false) => Word::Lacking,
            (false, false) => Word::Whole,
        }
    }
}

/// How a peer stands to a node that has just started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Away,
    /// Its agent answers, and has not said what its node holds: perhaps that is down.
    Unheard,
    /// It holds more of the node's predecessors than the node does.
    Ahead,
    /// It holds nothing more, as of this life of the node.
    Confirmed {
        life: u64,
        word: Word,
    },
}

/// Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Recovery {
    peers: Arc<watch::Sender<BTreeMap<RegionId, Standing>>>,
}

impl Recovery {
    pub(crate) fn new(peers: impl IntoIterator<Item = RegionId>) -> Recovery {
        let peers = peers.into_iter().map(|peer| (peer, Standing::Away)).collect();
        Recovery { peers: Arc::new(watch::Sender::new(peers)) }
    }

    pub(crate) fn stands(&self, peer: RegionId, standing: Standing) {
        self.peers.send_if_modified(|peers| peers.insert(peer, standing) != Some(standing));
    }

    /// Tells the node when it may decide, after each of its starts; until the shutdown begins.
    pub(crate) async fn watch(self, node: NodeLink, shutdown: Shutdown) {
        let mut known = node.known();
        loop {
            let life = tokio::select! {
                () = shutdown.begun() => return,
                waiting = known.wait_for(|known| known.connected && known.recovering) => match waiting {
                    Ok(known) => known.life,
                    Err(_) => return,
                },
            };
            tokio::select! {
                () = shutdown.begun() => return,
                () = self.recover(&node, life) => {}
            }
        }
    }

    /// Until the node decides, or is away.
    async fn recover(&self, node: &NodeLink, life: u64) {
        let (mut peers, since) = (self.peers.subscribe(), Instant::now());
        let (mut moved, mut upto, mut said) = (since, 0, None::<Instant>);
        while node.is_connected() && node.life() == life {
            let own = {
                let known = node.known();
                let known = known.borrow();
                Word::of(known.lacking, known.is_new(&node.region()))
            };
            let standings = peers.borrow_and_update().clone();
            let confirmed = confirmed(&standings, life, own, since.elapsed());
            if let Some(confirmed_by) = confirmed {
                let unfounded = !is_founded(&standings, life, own);
                let request = v1::RecoveredRequest { confirmed_by, unfounded };
                match node.client().recovered(request).await {
                    Ok(_) => {
                        if unfounded {
                            tracing::error!(
                                "every region lacks a part of what it says it has, so no peer can tell what this one \
                                 decided before: it decides without"
                            );
                        }
                        return node.has_recovered(life);
                    }
                    Err(error) => {
                        tracing::warn!(error = cause(&error), "the node does not hear that it may decide")
                    }
                }
            }
            // A peer has more, and it is coming: the node waits for it.
            let fronts = node.fronts();
            let me = node.known().borrow().actor;
            let of_node = |actor: &ActorId| actor.region() == node.region() && Some(*actor) != me;
            let own = fronts.iter().filter(|(actor, _)| of_node(actor));
            let known = own.map(|(_, front)| front.seq).sum::<u64>();
            if known != upto {
                (upto, moved) = (known, Instant::now());
            }
            let comes = moved.elapsed() < MOVED_WITHIN && is_ahead(&standings);
            if comes && said.is_none_or(|said| said.elapsed() >= GRACE) {
                said = Some(Instant::now());
                if let Err(error) = node.catching_up(false).await {
                    tracing::debug!(%error, "the node does not hear that more is coming");
                }
            }
            // Looked at again also where nothing changes: the grace ends.
            let _ = tokio::time::timeout(LOOK_EVERY, peers.changed()).await;
        }
    }
}

/// Whether somebody who lost nothing can tell what this node had: itself, or a peer; or whether nobody ever had anything.
fn is_founded(peers: &BTreeMap<RegionId, Standing>, life: u64, own: Word) -> bool {
    let said = |word| move |standing: &Standing| *standing == Standing::Confirmed { life, word };
    match own {
        Word::Whole => true,
        Word::Lacking => peers.values().any(said(Word::Whole)),
        Word::New => peers.values().any(said(Word::Whole)) || peers.values().all(said(Word::New)),
    }
}

fn is_ahead(peers: &BTreeMap<RegionId, Standing>) -> bool {
    peers.values().any(|standing| *standing == Standing::Ahead)
}

/// Who confirmed, once that is enough.
fn confirmed(
    peers: &BTreeMap<RegionId, Standing>,
    life: u64,
    own: Word,
    waited: Duration,
) -> Option<Vec<String>> {
    let of_life =
        |standing: &Standing| matches!(standing, Standing::Confirmed { life: of, .. } if *of == life);
    let by: Vec<String> =
        peers.iter().filter(|(_, it)| of_life(it)).map(|(region, _)| region.to_string()).collect();
    let is_away = |standing: &Standing| match standing {
        Standing::Away => true,
        Standing::Unheard => waited >= SAYS_WITHIN,
        Standing::Ahead | Standing::Confirmed { .. } => false,
    };
    let away = peers.values().filter(|standing| is_away(standing)).count();
    let all = by.len() == peers.len();
    let enough = !by.is_empty() && by.len() + away == peers.len() && waited >= GRACE;
    let founded = is_founded(peers, life, own) || all && waited >= WHOLE_WITHIN;
    ((all || enough) && founded).then_some(by)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_confirms_at_once_or_whoever_is_there_after_a_grace() {
        let region = |name: &str| name.parse::<RegionId>().unwrap();
        let (east, south) = (region("east"), region("south"));
        let (now, later) = (Duration::ZERO, GRACE);
        let [yes, doubtful, new] =
            [Word::Whole, Word::Lacking, Word::New].map(|word| Standing::Confirmed { life: 3, word });
        let with = |one, other| BTreeMap::from([(east, one), (south, other)]);
        let both = Some(vec!["east".to_owned(), "south".to_owned()]);
        let one = Some(vec!["east".to_owned()]);
        for own in [Word::Whole, Word::Lacking, Word::New] {
            let confirmed = |peers, life, waited| confirmed(&peers, life, own, waited);
            assert_eq!(confirmed(with(yes, yes), 3, now), both);
            assert_eq!(confirmed(with(yes, doubtful), 3, now), both, "one that has everything is enough");
            assert_eq!(confirmed(with(yes, new), 3, now), both);
            assert_eq!(confirmed(with(yes, yes), 4, later), None, "of an earlier life");
            assert_eq!(confirmed(with(yes, Standing::Away), 3, now), None);
            assert_eq!(confirmed(with(yes, Standing::Away), 3, later), one);
            assert_eq!(confirmed(with(yes, Standing::Ahead), 3, later), None, "there is more to be had");
            assert_eq!(confirmed(with(Standing::Away, Standing::Away), 3, later), None);
            assert_eq!(confirmed(with(yes, Standing::Unheard), 3, later), None, "it may say so any moment");
            assert_eq!(confirmed(with(yes, Standing::Unheard), 3, SAYS_WITHIN), one, "its node is down");
            assert_eq!(confirmed(with(Standing::Unheard, Standing::Away), 3, SAYS_WITHIN), None);
        }
        let away = Standing::Away;
        assert_eq!(confirmed(&with(doubtful, away), 3, Word::Whole, later), one);
        assert_eq!(confirmed(&with(new, away), 3, Word::Whole, later), one);
        assert_eq!(confirmed(&with(doubtful, doubtful), 3, Word::Whole, now), both);
        for (own, others) in
            [(Word::Lacking, doubtful), (Word::Lacking, new), (Word::New, doubtful), (Word::New, new)]
        {
            let confirmed = |peers, waited| confirmed(&peers, 3, own, waited);
            assert_eq!(confirmed(with(others, away), WHOLE_WITHIN), None, "the other may know");
            assert_eq!(confirmed(with(others, doubtful), later), None, "a comparison may help");
            assert_eq!(confirmed(with(others, doubtful), WHOLE_WITHIN), both, "nobody knows more");
        }
        assert_eq!(confirmed(&with(new, new), 3, Word::New, now), both, "nobody ever had anything");
        assert_eq!(confirmed(&with(new, new), 3, Word::Lacking, later), None);
    }
}
