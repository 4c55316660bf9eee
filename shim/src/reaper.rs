//! Reaps all child processes and delivers their exit statuses.
//!
//! The shim is a child subreaper. Its children are the commands that it starts (the
//! OCI runtime, loggers), and the init and the exec processes of every container once
//! the runtime that created them has exited. One `waitpid(-1)` loop, driven by
//! SIGCHLD, reaps all of them and sends each exit status to the claimant of the PID.
//!
//! Two races are closed by construction:
//! - A command's exit can't be missed: [`Reaper::spawn`] registers the PID
//!   under the same lock under which exits are collected.
//! - A container's init can exit before the runtime has reported its PID. While a
//!   [`Watch`] exists, unclaimed exits are kept, and [`Watch::claim`] finds them.
//!   Without a watch these exits are dropped: when the kernel reuses a PID, the exit
//!   of the earlier process must not be taken for that of the new one.

use std::{
    collections::HashMap,
    io,
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use log::warn;
use nix::{
    errno::Errno,
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
    unistd,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use crate::sys;
use cedana_contract::pid::Pid;

/// An exit status as a shell reports it: the exit code, or 128 plus the number
/// of the signal that killed it.
pub(crate) type ExitStatus = i32;

/// Resolves once to the exit status of the claimed process.
pub(crate) type Exit = oneshot::Receiver<ExitStatus>;

#[derive(Default)]
struct Exits {
    claimed: HashMap<Pid, oneshot::Sender<ExitStatus>>,
    /// Unclaimed exits, kept while `watches` is above zero.
    unclaimed: HashMap<Pid, ExitStatus>,
    watches: usize,
}

impl Exits {
    fn ended(&mut self, pid: unistd::Pid, status: ExitStatus) {
        // A child's PID is never 0.
        let Ok(pid) = Pid::try_from(pid.as_raw()) else {
            return;
        };
        match self.claimed.remove(&pid) {
            // The claimant may have dropped its receiver.
            Some(claimant) => drop(claimant.send(status)),
            None if self.watches > 0 => drop(self.unclaimed.insert(pid, status)),
            None => {}
        }
    }

    fn claim(&mut self, pid: Pid) -> Exit {
        let (claimant, exit) = oneshot::channel();
        match self.unclaimed.remove(&pid) {
            Some(status) => drop(claimant.send(status)),
            None => drop(self.claimed.insert(pid, claimant)),
        }
        exit
    }
}

/// The shim's only caller of `waitpid`.
#[derive(Clone, Default)]
pub(crate) struct Reaper(Arc<Mutex<Exits>>);

impl Reaper {
    /// Starts reaping. From now on nothing else in the process may wait for a
    /// child.
    ///
    /// # Errors
    /// When the SIGCHLD handler can't be installed.
    pub(crate) fn start() -> io::Result<Self> {
        let reaper = Self::default();
        let mut signals = signal(SignalKind::child())?;
        let reaping = reaper.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                reaping.reap();
            }
        });
        Ok(reaper)
    }

    fn reap(&self) {
        let mut exits = self.lock();
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => exits.ended(pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => exits.ended(pid, 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => {
                    warn!("waiting for children: {e}");
                    return;
                }
            }
        }
    }

    /// Starts a command. The returned PID is valid until `Exit` resolves.
    ///
    /// # Errors
    /// Those of [`Command::spawn`].
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<(Pid, Exit)> {
        let mut exits = self.lock();
        // std's handle neither kills nor reaps when dropped.
        let pid = Pid::of(&command.spawn()?);
        // An exit kept under this PID is that of an earlier process.
        exits.unclaimed.remove(&pid);
        Ok((pid, exits.claim(pid)))
    }

    /// Sends a signal by PID to a child whose exit is claimed and not yet collected.
    ///
    /// The PID is the child's until `waitpid` returns it, and [`Self::reap`] calls
    /// `waitpid` under the lock that is held here. So the signal can't reach another
    /// process, and no pidfd is needed.
    ///
    /// # Errors
    /// ESRCH when no such child is left, else those of kill(2).
    pub(crate) fn signal(&self, pid: Pid, signal: u32) -> nix::Result<()> {
        let exits = self.lock();
        match exits.claimed.contains_key(&pid) {
            true => sys::kill(pid, signal),
            false => Err(Errno::ESRCH),
        }
    }

    /// Keeps exits of unknown processes until the watch is dropped. Taken before the
    /// start of a process whose PID is reported later.
    pub(crate) fn watch(&self) -> Watch {
        self.lock().watches += 1;
        Watch(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Exits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps unclaimed exits until dropped; see [`Reaper::watch`].
pub(crate) struct Watch(Reaper);

impl Watch {
    /// The exit of `pid`, even if the process has exited since the watch began.
    pub(crate) fn claim(&self, pid: Pid) -> Exit {
        self.0.lock().claim(pid)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut exits = self.0.lock();
        exits.watches -= 1;
        if exits.watches == 0 {
            exits.unclaimed = HashMap::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_before_its_claim_is_found_while_watching() {
        let reaper = Reaper::default();
        let watch = reaper.watch();
        reaper.lock().ended(unistd::Pid::from_raw(42), 7);
        assert_eq!(watch.claim(Pid::try_from(42).unwrap()).try_recv(), Ok(7));
    }

    #[test]
    fn an_unclaimed_exit_does_not_outlive_the_watch() {
        let reaper = Reaper::default();
        let watch = reaper.watch();
        reaper.lock().ended(unistd::Pid::from_raw(42), 7);
        drop(watch);
        let watch = reaper.watch();
        assert!(watch.claim(Pid::try_from(42).unwrap()).try_recv().is_err());
    }

    #[test]
    fn without_a_watch_nothing_is_kept() {
        let reaper = Reaper::default();
        reaper.lock().ended(unistd::Pid::from_raw(42), 7);
        assert!(reaper.lock().unclaimed.is_empty());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn commands_report_their_exit() {
        let reaper = Reaper::start().unwrap();
        let (_, exit) = reaper
            .spawn(Command::new("sh").args(["-c", "exit 3"]))
            .unwrap();
        assert_eq!(exit.await, Ok(3));
        let (_, exit) = reaper
            .spawn(Command::new("sh").args(["-c", "kill -9 $$"]))
            .unwrap();
        assert_eq!(exit.await, Ok(137));
        // Only a child that is not reaped is signalled, and this process is no child
        // of its own.
        let (pid, exit) = reaper.spawn(Command::new("sleep").arg("1000")).unwrap();
        assert_eq!(reaper.signal(Pid::own(), 0), Err(Errno::ESRCH));
        assert_eq!(reaper.signal(pid, 15), Ok(()));
        assert_eq!(exit.await, Ok(143));
        assert_eq!(reaper.signal(pid, 0), Err(Errno::ESRCH));
    }
}
