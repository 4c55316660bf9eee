//! The end of an attempt: a checkpoint, or the reason why there is none.

use std::path::PathBuf;

use cedana_checkpoint::criu::Cause;
use cedana_checkpoint::inspect::dump_cost;

use super::attempts::Attempts;
use super::prepared::Prepared;
use super::proc_details::complete;
use super::storage::{Criu, Images, Storage, Stored};
use super::unrestorable;
use crate::commands::error::Error;
use crate::criu::Log;
use crate::engine::checkpoint_dir;
use crate::host::child::Outcome;
use crate::host::procfs::Init;
use crate::output::printable::to_stderr;
use cedana_contract::pid::Pid;

/// An attempt that has ended.
pub(super) enum Ended<'a> {
    Captured(Captured<'a>),
    Failed(Failed<'a>),
}

/// CRIU has written all images.
pub(super) struct Captured<'a> {
    pub(super) prepared: &'a Prepared<'a>,
    pub(super) outcome: Outcome,
    /// The images, published if CRIU waited for that.
    pub(super) images: Written<'a>,
    /// CRIU's statistics.
    pub(super) stats: Log,
    /// CRIU's working directory.
    pub(super) work: PathBuf,
}

/// Complete images.
pub(super) enum Written<'a> {
    Unpublished(Box<Storage<'a>>),
    Published(Stored),
}

impl Captured<'_> {
    /// Publishes the checkpoint, if that is not done yet, and reports what its
    /// caller should know. Returns the archive's path, if it is one.
    pub(super) fn finish(self) -> Result<Option<PathBuf>, Error> {
        let prepared = self.prepared;
        let result = self.publish();
        // The images of a container that has ended may be all that is left of it.
        let left = result.is_err() && prepared.request.has("leave-running");
        if left || checkpoint_dir::was_made_again(prepared.request) {
            remove_packed(prepared);
        }
        result
    }

    fn publish(self) -> Result<Option<PathBuf>, Error> {
        let Prepared {
            request, reporter, ..
        } = self.prepared;
        let stored = match self.images {
            Written::Published(stored) => stored,
            // A caller that has ended the command is not told of a file.
            Written::Unpublished(_)
                if self.outcome.signalled && request.archive_name().is_some() =>
            {
                return Err(self.prepared.cancelled());
            }
            Written::Unpublished(storing) => {
                let cost = self
                    .stats
                    .is_new()
                    .then(|| dump_cost(&self.work).ok().flatten())
                    .flatten();
                // The container runs on, so there is nothing to refuse, unless the client
                // stops it later.
                if !request.has("pre-dump")
                    && let Err(doubt) =
                        unrestorable::after_leaving_running(self.prepared, &storing.images())
                {
                    let refused = self.prepared.refused(doubt);
                    if let Err(error) = storing.abandon() {
                        reporter.warning(&format!(
                            "cannot remove the incomplete checkpoint in {}: {error}",
                            request.images.display()
                        ));
                    }
                    return Err(refused);
                }
                storing.finish(Criu::Ended(cost))?
            }
        };
        to_stderr(&self.outcome.stderr);
        if !self.outcome.status.success() {
            reporter.warning(&format!(
                "the checkpoint of container {} in {} is complete although the runtime failed ({})",
                request.id,
                request.images.display(),
                self.outcome.status
            ));
        }
        if let Err(error) = checkpoint_dir::add_whiteout(request) {
            reporter.warning(&format!(
                "Docker may refuse to restore the checkpoint in {}: {error}",
                request.images.display()
            ));
        }
        Ok(stored.archive)
    }
}

/// There is no checkpoint.
pub(super) struct Failed<'a> {
    pub(super) prepared: &'a Prepared<'a>,
    pub(super) outcome: Outcome,
    pub(super) images: Images<'a>,
    pub(super) log: Log,
    /// Init and the container's processes when the attempt began.
    pub(super) init: Init,
    pub(super) processes: Vec<Pid>,
}

impl Failed<'_> {
    /// Thaws the container and removes the images.
    ///
    /// # Errors
    /// Why there is no checkpoint; none if another attempt may succeed.
    pub(super) fn clean_up(self, attempts: &mut Attempts<'_>) -> Result<(), Error> {
        let Self {
            prepared,
            outcome,
            images,
            log,
            init,
            processes,
        } = self;
        // First of all, because what follows takes time.
        thaw(prepared, attempts);
        let (refusal, storing) = match images {
            Images::Captured(storing) => (None, Some(storing)),
            Images::Published(_) => (None, None),
            Images::Refused(error, storing) => (Some(error), storing),
        };
        let cause = log.cause();
        let failure = match refusal {
            Some(error)
                if attempts.init_is_alive() && prepared.may_succeed_without_store(&error) =>
            {
                None
            }
            Some(error) => Some(error),
            None if prepared.kind.repeatable && attempts.again(cause.as_ref(), &outcome) => {
                if let Some(cause) = cause {
                    prepared.reporter.note(&format!(
                        "container {}: trying again: {cause}",
                        prepared.request.id
                    ));
                }
                None
            }
            None => {
                let details = |found: &mut _| complete(found, init, &processes);
                let mut failure =
                    log.failure_with(prepared.request, &prepared.config, &outcome, details);
                if outcome.stalled {
                    failure.why = Cause::Ended.to_string().into();
                }
                failure.why = format!("{}{}", failure.why, attempts.account()).into();
                Some(Error::failed(prepared.request, failure))
            }
        };
        if let Some(Err(error)) = storing.map(|storing| storing.abandon()) {
            prepared.reporter.warning(&format!(
                "cannot remove the incomplete checkpoint in {}: {error}",
                prepared.request.images.display()
            ));
        }
        let Some(failure) = failure else {
            return Ok(());
        };
        remove_packed(prepared);
        Err(failure)
    }
}

/// Removes a directory of containerd's that has no checkpoint.
fn remove_packed(prepared: &Prepared<'_>) {
    if let Err(error) = checkpoint_dir::remove_packed(prepared.request) {
        prepared.reporter.warning(&format!(
            "cannot remove the directory {} of an incomplete checkpoint: {error}",
            prepared.request.images.display()
        ));
    }
}

/// Thaws a container that CRIU left frozen, unless it was frozen before.
fn thaw(prepared: &Prepared<'_>, attempts: &Attempts<'_>) {
    let frozen = prepared
        .cgroup
        .as_ref()
        .filter(|cgroup| !attempts.was_frozen() && cgroup.is_frozen());
    if let Some(cgroup) = frozen
        && let Err(error) = cgroup.thaw()
    {
        prepared.reporter.warning(&format!(
            "container {} is still frozen and cannot be thawed: {error}",
            prepared.request.id
        ));
    }
}
