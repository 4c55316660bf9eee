//! Why a request about a job is refused.

use std::io;

use crate::job::id::{InvalidId, JobId};
use crate::store::{JobState, StoreError};

/// A refused request.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// No such job, or another user's.
    #[error("there is no job {0}; `cedana ps -a` lists yours")]
    NotFound(JobId),
    /// Root must say whose.
    #[error("users {owners} each have a job {id}; choose one with --user")]
    Ambiguous {
        /// The ID.
        id: JobId,
        /// The user IDs.
        owners: String,
    },
    /// The ID is taken.
    #[error(
        "there is a job {0} already; choose another ID, or remove it with `cedana job delete {0}`"
    )]
    Exists(JobId),
    /// The ID is not valid.
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
    /// The request is not valid.
    #[error("{0}")]
    Invalid(String),
    /// The program can't be started.
    #[error("job {id} was not started: {reason}")]
    NotStarted {
        /// The job.
        id: JobId,
        /// The supervisor's reason.
        reason: String,
    },
    /// The job's state forbids it.
    #[error("job {id} {state}")]
    State {
        /// The job.
        id: JobId,
        /// "has ended with code 0", "runs".
        state: String,
    },
    /// The supervisor refused.
    #[error("job {id}: {reason}")]
    Refused {
        /// The job.
        id: JobId,
        /// The supervisor's reason.
        reason: String,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system.
    #[error("cannot {what}: {source}")]
    System {
        /// "create the job's directory".
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl JobError {
    pub(super) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }

    /// The job has ended.
    pub(super) fn not_running(id: &JobId, state: JobState) -> Self {
        let state = match state {
            JobState::Ended(crate::job::spec::Exit::Code(code)) => {
                format!("has ended with exit code {code}")
            }
            JobState::Ended(crate::job::spec::Exit::Signal(signal)) => {
                format!("was ended by signal {signal}")
            }
            JobState::Lost => "was killed together with its supervisor".to_owned(),
            JobState::Checkpointed => {
                format!("was ended by a checkpoint; `cedana restore job {id}` restores it")
            }
            JobState::Managed { .. } => "was not started by the daemon".to_owned(),
            JobState::Gone => "has ended".to_owned(),
            JobState::Starting => "is being started; try again".to_owned(),
            JobState::Running { .. } | JobState::Restarting { .. } => "is ending".to_owned(),
        };
        Self::State {
            id: id.clone(),
            state,
        }
    }
}
