//! Checkpoint: runs `cedana-runc checkpoint`.
//!
//! The shim answers State, Wait, Pids and Kill during a checkpoint. A client usually
//! pauses the task before (containerd's own does) and resumes the task afterwards. If
//! nothing reads the container's files after the request, the shim resumes the task
//! as soon as CRIU is done ([`super::early_resume`]). If the checkpoint fails, the
//! container continues as before and the client gets the reason in one line.

use std::{path::PathBuf, process::Command};

use cedana_config::{Config, ResumeEarly};
use cedana_contract::{
    engine::DOCKER_NAMESPACE,
    flags,
    progress::{Message, Phase},
    variables,
};
use containerd_shim::protos::events::task::TaskCheckpointed;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::unix::pipe,
};

use super::state::{Request, State};
use super::{Container, early_resume::RequestKind, lock};
use crate::{
    error::{Context, Error, Result, at},
    options::CheckpointOptions,
    own_thread::on_new_thread,
    spec::Spec,
    sys::pass_from_3,
};

/// The prefix of errors.
const FAILED: &str = "checkpoint failed";

/// The options that apply to the container.
struct EffectiveOptions {
    /// The checkpoint stops the container.
    exit: bool,
    /// When the shim may resume the task before the client does.
    resume_early: ResumeEarly,
}

impl Container {
    /// Checkpoints the container into `path`, or into the image path of the options.
    ///
    /// # Errors
    /// The state's refusal, or the error of `cedana-runc`.
    pub(crate) async fn checkpoint(&self, path: &str, options: &CheckpointOptions) -> Result<()> {
        let image = match (options.image_path.as_str(), path) {
            ("", "") => {
                return Err(Error::InvalidArgument(
                    "checkpoint has no path to write to".into(),
                ));
            }
            ("", path) => PathBuf::from(path),
            // containerd 1.7 passes the image path as `path` only to runtimes named
            // io.containerd.runc.*. Other runtimes get an empty directory as `path`.
            (image_path, _) => PathBuf::from(image_path),
        };
        if image.is_relative() {
            return Err(Error::InvalidArgument(format!(
                "{FAILED}: image path {} is relative, and the shim doesn't know the client's \
                 working directory; give an absolute path",
                image.display()
            )));
        }
        let _operation = self.operation_lock.write().await;
        let before = self.state();
        before.admit(Request::Checkpoint)?;
        let paused = before == State::Paused;
        lock(&self.state).set_unless_stopped(State::Checkpointing { paused });
        let result = match self.effective_options(options).await {
            Ok(EffectiveOptions { exit, resume_early }) => {
                let early = RequestKind::of(options, path)
                    .may_resume_early(self.named_as_stock, resume_early);
                let early = early && paused && !exit && !self.pause_observed();
                self.dump(&image, options, exit, early).await
            }
            Err(e) => Err(e),
        };
        let paused = self.state() == State::Checkpointing { paused: true };
        self.set_state(if paused {
            State::Paused
        } else {
            State::Running
        });
        result?;
        self.send(TaskCheckpointed {
            container_id: self.id.to_string(),
            checkpoint: image.display().to_string(),
            ..TaskCheckpointed::default()
        });
        Ok(())
    }

    /// The options of the client, and the settings where the client sends no option.
    ///
    /// Docker sends options only to runtimes that are configured by path
    /// (`libcontainerd/remote/client.go`, `getCheckpointOptions`, 20 to 29). To a
    /// runtime that is configured by type, `docker checkpoint create` sends the same
    /// request with and without `--leave-running`. A setting decides then.
    async fn effective_options(&self, options: &CheckpointOptions) -> Result<EffectiveOptions> {
        let bundle = self.bundle.clone();
        let config = on_new_thread(move || {
            let spec = Spec::read(&bundle)?;
            let annotations = spec.annotations.iter();
            Config::load()
                .and_then(|config| {
                    // cedana-runc reads the same annotations and logs the warnings.
                    config.with_annotations(
                        annotations.map(|(k, v)| (k.as_str(), v.as_str())),
                        |_| {},
                    )
                })
                .map_err(|e| Error::InvalidArgument(format!("settings: {e}")))
        })
        .await?;
        let leave_running = config
            .checkpoint
            .leave_running
            .unwrap_or(self.host.namespace != DOCKER_NAMESPACE);
        Ok(EffectiveOptions {
            exit: options.exit.unwrap_or(!leave_running),
            resume_early: config.checkpoint.resume_early,
        })
    }

    async fn dump(
        &self,
        image: &std::path::Path,
        options: &CheckpointOptions,
        exit: bool,
        resume_early: bool,
    ) -> Result<()> {
        // A work path of the client's keeps CRIU's log. The shim's own is removed,
        // because the wrapper keeps the log of a failure.
        let work = self.make_criu_work(&options.work_path, "criu-work").await?;
        let own_work = options.work_path.is_empty();

        let mut command = self.runtime.wrapper("checkpoint");
        if resume_early {
            // `run_and_resume` passes the pipe as descriptor 3.
            command.arg(format!("--{}=3", flags::PROGRESS_FD));
            command.env(variables::SHIM_RESUMES, "1");
        }
        if self.may_run_between_attempts(options) {
            command.env(variables::MAY_RUN_BETWEEN_ATTEMPTS, "1");
        }
        if options.stopped_later {
            command.env(variables::STOPPED_LATER, "1");
        }
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
        if !options.parent_path.is_empty() {
            command.arg("--parent-path").arg(&options.parent_path);
        }
        for namespace in &options.empty_namespaces {
            command.arg("--empty-ns").arg(namespace);
        }
        if !options.cgroups_mode.is_empty() {
            command
                .arg("--manage-cgroups-mode")
                .arg(&options.cgroups_mode);
        }
        command.arg(&self.id);
        let result = match resume_early {
            true => self.run_and_resume(command).await,
            false => self.run(command, FAILED).await,
        };
        let remove = move || std::fs::remove_dir_all(&work).context(|| at("remove", &work));
        if own_work && let Err(e) = on_new_thread(remove).await {
            log::warn!("container {}: {e}", self.id);
        }
        result
    }

    /// Runs the checkpoint and resumes the task when CRIU is done.
    async fn run_and_resume(&self, mut command: Command) -> Result<()> {
        let (progress, end) = std::io::pipe().context(|| "make a pipe")?;
        let progress =
            pipe::Receiver::from_owned_fd(progress.into()).context(|| "read from a pipe")?;
        pass_from_3(&mut command, [end.into()]);
        let run = self.run(command, FAILED);
        tokio::pin!(run);
        let ended = tokio::select! {
            result = &mut run => Some(result),
            () = wait_for_dump(progress) => None,
        };
        if !matches!(ended, Some(Err(_))) {
            self.resume_early().await;
        }
        match ended {
            Some(result) => result,
            None => run.await,
        }
    }
}

/// Returns when `cedana-runc` reports that CRIU is done, and never without that
/// report.
async fn wait_for_dump(progress: pipe::Receiver) {
    let mut lines = BufReader::new(progress).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if serde_json::from_str::<Message>(&line).is_ok_and(|message| message.phase != Phase::Dump)
        {
            return;
        }
    }
    std::future::pending().await
}
