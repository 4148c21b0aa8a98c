//! When changes of one actor were seen durable in a region: its node's log, tailed over the internal port.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use cell_proto::v1;
use cell_proto::v1::node_client::NodeClient;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use super::load::Acked;

/// Nothing new for this long is an error: what was waited for does not come.
const QUIET_MAX: Duration = Duration::from_secs(60);

/// How far the actor is here, and since when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reached {
    pub(super) seq: u64,
    pub(super) at: Instant,
}

/// A running tail.
#[derive(Debug)]
pub(super) struct Arrivals {
    reached: watch::Receiver<Reached>,
    following: JoinHandle<Result<Acked>>,
}

impl Arrivals {
    /// Follows `actor` in the log of `node` from now on. With `notes` every change's moment is written down.
    pub(super) async fn follow(
        mut node: NodeClient<Channel>,
        actor: v1::ActorId,
        notes: bool,
    ) -> Result<Arrivals> {
        let status = node.status(v1::StatusRequest::default()).await?.into_inner();
        let seq = status.frontier.iter().find(|front| front.actor.as_ref() == Some(&actor));
        let seq = seq.map_or(0, |front| front.seq);
        let request = v1::TailRequest {
            tailer: "bench".to_owned(),
            from_position: status.durable_position,
            rest_ms: 0,
        };
        let mut tail = node.tail(request).await?.into_inner();
        let (reach, reached) = watch::channel(Reached { seq, at: Instant::now() });
        let following = tokio::spawn(async move {
            let mut moments = Vec::new();
            while !reach.is_closed() {
                let batch = tokio::select! {
                    batch = tail.message() => batch?.context("the node ended the tail")?,
                    () = reach.closed() => break,
                };
                let at = Instant::now();
                let mut last = None;
                for dot in batch.items.into_iter().filter_map(|item| item.entry?.dot) {
                    if dot.actor.as_ref() == Some(&actor) {
                        last = Some(dot.seq);
                        if notes {
                            moments.push((dot.seq, at));
                        }
                    }
                }
                if let Some(seq) = last {
                    reach.send_replace(Reached { seq, at });
                }
            }
            Ok(moments)
        });
        Ok(Arrivals { reached, following })
    }

    /// How far it is now.
    pub(super) fn now(&self) -> Reached {
        *self.reached.borrow()
    }

    /// Waits until it is as far as `seq`.
    pub(super) async fn until(&mut self, seq: u64) -> Result<Reached> {
        loop {
            let reached = *self.reached.borrow_and_update();
            if reached.seq >= seq {
                return Ok(reached);
            }
            let changed = tokio::time::timeout(QUIET_MAX, self.reached.changed()).await;
            changed.map_err(|_| anyhow!("nothing came for {QUIET_MAX:?}, at {} of {seq}", reached.seq))??;
        }
    }

    /// Ends it; the moments, if they were written down.
    pub(super) async fn end(self) -> Result<Acked> {
        drop(self.reached);
        self.following.await?
    }
}
