//! Waiting for what real processes do in their own time.

use std::time::{Duration, Instant};

/// Asks again, `every` so often, until the answer is good.
///
/// # Errors
/// The last answer, if none was good `within` that time.
pub async fn until<T, E>(
    within: Duration,
    every: Duration,
    mut ask: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, E> {
    let begun = Instant::now();
    loop {
        match ask().await {
            Err(_) if begun.elapsed() <= within => tokio::time::sleep(every).await,
            answer => return answer,
        }
    }
}
