//! What a job is made of: the file `spec.json` in its directory.
//!
//! The daemon writes it before it starts the supervisor, which reads it for every run of
//! the program. A daemon of a later version reads the files of this one, so fields are
//! only added, with a default.

use serde::{Deserialize, Serialize};

use super::bytes::Bytes;
use super::id::JobId;

/// A job's program and how it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The job's ID.
    pub id: JobId,
    /// What the program runs with.
    pub credentials: Credentials,
    /// Program and arguments, at least one.
    pub arguments: Vec<Bytes>,
    /// Working directory.
    pub working_directory: Bytes,
    /// The whole environment.
    pub environment: Vec<(Bytes, Bytes)>,
    /// File of the owner to which the output is appended, opened with the owner's
    /// rights. Without it the output goes to the job's own file.
    pub log_file: Option<Bytes>,
    /// The terminal's size at the start; without it there is no terminal.
    pub terminal: Option<TerminalSize>,
    /// What happens when the program ends.
    pub restart: RestartPolicy,
    /// Microseconds since 1970.
    pub created: i64,
}

/// Everything that the kernel's checks of a process depend on, as the caller had it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// File mode creation mask.
    pub umask: u32,
    /// Whether programs that change the user (`sudo`) have no effect.
    pub no_new_privs: bool,
    /// Preference of the kernel's out-of-memory killer, -1000 to 1000.
    pub oom_score_adj: i32,
    /// The bounding set of capabilities, as bits.
    pub bounding: u64,
    /// Resource limits.
    pub limits: Vec<Limit>,
}

/// One resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// The kernel's number of the resource (`RLIMIT_NOFILE` and so on).
    pub resource: u32,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// What happens when the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// The job ends.
    #[default]
    Never,
    /// The program is started again after an exit code other than 0, or a signal.
    OnFailure,
    /// The program is started again.
    Always,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl RestartPolicy {
    /// Whether the program is started again after it ended like that.
    #[must_use]
    pub fn applies(self, exit: Exit) -> bool {
        match self {
            Self::Never => false,
            Self::OnFailure => exit != Exit::Code(0),
            Self::Always => true,
        }
    }
}

/// How a job ended: the file `exit.json` in its directory, which the supervisor writes
/// when the program won't be started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Exit status of the last run.
    pub exit: Exit,
    /// Microseconds since 1970.
    pub at: i64,
    /// Number of times that the program was started again.
    pub restarts: u32,
    /// Whether a checkpoint has ended it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub checkpointed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_looks_at_the_exit_status() {
        let failed = [Exit::Code(1), Exit::Signal(9)];
        assert!(
            failed
                .into_iter()
                .all(|e| RestartPolicy::OnFailure.applies(e))
        );
        assert!(!RestartPolicy::OnFailure.applies(Exit::Code(0)));
        assert!(RestartPolicy::Always.applies(Exit::Code(0)));
        assert!(!RestartPolicy::Never.applies(Exit::Signal(9)));
    }

    #[test]
    fn the_json_is_stable() {
        let ended = Ended {
            exit: Exit::Signal(15),
            at: 1,
            restarts: 2,
            checkpointed: false,
        };
        let json = r#"{"exit":{"signal":15},"at":1,"restarts":2}"#;
        assert_eq!(serde_json::to_string(&ended).expect("JSON"), json);
        assert_eq!(serde_json::from_str::<Ended>(json).expect("ended"), ended);
        let policy = serde_json::to_string(&RestartPolicy::OnFailure).expect("JSON");
        assert_eq!(policy, "\"on-failure\"");
    }
}
