//! Waiting for what real processes do in their own time.

use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

/// Asks again, `every` so often, until the answer is good.
///
/// # Errors
/// The last answer, if none was good `within` that time.
pub async fn until<T, E>(
    within: Duration,
    every: Duration,
    mut ask: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, E> {
    let (begun, mut look) = (Instant::now(), tokio::time::interval(every));
    // Whoever takes long to answer is not asked without a pause.
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let answer = ask().await;
        if answer.is_ok() || begun.elapsed() > within {
            return answer;
        }
    }
}
