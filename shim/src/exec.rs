//! A process added to a running container (`ctr task exec`, `docker exec`),
//! with a life of its own: created, running, stopped, deleted.
//!
//! It is no child of the container's init, hence no part of a checkpoint: it
//! goes on after one that leaves the container running and ends with one that
//! doesn't.

use std::{
    fs,
    sync::{Mutex, PoisonError},
};

use containerd_shim::{api::Status, protos::protobuf::well_known_types::any::Any};
use serde_json::{Map, Value};

use crate::{
    error::{Context, Error, Result, at},
    process::Process,
    stdio::Stdio,
};

/// Where an exec'd process is in its life. That it has stopped is what its
/// [`Process`] knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Created,
    Started,
}

/// An exec'd process.
pub(crate) struct Exec {
    /// Unique within the container.
    pub(crate) id: String,
    /// PID, streams and end.
    pub(crate) process: Process,
    stage: Mutex<Stage>,
    /// `process` of the OCI runtime-spec, as JSON.
    spec: Vec<u8>,
}

impl Exec {
    /// Reads the request's process; it is started later.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the process is not JSON.
    pub(crate) fn new(id: &str, spec: Option<&Any>, stdio: Stdio) -> Result<Self> {
        let bytes = spec.map(|any| any.value.as_slice()).unwrap_or_default();
        let mut spec: Map<String, Value> = serde_json::from_slice(bytes).map_err(|e| {
            Error::InvalidArgument(format!("process of exec {id} is not a JSON object: {e}"))
        })?;
        spec.insert("terminal".into(), stdio.terminal.into());
        Ok(Self {
            id: id.to_owned(),
            process: Process::new(stdio),
            stage: Mutex::new(Stage::Created),
            // Kept as text: a tree of values is many times as large.
            spec: Value::Object(spec).to_string().into_bytes(),
        })
    }

    /// Claims the one start that a process has.
    ///
    /// # Errors
    /// [`Error::FailedPrecondition`] when it is already taken.
    pub(crate) fn begin_start(&self) -> Result<()> {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if self.process.ended().is_some() {
            return Err(Error::FailedPrecondition(
                "cannot start a stopped process".into(),
            ));
        }
        match std::mem::replace(&mut *stage, Stage::Started) {
            Stage::Created => Ok(()),
            Stage::Started => Err(Error::FailedPrecondition(
                "cannot start a running process".into(),
            )),
        }
    }

    /// Writes the process where the OCI runtime reads it.
    ///
    /// # Errors
    /// When the file can't be written.
    pub(crate) fn write_spec(&self, path: &std::path::Path) -> Result<()> {
        fs::write(path, &self.spec).context(|| at("write", path))
    }

    /// The status in containerd's terms, but for the container's pause.
    pub(crate) fn status(&self) -> Status {
        if self.process.ended().is_some() {
            return Status::STOPPED;
        }
        match *self.stage.lock().unwrap_or_else(PoisonError::into_inner) {
            Stage::Created => Status::CREATED,
            Stage::Started => Status::RUNNING,
        }
    }

    /// Whether it may be deleted now.
    ///
    /// # Errors
    /// [`Error::FailedPrecondition`] while it runs.
    pub(crate) fn admit_delete(&self) -> Result<()> {
        match self.status() {
            Status::RUNNING => Err(Error::FailedPrecondition(
                "cannot delete a running process".into(),
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(json: &str) -> Any {
        Any {
            value: json.into(),
            ..Any::default()
        }
    }

    #[test]
    fn a_process_starts_once() {
        let exec = Exec::new("e", Some(&any(r#"{"args":["sh"]}"#)), Stdio::default()).unwrap();
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
    fn unknown_fields_of_a_process_are_kept() {
        let stdio = Stdio {
            terminal: true,
            ..Stdio::default()
        };
        let exec = Exec::new(
            "e",
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
    fn a_process_that_is_none_is_refused() {
        for json in ["", "{", "[]", "3"] {
            let refusal = Exec::new("e", Some(&any(json)), Stdio::default());
            assert!(matches!(refusal, Err(Error::InvalidArgument(_))), "{json}");
        }
    }

    #[test]
    fn an_ended_process_is_not_signalled() {
        let exec = Exec::new("e", Some(&any("{}")), Stdio::default()).unwrap();
        assert!(matches!(
            exec.process.signal(15),
            Err(Error::FailedPrecondition(_))
        ));
        exec.process.set_reaped();
        assert!(matches!(exec.process.signal(15), Err(Error::NotFound(_))));
    }
}
