//! A panic in one piece of work ends that piece, not the thread that everything here goes through.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `work`; if it panics, that is said and counted, and what the panic said is handed back.
///
/// # Errors
/// What the panic said. The caller knows what may be half done.
pub(crate) fn contained<T>(
    what: &'static str,
    about: &dyn std::fmt::Display,
    work: impl FnOnce() -> T,
) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let said = said(&*panic);
        metrics::counter!("cell_contained_panics_total", "what" => what).increment(1);
        tracing::error!(what, %about, said, "a panic was contained: this is a bug, report it");
        said
    })
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a word".to_owned())
}
