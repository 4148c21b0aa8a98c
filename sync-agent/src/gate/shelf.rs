//! Where the gate's records lie: a log of its own, and in memory where in it each message is.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cell_core::canon::{Malformed, Message};
use cell_core::gate::{Envelope, MessageId, Record};
use cell_store::{DiskMedium, Log, LogConfig, LogError, LogReader, MediumError, Position};

/// The log is written anew when it holds this many records, and as many as are kept, that nobody needs.
const WASTE_MAX: u64 = 65_536;
const READ_BYTES: usize = 1 << 20;
/// Records written in one frame while the log is written anew.
const CHUNK: usize = 1_024;
const SEGMENT_BYTES: u64 = 16 << 20;

/// The gate's log cannot be used. What was acknowledged before is on disk or owed by its sender.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShelfError {
    #[error(transparent)]
    Folder(#[from] MediumError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the gate's log holds a record that cannot be read: {0}")]
    Record(#[from] Malformed),
    #[error("the storage thread ended")]
    Ended,
}

/// Where the notes about one message are; most have none.
#[derive(Clone, Copy, Debug, Default)]
struct Notes {
    dead: Option<u64>,
    discarded: Option<u64>,
}

/// The log and its index.
#[derive(Debug)]
pub(crate) struct Shelf {
    /// Taken out while a thread writes it.
    log: Option<Log>,
    reader: LogReader,
    /// Where each message is. A tree, since a table doubles at once, and there may be millions.
    places: BTreeMap<MessageId, u64>,
    notes: BTreeMap<MessageId, Notes>,
    /// Where the log was written anew last, or begins.
    tidied_at: u64,
}

impl Shelf {
    /// Opens the log in `folder` and reads the records of every message kept, in the order written.
    ///
    /// # Errors
    /// [`ShelfError`]: held by another process, or of a newer version.
    pub(crate) fn open(folder: &Path) -> Result<(Shelf, Vec<Record>), ShelfError> {
        let medium = DiskMedium::open(folder)?;
        let config = LogConfig { segment_bytes_max: SEGMENT_BYTES, ..LogConfig::default() };
        let (log, recovery) = Log::open(Arc::new(medium), config)?;
        for damage in &recovery.damage {
            tracing::error!(
                ?damage,
                "the gate's log is damaged here; what it held comes again from its senders"
            );
        }
        let reader = log.reader();
        let tidied_at = reader.first().0;
        let mut shelf =
            Shelf { log: Some(log), reader, places: BTreeMap::new(), notes: BTreeMap::new(), tidied_at };
        let (mut at, mut records) = (shelf.reader.first(), Vec::new());
        loop {
            let batch = match shelf.reader.read(at, READ_BYTES) {
                Ok(batch) => batch,
                Err(LogError::Damaged { lost }) => {
                    at = Position(lost.end);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let Some((last, _)) = batch.last() else { return Ok((shelf, records)) };
            at = last.plus(1);
            for (position, bytes) in &batch {
                match Record::decode(bytes) {
                    Ok(record) => {
                        shelf.note(&record, position.0);
                        records.push(record);
                    }
                    Err(error) => tracing::error!(
                        %error, %position,
                        "a record of the gate's log cannot be read; what it held comes again from its sender"
                    ),
                }
            }
        }
    }

    fn note(&mut self, record: &Record, at: u64) {
        let id = record.id();
        match record {
            Record::Accepted(_) | Record::Undecoded(_) => {
                self.places.insert(id, at);
                self.notes.remove(&id);
            }
            Record::DeadLettered(_) => {
                if self.places.contains_key(&id) {
                    self.notes.entry(id).or_default().dead = Some(at);
                }
            }
            Record::Discarded(_) => {
                if self.places.contains_key(&id) {
                    self.notes.entry(id).or_default().discarded = Some(at);
                }
            }
            Record::Gone(_) => {
                self.places.remove(&id);
                self.notes.remove(&id);
            }
        }
    }

    /// Makes records durable.
    ///
    /// # Errors
    /// [`ShelfError`]: nothing may be promised any more.
    pub(crate) async fn keep(&mut self, records: Vec<Record>) -> Result<(), ShelfError> {
        if records.is_empty() {
            return Ok(());
        }
        let first = self.write(records.iter().map(Message::to_canon).collect()).await?;
        for (at, record) in (first..).zip(&records) {
            self.note(record, at);
        }
        metrics::counter!("cell_gate_records_total").increment(records.len() as u64);
        Ok(())
    }

    async fn write(&mut self, bytes: Vec<Vec<u8>>) -> Result<u64, ShelfError> {
        let Some(mut log) = self.log.take() else { return Err(ShelfError::Ended) };
        let written = tokio::task::spawn_blocking(move || {
            let first = log.next().0;
            let synced = log.append(&bytes).and_then(|()| log.sync());
            (log, synced.map(|_| first))
        });
        let (log, first) = written.await.map_err(|_| ShelfError::Ended)?;
        self.log = Some(log);
        Ok(first?)
    }

    /// The message kept under this id, if there is one that can be read.
    ///
    /// # Errors
    /// [`ShelfError`]: damage.
    pub(crate) fn message(&self, id: &MessageId) -> Result<Option<Envelope>, ShelfError> {
        match self.record(id)? {
            Some(Record::Accepted(accepted)) => Ok(Some(accepted.envelope)),
            _ => Ok(None),
        }
    }

    /// The bytes kept under this id because they could not be read.
    ///
    /// # Errors
    /// [`ShelfError`]: damage.
    pub(crate) fn undecoded(&self, id: &MessageId) -> Result<Option<Bytes>, ShelfError> {
        match self.record(id)? {
            Some(Record::Undecoded(kept)) => Ok(Some(kept.bytes)),
            _ => Ok(None),
        }
    }

    fn record(&self, id: &MessageId) -> Result<Option<Record>, ShelfError> {
        let Some(place) = self.places.get(id) else { return Ok(None) };
        let Some(bytes) = self.reader.get(Position(*place))? else { return Ok(None) };
        Ok(Some(Record::decode(&bytes)?))
    }

    /// Writes what is kept anew once most of the log is waste, and deletes the rest.
    ///
    /// # Errors
    /// [`ShelfError`]: nothing was deleted that is not written again.
    pub(crate) async fn tidy(&mut self) -> Result<(), ShelfError> {
        self.tidy_beyond(WASTE_MAX).await
    }

    async fn tidy_beyond(&mut self, waste_max: u64) -> Result<(), ShelfError> {
        let end = self.reader.durable().0;
        let kept = self.places.len() as u64;
        if end - self.tidied_at <= waste_max + 4 * kept {
            return Ok(());
        }
        // A message, then what is noted about it: as they were written.
        let mut old: Vec<u64> = self.places.values().copied().collect();
        old.extend(self.notes.values().flat_map(|notes| [notes.dead, notes.discarded].into_iter().flatten()));
        old.sort_unstable();
        for chunk in old.chunks(CHUNK) {
            let mut records = Vec::with_capacity(chunk.len());
            for at in chunk {
                let Some(bytes) = self.reader.get(Position(*at))? else { continue };
                records.push(Record::decode(&bytes)?);
            }
            // Written again, an acceptance voids the notes before it; those follow in this or a later chunk.
            self.keep(records).await?;
        }
        let Some(mut log) = self.log.take() else { return Err(ShelfError::Ended) };
        let deleted = tokio::task::spawn_blocking(move || {
            let deleted = log.delete_before(Position(end));
            (log, deleted)
        });
        let (log, deleted) = deleted.await.map_err(|_| ShelfError::Ended)?;
        self.log = Some(log);
        self.tidied_at = self.reader.durable().0;
        tracing::info!(kept, first = deleted?.0, "the gate's log was written anew");
        Ok(())
    }
}

#[cfg(test)]
mod tests;
