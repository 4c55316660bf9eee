//! Between the API's messages and our types.

use std::collections::HashMap;

use cedana_api::time::from_micros;
use cedana_api::v1;
use nix::unistd::{Uid, User};
use tonic::{Code, Status};

use crate::job::spec::{Exit, RestartPolicy, TerminalSize};
use crate::jobs::{JobError, NewJob, Wanted};
use crate::store::{CheckpointRow, Container, JobKind, JobRow, JobState, StoreError};

impl From<JobError> for Status {
    fn from(error: JobError) -> Self {
        let code = match &error {
            JobError::NotFound(_) => Code::NotFound,
            JobError::Exists(_) | JobError::Store(StoreError::Exists) => Code::AlreadyExists,
            JobError::InvalidId(_) | JobError::Invalid(_) | JobError::Ambiguous { .. } => {
                Code::InvalidArgument
            }
            JobError::NotStarted { .. } | JobError::State { .. } | JobError::Refused { .. } => {
                Code::FailedPrecondition
            }
            JobError::Store(_) | JobError::System { .. } => Code::Internal,
        };
        if code == Code::Internal {
            log::error!("{error}");
        }
        Self::new(code, error.to_string())
    }
}

/// The job that a request names.
///
/// # Errors
/// INVALID_ARGUMENT without a name.
pub(super) fn wanted(job: Option<v1::JobRef>) -> Result<Wanted, Status> {
    let job = job.ok_or_else(|| Status::invalid_argument("the request names no job"))?;
    Ok(Wanted {
        id: job.id,
        uid: job.uid,
    })
}

/// A terminal's size. Zero, which a client without a size sends, is the usual one.
pub(super) fn terminal_size(size: v1::TerminalSize) -> TerminalSize {
    let of = |number: u32, usual| match u16::try_from(number) {
        Ok(0) | Err(_) => usual,
        Ok(number) => number,
    };
    TerminalSize {
        rows: of(size.rows, 24),
        columns: of(size.columns, 80),
    }
}

/// What a request asks to run.
pub(super) fn new_job(request: v1::StartJobRequest) -> NewJob {
    let restart = match request.restart_policy() {
        v1::RestartPolicy::Unspecified | v1::RestartPolicy::Never => RestartPolicy::Never,
        v1::RestartPolicy::OnFailure => RestartPolicy::OnFailure,
        v1::RestartPolicy::Always => RestartPolicy::Always,
    };
    let given = |bytes: Vec<u8>| (!bytes.is_empty()).then_some(bytes);
    NewJob {
        id: (!request.id.is_empty()).then_some(request.id),
        arguments: request.arguments,
        working_directory: given(request.working_directory).unwrap_or_else(|| b"/".to_vec()),
        environment: request
            .environment
            .into_iter()
            .map(|variable| (variable.name, variable.value))
            .collect(),
        log_file: given(request.log_file),
        terminal: request.terminal.map(terminal_size),
        restart,
    }
}

/// Names of users, each looked up once.
#[derive(Debug, Default)]
pub(super) struct Users(HashMap<u32, String>);

impl Users {
    fn name(&mut self, uid: u32) -> String {
        let look_up = || match User::from_uid(Uid::from_raw(uid)) {
            Ok(Some(user)) => user.name,
            _ => uid.to_string(),
        };
        self.0.entry(uid).or_insert_with(look_up).clone()
    }

    /// A checkpoint as the API describes it.
    pub(super) fn checkpoint(&mut self, row: CheckpointRow, present: bool) -> v1::Checkpoint {
        v1::Checkpoint {
            number: row.number.cast_unsigned(),
            uid: row.key.uid,
            user: self.name(row.key.uid),
            job: row.key.id.into(),
            created: Some(from_micros(row.created)),
            path: row.path.0,
            bytes: row.bytes,
            present,
        }
    }

    /// A job as the API describes it.
    pub(super) fn job(&mut self, job: JobRow) -> v1::Job {
        let (state, pid, exit) = match job.state {
            JobState::Starting => (v1::JobState::Starting, None, None),
            JobState::Running { pid, .. } => (v1::JobState::Running, Some(pid), None),
            JobState::Restarting { exit, .. } => (v1::JobState::Restarting, None, Some(exit)),
            JobState::Ended(exit) => (v1::JobState::Ended, None, Some(exit)),
            JobState::Lost => (v1::JobState::Lost, None, None),
            JobState::Checkpointed => (v1::JobState::Checkpointed, None, None),
            JobState::Managed { pid } => (v1::JobState::Running, Some(pid), None),
            JobState::Gone => (v1::JobState::Gone, None, None),
        };
        let restart_policy = match job.restart_policy {
            RestartPolicy::Never => v1::RestartPolicy::Never,
            RestartPolicy::OnFailure => v1::RestartPolicy::OnFailure,
            RestartPolicy::Always => v1::RestartPolicy::Always,
        };
        let (kind, container) = match &job.kind.container {
            None => (v1::JobType::Process, String::new()),
            Some(Container::Runc { id, .. }) => (v1::JobType::Runc, id.clone()),
            Some(Container::Containerd { id, .. }) => (v1::JobType::Containerd, id.clone()),
        };
        let supervised = job.kind == JobKind::default();
        v1::Job {
            id: job.key.id.into(),
            uid: job.key.uid,
            user: self.name(job.key.uid),
            r#type: kind.into(),
            state: state.into(),
            since: Some(from_micros(job.since)),
            created: Some(from_micros(job.created)),
            pid: pid.map_or(0, i32::cast_unsigned),
            exit: exit.map(exit_status),
            restarts: job.restarts,
            restart_policy: restart_policy.into(),
            command: job.command,
            working_directory: job.working_directory.0,
            terminal: job.terminal,
            log_file: job.log_file.map(|file| file.0).unwrap_or_default(),
            checkpoints: Some(v1::CheckpointSummary {
                newest: job.checkpoints.newest.map(from_micros),
                local: job.checkpoints.local,
                remote: job.checkpoints.remote,
                bytes: job.checkpoints.bytes,
            }),
            container,
            supervised,
        }
    }
}

fn exit_status(exit: Exit) -> v1::ExitStatus {
    use v1::exit_status::How;
    v1::ExitStatus {
        how: Some(match exit {
            Exit::Code(code) => How::Code(code),
            Exit::Signal(signal) => How::Signal(signal),
        }),
    }
}
