//! `restore`: the processes of an archive or a directory, in place.
//!
//! ```text
//! Source    opened with the caller's rights
//!   ▼
//! View      index, manifest, digests; a directory that CRIU reads, nothing is unpacked
//!   ▼
//! attempt   page source, CRIU ─► the processes ─► pages
//!   │ ▲
//!   │ └──── failed lazily before the processes ran: once more, eagerly
//!   ▼
//! Restored  a child of this process
//! ```
//!
//! The root of the restored tree is a child of this process, or of its nearest subreaper
//! when this process has ended. CRIU asks before the processes run; a caller that has
//! been killed by then doesn't answer, and CRIU kills what it restored.

mod attempt;
mod placement;
mod user_files;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use cedana_checkpoint::attributes::{Attributes, Privileges};
use cedana_checkpoint::criu::version;
use cedana_checkpoint::format::contents::Contents;
use cedana_checkpoint::format::manifest::{Manifest, Process};
use cedana_checkpoint::fuse::Root;
use cedana_checkpoint::host::process_tree;
use cedana_checkpoint::images::{self, Ids};
use cedana_checkpoint::opened::OpenedDir;
use cedana_checkpoint::session;
use cedana_checkpoint::view::{Accept, ImagesView, Needs, Subject};
use cedana_contract::pid::Pid;

use crate::cancel::Cancel;
use crate::error::Error;
use crate::owner::Owner;
use attempt::{Attempt, Outcome, Runs};

/// A checkpoint that is open.
#[derive(Debug)]
pub struct Source {
    opened: OpenedDir,
    path: PathBuf,
}

impl Source {
    /// Opens an archive or a directory with the rights of `owner`.
    ///
    /// # Errors
    /// It can't be opened, or is no valid archive.
    pub fn open(path: &Path, owner: &Owner) -> Result<Self, Error> {
        let opened = owner.act(|| OpenedDir::open_any(path));
        let path = path.to_owned();
        match opened {
            Ok(opened) => Ok(Self { opened, path }),
            Err(source) => Err(Error::Open { path, source }),
        }
    }
}

impl Source {
    /// What its manifest says of the process.
    ///
    /// # Errors
    /// It is damaged, or no process's.
    pub fn process(&self) -> Result<Process, Error> {
        let refused = |why: String| Error::Refused {
            path: self.path.clone(),
            why,
        };
        let manifest = Manifest::read(&self.opened).map_err(|error| refused(error.to_string()))?;
        let process = manifest.and_then(|manifest| manifest.process);
        process.ok_or_else(|| refused("it is not a checkpoint of a process".to_owned()))
    }
}

/// What becomes of TCP connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tcp {
    /// They go on.
    Keep,
    /// They are closed, as if the peer had done so.
    Close,
}

/// Where processes come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Under their own IDs, or in a namespace if one is taken.
    Auto,
    /// Under their own IDs.
    Own,
    /// In a PID namespace, where their IDs are their own.
    Namespace,
}

/// Options of a restore.
#[derive(Debug)]
pub struct RestoreOptions {
    /// The name of what is restored, for logs. Empty means the checkpoint's.
    pub name: String,
    /// TCP connections.
    pub tcp: Tcp,
    /// Where the processes come back.
    pub placement: Placement,
    /// Leave the processes stopped (SIGCONT lets them run).
    pub leave_stopped: bool,
    /// Whether memory may come while the processes run.
    pub lazy: bool,
    /// The number of threads that prefetch memory.
    pub threads: usize,
    /// Bytes that are decoded ahead for an eager restore.
    pub memory: u64,
    /// The checkpoints that are accepted.
    pub accept: Accept,
    /// The directory of the node's store, which may have the memory.
    pub store: PathBuf,
    /// Descriptors in place of those that the dump left out
    /// ([`crate::DumpOptions::held`]) and of the supervisor's file
    /// ([`crate::DumpOptions::output`]), by the process's numbers.
    pub stdio: Vec<(i32, OwnedFd)>,
    /// The slave of a terminal in place of the one that the dump left out.
    pub terminal: Option<OwnedFd>,
    /// The user that the processes may belong to. A user other than root may restore only
    /// what this node has signed (`/etc/cedana/key`), and files that the user could have
    /// replaced are opened with the user's rights.
    pub owner: Owner,
    /// The directory that gets the reason if the processes must be killed later, because
    /// their memory can't be read.
    pub report: Option<PathBuf>,
    /// The directory for CRIU's logs after failures, and how many are kept.
    pub logs: (PathBuf, usize),
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self {
            name: String::new(),
            tcp: Tcp::Keep,
            placement: Placement::Auto,
            leave_stopped: false,
            lazy: true,
            threads: thread::available_parallelism().map_or(1, usize::from),
            memory: 128 << 20,
            accept: Accept::Ours,
            store: PathBuf::from("/var/lib/cedana/store"),
            stdio: Vec::new(),
            terminal: None,
            owner: Owner::ROOT,
            report: None,
            logs: (PathBuf::from("/var/log/cedana"), 100),
        }
    }
}

/// A restored process.
#[derive(Debug, Clone)]
pub struct Restored {
    /// The PID of its root.
    pub pid: Pid,
    /// The child of this process that must be waited for: the root, or the keeper of its
    /// namespace, which ends with the same status (128 and the number of a signal).
    pub child: Pid,
    /// The PID of the root in its namespace, if it has one of its own.
    pub inside: Option<Pid>,
    /// Whether its memory comes while it runs.
    pub lazy: bool,
    /// What the caller should know: why its memory came before, although the caller allowed
    /// otherwise; what could not be put back.
    pub warnings: Vec<String>,
    /// What the checkpoint says of it.
    pub process: Process,
}

/// Restores a process and its children.
///
/// # Errors
/// Nothing of it runs, and the checkpoint is unchanged.
pub fn restore(
    source: &Source,
    options: &RestoreOptions,
    cancel: &Cancel,
) -> Result<Restored, Error> {
    let begun = Instant::now();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let criu = version::find(&path)?.0;
    let refused = |why: String| Error::Refused {
        path: source.path.clone(),
        why,
    };
    let mut found = None;
    let mut eager_because = None;
    let needs = needs(options);
    let lazy = |manifest: &Manifest, images: &Contents| {
        found = Some(manifest.clone());
        if !options.lazy || session::is_small(manifest) {
            return false;
        }
        let possible = session::possible(manifest, images, None);
        eager_because = possible.err();
        eager_because.is_none()
    };
    // It is unpacked only where there is no FUSE; the log of the caller has no place here.
    let view = ImagesView::of(&source.opened, &needs, lazy, |_| ());
    let mut view = view.map_err(|error| Error::View {
        path: source.path.clone(),
        source: error,
    })?;
    let manifest = found.ok_or_else(|| refused("it has no manifest".to_owned()))?;
    let process = manifest.process.clone().unwrap_or_default();
    let ids = images::ids(view.images()).map_err(|error| refused(error.to_string()))?;
    let namespace = match options.placement {
        Placement::Own => {
            placement::check_free(&ids).map_err(&refused)?;
            false
        }
        Placement::Auto => placement::check_free(&ids).is_err(),
        Placement::Namespace => true,
    };
    let mut inherit = inherit(&process, options).map_err(&refused)?;
    let opened = match options.owner.is_root() {
        true => Vec::new(),
        false => {
            let is_given = |key: &str| inherit.contains_key(key);
            user_files::open(view.images(), &options.owner, is_given).map_err(&refused)?
        }
    };
    inherit.extend(opened.iter().map(|(key, file)| (key.clone(), file)));
    let inherit: Vec<(String, &OwnedFd)> = inherit.into_iter().collect();
    let attempt = Attempt {
        criu: &criu,
        source: &source.path,
        manifest: &manifest,
        process: &process,
        ids: &ids,
        namespace,
        inherit: &inherit,
        options,
        cancel,
        begun,
    };
    let (runs, failed_lazily) = attempts(&attempt, &mut view, &needs)?;
    let eager_because = failed_lazily.or(eager_because);
    let eager_because =
        eager_because.map(|why| format!("its memory was read before it runs: {why}"));
    let not_put_back = put_back(view.images(), runs.pid, &options.owner).err();
    Ok(Restored {
        pid: runs.pid,
        child: runs.child,
        inside: runs.inside,
        lazy: view.is_lazy(),
        warnings: eager_because.into_iter().chain(not_put_back).collect(),
        process,
    })
}

/// Attempts the restore. What could not be done lazily may be done eagerly, which is then
/// returned, too.
fn attempts(
    attempt: &Attempt<'_>,
    view: &mut ImagesView,
    needs: &Needs,
) -> Result<(Runs, Option<String>), Error> {
    let error = match attempt.run(view)? {
        Outcome::Runs(runs) => return Ok((runs, None)),
        Outcome::Failed {
            error,
            final_: true,
        } => return Err(error),
        Outcome::Failed { error, .. } => error,
    };
    let served = view.serve_all(needs, |_| ());
    served.map_err(|source| Error::View {
        path: attempt.source.to_owned(),
        source,
    })?;
    match attempt.run(view)? {
        Outcome::Runs(runs) => Ok((runs, Some(error.to_string()))),
        Outcome::Failed { error, .. } => Err(error),
    }
}

/// Puts attributes back that CRIU leaves out. Returns what can't be put back, which the
/// processes go on without.
fn put_back(images: &Contents, root: Pid, owner: &Owner) -> Result<(), String> {
    let attributes = Attributes::read(images).map_err(|error| error.to_string())?;
    let Some(attributes) = attributes else {
        return Ok(());
    };
    let mut processes = process_tree::pids(root);
    processes.push(root);
    let privileges = match owner.is_root() {
        true => Privileges::Priorities,
        false => Privileges::None,
    };
    let done = attributes.put_back(&processes, root, privileges);
    done.map_err(|failed| failed.to_string())
}

fn needs(options: &RestoreOptions) -> Needs {
    Needs {
        memory: options.memory,
        root: Root(0),
        shares_files: false,
        accept: match options.owner.is_root() {
            true => options.accept,
            // An edited checkpoint could give its process any user's rights.
            false => Accept::Signed,
        },
        store: options.store.clone(),
        subject: Subject::Process,
    }
}

/// The caller's descriptors by CRIU's keys of what they replace, each key once.
fn inherit<'a>(
    process: &Process,
    options: &'a RestoreOptions,
) -> Result<BTreeMap<String, &'a OwnedFd>, String> {
    let mut inherit = BTreeMap::new();
    if let Some(key) = &process.terminal {
        let terminal = options.terminal.as_ref().ok_or(
            "its terminal belonged to its supervisor and is not in the checkpoint; give it another one",
        )?;
        inherit.insert(key.clone(), terminal);
    }
    for (number, key) in &process.inherited {
        let given = options.stdio.iter().find(|(given, _)| given == number);
        match given {
            Some((_, given)) => {
                inherit.entry(key.clone()).or_insert(given);
            }
            None if is_file(key) => {}
            None => {
                return Err(format!(
                    "its descriptor {number} was a pipe to its supervisor and is not in the checkpoint; give it another one"
                ));
            }
        }
    }
    Ok(inherit)
}

/// Whether CRIU's key is a file's path, without its first slash: the file is in the
/// checkpoint, so it need not be replaced.
fn is_file(key: &str) -> bool {
    !["pipe:[", "tty["].iter().any(|kind| key.starts_with(kind))
}

/// The processes of a tree by their IDs.
fn processes(ids: &Ids) -> Vec<Pid> {
    let pid = |id: &u32| (*id).try_into().ok();
    ids.processes.iter().filter_map(pid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor() -> OwnedFd {
        std::fs::File::open("/dev/null").expect("open").into()
    }

    #[test]
    fn a_pipe_must_be_given_and_a_file_may_be() {
        let process = |key: &str| Process {
            inherited: [(1, key.to_owned()), (2, key.to_owned())].into(),
            ..Process::default()
        };
        let given = RestoreOptions {
            stdio: vec![(1, descriptor()), (2, descriptor())],
            ..RestoreOptions::default()
        };
        let none = RestoreOptions::default();
        for key in ["pipe:[7]", "var/lib/output.log"] {
            let found = inherit(&process(key), &given).expect("given");
            assert_eq!(found.keys().collect::<Vec<_>>(), [key]);
            let found = inherit(&process(key), &none);
            assert_eq!(found.is_ok(), is_file(key), "{key}");
        }
    }
}
