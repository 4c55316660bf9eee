//! Running the wrapped runtime as a child, so that something can be done after
//! it ends.
//!
//! A caller that signals us means the runtime: signals are blocked here, taken
//! from a signalfd, and forwarded. Signals of a terminal reach the whole process
//! group by themselves and are not doubled; except during a dump, which gets a
//! group of its own: Ctrl-C would hit CRIU in the middle, and a CRIU that dies
//! undoes nothing. The child's end is seen on a pidfd.
//!
//! The kernel hands a signal to any thread that does not block it, and there it
//! would end the process. So [`Signals::block`] comes before the first thread.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::host::sys;

/// What is forwarded: everything by which a caller asks a process to end or
/// passes it a message.
const FORWARDED: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// How much of a child's stderr is kept: a runtime's error and CRIU's quoted
/// lines are a few kilobytes.
const MAX_STDERR: usize = 64 << 10;

/// What a child did.
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    /// The beginning of its stderr, if it was captured.
    pub(crate) stderr: String,
    /// The caller sent a signal meanwhile.
    pub(crate) signalled: bool,
}

/// Which part of the child's surroundings is ours to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// stderr stays the caller's: on restore it becomes the container's.
    Stdio,
    /// stderr is captured, and the runtime's orphans (CRIU, when the runtime is
    /// killed) are waited for, so that what they leave can be judged.
    StderrAndOrphans,
}

/// Something that is asked while the child runs.
pub(crate) struct Question<'a> {
    /// Readable when it is asked.
    pub(crate) asked: BorrowedFd<'a>,
    /// Answers it. Given false if the child ended without having asked, or may
    /// have; what is returned then does not matter.
    pub(crate) answer: &'a mut dyn FnMut(bool) -> Next,
}

/// Whether there will be another question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Again,
    Done,
}

/// The signals of this process, taken by [`run_and_answer`].
pub(crate) struct Signals(SignalFd);

impl Signals {
    /// Blocks them in this thread and in every thread that it starts.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub(crate) fn block() -> std::io::Result<Self> {
        let mut signals = SigSet::empty();
        FORWARDED.into_iter().for_each(|signal| signals.add(signal));
        signals.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(SignalFd::with_flags(&signals, flags)?))
    }
}

impl AsFd for Signals {
    /// Readable when a caller wants this program to end, or something else.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Runs `command` to its end, and answers questions meanwhile.
///
/// # Errors
/// It can't be started or waited for.
pub(crate) fn run_and_answer(
    signals: &Signals,
    mut command: Command,
    keep: Keep,
    mut questions: Vec<Question<'_>>,
) -> std::io::Result<Outcome> {
    if keep == Keep::StderrAndOrphans {
        prctl::set_child_subreaper(true)?;
        command.stderr(Stdio::piped());
        command.process_group(0);
    }
    sys::tie_to_parent(&mut command);
    let mut child = command.spawn()?;
    let stderr = child.stderr.take().map(|stderr| {
        thread::spawn(move || {
            let mut text = Vec::new();
            // Read to the end even past the bound: a full pipe would stop the
            // runtime. An error ends the text like an end of file does.
            let mut stderr = stderr;
            let _ = (&mut stderr).take(MAX_STDERR as u64).read_to_end(&mut text);
            let _ = std::io::copy(&mut stderr, &mut std::io::sink());
            String::from_utf8_lossy(&text).into_owned()
        })
    });
    let mut signalled = false;
    let status = wait(&mut child, &signals.0, keep, &mut questions, &mut signalled);
    // A process that still waits for an answer would be waited for below.
    for question in questions {
        (question.answer)(false);
    }
    let status = status?;
    if keep == Keep::StderrAndOrphans {
        reap_orphans();
    }
    Ok(Outcome {
        status,
        stderr: stderr
            .and_then(|reader| reader.join().ok())
            .unwrap_or_default(),
        signalled,
    })
}

fn wait(
    child: &mut Child,
    signals: &SignalFd,
    keep: Keep,
    questions: &mut Vec<Question<'_>>,
    signalled: &mut bool,
) -> std::io::Result<ExitStatus> {
    let own_group = keep == Keep::StderrAndOrphans;
    let pid = child.id().cast_signed();
    let pidfd = sys::pidfd_open(pid)?;
    loop {
        let mut ready = vec![
            PollFd::new(pidfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        let asked = questions
            .iter()
            .map(|question| PollFd::new(question.asked, PollFlags::POLLIN));
        ready.extend(asked);
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let asked: Vec<bool> = ready[2..]
            .iter()
            .map(|ready| ready.any().unwrap_or(false))
            .collect();
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        let mut asked = asked.into_iter();
        questions.retain_mut(|question| {
            let is_asked = asked.next().unwrap_or(false);
            !(is_asked && (question.answer)(true) == Next::Done)
        });
        while let Some(info) = signals.read_signal()? {
            *signalled = true;
            let signal = i32::try_from(info.ssi_signo)
                .ok()
                .and_then(|number| Signal::try_from(number).ok());
            // A positive code is the kernel's own: the terminal's.
            let heard = !own_group && info.ssi_code > libc::SI_USER;
            if let Some(signal) = signal.filter(|_| !heard) {
                // Not yet waited for, so the id can't be another's.
                kill(Pid::from_raw(pid), signal)?;
            }
        }
    }
}

/// Waits for processes that the child left to us: a CRIU whose runtime was
/// killed finishes its dump or undoes it, and ends.
fn reap_orphans() {
    while let Ok(_) | Err(Errno::EINTR) = waitpid(Pid::from_raw(-1), None) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    // What captures stderr also waits for any child of the process, the other
    // tests' among them; it is tested with the whole program in tests/.
    #[test]
    fn child_starts_with_no_signal_blocked() {
        let signals = Signals::block().expect("signals");
        let mut command = Command::new("/bin/sh");
        let script = "grep -q '^SigBlk:.*0000000000000000$' /proc/self/status && exit 3";
        command.args(["-c", script]);
        let outcome = run_and_answer(&signals, command, Keep::Stdio, Vec::new()).expect("run");
        assert_eq!(outcome.status.code(), Some(3));
    }
}
