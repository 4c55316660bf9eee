//! An exec process: a process added to a running container (`ctr task exec`,
//! `docker exec`). Its states are created, running, stopped and deleted. After a
//! failed start the process stays created, as in containerd's own shim, and may be
//! started again.
//!
//! An exec process is no child of the container's init, hence no part of a
//! checkpoint. A checkpoint that leaves the container running doesn't affect the
//! process; a checkpoint that stops the container also ends it.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use containerd_shim::{api::Status, protos::protobuf::well_known_types::any::Any};
use serde_json::{Map, Value};

use super::process::{Ended, Process};
use crate::{
    error::{Context, Error, Result, at},
    own_thread::on_new_thread,
    reaper::ExitStatus,
    stdio::Stdio,
};
use cedana_contract::id::ExecId;

/// The exit status that Wait returns for a process that could not be started. Shells
/// use this status for a command that can't be run; containerd's own shim returns 0.
const NOT_STARTED: ExitStatus = 126;

/// Whether the process was started. Its [`Process`] records the exit, and also the
/// exit status of a failed start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Created,
    Started,
}

/// An exec process.
pub(crate) struct Exec {
    /// The exec ID, unique within the container.
    pub(crate) id: ExecId,
    /// PID, streams and exit.
    pub(crate) process: Process,
    stage: Mutex<Stage>,
    /// `process` of the OCI runtime-spec, as JSON.
    spec: Vec<u8>,
}

impl Exec {
    /// Parses the process of an Exec request.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the process is not JSON.
    pub(crate) fn new(id: ExecId, spec: Option<&Any>, stdio: Stdio) -> Result<Self> {
        let bytes = spec.map(|any| any.value.as_slice()).unwrap_or_default();
        let mut spec: Map<String, Value> = serde_json::from_slice(bytes).map_err(|e| {
            Error::InvalidArgument(format!("process of exec {id} is not a JSON object: {e}"))
        })?;
        spec.insert("terminal".into(), stdio.terminal.into());
        Ok(Self {
            id,
            process: Process::new(stdio),
            stage: Mutex::new(Stage::Created),
            // Kept as text: a tree of JSON values takes many times the memory.
            spec: Value::Object(spec).to_string().into_bytes(),
        })
    }

    /// Claims the start of the process, which happens only once.
    ///
    /// # Errors
    /// [`Error::FailedPrecondition`] when the start is already claimed.
    pub(crate) fn begin_start(&self) -> Result<()> {
        let mut stage = self.stage();
        let refusal = match (*stage, self.process.ended()) {
            (Stage::Created, _) => {
                *stage = Stage::Started;
                self.process.clear_end();
                return Ok(());
            }
            (Stage::Started, Some(_)) => "cannot start a stopped process",
            (Stage::Started, None) => "cannot start a running process",
        };
        Err(Error::FailedPrecondition(refusal.into()))
    }

    /// Releases the claim after a failed start, and answers clients that wait for the
    /// process.
    pub(crate) fn start_failed(&self) {
        *self.stage() = Stage::Created;
        self.process.end(NOT_STARTED);
    }

    /// The exit, if the process has run.
    pub(crate) fn ended(&self) -> Option<Ended> {
        match *self.stage() {
            Stage::Created => None,
            Stage::Started => self.process.ended(),
        }
    }

    /// Writes the process spec to `path` for the OCI runtime.
    ///
    /// # Errors
    /// When the file can't be written.
    pub(crate) async fn write_spec(self: &Arc<Self>, path: &Path) -> Result<()> {
        let (exec, path) = (self.clone(), path.to_owned());
        on_new_thread(move || fs::write(&path, &exec.spec).context(|| at("write", &path))).await
    }

    /// The status in containerd's task API, ignoring the container's pause.
    pub(crate) fn status(&self) -> Status {
        match (*self.stage(), self.process.ended()) {
            (Stage::Created, _) => Status::CREATED,
            (Stage::Started, None) => Status::RUNNING,
            (Stage::Started, Some(_)) => Status::STOPPED,
        }
    }

    /// Checks that the process may be deleted.
    ///
    /// # Errors
    /// [`Error::FailedPrecondition`] while the process runs.
    pub(crate) fn admit_delete(&self) -> Result<()> {
        match self.status() {
            Status::RUNNING => Err(Error::FailedPrecondition(
                "cannot delete a running process".into(),
            )),
            _ => Ok(()),
        }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reaper::Reaper;

    fn id() -> ExecId {
        ExecId::parse("e").unwrap()
    }

    fn any(json: &str) -> Any {
        Any {
            value: json.into(),
            ..Any::default()
        }
    }

    #[test]
    fn a_process_starts_once() {
        let exec = Exec::new(id(), Some(&any(r#"{"args":["sh"]}"#)), Stdio::default()).unwrap();
        assert_eq!(exec.status(), Status::CREATED);
        exec.begin_start().unwrap();
        assert_eq!(exec.status(), Status::RUNNING);
        assert!(
            exec.begin_start()
                .unwrap_err()
                .to_string()
                .contains("running")
        );
        assert!(exec.admit_delete().is_err());
        exec.process.end(0);
        assert!(
            exec.begin_start()
                .unwrap_err()
                .to_string()
                .contains("stopped")
        );
        exec.admit_delete().unwrap();
    }

    #[test]
    fn a_process_stays_created_after_a_failed_start() {
        let exec = Exec::new(id(), Some(&any(r#"{"args":["sh"]}"#)), Stdio::default()).unwrap();
        exec.begin_start().unwrap();
        exec.start_failed();
        assert_eq!(exec.status(), Status::CREATED);
        assert_eq!(exec.ended(), None);
        assert_eq!(exec.process.ended().map(|e| e.status), Some(NOT_STARTED));
        exec.admit_delete().unwrap();

        exec.begin_start().unwrap();
        assert_eq!(exec.status(), Status::RUNNING);
        exec.process.end(3);
        assert_eq!(exec.status(), Status::STOPPED);
        assert_eq!(exec.ended().map(|e| e.status), Some(3));
    }

    #[test]
    fn unknown_fields_of_a_process_are_kept() {
        let stdio = Stdio {
            terminal: true,
            ..Stdio::default()
        };
        let exec = Exec::new(
            id(),
            Some(&any(
                r#"{"terminal":false,"execCPUAffinity":{"initial":"0"}}"#,
            )),
            stdio,
        )
        .unwrap();
        let spec: Value = serde_json::from_slice(&exec.spec).unwrap();
        assert_eq!(spec["terminal"], true);
        assert_eq!(spec["execCPUAffinity"]["initial"], "0");
    }

    #[test]
    fn a_process_that_is_no_json_object_is_refused() {
        for json in ["", "{", "[]", "3"] {
            let refusal = Exec::new(id(), Some(&any(json)), Stdio::default());
            assert!(matches!(refusal, Err(Error::InvalidArgument(_))), "{json}");
        }
    }

    #[test]
    fn a_reaped_process_is_not_signalled() {
        let exec = Exec::new(id(), Some(&any("{}")), Stdio::default()).unwrap();
        assert!(matches!(
            exec.process.signal(&Reaper::default(), 15),
            Err(Error::FailedPrecondition(_))
        ));
        exec.process.set_reaped();
        assert!(matches!(
            exec.process.signal(&Reaper::default(), 15),
            Err(Error::NotFound(_))
        ));
    }
}
