//! What stands between an engine and the trait: no panic gets out, and a store that broke answers nothing more.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use super::StoreError;

/// Remembers how a store broke; what it would answer after that cannot be trusted.
#[derive(Debug)]
pub(super) struct Fence {
    engine: &'static str,
    broken: OnceLock<Broken>,
}

#[derive(Debug)]
struct Broken {
    damaged: bool,
    what: String,
}

// === impl Fence ===

impl Fence {
    pub(super) fn new(engine: &'static str) -> Fence {
        Fence { engine, broken: OnceLock::new() }
    }

    /// Work that changes nothing: only damage breaks the store.
    pub(super) fn read<T>(&self, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.check()?;
        contained(self.engine, work).inspect_err(|error| {
            if matches!(error, StoreError::Damaged(_)) {
                self.break_by(error);
            }
        })
    }

    /// Work of which nobody knows how far it came once it failed.
    pub(super) fn change<T>(&self, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.check()?;
        contained(self.engine, work).inspect_err(|error| self.break_by(error))
    }

    fn check(&self) -> Result<(), StoreError> {
        let Some(Broken { damaged, what }) = self.broken.get() else { return Ok(()) };
        let what = format!("an earlier error left it in an unknown state, open it anew: {what}");
        Err(if *damaged { StoreError::Damaged(what) } else { StoreError::Io(what) })
    }

    fn break_by(&self, error: &StoreError) {
        let (damaged, what) = match error {
            StoreError::Damaged(what) => (true, what.clone()),
            StoreError::Io(what) => (false, what.clone()),
            other => (false, other.to_string()),
        };
        // Whoever came first says why.
        let _ = self.broken.set(Broken { damaged, what });
    }
}

/// Runs the engine; a panic of it is damage that it did not expect.
pub(super) fn contained<T>(
    engine: &'static str,
    work: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    // What the engine holds may be inconsistent after a panic; the fence lets nobody near it any more.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<&str>().map(|said| (*said).to_owned());
        let said = said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        let said = said.lines().next().unwrap_or_default();
        Err(StoreError::Damaged(format!("{engine} panicked: {said}")))
    })
}

/// Lets go of the engine, which works, and may panic, then too.
pub(super) fn let_go<T>(engine: &'static str, held: T) {
    let dropped = contained(engine, || {
        drop(held);
        Ok(())
    });
    if let Err(error) = dropped {
        tracing::error!(%error, "while the store was closed");
    }
}

/// What an error of the file system says of a store: that its files are not what they were, or that the disk failed.
pub(super) fn file_error(error: &io::Error) -> StoreError {
    use io::ErrorKind::{
        AlreadyExists, InvalidData, InvalidInput, IsADirectory, NotADirectory, NotFound, UnexpectedEof,
    };
    match error.kind() {
        AlreadyExists | InvalidData | InvalidInput | IsADirectory | NotADirectory | NotFound
        | UnexpectedEof => StoreError::Damaged(error.to_string()),
        _ => StoreError::Io(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_damage_and_nothing_is_asked_of_the_engine_afterwards() {
        let fence = Fence::new("engine");
        assert_eq!(fence.read(|| Ok(1)).unwrap(), 1);
        let panicked = fence.read(|| -> Result<(), _> { panic!("two\nlines") }).unwrap_err();
        assert_eq!(panicked.to_string(), "store: damaged: engine panicked: two");
        for _ in 0..2 {
            let refused = fence.change(|| -> Result<(), _> { unreachable!("asked again") }).unwrap_err();
            assert!(matches!(&refused, StoreError::Damaged(what) if what.ends_with("engine panicked: two")));
        }
    }

    #[test]
    fn a_failed_read_may_be_tried_again_and_a_failed_write_may_not() {
        let fence = Fence::new("engine");
        let failed = || -> Result<(), _> { Err(StoreError::Io("disk".to_owned())) };
        fence.read(failed).unwrap_err();
        fence.read(|| Ok(())).unwrap();
        fence.change(failed).unwrap_err();
        assert!(matches!(fence.read(|| Ok(())), Err(StoreError::Io(what)) if what.ends_with("disk")));
    }

    #[test]
    fn a_panic_while_closing_stays_inside() {
        struct Sulking;
        impl Drop for Sulking {
            fn drop(&mut self) {
                panic!("not like this");
            }
        }
        let_go("engine", Sulking);
    }
}
