//! Runs the wrapped runtime as a child.
//!
//! A caller's signal is meant for the runtime: signals are blocked here, read from a
//! signalfd, and forwarded. The kernel sends a terminal's signals to the whole process
//! group, so these are not forwarded. A dump runs in a process group of its own,
//! because Ctrl-C would kill CRIU, and a killed CRIU does not undo its changes. A pidfd
//! reports the child's end.
//!
//! The kernel delivers a signal to any thread that does not block it, and the signal
//! would end the process. So [`Signals::block`] is called before the first thread
//! starts.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::waitpid;

use crate::host::{process_tree, sys};
use cedana_contract::pid::Pid;

/// The forwarded signals: those by which callers end a process or notify it.
const FORWARDED: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// The bytes of a child's stderr that are kept: a runtime's error and CRIU's quoted
/// lines are a few kilobytes.
const MAX_STDERR: usize = 64 << 10;

/// The end of a child.
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    /// The beginning of its stderr, if it was captured.
    pub(crate) stderr: String,
    /// Whether the caller sent a signal while the child ran.
    pub(crate) signalled: bool,
    /// Whether it was killed because it made no progress.
    pub(crate) stalled: bool,
}

/// When a child that makes no progress is killed, with its descendants.
pub(crate) struct Stall<'a> {
    /// How long it may make no progress. An answer to a question is progress.
    pub(crate) limit: Duration,
    /// Whether there was progress since the last call.
    pub(crate) progressed: &'a mut dyn FnMut() -> bool,
}

impl Stall<'_> {
    /// How often progress is looked for.
    fn interval(&self) -> Duration {
        (self.limit / 20).clamp(Duration::from_millis(10), Duration::from_secs(10))
    }
}

/// What of the child this process takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Nothing. stderr stays the caller's: on restore it becomes the container's.
    Stdio,
    /// stderr is captured, and the runtime's orphans (CRIU, if the runtime is killed)
    /// are waited for, so that their results are complete.
    StderrAndOrphans,
}

/// A question of another process while the child runs.
pub(crate) struct Question<'a> {
    /// Readable when the question is asked.
    pub(crate) asked: BorrowedFd<'a>,
    /// Answers it. Called with false if the child ended, possibly without a question;
    /// the return value is then ignored.
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
    /// No descriptor is left.
    pub(crate) fn block() -> std::io::Result<Self> {
        let mut signals = SigSet::empty();
        FORWARDED.into_iter().for_each(|signal| signals.add(signal));
        signals.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(SignalFd::with_flags(&signals, flags)?))
    }
}

impl Signals {
    /// Whether a signal is pending. It stays pending.
    pub(crate) fn is_pending(&self) -> bool {
        let mut ready = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut ready, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for Signals {
    /// Readable when a signal is pending.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Runs `command` to its end, and answers questions while it runs. A child without
/// progress is killed.
///
/// # Errors
/// It can't be started or waited for.
pub(crate) fn run_and_answer(
    signals: &Signals,
    mut command: Command,
    keep: Keep,
    mut questions: Vec<Question<'_>>,
    stall: Option<Stall<'_>>,
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
            // Read to the end even past the limit: a full pipe would block the
            // runtime. An error ends the text as an end of file does.
            let mut stderr = stderr;
            let _ = (&mut stderr).take(MAX_STDERR as u64).read_to_end(&mut text);
            let _ = std::io::copy(&mut stderr, &mut std::io::sink());
            String::from_utf8_lossy(&text).into_owned()
        })
    });
    let mut signalled = false;
    let mut watch = stall.map(Watch::new);
    let status = wait(
        &mut child,
        &signals.0,
        keep,
        &mut questions,
        &mut signalled,
        watch.as_mut(),
    );
    // CRIU may still wait for an answer, and it is waited for below.
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
        stalled: watch.is_some_and(|watch| watch.stalled),
    })
}

/// A child's progress.
struct Watch<'a> {
    stall: Stall<'a>,
    /// The time of the last look, and of the last progress.
    looked: Instant,
    progressed: Instant,
    /// The child was killed.
    stalled: bool,
}

impl<'a> Watch<'a> {
    fn new(stall: Stall<'a>) -> Self {
        let now = Instant::now();
        Self {
            stall,
            looked: now,
            progressed: now,
            stalled: false,
        }
    }

    /// Looks for progress if it is time to, and kills a child that has made none for
    /// too long.
    fn look(&mut self, child: Pid) {
        let now = Instant::now();
        if self.stalled || now.duration_since(self.looked) < self.stall.interval() {
            return;
        }
        self.looked = now;
        if (self.stall.progressed)() {
            self.progressed = now;
        } else if now.duration_since(self.progressed) > self.stall.limit {
            self.stalled = true;
            process_tree::kill(child);
        }
    }
}

fn wait(
    child: &mut Child,
    signals: &SignalFd,
    keep: Keep,
    questions: &mut Vec<Question<'_>>,
    signalled: &mut bool,
    mut watch: Option<&mut Watch<'_>>,
) -> std::io::Result<ExitStatus> {
    let own_group = keep == Keep::StderrAndOrphans;
    let pid = Pid::of(child);
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
        let timeout = watch.as_ref().map_or(PollTimeout::NONE, |watch| {
            PollTimeout::try_from(watch.stall.interval()).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut ready, timeout) {
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
        let questioned = asked.contains(&true);
        let mut asked = asked.into_iter();
        questions.retain_mut(|question| {
            let is_asked = asked.next().unwrap_or(false);
            !(is_asked && (question.answer)(true) == Next::Done)
        });
        if let Some(watch) = &mut watch {
            if questioned {
                watch.progressed = Instant::now();
            }
            watch.look(pid);
        }
        while let Some(info) = signals.read_signal()? {
            *signalled = true;
            let signal = i32::try_from(info.ssi_signo)
                .ok()
                .and_then(|number| Signal::try_from(number).ok());
            // A positive code is the kernel's, so the terminal sent it to the group.
            let reached_child = !own_group && info.ssi_code > libc::SI_USER;
            if let Some(signal) = signal.filter(|_| !reached_child) {
                // The child was not reaped yet, so its PID is not reused.
                kill(pid.into(), signal)?;
            }
        }
    }
}

/// Waits for the child's orphans: a CRIU whose runtime was killed finishes its dump or
/// undoes it, and exits.
fn reap_orphans() {
    while let Ok(_) | Err(Errno::EINTR) = waitpid(None, None) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    // `StderrAndOrphans` waits for every child of this process, other tests' included,
    // so it is tested with the whole program in tests/.
    #[test]
    fn a_child_starts_with_no_signal_blocked() {
        let signals = Signals::block().expect("signals");
        let mut command = Command::new("/bin/sh");
        let script = "grep -q '^SigBlk:.*0000000000000000$' /proc/self/status && exit 3";
        command.args(["-c", script]);
        let outcome =
            run_and_answer(&signals, command, Keep::Stdio, Vec::new(), None).expect("run");
        assert_eq!(outcome.status.code(), Some(3));
        assert!(!outcome.stalled);
    }

    #[test]
    fn a_child_without_progress_is_killed_with_its_children() {
        let signals = Signals::block().expect("signals");
        let mut command = Command::new("/bin/sh");
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        command.args(["-c", "sleep 1000 & wait"]).stdout(writer);
        let mut steps = 0;
        let stall = Stall {
            limit: Duration::from_millis(20),
            progressed: &mut || {
                steps += 1;
                steps < 10
            },
        };
        let outcome = run_and_answer(&signals, command, Keep::Stdio, Vec::new(), Some(stall));
        let outcome = outcome.expect("run");
        assert!(outcome.stalled && outcome.status.code().is_none());
        assert!(steps > 10, "{steps}");
        // End of file: all that could write have ended.
        assert_eq!(reader.read(&mut [0]).expect("read"), 0);
    }
}
