//! Completes memory that an earlier lazy restore has not brought yet: CRIU would dump a
//! missing page as zeros.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};

use cedana_checkpoint::host::procfs::{self, Stat};
use cedana_checkpoint::host::sys::pidfd_open;
use cedana_checkpoint::session;
use cedana_contract::pid::Pid;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cancel::Cancel;
use crate::error::Error;
use crate::look::{Tree, status_uid};

/// The name of a page source.
const PAGE_SOURCE: &str = "cedana-pages";

/// Returns when no memory of a tree is missing.
///
/// A page source is asked by the root of the tree that it serves, or by the keeper of its
/// namespace. This tree may be a part of that one or the other way round. If the root has
/// exited, the page source can't be asked, but it brings the rest and exits.
pub(super) fn complete(pid: Pid, tree: &Tree, cancel: &Cancel) -> Result<(), Error> {
    let parent = |pid: &Pid| Stat::read(*pid).and_then(|stat| stat.parent);
    // A chain has an end; the limit is for a process ID that is used again meanwhile.
    let above = std::iter::successors(parent(&pid), parent).take(10_000);
    for process in tree.processes.iter().copied().chain(above) {
        match session::finish(process, cancel) {
            Err(session::Incomplete::Interrupted) => return Err(Error::Cancelled),
            Err(source) => return Err(Error::Incomplete { pid, source }),
            Ok(()) => {}
        }
    }
    loop {
        let sources = page_sources();
        if sources.is_empty() || !tree.processes.iter().any(|pid| has_missing(*pid)) {
            return Ok(());
        }
        let mut ready: Vec<_> = sources
            .iter()
            .map(AsFd::as_fd)
            .chain([cancel.as_fd()])
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::system("wait for a page source")(errno.into())),
        }
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
    }
}

/// The page sources of this machine. A user's process of that name is none.
fn page_sources() -> Vec<OwnedFd> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: Pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = Stat::read(pid)?;
            let is_source =
                stat.name == PAGE_SOURCE && !stat.is_dead() && status_uid(pid) == Some(0);
            is_source.then(|| pidfd_open(pid).ok()).flatten()
        })
        .collect()
}

/// Whether a page source may give a process memory: some of it is registered with a
/// userfaultfd for missing pages (`um` in proc_pid_smaps(5)).
fn has_missing(pid: Pid) -> bool {
    let Ok(smaps) = File::open(procfs::of(pid).join("smaps")) else {
        return false;
    };
    let mut lines = BufReader::new(smaps).lines().map_while(Result::ok);
    lines.any(|line| {
        let flags = line.strip_prefix("VmFlags:");
        flags.is_some_and(|flags| flags.split_ascii_whitespace().any(|flag| flag == "um"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_all_of_its_memory() {
        assert!(!has_missing(Pid::own()));
        let tree = Tree {
            processes: vec![Pid::own()],
            ..Tree::default()
        };
        let cancel = Cancel::new().expect("eventfd");
        complete(Pid::own(), &tree, &cancel).expect("complete");
    }
}
