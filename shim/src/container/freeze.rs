//! Freezing, tried again where it fails in passing.
//!
//! With cgroup v1 the kernel freezes the processes that it finds, and one that is
//! being made meanwhile escapes: runc tries a thousand times within milliseconds
//! and then says "unable to freeze" (stress-ng; a JVM with ZGC; a process within
//! vfork, until its child calls exec). runc thaws the cgroup before it says so. A
//! moment later the next attempt succeeds, so the client hears of the failure only
//! if it lasts.

use std::time::{Duration, Instant};

use super::{Container, lock};
use crate::error::{Error, Result};

/// How long after the first failure another attempt is made.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the processes run between two attempts. There is no event to wait for.
const RETRY_INTERVAL: Duration = Duration::from_millis(25);

/// What runc and crun say of a freeze that did not come about in time on cgroup v1.
const UNABLE_TO_FREEZE: &str = "unable to freeze";

impl Container {
    /// Has the runtime freeze all processes.
    ///
    /// # Errors
    /// The runtime's refusal, or that of its last attempt; the container then runs.
    pub(super) async fn freeze(&self) -> Result<()> {
        let mut first_failure = None;
        let mut attempts = 0;
        loop {
            let mut command = self.runtime.command("pause");
            command.arg(&self.id);
            attempts += 1;
            let error = match self.run(command, "OCI runtime pause failed").await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let since = *first_failure.get_or_insert_with(Instant::now);
            let passes = is_transient(&error);
            if passes && since.elapsed() < PATIENCE {
                tokio::time::sleep(RETRY_INTERVAL).await;
                continue;
            }
            if let Some(cgroup) = lock(&self.cgroup).as_ref() {
                cgroup.withdraw_freeze();
            }
            return Err(match error {
                Error::Runtime(why) if passes => Error::Runtime(format!(
                    "{why} (tried {attempts} times within {:.1} s)",
                    since.elapsed().as_secs_f64()
                )),
                error => error,
            });
        }
    }
}

fn is_transient(error: &Error) -> bool {
    let Error::Runtime(why) = error else {
        return false;
    };
    why.contains(UNABLE_TO_FREEZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_freeze_that_came_too_late_passes() {
        let why = |text: &str| Error::Runtime(format!("OCI runtime pause failed: {text}"));
        assert!(is_transient(&why("unable to freeze")));
        assert!(!is_transient(&why("container not running")));
        // On v2 runc has waited ten seconds by then.
        assert!(!is_transient(&why(
            "timeout of 10s reached waiting for the cgroup to freeze"
        )));
        assert!(!is_transient(&Error::InvalidArgument(
            "unable to freeze".into()
        )));
    }
}
