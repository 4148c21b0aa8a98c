//! Runs the gate: its inputs one after the other, its records durable, its outputs carried out in order.
//!
//! One task owns the gate and its shelf. It takes what waits, steps the gate through it, writes all records of that
//! group with one sync, tells the gate where they are, and only then does what the gate said; so a record is durable
//! before anything behind it, and a burst of messages costs one sync. The next group forms meanwhile. A message that is on
//! the disk and may go on does not wait for the records of others, and that one is gone can wait: it would be delivered
//! once more, which changes nothing.

mod courier;
mod fetches;
mod shelf;
mod sparing;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cell_core::gate::{Action, Answer, Envelope, Gate, Input, MessageId, Output, Record};
use cell_core::id::RegionId;
use cell_store::LogError;
use service_kit::Shutdown;
use tokio::sync::{mpsc, oneshot};

use crate::board::{Board, now_ms};

pub(crate) use courier::{Courier, span};
use shelf::Writing;
pub(crate) use shelf::{Shelf, ShelfError};

/// Events waiting at most; beyond it who brings one waits.
const WAITING_MAX: usize = 1_024;
/// Events in one group.
const GROUP_MAX: usize = 256;
/// That messages are gone is written after this if nothing else is.
const GONE_LINGER: Duration = Duration::from_millis(10);
/// The clock may be set back: a timer is looked at no later than this.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// What the sender of a message is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verdict {
    pub(crate) id: MessageId,
    pub(crate) accepted: bool,
}

/// Where verdicts go; a full one loses them, and the sender asks again.
pub(crate) type Back = mpsc::Sender<Verdict>;

type Look = Box<dyn FnOnce(&Gate, &Shelf) + Send>;

enum Event {
    Input(Input),
    Arrived { envelope: Box<Envelope>, back: Back },
    Malformed { bytes: Bytes, from: RegionId, reason: String, back: Back },
    Operate { identity: String, action: Action, moved: Moved },
    Look(Look),
}

/// Where the operator hears which messages the action set in motion.
type Moved = oneshot::Sender<Result<Vec<MessageId>, Undone>>;

/// Why an operator's action was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Undone {
    #[error("the agent's disk is full: the action could not be recorded; nothing was done")]
    NoRoom,
    #[error("the agent is ending")]
    Ending,
}

/// The way in; clones share it. Messages have one of their own: where they cannot be kept, nobody else waits behind them.
#[derive(Clone, Debug)]
pub(crate) struct GateHandle {
    messages: mpsc::Sender<Event>,
    events: mpsc::Sender<Event>,
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Event")
    }
}

impl GateHandle {
    pub(crate) fn new() -> (GateHandle, GateInbox) {
        let (messages, brought) = mpsc::channel(WAITING_MAX);
        let (events, waiting) = mpsc::channel(WAITING_MAX);
        (GateHandle { messages, events }, GateInbox { brought, waiting })
    }

    async fn send(&self, event: Event) {
        // The runner is gone only when the process ends; what it kept is on disk.
        let _ = self.events.send(event).await;
    }

    async fn bring(&self, event: Event) {
        let _ = self.messages.send(event).await;
    }

    pub(crate) async fn tell(&self, input: Input) {
        self.send(Event::Input(input)).await;
    }

    pub(crate) async fn arrived(&self, envelope: Envelope, back: Back) {
        self.bring(Event::Arrived { envelope: Box::new(envelope), back }).await;
    }

    pub(crate) async fn malformed(&self, bytes: Bytes, from: RegionId, reason: String, back: Back) {
        self.bring(Event::Malformed { bytes, from, reason, back }).await;
    }

    /// Carries an operator's action out; the messages it set in motion, once that is durable.
    ///
    /// # Errors
    /// [`Undone`].
    pub(crate) async fn operate(&self, identity: String, action: Action) -> Result<Vec<MessageId>, Undone> {
        let (moved, answer) = oneshot::channel();
        self.send(Event::Operate { identity, action, moved }).await;
        answer.await.unwrap_or(Err(Undone::Ending))
    }

    /// Asks the gate something; `None` if the agent is ending.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Gate, &Shelf) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let look = move |gate: &Gate, shelf: &Shelf| drop(answer.send(look(gate, shelf)));
        self.send(Event::Look(Box::new(look))).await;
        answered.await.ok()
    }
}

/// The other end of [`GateHandle`].
#[derive(Debug)]
pub(crate) struct GateInbox {
    brought: mpsc::Receiver<Event>,
    waiting: mpsc::Receiver<Event>,
}

/// What events ask to be done once the records among it are durable.
#[derive(Debug, Default)]
struct Group {
    records: Vec<Record>,
    outputs: Vec<Output>,
    /// What operators set in motion.
    moved: Vec<(Moved, Vec<MessageId>)>,
    /// When the node first said that something was applied: what is delivered behind the records was woken by it.
    woken_at: Option<Instant>,
    /// Since when it has records, while all of them say that a message is gone.
    lingers_since: Option<Instant>,
}

impl Group {
    fn keep(&mut self, record: Record) {
        let is_gone = matches!(record, Record::Gone(_));
        self.lingers_since = match self.lingers_since {
            Some(since) if is_gone => Some(since),
            None if is_gone && self.records.is_empty() => Some(Instant::now()),
            _ => None,
        };
        self.records.push(record);
    }

    /// How much longer it waits for others before it is written.
    fn lingers(&self) -> Option<Duration> {
        let since = self.lingers_since?;
        GONE_LINGER.checked_sub(since.elapsed()).filter(|left| !left.is_zero())
    }
}

/// The gate, its shelf, and who carries its outputs out.
#[derive(Debug)]
pub(crate) struct GateRunner {
    pub(crate) gate: Gate,
    pub(crate) shelf: Shelf,
    pub(crate) courier: Courier,
    pub(crate) board: Board,
    backs: HashMap<MessageId, Vec<Back>>,
    wake_at_ms: Option<u64>,
    /// The node took a message since the board was told last.
    taken: bool,
    /// Forms.
    group: Group,
    /// Its records are on their way to the disk.
    writing: Option<(Group, Writing)>,
    /// How many records of a message are in either.
    undurable: HashMap<MessageId, usize>,
}

impl GateRunner {
    pub(crate) fn new(gate: Gate, shelf: Shelf, courier: Courier, board: Board) -> GateRunner {
        GateRunner {
            gate,
            shelf,
            courier,
            board,
            backs: HashMap::new(),
            wake_at_ms: None,
            taken: false,
            group: Group::default(),
            writing: None,
            undurable: HashMap::new(),
        }
    }

    /// Runs until the shutdown begins. `first` is what the gate wanted when it was restored.
    pub(crate) async fn run(mut self, mut inbox: GateInbox, first: Vec<Output>, shutdown: Shutdown) {
        self.take(first, None);
        if let Err(error) = self.go_on(&mut inbox, &shutdown).await {
            // Without a log the gate may promise nothing; senders still owe every message.
            tracing::error!(%error, "the gate's log failed; the agent stops");
            shutdown.fail(format!("the gate's log failed: {error}"));
        }
    }

    async fn go_on(&mut self, inbox: &mut GateInbox, shutdown: &Shutdown) -> Result<(), ShelfError> {
        let (mut events, mut messages) = (Vec::with_capacity(GROUP_MAX), Vec::with_capacity(GROUP_MAX));
        loop {
            let lingers = self.group.lingers();
            if self.writing.is_none() && lingers.is_none() {
                self.write()?;
            }
            let sleep = lingers.map_or_else(|| self.sleep(), |left| left.min(self.sleep()));
            let has_room = self.group.outputs.len() < WAITING_MAX && self.group.records.len() < WAITING_MAX;
            let taken = std::mem::take(&mut self.taken);
            self.board.gate(&self.gate.counts(), taken, self.shelf.is_full());
            tokio::select! {
                () = shutdown.begun() => {
                    // The folder is let go of with it.
                    self.shelf.end();
                    return match self.wait_for_disk().await {
                        // Nothing of it was promised: its senders owe it still.
                        Err(ShelfError::Log(LogError::Full { .. })) => Ok(()),
                        ended => ended,
                    };
                }
                written = self.wait_for_disk(), if self.writing.is_some() => {
                    written?;
                    if self.shelf.is_untidy(&self.gate) {
                        self.write()?;
                        self.wait_for_disk().await?;
                        self.shelf.tidy(&mut self.gate).await?;
                    }
                }
                // What these ask for is at most a few things for each message that is kept.
                count = inbox.waiting.recv_many(&mut events, GROUP_MAX) => if count == 0 { return Ok(()) },
                count = inbox.brought.recv_many(&mut messages, GROUP_MAX), if has_room => if count == 0 { return Ok(()) },
                () = tokio::time::sleep(sleep) => {}
            }
            for event in events.drain(..).chain(messages.drain(..)) {
                self.step(event);
            }
            let now_ms = now_ms();
            if self.wake_at_ms.is_some_and(|ms| ms <= now_ms) {
                self.wake_at_ms = None;
                self.input(now_ms, Input::Tick);
            }
        }
    }

    fn sleep(&self) -> Duration {
        let until = self.wake_at_ms.map(|ms| Duration::from_millis(ms.saturating_sub(now_ms())));
        until.map_or(SLEEP_MAX, |until| until.min(SLEEP_MAX))
    }

    fn step(&mut self, event: Event) {
        let now_ms = now_ms();
        match event {
            Event::Input(input) => self.input(now_ms, input),
            Event::Arrived { envelope, back } => {
                self.backs.entry(envelope.id).or_default().push(back);
                self.input(now_ms, Input::Arrived { envelope: *envelope });
            }
            Event::Malformed { bytes, from, reason, back } => {
                self.backs.entry(MessageId::of_undecoded(&bytes)).or_default().push(back);
                self.input(now_ms, Input::Malformed { bytes, from, reason });
            }
            Event::Operate { moved, .. } if self.shelf.is_full() => drop(moved.send(Err(Undone::NoRoom))),
            Event::Operate { identity, action, moved } => {
                let outputs = self.gate.step(now_ms, Input::Operator { identity, action });
                let ids = outputs.iter().find_map(|output| match output {
                    Output::Audit { ids, .. } => Some(ids.clone()),
                    _ => None,
                });
                self.group.moved.push((moved, ids.unwrap_or_default()));
                self.take(outputs, None);
            }
            Event::Look(look) => look(&self.gate, &self.shelf),
        }
    }

    fn input(&mut self, now_ms: u64, input: Input) {
        let wakes = matches!(input, Input::Applied { .. } | Input::Present { .. });
        let woken_at = wakes.then(Instant::now);
        self.taken |= matches!(
            input,
            Input::Answered { answer: Answer::Done | Answer::Refused { .. } | Answer::Moved, .. }
        );
        let outputs = self.gate.step(now_ms, input);
        self.take(outputs, woken_at);
    }

    /// Into the group, but for what waits for no record. What an operator set in motion is not delivered before that is
    /// on record.
    fn take(&mut self, outputs: Vec<Output>, woken_at: Option<Instant>) {
        self.group.woken_at = self.group.woken_at.or(woken_at);
        let audited = outputs.iter().any(|output| matches!(output, Output::Audit { .. }));
        let mut checks = Vec::new();
        for output in outputs {
            match output {
                Output::Persist { record } => {
                    *self.undurable.entry(record.id()).or_default() += 1;
                    self.group.keep(*record);
                }
                Output::WakeAt { ms } => self.wake_at_ms = Some(ms),
                output
                    if !audited && output.waits_for().is_some_and(|id| !self.undurable.contains_key(&id)) =>
                {
                    match output {
                        Output::Check { id, requires } => checks.push((id, requires)),
                        output => self.courier.carry_out(output, &self.gate, &self.shelf, woken_at),
                    }
                }
                output => self.group.outputs.push(output),
            }
        }
        self.courier.check(checks);
    }

    /// Begins to write the group; one without records is done at once.
    fn write(&mut self) -> Result<(), ShelfError> {
        let group = std::mem::take(&mut self.group);
        if group.records.is_empty() {
            self.carry_out(group);
        } else {
            let writing = self.shelf.keep(&group.records)?;
            self.writing = Some((group, writing));
        }
        Ok(())
    }

    /// Returns when nothing is on its way to the disk; may be given up at any time.
    async fn wait_for_disk(&mut self) -> Result<(), ShelfError> {
        let Some((_, writing)) = &mut self.writing else { return Ok(()) };
        let written = writing.await;
        let Some((group, _)) = self.writing.take() else { return Ok(()) };
        self.shelf.kept(&mut self.gate, &group.records, written)?;
        for record in &group.records {
            if let Some(count) = self.undurable.get_mut(&record.id()) {
                *count -= 1;
                if *count == 0 {
                    self.undurable.remove(&record.id());
                }
            }
            if let Record::Accepted(accepted) = record {
                let Envelope { id, kind, from, trace, .. } = &accepted.envelope;
                span(trace, "keep").in_scope(|| tracing::info!(%id, %kind, %from, "a message came"));
            }
        }
        self.carry_out(group);
        Ok(())
    }

    /// What stands behind records that are durable, in order.
    fn carry_out(&mut self, group: Group) {
        let mut checks = Vec::new();
        for output in group.outputs {
            match output {
                Output::Ack { id } => self.answer(id, true),
                Output::Refuse { id, why } => {
                    tracing::debug!(%id, %why, "a message was not taken");
                    self.answer(id, false);
                }
                Output::Check { id, requires } => checks.push((id, requires)),
                output => self.courier.carry_out(output, &self.gate, &self.shelf, group.woken_at),
            }
        }
        self.courier.check(checks);
        for (moved, ids) in group.moved {
            // Nobody waits any more: it is done all the same.
            let _ = moved.send(Ok(ids));
        }
    }

    fn answer(&mut self, id: MessageId, accepted: bool) {
        for back in self.backs.remove(&id).into_iter().flatten() {
            let _ = back.try_send(Verdict { id, accepted });
        }
    }
}

#[cfg(test)]
mod tests;
