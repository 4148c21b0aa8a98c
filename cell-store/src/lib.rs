//! The only code of Homecell that touches a disk.
//!
//! On the road of the data this crate is the durable commit: [`Log`] makes a group of records survive with one write
//! and one sync, [`Store`] holds the view derived from it. The log is the truth and the view can be rebuilt from it, so
//! the two give different promises: a record that [`Log::sync`] covered is never served shorter or different (damage is
//! named, not skipped), while a batch of the view is whole or absent, and durable only after [`Store::sync`].
//!
//! What it deliberately does not do: it knows bytes and keys, not orders; it chains no hashes over records (the caller
//! knows whose sequence a record belongs to); it knows no async runtime (callers bring their own threads, engines theirs);
//! it never repairs by guessing: what does not verify is reported with its positions, to be fetched again from those who
//! have it.
//!
//! [`Medium`] is the seam to the disk. [`DiskMedium`] is a folder; [`FaultMedium`] is a folder in memory that loses power,
//! tears writes, fails syncs and flips bits on request, for tests and simulation.

mod lock;
mod log;
mod medium;
mod owner;
mod space;
mod store;

pub use lock::write_whole;
pub use log::{
    Damage, DamageReason, FRAME_BODY_BYTES_MAX, Log, LogConfig, LogError, LogReader, LogTrimmer, Position,
    Recovery,
};
pub use medium::{DiskMedium, FaultMedium, Medium, MediumError};
pub use owner::{FolderError, claim, clear_for_folder, has_room, may_claim};
pub use space::free_bytes;
pub use store::{
    Batch, Engine, FjallConfig, FjallStore, KEY_BYTES_MAX, MemoryStore, MigrateError, Migrated, Scan,
    SledConfig, SledStore, Stage, Store, StoreError, VALUE_BYTES_MAX, discard, engine_of, may_migrate,
    migrate, open,
};
