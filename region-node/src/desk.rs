//! The desk: carries out what entities need done outside, once it is authorised and durable.
//!
//! It holds the newest sheet of every entity that needs something, and forgets an entity whose sheet is empty: duties
//! are levels. One duty runs at most once at a time; what stays undone is asked again, at first often, then slower.

mod owed;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cell_core::duty::{Act, Duty};
use cell_core::gate::{Envelope, MessageId};
use cell_core::id::EntityId;
use service_kit::Shutdown;
use tokio::sync::{Notify, Semaphore};

use crate::gateway::{Answer, Gateway};
use crate::node::Node;
use crate::writer::{Sheet, now_ms};
use owed::Owed;

/// Calls to the gateway at once.
const RUNNING_MAX: usize = 64;
/// After this many tries the pause grows.
const TRIES_OFTEN: u32 = 30;
const SLOWER: u64 = 10;
/// Pause after the first try without an answer, doubled each time.
const UNHEARD_FIRST_MS: u64 = 500;
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Where sheets are put; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tray {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    open: Mutex<Open>,
    news: Notify,
    send_news: Notify,
}

#[derive(Debug, Default)]
struct Open {
    sheets: BTreeMap<EntityId, Vec<Duty>>,
    paces: BTreeMap<[u8; 16], Pace>,
    owed: Owed,
}

#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    tries: u32,
    next_ms: u64,
    running: bool,
}

/// Whether the gateway said anything at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Answer,
    Nothing,
}

impl Pace {
    /// A gateway that is away for a moment is tried again soon, then ever more rarely up to `every_ms`; one that answered
    /// is asked again every so often, and after many times seldom.
    fn pause_ms(&self, heard: Heard, every_ms: u64) -> u64 {
        match heard {
            Heard::Nothing if self.tries <= TRIES_OFTEN => {
                every_ms.min(UNHEARD_FIRST_MS << self.tries.saturating_sub(1).min(16))
            }
            Heard::Answer if self.tries <= TRIES_OFTEN => every_ms,
            _ => every_ms.saturating_mul(SLOWER),
        }
    }
}

impl Open {
    /// Says whether anything is owed on it.
    fn put_sends(&mut self, sheet: &Sheet) -> bool {
        let sends = sheet
            .duties
            .iter()
            .filter_map(|duty| match &duty.act {
                Act::Send(envelope) => Some((**envelope).clone()),
                _ => None,
            })
            .collect();
        self.owed.put(sheet.entity, sends)
    }
}

fn outside(duty: &Duty) -> bool {
    !matches!(duty.act, Act::Decide | Act::Send(_))
}

impl Tray {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.inner.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest sheets replace what was known of their entities. Of a fresh order nothing is to be done outside, and
    /// nobody is woken for it.
    pub(crate) fn put(&self, sheets: &[Sheet]) {
        let mut open = self.open();
        let (mut to_do, mut to_send) = (false, false);
        for sheet in sheets {
            to_send |= open.put_sends(sheet);
            let duties: Vec<Duty> = sheet.duties.iter().filter(|duty| outside(duty)).cloned().collect();
            let gone = if duties.is_empty() {
                open.sheets.remove(&sheet.entity)
            } else {
                to_do = true;
                open.sheets.insert(sheet.entity, duties)
            };
            // A duty that goes takes its pace along; one that is running finishes and finds itself unneeded.
            for duty in gone.into_iter().flatten() {
                let still =
                    open.sheets.get(&sheet.entity).is_some_and(|now| now.iter().any(|it| it.id == duty.id));
                if !still {
                    open.paces.remove(&duty.id);
                }
            }
        }
        drop(open);
        if to_do {
            self.inner.news.notify_one();
        }
        if to_send {
            self.inner.send_news.notify_one();
        }
    }

    // === messages ===

    /// Resolves when something new may be owed.
    pub(crate) async fn send_news(&self) {
        self.inner.send_news.notified().await;
    }

    /// A new listener: everything owed is said again at once.
    pub(crate) fn sends_afresh(&self) {
        self.open().owed.afresh();
    }

    /// Messages that are owed and whose pause is over, the longest first; each is not said again before its next pause.
    pub(crate) fn take_sends(&self, now_ms: u64, limit: usize) -> Vec<Envelope> {
        self.open().owed.take(now_ms, limit)
    }

    /// What became of a message that was handed over. An acknowledgement only paces: the need decides.
    pub(crate) fn sent(&self, id: &MessageId, accepted: bool, now_ms: u64) {
        self.open().owed.sent(id, accepted, now_ms);
    }

    /// Duties that are due and not running, marked as running.
    fn take_due(&self, now_ms: u64, limit: usize) -> Vec<Duty> {
        let mut open = self.open();
        let Open { sheets, paces, .. } = &mut *open;
        let mut due = Vec::new();
        for duty in sheets.values().flatten().filter(|duty| duty.due_ms <= now_ms) {
            let pace = paces.entry(duty.id).or_default();
            if !pace.running && pace.next_ms <= now_ms && due.len() < limit {
                pace.running = true;
                due.push(duty.clone());
            }
        }
        due
    }

    fn done(&self, id: &[u8; 16], heard: Heard, now_ms: u64, every_ms: u64) {
        if let Some(pace) = self.open().paces.get_mut(id) {
            pace.tries += 1;
            pace.running = false;
            pace.next_ms = now_ms.saturating_add(pace.pause_ms(heard, every_ms));
        }
    }
}

/// Whoever sits at the desk.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    pub(crate) node: Node,
    pub(crate) tray: Tray,
    pub(crate) gateway: Arc<dyn Gateway>,
    /// Pause between two tries of one duty.
    pub(crate) every_ms: u64,
}

impl Desk {
    /// Until the shutdown begins.
    pub(crate) async fn work(self, shutdown: Shutdown) {
        let seats = Arc::new(Semaphore::new(RUNNING_MAX));
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                () = self.tray.inner.news.notified() => {}
                _ = look.tick() => {}
            }
            for duty in self.tray.take_due(now_ms(), seats.available_permits()) {
                let Ok(seat) = seats.clone().acquire_owned().await else { return };
                let desk = self.clone();
                shutdown.spawn("gateway call", async move {
                    let heard = desk.carry_out(&duty).await;
                    desk.tray.done(&duty.id, heard, now_ms(), desk.every_ms);
                    drop(seat);
                });
            }
        }
    }

    async fn carry_out(&self, duty: &Duty) -> Heard {
        let answer = match &duty.act {
            Act::Charge(charge) => self.gateway.charge(charge, now_ms()).await,
            Act::CloseAtGateway { payment, order } => self.gateway.close(*payment, *order).await,
            Act::Refund { case, order } => self.gateway.refund(case, *order).await,
            Act::AskRefund { case, .. } => self.gateway.ask_refund(&case.case).await,
            Act::Decide | Act::Send(_) => return Heard::Answer,
        };
        let heard = if matches!(answer, Answer::Unknown(_)) { Heard::Nothing } else { Heard::Answer };
        let written = match (answer, &duty.act) {
            (Answer::Facts(facts), _) if facts.is_empty() => Ok(()),
            (Answer::Facts(facts), _) => self.node.facts(facts, String::new()).await,
            (Answer::UnknownKey, Act::Charge(charge)) => {
                self.node.never_started(charge.payment, charge.k).await
            }
            (Answer::UnknownKey, _) => Ok(()),
            (Answer::Unknown(error), _) => {
                tracing::debug!(error, entity = %duty.entity, "the gateway gave no answer; asked again");
                Ok(())
            }
        };
        if let Err(error) = written {
            tracing::warn!(%error, entity = %duty.entity, "what the gateway said is not written yet; asked again");
        }
        heard
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cell_core::gate::MessageKind;
    use cell_core::id::{ActorId, NodeId, OrderId, PaymentId, PublicId, RegionId, Slot};
    use cell_core::placement::Epoch;
    use futures::FutureExt;

    use super::*;

    /// One message owed on the `n`-th payment, in the order of ids.
    fn owing(n: u32, to_slot: u16) -> Sheet {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&n.to_be_bytes());
        let (entity, north) = (EntityId::from(PaymentId(PublicId(id))), RegionId::new("north").unwrap());
        let envelope = Envelope {
            id: MessageId(id),
            kind: MessageKind::PayRequest,
            from: north,
            to_slot: Slot::new(to_slot).unwrap(),
            subject: entity,
            requires: Vec::new(),
            epoch: Epoch {
                term: 1,
                step: 0,
                actor: ActorId { node: NodeId { region: north, index: 0 }, start: 1, nonce: 1 },
            },
            deadline_ms: 0,
            until_ms: 0,
            trace: String::new(),
            from_slot: Slot::new(2).unwrap(),
            body: Bytes::new(),
            created_ms: 1,
        };
        let duty = Duty { id, entity, due_ms: 0, act: Act::Send(Box::new(envelope)) };
        Sheet { entity, duties: vec![duty] }
    }

    #[test]
    fn what_is_owed_to_a_region_that_is_away_keeps_nobody_elses_message_waiting() {
        const AWAY: u16 = 7;
        const THERE: u16 = 900;
        let tray = Tray::default();
        let owed: Vec<Sheet> = (0..5_000).map(|n| owing(n, AWAY)).collect();
        tray.put(&owed);
        // What the agent takes ten times a second; it cannot hand over what is for a region that is away.
        let take = |now_ms| {
            let taken = tray.take_sends(now_ms, 256);
            let (there, away): (Vec<_>, Vec<_>) =
                taken.into_iter().partition(|envelope| envelope.to_slot.number() == THERE);
            away.iter().for_each(|envelope| tray.sent(&envelope.id, false, now_ms));
            there.len()
        };
        // All of it was said, and comes due again and again.
        assert_eq!((0..30).map(|round| take(100 * round)).sum::<usize>(), 0);
        let fresh = owing(5_000, THERE);
        tray.put(std::slice::from_ref(&fresh));
        assert_eq!(take(3_000), 1, "what was never said goes first");
        tray.sent(&MessageId(fresh.duties[0].id), false, 3_000);
        // 5,001 in turns of 256.
        assert_eq!((31..51).map(|round| take(100 * round)).sum::<usize>(), 1, "and its turn comes again");
    }

    #[test]
    fn what_cannot_be_handed_over_is_asked_about_more_seldom_but_never_late() {
        let tray = Tray::default();
        tray.put(&[owing(1, 7)]);
        let (mut now_ms, mut pauses) = (0, Vec::new());
        let mut said_ms = 0;
        while pauses.len() < 5 {
            for envelope in tray.take_sends(now_ms, 256) {
                pauses.push(now_ms - said_ms);
                said_ms = now_ms;
                tray.sent(&envelope.id, false, now_ms);
            }
            now_ms += 100;
        }
        assert_eq!(pauses, [0, 500, 1_000, 2_000, 2_000]);
    }

    #[test]
    fn nobody_is_woken_for_an_entity_of_which_nothing_is_to_be_done_outside() {
        let (order, payment) = (OrderId(PublicId([1; 16])), PaymentId(PublicId([2; 16])));
        let duty = |act| Duty { id: [0; 16], entity: payment.into(), due_ms: 7, act };
        let sheet = |duties| [Sheet { entity: payment.into(), duties }];
        let tray = Tray::default();
        tray.put(&sheet(vec![duty(Act::Decide)]));
        assert!(tray.inner.news.notified().now_or_never().is_none());
        assert!(tray.send_news().now_or_never().is_none());
        tray.put(&sheet(vec![duty(Act::CloseAtGateway { payment, order })]));
        assert!(tray.inner.news.notified().now_or_never().is_some());
        tray.put(&sheet(Vec::new()));
        assert!(tray.inner.news.notified().now_or_never().is_none());
    }

    #[test]
    fn silence_is_met_soon_and_ever_more_rarely_and_an_answer_at_its_pace() {
        let pause = |tries, heard| Pace { tries, ..Pace::default() }.pause_ms(heard, 60_000);
        let silent: Vec<u64> = (1..=9).map(|tries| pause(tries, Heard::Nothing)).collect();
        assert_eq!(silent, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!((pause(1, Heard::Answer), pause(30, Heard::Answer)), (60_000, 60_000));
        assert_eq!((pause(31, Heard::Answer), pause(31, Heard::Nothing)), (600_000, 600_000));
    }
}
