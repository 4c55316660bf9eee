//! `dump`: a process and its children into one archive or a directory.
//!
//! ```text
//! Look     obstacles named; memory of an earlier lazy restore completed
//!   ▼
//! attempt  destination, capture, CRIU ─► post-dump ─► stored, synced, published ─► yes
//!   │ ▲                                  (runs on: yes at once, stored meanwhile)
//!   │ └─── failed for a cause that passes by itself: once more, for two seconds
//!   ▼
//! Report
//! ```
//!
//! CRIU lets the process go, or kills it, only when this program answers its question
//! after the dump. One that is to end is answered when the checkpoint is on disk; one that
//! runs on at once, because it runs on in any case.

mod attempt;
mod stored;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cedana_checkpoint::criu::version;
use cedana_checkpoint::format::pages::Compression;
use cedana_checkpoint::host::procfs::Stat;
use cedana_checkpoint::inspect::DumpCost;
use cedana_checkpoint::progress::Observer;
use cedana_checkpoint::session;
use cedana_contract::pid::Pid;

use crate::cancel::Cancel;
use crate::destination::{self, Target};
use crate::error::Error;
use crate::look::{Tree, look};
use crate::options::DumpOptions;
use attempt::Attempt;

/// How long a failure that passes by itself is tried again.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the process runs between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// The share of the process's memory that must be free: memory compresses by a factor of
/// twenty at best.
const LEAST_SHARE: u64 = 20;

/// A checkpoint that is on disk.
#[derive(Debug, Clone)]
pub struct Report {
    /// The archive, or the directory.
    pub path: PathBuf,
    /// CRIU's statistics; `None` if it wrote none.
    pub criu: Option<DumpCost>,
    /// From the start of CRIU until it had written everything.
    pub dumped: Duration,
    /// From the start of CRIU until the checkpoint was on disk.
    pub total: Duration,
    /// Bytes of memory.
    pub raw_bytes: u64,
    /// The same as stored.
    pub stored_bytes: u64,
    /// The number of processes.
    pub processes: usize,
}

/// Dumps a process and its children.
///
/// # Errors
/// There is no checkpoint, and the process runs on.
pub fn dump(
    pid: Pid,
    target: &Target,
    options: &DumpOptions,
    cancel: &Cancel,
    observer: &Arc<Observer>,
) -> Result<Report, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let criu = version::find(&path)?;
    let began = Instant::now();
    loop {
        let tree = look(pid, options, options.owner(target))
            .map_err(|found| Error::Obstacles { pid, found })?;
        complete_memory(pid, &tree, cancel)?;
        check_room(target, options, &tree)?;
        let attempt = Attempt {
            pid,
            tree: &tree,
            criu: &criu,
            target,
            options,
            cancel,
        };
        match attempt.run(observer)? {
            Ok(report) => return Ok(report),
            Err(failure) => {
                let passes = failure.passes && began.elapsed() < PATIENCE;
                if !passes {
                    return Err(failure.error);
                }
            }
        }
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        // The kernel reports the end of none of these causes.
        thread::sleep(PAUSE);
    }
}

/// Completes what an earlier lazy restore has not brought yet. The restored tree may be a
/// part of this one or the other way round, and one in a namespace is known by its keeper.
fn complete_memory(pid: Pid, tree: &Tree, cancel: &Cancel) -> Result<(), Error> {
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
    Ok(())
}

fn check_room(target: &Target, options: &DumpOptions, tree: &Tree) -> Result<(), Error> {
    let dir = match target {
        Target::Directory(dir) | Target::Archive { dir, .. } => dir,
    };
    let failed = |source| Error::Target {
        path: dir.clone(),
        source,
    };
    let (path, free) = destination::free(target).map_err(failed)?;
    let needed = match options.compression {
        Compression::None => tree.memory,
        Compression::Zstd { .. } => tree.memory / LEAST_SHARE,
    };
    match free < needed {
        true => Err(Error::Full {
            path,
            free,
            needed: tree.memory,
        }),
        false => Ok(()),
    }
}
