//! Between a start and the first decision: the peers are heard (ADR 12).

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use cell_core::id::{ActorId, RegionId, Slot};

use super::{Known, Node};
use crate::writer::{NodeError, now_ms};
use crate::{scrub, view};

/// By how much another region's clock may be ahead.
const SKEW_MS_MAX: u64 = 500;
/// Whoever gave a sign of life within this, and so long after this start, lives.
const TWIN_LIVES_MS: u64 = 5_000;
const SAY_TWINS_EVERY: Duration = Duration::from_secs(60);

pub(super) fn random64() -> u64 {
    let mut bytes = [0; 8];
    // Without entropy two starts could be one actor: better no start at all.
    getrandom::fill(&mut bytes).expect("the system's entropy source answers");
    u64::from_le_bytes(bytes)
}

impl Node {
    /// Whether it has just started and decides nothing yet.
    #[must_use]
    pub fn is_recovering(&self) -> bool {
        *self.working.recovering().borrow()
    }

    /// From now on it decides: what its peers hold of its predecessors is here, or was waited for long enough.
    pub(crate) async fn recovered(&self) -> Result<(), NodeError> {
        if !self.is_recovering() {
            return Ok(());
        }
        let fresh = self.fresh();
        let me =
            self.run(move |cell, view, now_ms| Ok((cell.recovered(view, fresh, now_ms)?, cell.me()))).await?;
        self.is_now(me);
        self.working.recovering().send_replace(false);
        tracing::info!(actor = %me, "decides from now on");
        Ok(())
    }

    /// A sign of life; of predecessors that give none any more it says that they ended.
    pub(super) async fn beat(&self) {
        let fresh = self.fresh();
        let beaten = self.run(move |cell, view, now_ms| Ok((cell.beat(view, fresh, now_ms)?, cell.me())));
        match beaten.await {
            Ok(me) if self.is_now(me) => {
                tracing::warn!(
                    actor = %me,
                    "a newer start of this node was heard of, and says nothing any more: this one follows it and decides"
                );
                let this = self.clone();
                tokio::spawn(async move {
                    // The view says what is open.
                    this.all_shown().await;
                    this.look_at_everything_open().await;
                });
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "no heartbeat"),
        }
    }

    /// Another process that writes as this node, on a copy of its folder, takes orders, too: an operator has to know.
    pub(super) async fn look_for_twins(&self, said: &mut Option<Instant>) {
        let living_ms = now_ms().saturating_sub(TWIN_LIVES_MS);
        let since_ms = self.started_ms.saturating_add(TWIN_LIVES_MS);
        let was = self.was.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let twins = self.read(move |cell| {
            let me = cell.me();
            let lives = cell.lives().iter().filter(|life| life.actor.node == me.node && life.actor != me);
            let lives = lives.filter(|life| !was.contains(&life.actor));
            let living = lives.filter(|life| life.beat_ms > living_ms.max(since_ms));
            living.map(|life| life.actor).collect::<Vec<_>>()
        });
        let Ok(twins) = twins.await else { return };
        metrics::gauge!("cell_node_twins").set(twins.len() as f64);
        if !twins.is_empty() && said.is_none_or(|said| said.elapsed() > SAY_TWINS_EVERY) {
            *said = Some(Instant::now());
            let twins: Vec<String> = twins.iter().map(ToString::to_string).collect();
            tracing::error!(
                ?twins,
                "another process writes as this node, such as one on a copy of its folder: end one of the two. What both \
                 wrote is kept"
            );
        }
    }

    /// Another actor of this node, never used before.
    fn fresh(&self) -> impl FnOnce(u64) -> ActorId + Send + use<> {
        let node = self.actor().node;
        move |start| ActorId { node, start, nonce: random64() }
    }

    /// Whether it was another one until now.
    fn is_now(&self, me: ActorId) -> bool {
        let before = std::mem::replace(&mut *self.me.lock().unwrap_or_else(PoisonError::into_inner), me);
        if before != me {
            self.was.lock().unwrap_or_else(PoisonError::into_inner).insert(before);
        }
        before != me
    }

    /// Waits until it decides.
    pub(crate) async fn decides(&self) {
        // It holds the sender: there is an end.
        let _ = self.working.recovering().subscribe().wait_for(|recovering| !recovering).await;
    }

    /// Waits until it decides; at most as long as it was told, unless a part of its log is missing.
    pub(super) async fn wait_for_peers(&self) {
        let mut recovering = self.working.recovering().subscribe();
        let mut waited = Duration::ZERO;
        while let Some(left) = self.recovery_wait.checked_sub(waited).filter(|left| !left.is_zero()) {
            let heard = tokio::time::timeout(left, recovering.wait_for(|recovering| !recovering));
            if heard.await.is_ok() {
                return;
            }
            // Longer if more was on its way meanwhile.
            waited = self.more.borrow().elapsed();
        }
        if self.must_hear || self.working.has_holes() {
            tracing::error!(
                "a part of the log is missing and no peer was heard: nothing is decided before one is"
            );
            let _ = recovering.wait_for(|recovering| !recovering).await;
        } else if let Err(error) = self.recovered().await {
            tracing::error!(%error, "nothing is decided");
        } else {
            tracing::warn!("no peer was heard of in time");
        }
    }

    /// A region that was distrusted is heard: everything it wrote up to some time after this start is here.
    /// Not before peers said what it wrote itself: of two that lost their disks neither can tell what the other one had.
    pub(super) async fn hear(&self) {
        let distrusted = self.working.distrusted();
        if distrusted.is_empty() || self.is_unconfirmed() {
            return;
        }
        let Ok(Known { heard, .. }) = self.known().await else { return };
        let since_ms = self.started_ms.saturating_add(SKEW_MS_MAX);
        // What this region wrote before, it does not tell itself.
        let own = self.actor().node.region;
        let others = heard.into_iter().filter(|(region, beat_ms)| *region != own && *beat_ms > since_ms);
        let others: Vec<_> = others.map(|(region, _)| region).collect();
        self.trusts(&others).await;
    }

    /// Peers hold nothing more of this region's actors than is here; `unfounded`: and may have lost it, all of them.
    ///
    /// # Errors
    /// [`NodeError`]: it is not confirmed.
    pub(crate) async fn confirmed(&self, unfounded: bool) -> Result<(), NodeError> {
        if unfounded && self.is_unconfirmed() {
            self.working.doubt_slots(Slot::all());
            let kept = scrub::keep_doubts(self).await;
            kept.map_err(|error| NodeError::Unavailable(error.to_string()))?;
        }
        self.recovered().await?;
        self.trusts(&[self.actor().node.region]).await;
        Ok(())
    }

    /// Everything that these wrote is here.
    async fn trusts(&self, regions: &[RegionId]) {
        regions.iter().for_each(|region| self.working.hears(*region));
        let working = self.working.clone();
        let kept = tokio::task::spawn_blocking(move || view::put_distrusted(&working)).await;
        if let Ok(Err(error)) = kept {
            // The next start hears them once more.
            tracing::warn!(%error, "the view does not take that a region was heard");
        }
    }

    /// Whether peers were not heard yet of what this node may have lost of its own. It may decide all the same.
    pub(crate) fn is_unconfirmed(&self) -> bool {
        self.is_recovering() || self.working.distrusted().contains(&self.actor().node.region)
    }
}
