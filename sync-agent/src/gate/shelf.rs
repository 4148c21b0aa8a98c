//! Where the gate's records lie: a log of its own. Where in it each one is, the gate carries with the message.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cell_core::canon::{Malformed, Message};
use cell_core::gate::{Envelope, Gate, MessageId, Place, Record};
use cell_store::{DiskMedium, FolderError, Log, LogConfig, LogError, LogReader, MediumError, Position};
use tokio::task::JoinHandle;

/// The log is written anew when it holds this many records, and as many as are kept, that nobody needs.
const WASTE_MAX: u64 = 65_536;
const READ_BYTES: usize = 1 << 20;
/// Records written in one frame while the log is written anew.
const CHUNK: usize = 1_024;
/// Pause between two tries to write to a full disk.
const FULL_PAUSE: Duration = Duration::from_millis(500);

/// The gate's log cannot be used. What was acknowledged before is on disk or owed by its sender.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShelfError {
    #[error(transparent)]
    Folder(#[from] MediumError),
    #[error(transparent)]
    Foreign(FolderError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the gate's log holds a record that cannot be read: {0}")]
    Record(#[from] Malformed),
    #[error("the storage thread ended")]
    Ended,
}

/// Records on their way to the disk.
pub(crate) type Writing = JoinHandle<(Log, Result<u64, LogError>)>;
/// How that ended.
pub(crate) type Written = <Writing as Future>::Output;

/// The log.
#[derive(Debug)]
pub(crate) struct Shelf {
    /// Taken out while a thread writes it.
    log: Option<Log>,
    reader: LogReader,
    /// Where the log was written anew last, or begins.
    tidied_at: u64,
    /// Nobody waits for room on the disk any more.
    ending: Arc<AtomicBool>,
    full: Arc<AtomicBool>,
}

impl Shelf {
    /// Opens the log in the folder of `owner`, an agent.
    ///
    /// # Errors
    /// [`ShelfError`]: somebody else's, held by another process, or of a newer version.
    pub(crate) fn open(dir: &Path, owner: &str) -> Result<Shelf, ShelfError> {
        let gate = dir.join("gate");
        cell_store::clear_for_folder(&gate).map_err(ShelfError::Foreign)?;
        let medium = DiskMedium::open(gate)?;
        match cell_store::claim(dir, owner) {
            Err(error @ FolderError::Foreign { .. }) => return Err(ShelfError::Foreign(error)),
            // What the gate keeps is worth more than the mark, which the next start makes.
            Err(error) => tracing::warn!(%error, "the folder cannot be marked as this agent's"),
            Ok(()) => {}
        }
        let (log, recovery) = Log::open(Arc::new(medium), LogConfig::default())?;
        for damage in &recovery.damage {
            tracing::error!(
                ?damage,
                "the gate's log is damaged here; what it held comes again from its senders"
            );
        }
        let reader = log.reader();
        let tidied_at = reader.first().0;
        Ok(Shelf { log: Some(log), reader, tidied_at, ending: Arc::default(), full: Arc::default() })
    }

    /// What is to be kept waits for room on the disk.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Everything in the log, from which the gate is restored.
    pub(crate) fn records(&self) -> Records {
        let at = self.reader.first();
        Records { reader: self.reader.clone(), at, read: Vec::new().into_iter(), failed: None }
    }

    /// Begins to make records durable. Until they are, and [`Shelf::kept`] is told, nothing more is written. On a full disk
    /// that takes until there is room, or until [`Shelf::end`]: nothing is promised meanwhile, and what is kept is delivered.
    ///
    /// # Errors
    /// [`ShelfError::Ended`].
    pub(crate) fn keep(&mut self, records: &[Record]) -> Result<Writing, ShelfError> {
        let ending = self.ending.clone();
        self.write(records, move || ending.load(Ordering::Relaxed))
    }

    /// From now on a full disk is an error.
    pub(crate) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    fn write(
        &mut self,
        records: &[Record],
        gives_up: impl Fn() -> bool + Send + 'static,
    ) -> Result<Writing, ShelfError> {
        metrics::counter!("cell_gate_records_total").increment(records.len() as u64);
        let Some(mut log) = self.log.take() else { return Err(ShelfError::Ended) };
        let bytes: Vec<_> = records.iter().map(Message::to_canon).collect();
        let full = self.full.clone();
        Ok(tokio::task::spawn_blocking(move || {
            let first = log.next().0;
            let mut said = false;
            let synced = loop {
                // After a full disk a part of them may be written.
                let written = (log.next().0 - first) as usize;
                match log.append(&bytes[written..]) {
                    Err(LogError::Full { source }) if !gives_up() => {
                        if !said {
                            tracing::error!(%source, "the gate's log has no room: no message is taken until there is some");
                            said = true;
                            full.store(true, Ordering::Relaxed);
                        }
                        std::thread::sleep(FULL_PAUSE);
                    }
                    appended => break appended.and_then(|()| log.sync()),
                }
            };
            full.store(false, Ordering::Relaxed);
            (log, synced.map(|_| first))
        }))
    }

    /// They are durable: the gate is told where.
    ///
    /// # Errors
    /// [`ShelfError`]: nothing may be promised any more.
    pub(crate) fn kept(
        &mut self,
        gate: &mut Gate,
        records: &[Record],
        written: Written,
    ) -> Result<(), ShelfError> {
        let (log, first) = written.map_err(|_| ShelfError::Ended)?;
        self.log = Some(log);
        (first?..).zip(records).for_each(|(at, record)| gate.placed(record, Place(at)));
        Ok(())
    }

    /// The message kept under this id, if there is one that can be read.
    ///
    /// # Errors
    /// [`ShelfError`]: damage.
    pub(crate) fn message(&self, gate: &Gate, id: &MessageId) -> Result<Option<Envelope>, ShelfError> {
        match self.record(gate.place(id))? {
            Some(Record::Accepted(accepted)) => Ok(Some(accepted.envelope)),
            _ => Ok(None),
        }
    }

    /// The bytes kept under this id because they could not be read.
    ///
    /// # Errors
    /// [`ShelfError`]: damage.
    pub(crate) fn undecoded(&self, gate: &Gate, id: &MessageId) -> Result<Option<Bytes>, ShelfError> {
        match self.record(gate.place(id))? {
            Some(Record::Undecoded(kept)) => Ok(Some(kept.bytes)),
            _ => Ok(None),
        }
    }

    fn record(&self, place: Option<Place>) -> Result<Option<Record>, ShelfError> {
        let Some(Place(at)) = place else { return Ok(None) };
        let Some(bytes) = self.reader.get(Position(at))? else { return Ok(None) };
        Ok(Some(Record::decode(&bytes)?))
    }

    /// Whether most of the log is waste.
    pub(crate) fn is_untidy(&self, gate: &Gate) -> bool {
        self.wastes_more_than(gate, WASTE_MAX)
    }

    fn wastes_more_than(&self, gate: &Gate, waste_max: u64) -> bool {
        self.reader.durable().0 - self.tidied_at > waste_max + 4 * gate.kept() as u64
    }

    /// Writes what is kept anew, and deletes the rest. Nothing may be on its way to the disk, nor wait for it.
    ///
    /// # Errors
    /// [`ShelfError`]: nothing was deleted that is not written again.
    pub(crate) async fn tidy(&mut self, gate: &mut Gate) -> Result<(), ShelfError> {
        let end = self.reader.durable().0;
        let kept = gate.kept();
        let mut old: Vec<Place> = Vec::with_capacity(kept);
        old.extend(gate.places());
        old.sort_unstable();
        for chunk in old.chunks(CHUNK) {
            let mut records = Vec::with_capacity(chunk.len());
            for place in chunk {
                let Some(record) = self.record(Some(*place))? else { continue };
                let id = record.id();
                records.push(record);
                for note in gate.notes(&id) {
                    records.extend(self.record(Some(note))?);
                }
            }
            let written = self.write(&records, || true)?.await;
            match self.kept(gate, &records, written) {
                // Later, then: as long as nothing is deleted nothing is lost.
                Err(ShelfError::Log(LogError::Full { .. })) => return Ok(()),
                kept => kept?,
            }
        }
        let Some(log) = &self.log else { return Err(ShelfError::Ended) };
        let trimmer = log.trimmer();
        let deleted = tokio::task::spawn_blocking(move || trimmer.delete_before(Position(end)));
        let deleted = deleted.await.map_err(|_| ShelfError::Ended)?;
        self.tidied_at = self.reader.durable().0;
        tracing::info!(kept, first = deleted?.0, "the gate's log was written anew");
        Ok(())
    }
}

// === impl Records ===

/// Reads a log from its beginning, a part at a time, so that no more than that is in memory.
#[derive(Debug)]
pub(crate) struct Records {
    reader: LogReader,
    at: Position,
    read: std::vec::IntoIter<(Position, Bytes)>,
    failed: Option<LogError>,
}

impl Records {
    /// Whether that was all.
    ///
    /// # Errors
    /// [`ShelfError`]: the log could not be read on.
    pub(crate) fn end(self) -> Result<(), ShelfError> {
        self.failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// The next part; `false` at the end, and when reading fails.
    fn go_on(&mut self) -> bool {
        loop {
            match self.reader.read(self.at, READ_BYTES) {
                Ok(read) => {
                    self.at = read.last().map_or(self.at, |(last, _)| last.plus(1));
                    self.read = read.into_iter();
                    return self.read.len() > 0;
                }
                Err(LogError::Damaged { lost }) => self.at = Position(lost.end),
                Err(error) => {
                    self.failed = Some(error);
                    return false;
                }
            }
        }
    }
}

impl Iterator for Records {
    type Item = (Place, Record);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((position, bytes)) = self.read.next() else {
                if self.go_on() {
                    continue;
                }
                return None;
            };
            match Record::decode(&bytes) {
                Ok(record) => return Some((Place(position.0), record)),
                Err(error) => tracing::error!(
                    %error, %position,
                    "a record of the gate's log cannot be read; what it held comes again from its sender"
                ),
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
