//! Exec: adds an exec process to the container, starts and deletes it.

use std::sync::Arc;

use containerd_shim::{
    api::ExecProcessRequest,
    protos::events::task::{TaskExecAdded, TaskExecStarted},
};

use nix::libc::SIGKILL;

use super::Container;
use super::exec_process::Exec;
use super::process::{Ended, pid_number, send_signal};
use super::state::Request;
use crate::{
    error::{Error, Result},
    own_thread::on_new_thread,
    reaper::Exit,
    runtime::read_pid_now,
    stdio::Stdio,
};
use cedana_contract::id::ExecId;
use cedana_contract::pid::Pid;

impl Container {
    /// Adds an exec process.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] for an ID in use,
    /// [`Error::FailedPrecondition`] when the container doesn't run.
    pub(crate) fn add_exec(&self, request: &ExecProcessRequest) -> Result<()> {
        self.state().admit(Request::Exec)?;
        let stdio = Stdio::new(
            &request.stdin,
            &request.stdout,
            &request.stderr,
            request.terminal,
        );
        let id = ExecId::parse(&request.exec_id).ok_or_else(|| {
            Error::InvalidArgument(format!(
                "invalid exec ID {:?}: it must be a file name",
                request.exec_id
            ))
        })?;
        let exec = Exec::new(id.clone(), request.spec.as_ref(), stdio)?;
        {
            let mut execs = self.execs();
            if execs.contains_key(&id) {
                return Err(Error::AlreadyExists(format!("id {id}")));
            }
            execs.insert(id, Arc::new(exec));
        }
        self.send(TaskExecAdded {
            container_id: self.id.to_string(),
            exec_id: request.exec_id.clone(),
            ..TaskExecAdded::default()
        });
        Ok(())
    }

    /// Starts an added process and returns its PID.
    ///
    /// # Errors
    /// [`Error::FailedPrecondition`] when the process was started before or init has
    /// exited; the OCI runtime's refusal.
    pub(crate) async fn start_exec(self: &Arc<Self>, id: &ExecId) -> Result<Option<Pid>> {
        let exec = self.exec(id)?;
        // No start during a checkpoint: CRIU would find a process that is not frozen.
        let _operation = self.operation_lock.read().await;
        exec.begin_start()?;
        if self.init.ended().is_some() {
            exec.start_failed();
            return Err(Error::FailedPrecondition(format!(
                "container {} init process is not running",
                self.id
            )));
        }
        // Counted before the process exists: init's exit is published after the
        // process's.
        self.running_execs.send_modify(|running| *running += 1);
        let starting = exec.process.starting.lock().await;
        match self.create_exec(&exec).await {
            Ok(exit) => {
                let pid = exec.process.pid();
                self.send(TaskExecStarted {
                    container_id: self.id.to_string(),
                    exec_id: id.to_string(),
                    pid: pid_number(pid),
                    ..TaskExecStarted::default()
                });
                self.follow_exec(exec.clone(), exit);
                drop(starting);
                Ok(pid)
            }
            Err(e) => {
                exec.start_failed();
                self.running_execs.send_modify(|running| *running -= 1);
                Err(e)
            }
        }
    }

    async fn create_exec(&self, exec: &Arc<Exec>) -> Result<Exit> {
        let spec = self.bundle.join(format!("{}.process.json", exec.id));
        let pid_file = self.bundle.join(format!("{}.pid", exec.id));
        exec.write_spec(&spec).await?;
        let watch = self.host.reaper.watch();
        let mut command = self.runtime.command("exec");
        command.arg("--process").arg(&spec);
        command.arg("--pid-file").arg(&pid_file);
        command.arg("--detach");
        let made = self
            .create_process(&exec.process, &exec.id, command, "OCI runtime exec failed")
            .await;
        let pid = on_new_thread(move || {
            let pid = read_pid_now(&pid_file);
            for file in [&spec, &pid_file] {
                // After a failure a file may be missing.
                let _ = std::fs::remove_file(file);
            }
            pid
        });
        let created = match (made, pid.await) {
            (Ok(()), pid) => pid.map(|pid| (pid, watch.claim(pid))),
            (Err(e), Ok(pid)) => {
                // The process was created without its streams, and no client knows
                // the process. Claimed, it can be signalled until it is reaped. The
                // kill fails if the process has already exited.
                let _exit = watch.claim(pid);
                let _ = send_signal(&self.host.reaper, pid, SIGKILL.cast_unsigned());
                Err(e)
            }
            (Err(e), Err(_)) => Err(e),
        };
        let (pid, exit) = created?;
        exec.process.set_pid(pid);
        Ok(exit)
    }

    /// Deletes an exec process that doesn't run; returns its PID and exit.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::FailedPrecondition`] while it runs.
    pub(crate) async fn delete_exec(&self, id: &ExecId) -> Result<(Option<Pid>, Option<Ended>)> {
        let exec = self.exec(id)?;
        exec.admit_delete()?;
        exec.process.finish_io().await;
        self.execs().remove(id);
        Ok((exec.process.pid(), exec.ended()))
    }
}
