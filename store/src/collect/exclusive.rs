//! Waiting for the store's lock.

use std::thread;
use std::time::Duration;

use crate::{Error, Guard, Store};

/// How often, and after which pause, the lock is tried. `flock` can wait, but not for a
/// limited time, and while a process waits for it alone, Linux lets others share it, so
/// the wait may have no end.
const TRIES: u32 = 40;
const PAUSE: Duration = Duration::from_millis(50);

/// The store's lock, alone; `None` if others hold it for longer than two seconds.
pub(crate) fn wait(store: &Store) -> Result<Option<Guard>, Error> {
    for _ in 0..TRIES {
        if let Some(guard) = store.sweep()? {
            return Ok(Some(guard));
        }
        thread::sleep(PAUSE);
    }
    Ok(None)
}
