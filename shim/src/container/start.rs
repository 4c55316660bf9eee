//! Start: starts the created init, or restores the container from a checkpoint.

use std::sync::Arc;

use containerd_shim::protos::events::task::TaskStart;
use log::warn;

use super::state::{Request, State};
use super::{Container, NetnsHolder, lock};
use crate::container::process::pid_number;
use crate::{cgroup, error::Result, reaper::Exit, runtime::read_pid};
use cedana_contract::pid::Pid;

impl Container {
    /// Starts init and returns its PID.
    ///
    /// # Errors
    /// [`crate::error::Error::FailedPrecondition`] if the task was started before;
    /// the OCI runtime's error; for a restore the error of `cedana-runc`, which
    /// leaves the checkpoint unchanged.
    pub(crate) async fn start(self: &Arc<Self>) -> Result<Option<Pid>> {
        let _operation = self.operation_lock.write().await;
        self.state().admit(Request::Start)?;
        let starting = self.init.starting.lock().await;
        let restored = if self.restore_from.is_some() {
            // Dropped on return, which ends the netns holder.
            let holder = self.take_netns_holder();
            // Held until the streams are connected or the restore has failed.
            let _fifos = std::mem::take(&mut *lock(&self.held_fifos));
            match self.restore(holder.as_ref()).await {
                Ok(exit) => Some(exit),
                Err(e) => {
                    self.undo_create().await;
                    if let Some(holder) = holder {
                        self.stop_after_failed_restore(&holder);
                    }
                    return Err(e);
                }
            }
        } else {
            let mut command = self.runtime.command("start");
            command.arg(&*self.id);
            self.run(command, "OCI runtime start failed").await?;
            None
        };
        self.set_state(State::Running);
        self.watch_oom();
        let pid = self.pid();
        self.send(TaskStart {
            container_id: self.id.to_string(),
            pid: pid_number(pid),
            ..TaskStart::default()
        });
        if let Some(exit) = restored {
            self.follow_init(exit);
        }
        drop(starting);
        Ok(pid)
    }

    async fn restore(self: &Arc<Self>, holder: Option<&NetnsHolder>) -> Result<Exit> {
        let Some(checkpoint) = &self.restore_from else {
            unreachable!("only called with a checkpoint");
        };
        let work = self
            .make_criu_work(&self.options.criu_work_path, "criu-restore")
            .await?;
        let watch = self.host.reaper.watch();
        let mut command = self.runtime.wrapper("restore");
        command.arg("--bundle").arg(&self.bundle);
        command.arg("--image-path").arg(checkpoint);
        command.arg("--work-path").arg(&work);
        command.arg("--pid-file").arg(self.init_pid_file());
        command.args(["--detach", "--no-subreaper"]);
        if let Some(holder) = holder {
            command.arg("--netns").arg(holder.network_namespace());
        }
        if self.options.no_pivot_root {
            command.arg("--no-pivot");
        }
        self.create_process(&self.init, &self.id, command, "OCI runtime restore failed")
            .await?;
        let pid = read_pid(self.init_pid_file()).await?;
        self.init.set_pid(pid);
        self.find_cgroup();
        Ok(watch.claim(pid))
    }

    fn watch_oom(&self) {
        let Some(cgroup) = self.cgroup() else { return };
        let (events, id) = (self.host.events.clone(), self.id.clone());
        let report = move || {
            events.send(containerd_shim::protos::events::task::TaskOOM {
                container_id: id.to_string(),
                ..Default::default()
            });
        };
        match cgroup::watch_oom(&cgroup, report) {
            Ok(watch) => *lock(&self.oom_watch) = Some(watch),
            Err(e) => warn!("container {}: OOM kills will not be reported: {e}", self.id),
        }
    }
}
