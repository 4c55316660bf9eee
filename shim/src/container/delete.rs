//! Delete: delivers the remaining output, deletes the container from the OCI runtime
//! and unmounts its root.
//!
//! Unlike containerd's own shim, Delete also removes an unpacked checkpoint. To
//! restore from an image, containerd (1.7 to 2.4, `services/tasks/local.go`) unpacks
//! the checkpoint into a temporary directory `ctrd-checkpointNNN` and never removes
//! the directory. Only the task uses that directory.

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
use crate::container::process::pid_number;
use crate::error::{Context, Error, Result, at};
use crate::own_thread::on_new_thread;
use cedana_contract::pid::Pid;

/// The time limit for the exit of a killed init that was never started.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

impl Container {
    /// Deletes the container and returns init's PID and exit.
    ///
    /// # Errors
    /// [`Error::FailedPrecondition`] while it runs; the OCI runtime's refusal.
    pub(crate) async fn delete(&self) -> Result<(Option<Pid>, Option<Ended>)> {
        let _operation = self.operation_lock.write().await;
        self.state().admit(Request::Delete)?;
        let never_started = self.state() == State::Created && self.pid().is_some();
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
                warn!("container {}: init did not exit after SIGKILL", self.id);
            }
            self.init.finish_io().await;
        }
        if let Some(watch) = lock(&self.oom_watch).take() {
            watch.abort();
        }
        self.unmount().await;
        remove_unpacked(self.bundle.clone()).await;
        *lock(&self.state) = State::Deleted;
        let ended = self.init.ended();
        self.send(TaskDelete {
            container_id: self.id.to_string(),
            pid: pid_number(self.pid()),
            exit_status: ended.map_or(0, |e| e.status.cast_unsigned()),
            exited_at: MessageField(timestamp(ended).0),
            ..TaskDelete::default()
        });
        Ok((self.pid(), ended))
    }
}

impl Container {
    /// Deletes the container from the OCI runtime. The init of a container that was
    /// never started is killed (crun needs `--force` for this).
    ///
    /// # Errors
    /// The runtime's refusal. A container that the runtime doesn't know is no error:
    /// a checkpoint may have stopped the container, or the container was never
    /// restored.
    pub(super) async fn delete_from_runtime(&self) -> Result<()> {
        let (runtime, id) = (self.runtime.clone(), self.id.clone());
        on_new_thread(move || {
            runtime.unmount_left_root(&id);
            Ok(())
        })
        .await?;
        let command = self.runtime.delete(&self.id);
        match self.run(command, "failed to delete task").await {
            Err(Error::Runtime(text)) if is_unknown_container(&text) => Ok(()),
            result => result,
        }
    }
}

/// The file in the bundle with the path of an unpacked checkpoint, for containerd's
/// `delete` call after the shim was killed.
const UNPACKED: &str = "restored-from";

/// Records the checkpoint that the task restores from.
pub(super) async fn record_unpacked_checkpoint(bundle: &Path, checkpoint: &str) {
    let (file, text) = (bundle.join(UNPACKED), checkpoint.to_owned());
    let write = move || std::fs::write(&file, text).context(|| at("write", &file));
    if let Err(e) = on_new_thread(write).await {
        warn!("cannot record {checkpoint}, which will not be removed: {e}");
    }
}

/// Removes the recorded checkpoint like [`remove_unpacked_checkpoint`], beside the event
/// loop: it has the size of the container's memory.
pub(super) async fn remove_unpacked(bundle: PathBuf) {
    let remove = move || {
        remove_unpacked_checkpoint(&bundle);
        Ok(())
    };
    if let Err(e) = on_new_thread(remove).await {
        warn!("an unpacked checkpoint is not removed: {e}");
    }
}

/// Removes the recorded checkpoint, if containerd unpacked it.
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
        warn!("cannot remove {}: {e}", checkpoint.display());
    }
}

/// Whether containerd created the directory.
fn is_unpacked(checkpoint: &Path, temporary: &Path) -> bool {
    checkpoint.parent() == Some(temporary) && is_temporary_checkpoint(checkpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_of_containerd_are_removed() {
        let yes = |path: &str| is_unpacked(Path::new(path), Path::new("/tmp"));
        assert!(yes("/tmp/ctrd-checkpoint123"));
        assert!(!yes("/tmp/ctrd-checkpoint"));
        assert!(!yes("/tmp/ctrd-checkpoint-mine"));
        assert!(!yes("/home/me/ctrd-checkpoint123"));
        assert!(!yes("/tmp/../tmp/ctrd-checkpoint123"));
    }
}
