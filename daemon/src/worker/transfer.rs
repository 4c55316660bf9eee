//! Exports and imports: whose files are opened and made, and what is published.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use cedana_checkpoint::format::manifest::Key;
use cedana_checkpoint::format::publish::{self, FilePlace, NewFile, Taken, archive_name};
use cedana_checkpoint::opened::OpenedDir;
use cedana_checkpoint::precheck::{User, check_dumped};
use cedana_checkpoint::transfer::{self, Context, PodmanOptions, Report, Source};
use cedana_contract::files;
use cedana_process::{Cancel, Observer};
use serde_json::Value;

use super::failure::{Failure, Kind};
use super::task::{Compress, Export, Import, Owner, Podman, Told, Transferred};
use crate::job::bytes::Bytes;

/// The largest config.json that is read. Real ones have some ten KiB.
const MAX_SPEC: u64 = 16 << 20;

/// Writes a checkpoint into one file.
pub(super) fn export(task: &Export, cancel: &Cancel, observer: &Observer) -> Result<Told, Failure> {
    let (path, file) = (task.path.as_path(), task.file.as_path());
    let (dir, name) = split(file)?;
    let (reader, owner) = (task.reader.of_engine(), task.owner.of_engine());
    let exists = || {
        let text = format!(
            "{} exists; remove it, or choose another name",
            file.display()
        );
        Failure::new(Kind::Exists, text)
    };
    if owner.act(|| file.symlink_metadata()).is_ok() {
        return Err(exists());
    }
    let new = begin(&task.owner, dir)?;
    let opened = reader.act(|| OpenedDir::open_any(path));
    let opened = opened.map_err(at("open the checkpoint", path))?;
    // Moves within the directory are made with this process's rights.
    if reader.is_root() && !opened.is_archive() {
        let recovered = publish::recover(&opened);
        recovered.map_err(|error| Failure::new(Kind::State, error.to_string()))?;
    }
    let store = task.engine.store.as_path();
    let source = Source::new(opened, store).map_err(failure)?;
    let key = key()?;
    if !reader.is_root() && source.claims_store(key.as_ref()) {
        let text = format!(
            "{} refers to memory in the store, and is not signed with the node's key; only root may export it",
            path.display()
        );
        return Err(Failure::new(Kind::Invalid, text));
    }
    // A caller that can't read it gets what root has read.
    if reader.uid != owner.uid {
        check_readable(&source, &task.owner)?;
    }
    let context = Context {
        compression: task.engine.compression(),
        store,
        key,
        cancelled: &|| cancel.is_cancelled(),
        observer,
    };
    let report = match &task.podman {
        None => transfer::archive(&source, new.file(), file, &context),
        Some(options) => {
            let options = podman(options, &task.reader)?;
            transfer::podman(&source, new.file(), file, &options, &context)
        }
    };
    let report = report.map_err(failure)?;
    publish(new, &name, Taken::Refuse, &report).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists(),
        _ => at("write", file)(error),
    })
}

/// Makes an archive of a file from elsewhere.
pub(super) fn import(task: &Import, cancel: &Cancel, observer: &Observer) -> Result<Told, Failure> {
    let (path, dir) = (task.file.as_path(), task.directory.as_path());
    let opened = task.reader.of_engine().act(|| {
        File::options()
            .read(true)
            // A FIFO would block its reader.
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
            .open(path)
    });
    let opened = opened.map_err(at("open", path))?;
    let new = begin(&task.owner, dir)?;
    let name = archive_name(&task.name);
    let context = Context {
        compression: task.engine.compression(),
        store: task.engine.store.as_path(),
        // What comes from elsewhere keeps the signature that it has, or has none.
        key: None,
        cancelled: &|| cancel.is_cancelled(),
        observer,
    };
    let shown = dir.join(&name);
    let report = transfer::import(opened, path, new.file(), &shown, &context);
    let report = report.map_err(failure)?;
    publish(new, &name, Taken::Number, &report).map_err(at("write", &shown))
}

/// Begins a file in a directory of `owner`'s.
fn begin(owner: &Owner, dir: &Path) -> Result<NewFile, Failure> {
    let engine = owner.of_engine();
    let place = engine.act(|| FilePlace::open(dir));
    let place = place.map_err(at("write to", dir))?;
    let user = (!engine.is_root()).then_some((owner.uid, owner.gid));
    NewFile::begin(place, user).map_err(|error| Failure::new(Kind::State, error.to_string()))
}

fn publish(mut new: NewFile, name: &str, taken: Taken, report: &Report) -> io::Result<Told> {
    let path = new.publish(name, taken)?;
    let container = match report.manifest.process {
        Some(_) => None,
        None => Some(report.manifest.container.id.clone()),
    };
    Ok(Told::Transferred(Transferred {
        path: Bytes::of_path(&path),
        bytes: new.file().metadata()?.len(),
        raw_bytes: report.raw_bytes,
        container,
    }))
}

/// The directory of a new file, and its name.
fn split(file: &Path) -> Result<(&Path, String), Failure> {
    let name = file.file_name().and_then(OsStr::to_str);
    match (file.parent(), name) {
        (Some(dir), Some(name)) => Ok((dir, name.to_owned())),
        _ => Err(Failure::new(
            Kind::Invalid,
            format!("{} is not the path of a file", file.display()),
        )),
    }
}

/// Refuses to give a user the memory of another one: root keeps checkpoints of jobs in which
/// a set-user-ID program ran.
fn check_readable(source: &Source, owner: &Owner) -> Result<(), Failure> {
    let user = User {
        uid: owner.uid,
        gid: owner.gid,
        groups: owner.groups.clone(),
    };
    let refused = |why: String| {
        let path = source.path().display();
        let text = format!("{path} cannot be exported: {why}; export it as root");
        Failure::new(Kind::State, text)
    };
    let found = check_dumped(source.images(), &user);
    let found = found.map_err(|error| refused(error.to_string()))?;
    match found.is_empty() {
        true => Ok(()),
        false => {
            let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
            Err(refused(texts.join("; ")))
        }
    }
}

fn podman(options: &Podman, reader: &Owner) -> Result<PodmanOptions, Failure> {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let spec = match &options.bundle {
        Some(bundle) => Some(spec(&bundle.as_path().join("config.json"), reader)?),
        None => None,
    };
    Ok(PodmanOptions {
        compress: match options.compress {
            Compress::None => transfer::Compress::None,
            Compress::Gzip => transfer::Compress::Gzip,
            Compress::Zstd => transfer::Compress::Zstd,
        },
        name: given(&options.name),
        image: given(&options.image),
        image_id: given(&options.image_id),
        runtime: given(&options.runtime),
        spec,
    })
}

/// Reads a bundle's config.json.
fn spec(path: &Path, reader: &Owner) -> Result<Value, Failure> {
    let text = reader.of_engine().act(|| {
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
            .open(path)?;
        let mut text = Vec::new();
        file.take(MAX_SPEC).read_to_end(&mut text)?;
        Ok(text)
    });
    let text = text.map_err(at("read", path))?;
    serde_json::from_slice(&text).map_err(|error| at("read", path)(error.into()))
}

/// The node's key, which signs what it has signed before.
fn key() -> Result<Option<Key>, Failure> {
    Key::read(Path::new(files::KEY)).map_err(|error| Failure::new(Kind::State, error.to_string()))
}

fn at(what: &'static str, path: &Path) -> impl Fn(io::Error) -> Failure + use<> {
    let path = path.to_owned();
    move |error| {
        let kind = match publish::is_full(&error) {
            true => Kind::Full,
            false => Kind::State,
        };
        Failure::new(kind, format!("cannot {what} {}: {error}", path.display()))
    }
}

fn failure(error: transfer::Error) -> Failure {
    let kind = match &error {
        transfer::Error::Cancelled => Kind::Cancelled,
        error if error.is_full() => Kind::Full,
        _ => Kind::State,
    };
    Failure::new(kind, error.to_string())
}
