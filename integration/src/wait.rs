//! Waiting for a condition.

use std::time::{Duration, Instant};

/// Long enough for a loaded machine, short enough for a person who watches.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at the condition.
const PERIOD: Duration = Duration::from_millis(10);

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
