//! One job as the database has it.

use rusqlite::Row;
use rusqlite::types::FromSql;
use serde::{Deserialize, Serialize};

use crate::job::bytes::Bytes;
use crate::job::id::JobId;
use crate::job::spec::{Exit, RestartPolicy, Spec};

/// What identifies a job.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobKey {
    /// The owner.
    pub uid: u32,
    /// The ID, unique among the owner's jobs.
    pub id: JobId,
}

/// A job's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// Its supervisor is being started.
    Starting,
    /// The program runs.
    Running {
        /// First process of the program.
        pid: i32,
        /// The supervisor.
        supervisor: u32,
    },
    /// The program has ended and will be started again.
    Restarting {
        /// Exit status of the last run.
        exit: Exit,
        /// The supervisor.
        supervisor: u32,
    },
    /// The program has ended.
    Ended(Exit),
    /// The supervisor was killed or the machine was restarted.
    Lost,
    /// A checkpoint has ended the program.
    Checkpointed,
    /// What is managed, and was not started by the daemon, runs.
    Managed {
        /// Its first process.
        pid: i32,
    },
    /// What was managed has ended by itself.
    Gone,
}

impl JobState {
    /// Whether the job has a supervisor, or will have one.
    #[must_use]
    pub fn is_live(self) -> bool {
        !matches!(
            self,
            Self::Ended(_) | Self::Lost | Self::Checkpointed | Self::Gone
        )
    }

    fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running { .. } => "running",
            Self::Restarting { .. } => "restarting",
            Self::Ended(_) => "ended",
            Self::Lost => "lost",
            Self::Checkpointed => "checkpointed",
            Self::Managed { .. } => "managed",
            Self::Gone => "gone",
        }
    }

    pub(super) fn columns(self) -> StateColumns {
        let (pid, supervisor, exit) = match self {
            Self::Starting | Self::Lost | Self::Checkpointed | Self::Gone => (None, None, None),
            Self::Managed { pid } => (Some(pid), None, None),
            Self::Running { pid, supervisor } => (Some(pid), Some(supervisor), None),
            Self::Restarting { exit, supervisor } => (None, Some(supervisor), Some(exit)),
            Self::Ended(exit) => (None, None, Some(exit)),
        };
        let (code, signal) = match exit {
            None => (None, None),
            Some(Exit::Code(code)) => (Some(code), None),
            Some(Exit::Signal(signal)) => (None, Some(signal)),
        };
        StateColumns {
            state: self.name(),
            pid,
            supervisor,
            code,
            signal,
        }
    }
}

/// A state, as columns.
pub(super) struct StateColumns {
    pub(super) state: &'static str,
    pub(super) pid: Option<i32>,
    pub(super) supervisor: Option<u32>,
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRow {
    /// What identifies it.
    pub key: JobKey,
    /// Its state.
    pub state: JobState,
    /// Microseconds since 1970 at which it entered that.
    pub since: i64,
    /// Microseconds since 1970.
    pub created: i64,
    /// Number of times that the program was started again.
    pub restarts: u32,
    /// What happens when the program ends.
    pub restart_policy: RestartPolicy,
    /// The command, for people.
    pub command: String,
    /// Working directory.
    pub working_directory: Bytes,
    /// Whether it runs on a terminal.
    pub terminal: bool,
    /// File of the owner with the output.
    pub log_file: Option<Bytes>,
    /// What it is made of.
    pub kind: JobKind,
    /// Its checkpoints.
    pub checkpoints: Checkpoints,
}

/// What a job is made of. JSON in the database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobKind {
    /// The container, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// The start of a managed process, in clock ticks since boot: its ID may mean another
    /// process later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<u64>,
}

/// A container that is managed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Container {
    /// Of runc.
    Runc {
        /// Its ID.
        id: String,
        /// The directory of containers.
        root: Option<Bytes>,
    },
    /// Of containerd.
    Containerd {
        /// Its ID.
        id: String,
        /// The namespace.
        namespace: String,
        /// containerd's socket.
        address: Bytes,
    },
}

/// A checkpoint of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointRow {
    /// Unique in this database.
    pub number: i64,
    /// The job.
    pub key: JobKey,
    /// The archive, or containerd's image.
    pub path: Bytes,
    /// Microseconds since 1970.
    pub created: i64,
    /// Bytes on disk.
    pub bytes: u64,
}

impl CheckpointRow {
    /// Reads number, owner, job, path, time and bytes.
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let mut columns = Columns { row, next: 0 };
        let number = columns.next()?;
        let uid = columns.next()?;
        let id = JobId::parse(columns.next_text()?).map_err(|_| {
            rusqlite::Error::ToSqlConversionFailure("the database has an invalid ID".into())
        })?;
        Ok(Self {
            number,
            key: JobKey { uid, id },
            path: Bytes(columns.next()?),
            created: columns.next()?,
            bytes: columns.next::<i64>()?.try_into().unwrap_or_default(),
        })
    }
}

/// The checkpoints of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checkpoints {
    /// Microseconds since 1970 of the newest.
    pub newest: Option<i64>,
    /// Number on this machine.
    pub local: u32,
    /// Number elsewhere.
    pub remote: u32,
    /// Stored bytes on this machine.
    pub bytes: u64,
}

impl JobRow {
    /// A new job.
    #[must_use]
    pub fn new(spec: &Spec) -> Self {
        Self {
            key: JobKey {
                uid: spec.credentials.uid,
                id: spec.id.clone(),
            },
            state: JobState::Starting,
            since: spec.created,
            created: spec.created,
            restarts: 0,
            restart_policy: spec.restart,
            command: crate::job::quote::command(&spec.arguments),
            working_directory: spec.working_directory.clone(),
            terminal: spec.terminal.is_some(),
            log_file: spec.log_file.clone(),
            kind: JobKind::default(),
            checkpoints: Checkpoints::default(),
        }
    }

    /// Reads the columns of [`SELECT`](super::SELECT), in that order: a list of ten
    /// thousand jobs would spend most of its time on looking up columns by name.
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let mut columns = Columns { row, next: 0 };
        let invalid = |what: &str| {
            rusqlite::Error::ToSqlConversionFailure(format!("the database has {what}").into())
        };
        let uid = columns.next()?;
        let id = JobId::parse(columns.next_text()?).map_err(|_| invalid("an invalid ID"))?;
        let name = columns.next_text()?;
        let since = columns.next()?;
        let created = columns.next()?;
        let pid: Option<i32> = columns.next()?;
        let supervisor: Option<u32> = columns.next()?;
        let exit = match (columns.next()?, columns.next()?) {
            (Some(code), _) => Some(Exit::Code(code)),
            (None, Some(signal)) => Some(Exit::Signal(signal)),
            (None, None) => None,
        };
        let state = match (name, pid, supervisor, exit) {
            ("starting", ..) => JobState::Starting,
            ("running", Some(pid), Some(supervisor), _) => JobState::Running { pid, supervisor },
            ("restarting", _, Some(supervisor), Some(exit)) => {
                JobState::Restarting { exit, supervisor }
            }
            ("ended", _, _, Some(exit)) => JobState::Ended(exit),
            ("lost", ..) => JobState::Lost,
            ("checkpointed", ..) => JobState::Checkpointed,
            ("managed", Some(pid), ..) => JobState::Managed { pid },
            ("gone", ..) => JobState::Gone,
            _ => return Err(invalid("an unknown state of a job")),
        };
        Ok(Self {
            key: JobKey { uid, id },
            state,
            since,
            created,
            restarts: columns.next()?,
            restart_policy: policy_of(columns.next_text()?)
                .ok_or_else(|| invalid("an unknown policy"))?,
            command: columns.next()?,
            working_directory: Bytes(columns.next()?),
            terminal: columns.next()?,
            log_file: columns.next::<Option<Vec<u8>>>()?.map(Bytes),
            kind: serde_json::from_str(columns.next_text()?)
                .map_err(|_| invalid("an unknown kind of job"))?,
            checkpoints: Checkpoints {
                newest: columns.next()?,
                local: columns.next::<Option<u32>>()?.unwrap_or_default(),
                remote: columns.next::<Option<u32>>()?.unwrap_or_default(),
                bytes: columns
                    .next::<Option<i64>>()?
                    .and_then(|bytes| bytes.try_into().ok())
                    .unwrap_or_default(),
            },
        })
    }
}

/// The columns of a row, one after another.
struct Columns<'r, 's> {
    row: &'r Row<'s>,
    next: usize,
}

impl<'r> Columns<'r, '_> {
    fn next<T: FromSql>(&mut self) -> rusqlite::Result<T> {
        self.next += 1;
        self.row.get(self.next - 1)
    }

    fn next_text(&mut self) -> rusqlite::Result<&'r str> {
        self.next += 1;
        Ok(self.row.get_ref(self.next - 1)?.as_str()?)
    }
}

pub(super) fn policy_name(policy: RestartPolicy) -> &'static str {
    match policy {
        RestartPolicy::Never => "never",
        RestartPolicy::OnFailure => "on-failure",
        RestartPolicy::Always => "always",
    }
}

fn policy_of(name: &str) -> Option<RestartPolicy> {
    [
        RestartPolicy::Never,
        RestartPolicy::OnFailure,
        RestartPolicy::Always,
    ]
    .into_iter()
    .find(|policy| policy_name(*policy) == name)
}
