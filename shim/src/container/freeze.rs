//! Freezes the container's cgroup, and retries transient failures.
//!
//! With cgroup v1 the kernel freezes the processes that exist at that moment, but not
//! a process that is being forked. runc tries a thousand times within milliseconds,
//! then thaws the cgroup and fails with "unable to freeze" (stress-ng; a JVM with
//! ZGC; a process within vfork, until its child calls exec). A later attempt
//! succeeds, so the client gets the error only if the failure lasts.

use std::time::{Duration, Instant};

use super::{Container, lock};
use crate::error::{Error, Result};

/// The time after the first failure during which the freeze is retried.
const RETRY_TIME: Duration = Duration::from_secs(2);

/// The time for which the processes run between two attempts. The kernel has no event
/// to wait for.
const RETRY_INTERVAL: Duration = Duration::from_millis(25);

/// The error of runc and crun when a freeze takes too long on cgroup v1.
const UNABLE_TO_FREEZE: &str = "unable to freeze";

impl Container {
    /// Has the runtime freeze all processes.
    ///
    /// # Errors
    /// The runtime's error of the last attempt. The container then runs.
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
            let transient = is_transient(&error);
            if transient && since.elapsed() < RETRY_TIME {
                tokio::time::sleep(RETRY_INTERVAL).await;
                continue;
            }
            if let Some(cgroup) = lock(&self.cgroup).as_ref() {
                cgroup.withdraw_freeze();
            }
            return Err(match error {
                Error::Runtime(why) if transient => Error::Runtime(format!(
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
    fn only_a_freeze_that_takes_too_long_is_transient() {
        let why = |text: &str| Error::Runtime(format!("OCI runtime pause failed: {text}"));
        assert!(is_transient(&why("unable to freeze")));
        assert!(!is_transient(&why("container not running")));
        // On cgroup v2 runc has already waited for ten seconds.
        assert!(!is_transient(&why(
            "timeout of 10s reached waiting for the cgroup to freeze"
        )));
        assert!(!is_transient(&Error::InvalidArgument(
            "unable to freeze".into()
        )));
    }
}
