//! CRIU's message that a restored container runs.
//!
//! In the foreground the runtime returns when the container exits. What exists for
//! the restore alone would stay as long: dropped segments, a changed config.json,
//! the directory that CRIU read. CRIU runs its action scripts with `post-resume`
//! when the processes run (criu/cr-restore.c, `restore_root_task`), and this
//! program is such a script:
//!
//! ```text
//! cedana-runc restore ── runc ── CRIU ── post-resume: cedana-runc, as a script
//!        ▲                                                  │
//!        └───────────────────── a byte ─────────────────────┘
//! ```
//!
//! The script opens the pipe through the entry of `cedana-runc restore` in /proc,
//! because neither runtime passes descriptors on.
//!
//! CRIU runs the action scripts of a configuration file beside the runtime's own
//! notifications since 3.19. An older one would abort, so it is not asked.

use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;

use cedana_checkpoint::criu::Version;

use super::action_script;

use crate::host::procfs;

/// Names the pipe to the script.
const VARIABLE: &str = "CEDANA_POST_RESUME";

/// A pipe that is readable when the container runs.
pub(crate) struct PostResume {
    reader: PipeReader,
    writer: PipeWriter,
}

impl PostResume {
    /// `None` if this CRIU can't be asked.
    pub(crate) fn new(criu: Version) -> io::Result<Option<Self>> {
        if !action_script::is_run_by(criu) {
            return Ok(None);
        }
        let (reader, writer) = io::pipe()?;
        Ok(Some(Self { reader, writer }))
    }

    /// The environment variable by which the script finds the pipe.
    pub(crate) fn variable(&self) -> (&'static str, OsString) {
        (VARIABLE, procfs::descriptor(&self.writer).into())
    }

    /// Readable when CRIU has resumed the container.
    pub(crate) fn reached(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

/// The exit code of this process if CRIU started it as that script. It is success in
/// any case: a failing script would fail the restore.
pub(crate) fn run_as_script() -> Option<ExitCode> {
    let (step, pipe) = action_script::step(VARIABLE)?;
    if step == "post-resume" {
        let _ = action_script::notify(pipe);
    }
    Some(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    const NEW: Version = Version {
        major: 3,
        minor: 19,
        sublevel: 0,
    };

    #[test]
    fn the_script_reaches_the_restore() {
        assert!(PostResume::new(Version::MINIMUM).expect("pipes").is_none());
        let hook = PostResume::new(NEW).expect("pipes").expect("new enough");
        let (_, pipe) = hook.variable();
        action_script::notify(pipe).expect("write");
        let mut byte = [0];
        (&hook.reader).read_exact(&mut byte).expect("read");
        assert_eq!(byte, [1]);
    }
}
