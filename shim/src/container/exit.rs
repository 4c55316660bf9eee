//! Publishes the exits of processes in the order on which clients rely: a process's
//! exit after its start, init's exit after those of all exec processes.

use std::{fs::File, io::Read, sync::Arc};

use cedana_contract::files;
use containerd_shim::protos::{events::task::TaskExit, protobuf::MessageField};
use log::{error, warn};
use nix::{errno::Errno, libc::SIGKILL};

use super::exec_process::Exec;
use super::process::{Ended, Process};
use super::state::State;
use super::{Container, is_unknown_container};
use crate::container::process::pid_number;
use crate::{
    cgroup::Cgroup,
    error::{Context, Error, at},
    own_thread::on_new_thread,
    reaper::Exit,
};
use cedana_contract::pid::Pid;

/// The most that is read of a kill reason, which is one sentence.
const REASON_LIMIT: u64 = 64 << 10;

impl Container {
    /// Publishes init's exit.
    pub(super) fn follow_init(self: &Arc<Self>, exit: Exit) {
        let container = self.clone();
        tokio::spawn(async move {
            // The reaper never drops a claim while the shim runs.
            let Ok(status) = exit.await else { return };
            container.init.set_reaped();
            drop(container.init.starting.lock().await);
            container.log_kill_reason().await;
            if !container.has_own_pid_namespace {
                container.kill_remaining_processes().await;
            }
            let mut execs = container.running_execs.subscribe();
            // The container owns the sender, so this can't fail.
            let _ = execs.wait_for(|running| *running == 0).await;
            container.set_state(State::Stopped);
            let ended = container.init.end(status);
            container.send_exit(&container.id, &container.init, ended);
        });
    }

    /// Logs the reason if `cedana-runc`'s page source killed the container because a
    /// lazy restore could not supply its memory. The page source writes the file
    /// before the kill.
    async fn log_kill_reason(&self) {
        let path = self.bundle.join(files::KILLED);
        let reason = on_new_thread(move || {
            let mut reason = String::new();
            File::open(&path)
                .and_then(|file| file.take(REASON_LIMIT).read_to_string(&mut reason))
                .context(|| at("read", &path))?;
            Ok(reason)
        });
        // Usually there is no such file.
        if let Ok(reason) = reason.await {
            error!("container {} was killed: {reason}", self.id);
        }
    }

    /// Publishes the exit of an exec process.
    pub(super) fn follow_exec(self: &Arc<Self>, exec: Arc<Exec>, exit: Exit) {
        let container = self.clone();
        tokio::spawn(async move {
            let Ok(status) = exit.await else { return };
            exec.process.set_reaped();
            drop(exec.process.starting.lock().await);
            let ended = exec.process.end(status);
            container.send_exit(&exec.id, &exec.process, ended);
            container.running_execs.send_modify(|running| *running -= 1);
        });
    }

    /// Kills the processes that survive init, as containerd's own shim does.
    /// Processes survive init in a container without a PID namespace of its own.
    async fn kill_remaining_processes(&self) {
        let mut command = self.runtime.command("kill");
        command.arg("--all").arg(&*self.id).arg(SIGKILL.to_string());
        match self.run(command, "kill --all").await {
            Ok(()) => {}
            // After a checkpoint that stopped the container, the runtime no longer
            // knows the container. The cgroup still lists the processes.
            Err(Error::Runtime(text)) if is_unknown_container(&text) => self.kill_by_cgroup(),
            Err(e) => warn!("container {}: {e}", self.id),
        }
    }

    fn kill_by_cgroup(&self) {
        let Some(cgroup) = self.cgroup() else { return };
        // A container may share its cgroup with the shim or with the whole node.
        if Cgroup::of(Pid::own()).is_ok_and(|own| own == cgroup) || cgroup.is_root() {
            return warn!(
                "container {} shares its cgroup: remaining processes are not killed",
                self.id
            );
        }
        for pid in cgroup.pids() {
            match cgroup.kill(pid) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(e) => warn!("container {}: process {pid}: {e}", self.id),
            }
        }
    }

    pub(super) fn send_exit(&self, id: &str, process: &Process, ended: Ended) {
        self.send(TaskExit {
            container_id: self.id.to_string(),
            id: id.to_owned(),
            pid: pid_number(process.pid()),
            exit_status: ended.status.cast_unsigned(),
            exited_at: MessageField::some(ended.timestamp()),
            ..TaskExit::default()
        });
    }
}
