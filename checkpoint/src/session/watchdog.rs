//! The watchdog of a page source: it acts when the source ends before its time.
//!
//! It is a process made like a thread: by clone(2) with the source's descriptor
//! table, and memory of its own. It waits for the source's end, and reads the
//! source's last state from the [`Ledger`]. If the container runs and lacks memory,
//! it kills the container, waits until that has ended, and only then ends, which
//! closes the last of the descriptors.
//!
//! While CRIU is at work, hanging up is enough: CRIU lets no process run before it
//! has sent RSTF, and fails when it can't send it. RSTF may have arrived already,
//! unread, so the rest of the connection is read. But a CRIU that fails when it has
//! all processes in its hands never ends (4.2, `restore_root_task`, `out_kill`): it
//! kills init and waits for it, which waits for its children, which CRIU traces
//! and would have to wait for. Nor does it notice that it fails while it waits for a
//! process that waits for memory. So it is given some time, and killed.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use crate::lazy::{ends_with_last_word, is_gone};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, shutdown};

use super::completion_socket;
use super::control::Control;
use super::ledger::Ledger;
use super::messages::{Container, ToRestore, ToSource};
use super::state::{Event, Remains, State};
use crate::host::sys;
use crate::session::criu_process::{Criu, PATIENCE};
use crate::session::kill::{Report, ended, kill_container, watch};
use cedana_contract::pid::Pid;

/// The period at which the watchdog checks whether a container that it can't kill has ended.
const LOOK: Duration = Duration::from_secs(1);

/// The resources that source and watchdog share.
pub(super) struct Shared {
    pub(super) ledger: Ledger,
    pub(super) control: Control,
    /// The socket that CRIU connects to.
    pub(super) listener: OwnedFd,
    pub(super) report: Report,
}

/// Starts the watchdog, and returns a descriptor that polls readable at its end.
pub(super) fn start(shared: &Shared) -> std::io::Result<OwnedFd> {
    let source = sys::pidfd_open(Pid::own())?;
    match sys::clone_with_descriptors()? {
        Some(watchdog) => {
            // Closed here, it would be closed there.
            let _ = source.into_raw_fd();
            sys::pidfd_open(watchdog)
        }
        None => {
            sys::rename(c"cedana-watchdog");
            wait(source.as_fd());
            shared.source_ended();
            std::process::exit(0);
        }
    }
}

fn wait(process: BorrowedFd<'_>) {
    let mut ready = [PollFd::new(process, PollFlags::POLLIN)];
    while poll(&mut ready, PollTimeout::NONE).is_err() {}
}

impl Shared {
    /// Kills what an exited source can't serve any more: CRIU, or the container.
    /// Returns when the descriptors may be closed.
    pub(super) fn source_ended(&self) {
        let killed = "its page source was killed before its memory was complete";
        let (state, _) = self.ledger.read().after(Event::Failed(killed.to_owned()));
        let State::Failed { reason, remains } = state else {
            return;
        };
        self.control.send(&ToRestore::Failed {
            reason: reason.clone(),
        });
        let mut container = match remains {
            Remains::Criu(connection) if self.hang_up(connection) => return,
            Remains::Criu(_) => None,
            Remains::Container(container) => container,
        };
        while container.is_none() {
            // `cedana-runc restore` finds the container, or kills it.
            match self.control.receive() {
                Some(ToSource::Container(found)) => container = Some(found),
                Some(ToSource::RuntimeEnded) => {}
                None => return hold(),
            }
        }
        let Some(container) = container else { return };
        self.end(&container, &reason);
    }

    fn end(&self, container: &Container, reason: &str) {
        // Init that can't be opened has ended already.
        if let Some(init) = watch(container)
            && !ended(init.as_fd())
        {
            let socket = completion_socket::path(container.init);
            self.report.kill(reason);
            kill_container(container, init.as_fd());
            // The source was killed and could not remove it.
            let _ = socket.map(std::fs::remove_file);
        }
    }

    /// Hangs up on CRIU, by the source's descriptor of its connection. False if
    /// RSTF had arrived.
    fn hang_up(&self, connection: Option<RawFd>) -> bool {
        let listener = self.listener.as_fd();
        let accepted = listener
            .try_clone_to_owned()
            .ok()
            .map(UnixListener::from)
            .and_then(|listener| {
                listener.set_nonblocking(true).ok()?;
                Some(OwnedFd::from(listener.accept().ok()?.0))
            });
        // SAFETY: the descriptor is in the table that source and watchdog share, and
        // the source has ended or closes none any more.
        let known = connection
            .and_then(|fd| unsafe { BorrowedFd::borrow_raw(fd).try_clone_to_owned().ok() });
        let Some(criu) = known.or(accepted) else {
            let _ = shutdown(listener.as_raw_fd(), Shutdown::Both);
            return true;
        };
        let process = Criu::at(&criu);
        // From now on CRIU can't send more; what it has sent can still be read.
        let _ = shutdown(criu.as_raw_fd(), Shutdown::Both);
        let mut left = Vec::new();
        let _ = UnixStream::from(criu).read_to_end(&mut left);
        if ends_with_last_word(&left) {
            return false;
        }
        if let Some(process) = process {
            process.end_within(PATIENCE);
        }
        true
    }
}

/// The container is unknown, so it can't be killed, and its userfaultfds stay open:
/// a missing page blocks its process in place of reading as zeros. The caller of the
/// restore removes the container, and the watchdog ends with it.
fn hold() {
    while userfaultfds().any(|uffd| !is_gone(uffd.as_fd())) {
        std::thread::sleep(LOOK);
    }
}

/// The userfaultfds of the descriptor table that source and watchdog share.
fn userfaultfds() -> impl Iterator<Item = OwnedFd> {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    entries.flatten().filter_map(|entry| {
        let link = std::fs::read_link(entry.path()).ok()?;
        let number = entry.file_name().to_str()?.parse().ok()?;
        let is_ours = link.as_os_str() == "anon_inode:[userfaultfd]";
        // SAFETY: the source has ended, and the watchdog closes none of its
        // descriptors.
        let fd = is_ours.then(|| unsafe { BorrowedFd::borrow_raw(number) })?;
        fd.try_clone_to_owned().ok()
    })
}
