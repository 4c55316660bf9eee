//! A job's state, for people and for exit codes.

use cedana_api::v1::exit_status::How;
use cedana_api::v1::{Job, JobState, JobType};
use nix::sys::signal::Signal;

/// The state in a word or two.
pub(crate) fn status(job: &Job) -> String {
    let how = job.exit.and_then(|exit| exit.how);
    match (job.state(), how) {
        (JobState::Unspecified, _) => "unknown".to_owned(),
        (JobState::Starting, _) => "starting".to_owned(),
        (JobState::Running, _) => "running".to_owned(),
        (JobState::Restarting, how) => format!("restarting after {}", ended(how)),
        (JobState::Ended, how) => ended(how),
        (JobState::Lost, _) => "lost".to_owned(),
        (JobState::Checkpointed, _) => "checkpointed".to_owned(),
        (JobState::Gone, _) => "gone".to_owned(),
    }
}

/// The state as a word for programs.
pub(crate) fn state_name(job: &Job) -> &'static str {
    match job.state() {
        JobState::Unspecified => "unknown",
        JobState::Starting => "starting",
        JobState::Running => "running",
        JobState::Restarting => "restarting",
        JobState::Ended => "ended",
        JobState::Lost => "lost",
        JobState::Checkpointed => "checkpointed",
        JobState::Gone => "gone",
    }
}

/// What a job is made of.
pub(crate) fn type_name(job: &Job) -> &'static str {
    match job.r#type() {
        JobType::Unspecified => "unknown",
        JobType::Process => "process",
        JobType::Runc => "runc",
        JobType::Containerd => "containerd",
    }
}

/// A signal's name without SIG, or its number.
pub(crate) fn signal_name(signal: i32) -> String {
    Signal::try_from(signal).map_or_else(
        |_| signal.to_string(),
        |signal| signal.as_str().trim_start_matches("SIG").to_owned(),
    )
}

/// The exit code of a command that exits like the program. A lost job's is that of a
/// killed program.
pub(crate) fn exit_code(job: &Job) -> u8 {
    match job.exit.and_then(|exit| exit.how) {
        // The kernel's codes have eight bits.
        Some(How::Code(code)) => code as u8,
        Some(How::Signal(signal)) => 128_u8.wrapping_add(signal as u8),
        None => 128 + 9,
    }
}

fn ended(how: Option<How>) -> String {
    match how {
        Some(How::Code(code)) => format!("exit {code}"),
        Some(How::Signal(signal)) => format!("killed ({})", signal_name(signal)),
        None => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cedana_api::v1::ExitStatus;

    #[test]
    fn an_exit_status_is_a_word_and_a_code() {
        let job = |state: JobState, how| Job {
            state: state.into(),
            exit: Some(ExitStatus { how: Some(how) }),
            ..Job::default()
        };
        let killed = job(JobState::Ended, How::Signal(15));
        assert_eq!(
            (status(&killed), exit_code(&killed)),
            ("killed (TERM)".to_owned(), 143)
        );
        let failed = job(JobState::Restarting, How::Code(3));
        assert_eq!(
            (status(&failed), exit_code(&failed)),
            ("restarting after exit 3".to_owned(), 3)
        );
        assert_eq!(signal_name(40), "40");
    }
}
