//! Waiting for a state.

use std::{fmt, time::Duration};

/// Longest wait for anything.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until `look` finds something. Fails the test after [`DEADLINE`], naming `what`.
///
/// # Panics
/// If it does not come to pass.
pub async fn eventually<T, F>(what: impl fmt::Display, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let wait = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let found = tokio::time::timeout(DEADLINE, wait).await;
    found.unwrap_or_else(|_| panic!("within {} s it was never seen: {what}", DEADLINE.as_secs()))
}
