//! Delete: deliver the last output, let the OCI runtime forget the container,
//! unmount its root.
//!
//! One thing more than containerd's own shim does: to restore from an image,
//! containerd (1.7 to 2.4, `services/tasks/local.go`) unpacks the checkpoint
//! into a temporary folder `ctrd-checkpointNNN` that it never removes. The task
//! is its only user, so it goes with the task.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use cedana_contract::engine::is_temporary_checkpoint;
use containerd_shim::protos::{events::task::TaskDelete, protobuf::MessageField};
use log::warn;

use super::process::{Ended, timestamp};
use super::state::{Request, State};
use super::{Container, is_unknown_container, lock};
use crate::error::{Error, Result};

/// How long a container that was never started takes to die.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

impl Container {
    /// Deletes the container; returns init's PID and end.
    ///
    /// # Errors
    /// [`Error::FailedPrecondition`] while it runs; the OCI runtime's refusal.
    pub(crate) async fn delete(&self) -> Result<(i32, Option<Ended>)> {
        let _operation = self.operation_lock.write().await;
        self.state().admit(Request::Delete)?;
        let never_started = self.state() == State::Created && self.pid() != 0;
        self.end_netns_holder();
        lock(&self.held_fifos).clear();
        if !never_started {
            self.init.finish_io().await;
        }
        self.delete_from_runtime().await?;
        if never_started {
            // The runtime has killed the waiting init.
            if tokio::time::timeout(KILL_TIMEOUT, self.init.wait())
                .await
                .is_err()
            {
                warn!("container {}: init {} did not die", self.id, self.pid());
            }
            self.init.finish_io().await;
        }
        if let Some(watch) = lock(&self.oom_watch).take() {
            watch.abort();
        }
        self.unmount().await;
        remove_unpacked_checkpoint(&self.bundle);
        *lock(&self.state) = State::Deleted;
        let ended = self.init.ended();
        self.send(TaskDelete {
            container_id: self.id.clone(),
            pid: self.pid().cast_unsigned(),
            exit_status: ended.map_or(0, |e| e.status.cast_unsigned()),
            exited_at: MessageField(timestamp(ended).0),
            ..TaskDelete::default()
        });
        Ok((self.pid(), ended))
    }
}

impl Container {
    /// Makes the OCI runtime forget the container, killing what still runs: one
    /// that was created and never started (crun wants `--force` for it).
    ///
    /// # Errors
    /// The runtime's refusal, but for a container that it doesn't know: a
    /// checkpoint that ended it has made the runtime forget it, and one that was
    /// never restored it never knew.
    pub(super) async fn delete_from_runtime(&self) -> Result<()> {
        let command = self.runtime.delete(&self.id);
        match self.run(command, "failed to delete task").await {
            Err(Error::Runtime(text)) if is_unknown_container(&text) => Ok(()),
            result => result,
        }
    }
}

/// Where the bundle notes what was unpacked for it, for the `delete` call after
/// a shim that was killed.
const UNPACKED: &str = "restored-from";

/// Notes the checkpoint that the task restores from.
pub(super) fn record_unpacked_checkpoint(bundle: &Path, checkpoint: &str) {
    if let Err(e) = std::fs::write(bundle.join(UNPACKED), checkpoint) {
        warn!("{checkpoint} will be left behind: {e}");
    }
}

/// Removes what was noted, if it is containerd's.
pub(crate) fn remove_unpacked_checkpoint(bundle: &Path) {
    if let Ok(checkpoint) = std::fs::read_to_string(bundle.join(UNPACKED)) {
        remove_if_unpacked(Path::new(&checkpoint));
    }
}

fn remove_if_unpacked(checkpoint: &Path) {
    let temporary = std::env::var_os("XDG_RUNTIME_DIR")
        .filter(|dir| !dir.is_empty())
        .map_or_else(std::env::temp_dir, PathBuf::from);
    if is_unpacked(checkpoint, &temporary)
        && let Err(e) = std::fs::remove_dir_all(checkpoint)
    {
        warn!("{} is left behind: {e}", checkpoint.display());
    }
}

/// Whether containerd made the folder.
fn is_unpacked(checkpoint: &Path, temporary: &Path) -> bool {
    checkpoint.parent() == Some(temporary) && is_temporary_checkpoint(checkpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_containerds_own_folders_are_removed() {
        let yes = |path: &str| is_unpacked(Path::new(path), Path::new("/tmp"));
        assert!(yes("/tmp/ctrd-checkpoint123"));
        assert!(!yes("/tmp/ctrd-checkpoint"));
        assert!(!yes("/tmp/ctrd-checkpoint-mine"));
        assert!(!yes("/home/me/ctrd-checkpoint123"));
        assert!(!yes("/tmp/../tmp/ctrd-checkpoint123"));
    }
}
