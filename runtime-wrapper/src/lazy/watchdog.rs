//! The guard: what happens when the page source ends before its time.
//!
//! It is a process made like a thread: by clone(2) with the source's descriptor
//! table, and memory of its own. It waits for the source's end, and looks into
//! the [`Ledger`]. If the container runs and lacks memory, it kills the
//! container, waits until that is gone, and only then ends, which closes the
//! last of the descriptors.
//!
//! While CRIU is at work, hanging up is enough: CRIU sets nothing going before
//! it has said its last word, and fails when it can't. Whether that word had
//! come already, unread, is looked for. But a CRIU that fails when it has all
//! processes in its hands never ends (4.2, `restore_root_task`, `out_kill`): it
//! kills init and waits for it, which waits for its children, which CRIU traces
//! and would have to wait for. Nor does it learn that it fails while it waits for a
//! process that waits for memory. So it is given some time, and ended.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use cedana_checkpoint::lazy::{ends_with_last_word, is_gone};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, shutdown};
use serde_json::json;

use super::control::{Control, text};
use super::ledger::{Ledger, Phase};
use crate::host::sys;
use crate::lazy::criu_process::{Criu, PATIENCE};
use crate::lazy::kill::{Doomed, Mourners, ended, watch};

/// How often the guard looks for the end of a container that it can't kill.
const LOOK: Duration = Duration::from_secs(1);

/// What both sides have when they part.
pub(super) struct Post {
    pub(super) ledger: Ledger,
    pub(super) control: Control,
    /// Where CRIU connects.
    pub(super) listener: OwnedFd,
    pub(super) mourners: Mourners,
}

/// Starts the guard; a descriptor that polls readable at its end.
pub(super) fn start(post: &Post) -> std::io::Result<OwnedFd> {
    let source = sys::pidfd_open(std::process::id().cast_signed())?;
    match sys::clone_with_descriptors()? {
        Some(guard) => {
            // Closed here, it would be closed there.
            let _ = source.into_raw_fd();
            sys::pidfd_open(guard)
        }
        None => {
            sys::rename(c"cedana-guard");
            wait(source.as_fd());
            post.source_ended();
            std::process::exit(0);
        }
    }
}

fn wait(process: BorrowedFd<'_>) {
    let mut ready = [PollFd::new(process, PollFlags::POLLIN)];
    while poll(&mut ready, PollTimeout::NONE).is_err() {}
}

impl Post {
    /// Deals with the container once nobody serves its memory any more. Returns
    /// when the descriptors may be closed.
    pub(super) fn source_ended(&self) {
        let reason = self.ledger.reason();
        let reason = reason.unwrap_or_else(|| {
            "its page source was killed before its memory was complete".to_owned()
        });
        self.control
            .say(&json!({"say": "failed", "reason": reason}));
        if self.ledger.phase() == Phase::Over
            || (self.ledger.phase() == Phase::Restoring && self.hang_up())
        {
            return;
        }
        let mut container = self.ledger.container();
        while container.is_none() {
            // `cedana-runc restore` knows whom to kill, or does it.
            let Some(message) = self.control.wait() else {
                return hold();
            };
            if text(&message, "say") == Some("running") {
                container = Some(message);
            }
        }
        let Some(container) = container else { return };
        self.end(&container, &reason);
    }

    fn end(&self, container: &serde_json::Value, reason: &str) {
        // Without a descriptor on it, init is gone already.
        if let Some(init) = watch(container)
            && !ended(init.as_fd())
        {
            self.mourners.tell(reason);
            Doomed::read(container).kill(init.as_fd());
        }
    }

    /// Hangs up on CRIU. False if that comes too late.
    fn hang_up(&self) -> bool {
        let listener = self.listener.as_fd();
        let accepted = listener
            .try_clone_to_owned()
            .ok()
            .map(UnixListener::from)
            .and_then(|listener| {
                listener.set_nonblocking(true).ok()?;
                Some(OwnedFd::from(listener.accept().ok()?.0))
            });
        // SAFETY: the source's descriptors are ours, and it closes none any more.
        let known = self
            .ledger
            .criu()
            .and_then(|fd| unsafe { BorrowedFd::borrow_raw(fd).try_clone_to_owned().ok() });
        let Some(criu) = known.or(accepted) else {
            let _ = shutdown(listener.as_raw_fd(), Shutdown::Both);
            return true;
        };
        let process = Criu::at(&criu);
        // From now on CRIU can't say anything more; what it has said is here.
        let _ = shutdown(criu.as_raw_fd(), Shutdown::Both);
        let mut left = Vec::new();
        let _ = UnixStream::from(criu).read_to_end(&mut left);
        if ends_with_last_word(&left) {
            return false;
        }
        if let Some(process) = process {
            process.see_off(PATIENCE);
        }
        true
    }
}

/// The container is unknown, so it can't be killed, and its userfaultfds stay open:
/// a missing page blocks its process in place of reading as zeros. The caller of the
/// restore removes the container, and the guard ends with it.
fn hold() {
    while userfaultfds().any(|uffd| !is_gone(uffd.as_fd())) {
        std::thread::sleep(LOOK);
    }
}

/// The userfaultfds of the descriptor table that source and guard share.
fn userfaultfds() -> impl Iterator<Item = OwnedFd> {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    entries.flatten().filter_map(|entry| {
        let link = std::fs::read_link(entry.path()).ok()?;
        let number = entry.file_name().to_str()?.parse().ok()?;
        let is_ours = link.as_os_str() == "anon_inode:[userfaultfd]";
        // SAFETY: the source has ended, and the guard closes none of its
        // descriptors.
        let fd = is_ours.then(|| unsafe { BorrowedFd::borrow_raw(number) })?;
        fd.try_clone_to_owned().ok()
    })
}
