//! Waits for a condition.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The usual deadline, generous for a machine with many times the load that it has
/// processors for: only a test that fails waits for so long.
const PATIENCE: Duration = Duration::from_secs(180);

/// The least time between two checks of the condition.
const PERIOD: Duration = Duration::from_millis(10);

/// A time multiplied by `CEDANA_TEST_PATIENCE`, for emulated machines.
pub(crate) fn stretched(usual: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    usual
        * *FACTOR.get_or_init(|| match std::env::var("CEDANA_TEST_PATIENCE") {
            Ok(factor) => factor
                .parse()
                .unwrap_or_else(|_| panic!("CEDANA_TEST_PATIENCE: {factor} is not a number")),
            Err(_) => 1,
        })
}

/// Calls `found` until it returns a value; panics at the deadline, with `what` and its
/// last error.
#[track_caller]
pub fn eventually<T>(what: &str, found: impl FnMut() -> Result<T, String>) -> T {
    eventually_within(PATIENCE, what, found)
}

/// [`eventually`] with another deadline.
#[track_caller]
pub fn eventually_within<T>(
    patience: Duration,
    what: &str,
    mut found: impl FnMut() -> Result<T, String>,
) -> T {
    let patience = stretched(patience);
    let deadline = Instant::now() + patience;
    loop {
        let begun = Instant::now();
        match found() {
            Ok(value) => return value,
            Err(seen) if Instant::now() > deadline => {
                panic!("{what}: not within {patience:?}; last seen: {seen}")
            }
            // A check that runs a program takes processor time from what it waits for.
            Err(_) => std::thread::sleep(PERIOD.max(begun.elapsed())),
        }
    }
}
