//! One call at a time for each container.
//!
//! A second dump would take the pause of the first for its user's, and an unfreeze in the
//! middle of a dump would make the writable layer and the memory differ.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use super::Container;
use crate::checkpoints::{Failure, Kind};

type Key = (PathBuf, String, String);

static BUSY: LazyLock<Mutex<HashSet<Key>>> = LazyLock::new(Mutex::default);

fn all() -> MutexGuard<'static, HashSet<Key>> {
    BUSY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A call about a container, until it is dropped.
pub(super) struct Busy(Key);

impl Busy {
    /// # Errors
    /// There is another call about the container.
    pub(super) fn with(container: &Container) -> Result<Self, Failure> {
        let Container {
            id,
            namespace,
            address,
        } = container;
        let key = (address.clone(), namespace.clone(), id.clone());
        match all().insert(key.clone()) {
            true => Ok(Self(key)),
            false => Err(Failure::new(
                Kind::State,
                format!("container {id} is being dumped, restored or frozen; try again later"),
            )),
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        all().remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_call_is_refused() {
        let container = Container {
            id: "busy".into(),
            namespace: "default".into(),
            address: "/s".into(),
        };
        let first = Busy::with(&container).expect("the first");
        assert!(Busy::with(&container).is_err());
        let other = Container {
            namespace: "moby".into(),
            ..container.clone()
        };
        Busy::with(&other).expect("another");
        drop(first);
        Busy::with(&container).expect("again");
    }
}
