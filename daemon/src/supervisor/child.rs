//! What the child does between fork and exec. Nothing here allocates: another thread of
//! the parent could have held the allocator's lock.

use std::ffi::CString;
use std::fmt::Display;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::prctl;
use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, SFlag, fstat, umask};
use nix::unistd::{Gid, Uid, chdir, setgroups, setresgid, setresuid, setsid, write};

use super::sys;
use crate::job::spec::{Credentials, Spec};

/// The steps, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Session,
    Limits,
    User,
    Directory,
    Log,
    LogKind,
    Exec,
}

const STEPS: [Step; 7] = [
    Step::Session,
    Step::Limits,
    Step::User,
    Step::Directory,
    Step::Log,
    Step::LogKind,
    Step::Exec,
];

impl Step {
    pub(super) fn from_byte(byte: u8) -> Self {
        STEPS.get(usize::from(byte)).copied().unwrap_or(Self::Exec)
    }

    /// Why the program was not started.
    pub(super) fn explain(self, spec: &Spec, error: &io::Error) -> String {
        let path = |bytes: &crate::job::bytes::Bytes| bytes.as_path().display().to_string();
        let program = spec.arguments.first().map(path).unwrap_or_default();
        let log = spec.log_file.as_ref().map(path).unwrap_or_default();
        let uid = spec.credentials.uid;
        match self {
            Self::Session => format!("cannot create the job's session: {error}"),
            Self::Limits => format!("cannot set the resource limits of user {uid}: {error}"),
            Self::User => format!("cannot become user {uid}: {error}"),
            Self::Directory => format!(
                "user {uid} cannot enter the working directory {}: {error}",
                path(&spec.working_directory)
            ),
            Self::Log => format!("user {uid} cannot append to the log file {log}: {error}"),
            Self::LogKind => format!("the log file {log} is not a regular file; name another"),
            Self::Exec => exec_error(&program, spec, error),
        }
    }
}

fn exec_error(program: &str, spec: &Spec, error: &dyn Display) -> String {
    let searched = spec
        .environment
        .iter()
        .find(|(name, _)| name.0 == b"PATH")
        .filter(|_| !program.contains('/'))
        .map(|(_, path)| format!(" (searched in PATH={})", path.as_os_str().display()))
        .unwrap_or_default();
    format!("cannot start {program}: {error}{searched}")
}

/// Everything that the child needs, allocated before the fork.
pub(super) struct Child {
    credentials: Credentials,
    groups: Vec<Gid>,
    oom_score_adj: String,
    directory: CString,
    log: Option<CString>,
    terminal: bool,
    failing: RawFd,
}

impl Child {
    /// # Errors
    /// A path with a NUL byte.
    pub(super) fn new(spec: &Spec, failing: RawFd) -> io::Result<Self> {
        let credentials = spec.credentials.clone();
        Ok(Self {
            groups: credentials
                .groups
                .iter()
                .copied()
                .map(Gid::from_raw)
                .collect(),
            oom_score_adj: credentials.oom_score_adj.to_string(),
            credentials,
            directory: CString::new(spec.working_directory.0.clone())?,
            log: spec
                .log_file
                .as_ref()
                .map(|log| CString::new(log.0.clone()))
                .transpose()?,
            terminal: spec.terminal.is_some(),
            failing,
        })
    }

    /// Runs all steps. The number of a failed step goes to the pipe.
    pub(super) fn prepare(&mut self) -> io::Result<()> {
        self.steps().map_err(|(step, errno)| {
            // SAFETY: the parent keeps the pipe open during the fork, and the child has
            // closed nothing yet.
            let failing = unsafe { BorrowedFd::borrow_raw(self.failing) };
            // Without it the error is reported as that of exec.
            let _ = write(failing, &[step as u8]);
            errno.into()
        })
    }

    fn steps(&self) -> Result<(), (Step, Errno)> {
        let at = |step| move |errno| (step, errno);
        sys::default_signals();
        // The supervisor takes its signals as data, so it blocks them.
        SigSet::empty()
            .thread_set_mask()
            .map_err(at(Step::Session))?;
        setsid().map_err(at(Step::Session))?;
        if self.terminal {
            sys::take_terminal().map_err(at(Step::Session))?;
        }
        for limit in &self.credentials.limits {
            sys::set_limit(*limit).map_err(at(Step::Limits))?;
        }
        // Refused without CAP_SYS_RESOURCE if the caller's is lower than ours; then the
        // program is less protected than the caller.
        let _ = self.set_oom_score_adj();
        self.become_user().map_err(at(Step::User))?;
        umask(Mode::from_bits_truncate(self.credentials.umask));
        chdir(self.directory.as_c_str()).map_err(at(Step::Directory))?;
        if let Some(log) = &self.log {
            append_to(log)?;
        }
        crate::sys::close_others_on_exec().map_err(at(Step::Exec))
    }

    fn set_oom_score_adj(&self) -> nix::Result<()> {
        let file = open(
            c"/proc/self/oom_score_adj",
            OFlag::O_WRONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        write(&file, self.oom_score_adj.as_bytes()).map(drop)
    }

    fn become_user(&self) -> nix::Result<()> {
        let Credentials { uid, gid, .. } = self.credentials;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        sys::limit_capabilities(self.credentials.bounding)?;
        setgroups(&self.groups)?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
        sys::leave_session_keyring()?;
        if !uid.is_root() {
            // setresuid has cleared all sets but the inheritable one.
            sys::drop_capabilities()?;
        }
        if self.credentials.no_new_privs {
            prctl::set_no_new_privs()?;
        }
        Ok(())
    }
}

/// Makes stdout and stderr append to a file. A pipe would block here without O_NONBLOCK,
/// and CRIU can restore neither pipes nor devices of others.
fn append_to(log: &CString) -> Result<(), (Step, Errno)> {
    let at = |errno| (Step::Log, errno);
    let flags = OFlag::O_WRONLY
        | OFlag::O_APPEND
        | OFlag::O_CREAT
        | OFlag::O_NOCTTY
        | OFlag::O_NONBLOCK
        | OFlag::O_CLOEXEC;
    let file = open(log.as_c_str(), flags, Mode::from_bits_truncate(0o666)).map_err(at)?;
    let kind = SFlag::from_bits_truncate(fstat(&file).map_err(at)?.st_mode & SFlag::S_IFMT.bits());
    if kind != SFlag::S_IFREG {
        return Err((Step::LogKind, Errno::EINVAL));
    }
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND)).map_err(at)?;
    for standard in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        sys::duplicate(file.as_raw_fd(), standard).map_err(at)?;
    }
    Ok(())
}
