//! The images of a dump while they are stored, and the checkpoint that they become.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use cedana_checkpoint::attributes::Attributes;
use cedana_checkpoint::capture::{Archive, ArchiveWriter, Capture, Expected, Options};
use cedana_checkpoint::criu::Version;
use cedana_checkpoint::format::manifest::{
    self, Container, Cost, Entry, Key, Machine, Manifest, Process, StoreReference, Versions,
};
use cedana_checkpoint::format::pages::Compression;
use cedana_checkpoint::format::publish::NewArchive;
use cedana_checkpoint::images::{Unrestorable, unrestorable};
use cedana_checkpoint::inspect::DumpCost;
use cedana_checkpoint::output::units::micros;
use cedana_checkpoint::precheck::check_dumped;
use cedana_checkpoint::progress::{Observer, Phase, Progress};
use cedana_contract::files;
use cedana_contract::pid::Pid;
use cedana_store::Store;
use cedana_store::catalogue::{CheckpointId, NewCheckpoint};
use cedana_store::session::Session;
use serde_json::json;

use super::attempt::Attempt;
use crate::destination::Destination;
use crate::error::Error;
use crate::options::Published;

/// The images of a dump that CRIU writes.
pub(super) struct Storing {
    destination: Destination,
    capture: Capture,
    pub(super) start: Instant,
}

impl Storing {
    pub(super) fn begin(attempt: &Attempt<'_>, observer: &Arc<Observer>) -> Result<Self, Error> {
        let destination = Destination::prepare(attempt.pid, attempt.target, &attempt.name())?;
        let images = destination.images();
        let is_here = attempt.tree.within.is_none();
        let options = Options {
            compression: attempt.options.compression,
            memory: attempt.options.memory,
            flush: true,
            // The links to files in memory lead through /proc, and CRIU may have another.
            expected: (attempt.options.spare_memory && is_here).then_some(Expected {
                bytes: attempt.tree.memory,
                processes: attempt.tree.processes.len(),
            }),
        };
        let observer = Arc::clone(observer);
        let archive = match &destination {
            Destination::Directory(_) => None,
            Destination::Archive(archive) => {
                let file = archive.file().try_clone();
                Some(Archive {
                    file: file.map_err(Error::system("copy a descriptor"))?,
                    path: archive.shown().to_owned(),
                })
            }
        };
        let pid = attempt.pid;
        let failed = |source| Error::Capture { pid, source };
        let capture = match (&attempt.options.store, archive) {
            (Some(store), archive) => {
                let limits = (store.level, store.quota);
                let store = Store::create(&store.path).map_err(|error| failed(error.into()))?;
                Capture::to_store(&images, &store, archive, options, limits, observer)
            }
            (None, Some(archive)) => Capture::to_archive(&images, archive, options, observer),
            (None, None) => Capture::start(&images, options, observer),
        };
        Ok(Self {
            capture: capture.map_err(failed)?,
            destination,
            start: Instant::now(),
        })
    }

    /// The directory that CRIU writes to.
    pub(super) fn images(&self) -> PathBuf {
        self.destination.images()
    }

    /// Stores what is left, and publishes the checkpoint, and tells the caller's hook. `cost`
    /// is CRIU's, if it has ended.
    pub(super) fn publish(
        self,
        attempt: &Attempt<'_>,
        cost: Option<DumpCost>,
        observer: &Arc<Observer>,
    ) -> Result<Published, Error> {
        let pid = attempt.pid;
        let dumped = self.start.elapsed();
        let in_capture = |source| Error::Capture { pid, source };
        let attributes = Attributes::of(&attempt.tree.processes, pid);
        let written = attributes.write(&self.destination.images());
        written.map_err(Error::system("write the attributes of its processes"))?;
        let mut captured = self.capture.finish().map_err(in_capture)?;
        check_restorable(attempt, &self.destination)?;
        check_owner(attempt, &self.destination)?;
        (observer)(Progress {
            phase: Phase::Sync,
            raw: captured.raw_bytes,
            done: captured.raw_bytes,
            stored: captured.stored_bytes,
        });
        let (raw_bytes, stored_bytes) = (captured.raw_bytes, captured.stored_bytes);
        let start = self.start;
        let session = captured.session.take();
        let shown = match &self.destination {
            Destination::Directory(staging) => staging.dir().to_owned(),
            Destination::Archive(archive) => archive.shown().to_owned(),
        };
        let manifest = |files: Vec<Entry>| {
            let machine =
                Machine::here().map_err(Error::system("read this machine's properties"))?;
            let mut manifest = manifest(attempt, files, machine);
            manifest.cost = Cost {
                frozen_us: cost
                    .filter(|_| attempt.options.leave_running)
                    .map(|cost| cost.frozen_us.into()),
                dump_us: micros(dumped),
                total_us: micros(start.elapsed()),
                raw_bytes,
                stored_bytes,
            };
            let id = name_in_store(&mut manifest, session.as_deref())?;
            sign(&mut manifest)
                .map_err(Error::system("sign the checkpoint with /etc/cedana/key"))?;
            // The memory first: a file without it would be no checkpoint.
            if let (Some(session), Some(id)) = (&session, id) {
                let row = row(id, &manifest, attempt, &shown);
                let added = session.publish(&row);
                added.map_err(|error| in_capture(error.into()))?;
            }
            Ok::<_, Error>(manifest)
        };
        let path = match self.destination {
            Destination::Directory(mut staging) => {
                let in_publish = |source| Error::Publish { pid, source };
                let files = staging.digest(captured.files).map_err(in_publish)?;
                let manifest = manifest(files)?;
                staging.publish(Some(&manifest)).map_err(in_publish)?;
                staging.dir().to_owned()
            }
            Destination::Archive(archive) => {
                let writer = captured.archive.take();
                let parts = (archive, writer, captured.files);
                finish_archive(parts, session.as_deref(), pid, manifest)?
            }
        };
        let published = Published {
            path,
            raw_bytes,
            stored_bytes,
            total: self.start.elapsed(),
        };
        if let Some(hook) = &attempt.options.published {
            let recorded = hook.call(&published);
            recorded.map_err(|source| Error::Record {
                pid,
                path: published.path.clone(),
                source,
            })?;
        }
        Ok(published)
    }
}

/// Adds CRIU's images and the manifest to an archive, and gives it its name. Returns its path.
fn finish_archive(
    (mut archive, writer, pages): (Box<NewArchive>, Option<ArchiveWriter>, Vec<Entry>),
    session: Option<&Session>,
    pid: Pid,
    manifest: impl FnOnce(Vec<Entry>) -> Result<Manifest, Error>,
) -> Result<PathBuf, Error> {
    let in_capture = |source| Error::Capture { pid, source };
    let shown = archive.shown().to_owned();
    let failed = |source| Error::Target {
        path: shown.clone(),
        source,
    };
    let not_open = || failed(io::Error::other("the archive was not opened"));
    let mut writer = writer.ok_or_else(not_open)?;
    let files = writer.add_images(archive.scratch(), pages);
    let manifest = manifest(files.map_err(in_capture)?)?;
    let text = manifest.render().map_err(failed)?;
    let added = writer.add(manifest::NAME, &mut &text[..]);
    added.map_err(in_capture)?;
    writer.finish().map_err(in_capture)?;
    let path = archive.publish().map_err(failed)?;
    // Another file had its name. Memory of a checkpoint that isn't where the catalogue says
    // would be collected.
    if let (Some(session), true) = (session, path != shown)
        && let Err(error) = session.set_path(&path)
    {
        archive.withdraw(&path);
        return Err(in_capture(error.into()));
    }
    Ok(path)
}

/// Names a checkpoint whose memory is in the store.
fn name_in_store(
    manifest: &mut Manifest,
    session: Option<&Session>,
) -> Result<Option<CheckpointId>, Error> {
    if session.is_none() {
        return Ok(None);
    }
    let id = CheckpointId::random().map_err(Error::system("read random bytes"))?;
    let text = id.to_string();
    manifest.store = Some(StoreReference { id: text });
    Ok(Some(id))
}

/// What the store's catalogue says of a checkpoint. A directory or an archive that is
/// missing later may be on a disk that is not mounted, so its device is noted.
fn row(id: CheckpointId, manifest: &Manifest, attempt: &Attempt<'_>, path: &Path) -> NewCheckpoint {
    let above = path.ancestors().find_map(|dir| std::fs::metadata(dir).ok());
    let device = above.map(|metadata| metadata.dev());
    NewCheckpoint {
        id,
        name: Some(attempt.name()),
        path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        raw_bytes: manifest.cost.raw_bytes,
        bytes: manifest.files.iter().map(|file| file.size).sum(),
        subject: json!({ "engine": "none", "device": device }),
        details: manifest.details(),
    }
}

/// Refuses what CRIU dumps without an error and can't restore.
fn check_restorable(attempt: &Attempt<'_>, destination: &Destination) -> Result<(), Error> {
    // Images that can't be read are accepted here, since storing them fails later.
    let found = unrestorable(&destination.images()).unwrap_or_default();
    let why = match found.into_iter().next() {
        None => return Ok(()),
        Some(Unrestorable::Within { directory, file }) => format!(
            "the deleted file {file} is open, and so is its deleted directory {directory}, which CRIU can't restore together; close one of them"
        ),
        Some(Unrestorable::Thread(path)) => {
            format!("the thread's file {path} is open, which CRIU can't restore; close it")
        }
        Some(Unrestorable::Tiles(process)) => format!(
            "process {process} has AMX tiles in use, which CRIU does not keep; checkpoint it when it does not compute, or turn AMX off in the program"
        ),
    };
    Err(Error::Unrestorable {
        pid: attempt.pid,
        why,
    })
}

/// Refuses the memory of processes that are not the owner's, before the owner can read it.
fn check_owner(attempt: &Attempt<'_>, destination: &Destination) -> Result<(), Error> {
    let owner = attempt.options.owner(attempt.target);
    let Destination::Archive(archive) = destination else {
        return Ok(());
    };
    if owner.is_root() {
        return Ok(());
    }
    let refused = |why| Error::Foreign {
        pid: attempt.pid,
        why,
    };
    let found = check_dumped(archive.scratch().dir(), &owner.as_user());
    let found = found.map_err(|error| refused(error.to_string()))?;
    match found.is_empty() {
        true => Ok(()),
        false => {
            let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
            Err(refused(texts.join("; ")))
        }
    }
}

fn manifest(attempt: &Attempt<'_>, files: Vec<Entry>, machine: Machine) -> Manifest {
    let created = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let tree = attempt.tree;
    Manifest {
        format: Manifest::format_of(&files),
        created: created.map_or(0, |since| since.as_secs()),
        files,
        parent: None,
        machine,
        versions: Versions {
            cedana: env!("CARGO_PKG_VERSION").to_owned(),
            criu: attempt.criu.1.to_string(),
            runtime: String::new(),
        },
        container: Container::default(),
        process: Some(Process {
            name: attempt.name(),
            pid: tree.own_pid(attempt.pid).as_raw(),
            command: tree.command.clone(),
            uid: tree.uid,
            processes: tree.processes.len(),
            terminal: tree.terminal.clone(),
            inherited: tree.inherited.clone(),
        }),
        options: options(attempt),
        cost: Cost::default(),
        store: None,
        signature: None,
    }
}

/// The options, by the names of settings and flags.
fn options(attempt: &Attempt<'_>) -> BTreeMap<String, manifest::Value> {
    let options = attempt.options;
    let mut named: Vec<(&str, manifest::Value)> = vec![
        ("tcp_established", options.tcp_established.into()),
        ("file_locks", options.file_locks.into()),
        ("link_remap", options.link_remap.into()),
        ("shell_job", options.shell_job.into()),
        ("ghost_limit", options.ghost_limit.into()),
        ("leave_running", options.leave_running.into()),
    ];
    match options.compression {
        Compression::None => named.push(("compression", "none".into())),
        Compression::Zstd { level } => {
            named.extend([("compression", "zstd".into()), ("level", level.into())]);
        }
    }
    let owned = |(name, value): (&str, _)| (name.to_owned(), value);
    named.into_iter().map(owned).collect()
}

/// Signs a manifest with the node's key, if the node has one.
fn sign(manifest: &mut Manifest) -> io::Result<()> {
    match Key::read(Path::new(files::KEY)).map_err(io::Error::other)? {
        Some(key) => manifest.sign(&key).map_err(io::Error::other),
        None => Ok(()),
    }
}

/// Opens a directory for CRIU.
pub(super) fn directory(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(Error::system("open the directory of images"))
}

/// Version of the CRIU that dumps.
pub(super) type Criu = (PathBuf, Version);
