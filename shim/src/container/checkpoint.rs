//! Checkpoint: `cedana-runc checkpoint` does it; the shim stays out of the way.
//!
//! All the while State, Wait, Pids and Kill answer. A client has usually paused
//! the task before (containerd's own does); it is paused again afterwards and
//! resumed by that client. When the checkpoint fails the container goes on as
//! before and the client gets the reason in one line.

use std::path::PathBuf;

use cedana_config::Config;
use containerd_shim::protos::events::task::TaskCheckpointed;

use super::{Container, lock};
use crate::{
    error::{Context, Error, Result, at},
    options::CheckpointOptions,
    spec::Spec,
    state::{Request, State},
};

/// containerd's namespace that is Docker's, unless `containerd-namespace` in
/// daemon.json names another.
const DOCKER: &str = "moby";

impl Container {
    /// Checkpoints the container into `path`, or where the options say.
    ///
    /// # Errors
    /// The state's refusal, or the reason that `cedana-runc` found.
    pub(crate) async fn checkpoint(&self, path: &str, options: &CheckpointOptions) -> Result<()> {
        let image = match (options.image_path.as_str(), path) {
            ("", "") => {
                return Err(Error::InvalidArgument(
                    "checkpoint has no path to write to".into(),
                ));
            }
            ("", path) => PathBuf::from(path),
            // containerd 1.7 passes it on as `path` only to runtimes that are
            // named io.containerd.runc.*; others get an empty folder instead.
            (image_path, _) => PathBuf::from(image_path),
        };
        let _gate = self.gate.write().await;
        let before = self.state();
        before.admit(Request::Checkpoint)?;
        let paused = before == State::Paused;
        lock(&self.state).settle(State::Checkpointing { paused });
        let result = match self.ends_after(options) {
            Ok(exit) => self.dump(&image, options, exit).await,
            Err(e) => Err(e),
        };
        self.set_state(if paused {
            State::Paused
        } else {
            State::Running
        });
        result?;
        self.send(TaskCheckpointed {
            container_id: self.id.clone(),
            checkpoint: image.display().to_string(),
            ..TaskCheckpointed::default()
        });
        Ok(())
    }

    /// Whether the container is to end with its checkpoint.
    ///
    /// Docker sends options only to runtimes that are given by path
    /// (`libcontainerd/remote/client.go`, `getCheckpointOptions`, 20 to 29): by
    /// type, `docker checkpoint create` with and without `--leave-running` is
    /// the same request. What is not said is a setting, then.
    fn ends_after(&self, options: &CheckpointOptions) -> Result<bool> {
        if let Some(exit) = options.exit {
            return Ok(exit);
        }
        let spec = Spec::read(&self.bundle)?;
        let annotations = spec.annotations.iter();
        let config = Config::load()
            .and_then(|config| {
                config.with_annotations(annotations.map(|(k, v)| (k.as_str(), v.as_str())))
            })
            .map_err(|e| Error::InvalidArgument(format!("settings: {e}")))?;
        let leave_running = config
            .checkpoint
            .leave_running
            .unwrap_or(self.host.namespace != DOCKER);
        Ok(!leave_running)
    }

    async fn dump(
        &self,
        image: &std::path::Path,
        options: &CheckpointOptions,
        exit: bool,
    ) -> Result<()> {
        // A work path of the client's keeps CRIU's log; ours is cleaned up, the
        // wrapper having kept the log of a failure.
        let own_work = options
            .work_path
            .is_empty()
            .then(|| self.criu_work("criu-work"));
        let work = own_work
            .clone()
            .unwrap_or_else(|| PathBuf::from(&options.work_path));
        std::fs::create_dir_all(&work).context(|| at("create", &work))?;

        let mut command = self.runtime.wrapper("checkpoint");
        command.arg("--image-path").arg(image);
        command.arg("--work-path").arg(&work);
        let flags = [
            (!exit, "--leave-running"),
            (options.open_tcp, "--tcp-established"),
            (options.external_unix_sockets, "--ext-unix-sk"),
            (options.terminal, "--shell-job"),
            (options.file_locks, "--file-locks"),
        ];
        command.args(flags.iter().filter(|(on, _)| *on).map(|(_, flag)| flag));
        for namespace in &options.empty_namespaces {
            command.arg("--empty-ns").arg(namespace);
        }
        if !options.cgroups_mode.is_empty() {
            command
                .arg("--manage-cgroups-mode")
                .arg(&options.cgroups_mode);
        }
        command.arg(&self.id);
        let result = self.run(command, "checkpoint failed").await;
        if let Some(work) = own_work
            && let Err(e) = std::fs::remove_dir_all(&work)
        {
            log::warn!("container {}: {}: {e}", self.id, at("remove", &work));
        }
        result
    }
}
