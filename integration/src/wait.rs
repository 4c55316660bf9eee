//! Waiting for a condition.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The bound of a wait for an event: generous, since a loaded machine must not fail
/// a story.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at the condition.
const PERIOD: Duration = Duration::from_millis(10);

/// As many times as long as usual, where the machine is emulated
/// (`CEDANA_TEST_PATIENCE`).
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

/// Looks until `found` gives a value; panics with `what` and the last reason it
/// gave when that does not come.
#[track_caller]
pub fn eventually<T>(what: &str, found: impl FnMut() -> Result<T, String>) -> T {
    eventually_within(PATIENCE, what, found)
}

/// [`eventually`] with a patience of its own.
#[track_caller]
pub fn eventually_within<T>(
    patience: Duration,
    what: &str,
    mut found: impl FnMut() -> Result<T, String>,
) -> T {
    let patience = stretched(patience);
    let deadline = Instant::now() + patience;
    loop {
        match found() {
            Ok(value) => return value,
            Err(seen) if Instant::now() > deadline => {
                panic!("{what}: not within {patience:?}; last seen: {seen}")
            }
            Err(_) => std::thread::sleep(PERIOD),
        }
    }
}
