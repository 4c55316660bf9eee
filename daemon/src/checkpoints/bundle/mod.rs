//! Bundles: what runc makes a container from.
//!
//! ```text
//! given                                   used
//! a directory with config.json            that directory, as it is
//! a directory without (a root, or rootfs/) ┐  /var/lib/cedana/bundles/ID: config.json is
//! a tar by `docker export`                 ├► made from the checkpoint's ([`spec`]), a tar
//! a tar of a bundle                        ┘  is unpacked ([`unpack`])
//! ```
//!
//! A directory of ours is removed when its container is deleted ([`own`]). A tar and a
//! checkpoint may be hostile: nothing of them leaves the bundle's directory.

pub(crate) mod archive;
mod own;
mod spec;
mod unpack;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde_json::Value;

use super::{Failure, Kind};
use own::Own;
pub(crate) use own::sweep;

/// The configuration in a bundle.
const CONFIG: &str = "config.json";

/// The container's root in a bundle.
const ROOTFS: &str = "rootfs";

/// The file with the container's output.
const OUTPUT: &str = "output.log";

/// The most bytes of a config.json.
const MAX_CONFIG: u64 = 16 << 20;

/// The container that a bundle is for.
pub(crate) struct New<'a> {
    pub(crate) id: &'a str,
    /// runc's directory of containers.
    pub(crate) root: &'a Path,
    /// The checkpoint, whose configuration a bundle without one gets.
    pub(crate) checkpoint: &'a Path,
    /// Set when the caller has gone.
    pub(crate) cancelled: &'a AtomicBool,
}

/// A bundle that is ready. Dropping it removes a directory of ours, unless it is kept.
pub(crate) struct Bundle {
    path: PathBuf,
    own: Option<Own>,
    /// What the caller should know of it.
    pub(crate) warnings: Vec<String>,
}

impl Bundle {
    /// Prepares a bundle.
    ///
    /// # Errors
    /// It is no bundle, is damaged, or has no configuration. Nothing is left.
    pub(crate) fn prepare(path: &Path, new: &New<'_>) -> Result<Self, Failure> {
        let given = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
        let bundle = match given.is_dir() {
            true => Self::of_directory(path, new)?,
            false => Self::of_tar(path, new)?,
        };
        bundle.check()?;
        Ok(bundle)
    }

    fn of_directory(path: &Path, new: &New<'_>) -> Result<Self, Failure> {
        if path.join(CONFIG).exists() {
            return Ok(Self {
                path: path.to_owned(),
                own: None,
                warnings: Vec::new(),
            });
        }
        let rootfs = match path.join(ROOTFS) {
            rootfs if rootfs.is_dir() => rootfs,
            _ if has_directories(path) => path.to_owned(),
            _ => {
                return Err(invalid(
                    path,
                    "it has neither config.json nor the files of a container's root",
                ));
            }
        };
        let own = Own::create(new.id, new.root)?;
        Self::made(own, &rootfs, Vec::new(), new)
    }

    fn of_tar(path: &Path, new: &New<'_>) -> Result<Self, Failure> {
        let own = Own::create(new.id, new.root)?;
        let rootfs = own.path().join(ROOTFS);
        let skipped = unpack::unpack(path, &rootfs, new.cancelled)?;
        let mut warnings = Vec::new();
        if skipped > 0 {
            warnings.push(format!(
                "{skipped} device files of {} were left out; runc makes those of config.json",
                path.display()
            ));
        }
        if rootfs.join(CONFIG).is_file() && rootfs.join(ROOTFS).is_dir() {
            lift(own.path()).map_err(|error| own.failed("arrange", &error))?;
            let path = own.path().to_owned();
            return Ok(Self {
                path,
                own: Some(own),
                warnings,
            });
        }
        if !has_directories(&rootfs) {
            return Err(invalid(
                path,
                "it has no directories, so it is not a container's root; give an archive by `docker export`",
            ));
        }
        Self::made(own, &rootfs, warnings, new)
    }

    /// A directory of ours with a configuration made from the checkpoint's.
    fn made(
        own: Own,
        rootfs: &Path,
        mut warnings: Vec<String>,
        new: &New<'_>,
    ) -> Result<Self, Failure> {
        let spec = archive::spec(new.checkpoint)?;
        let place = spec::Place {
            id: new.id,
            bundle: own.path(),
            rootfs,
        };
        let (spec, more) = spec::adapt(spec, &place)?;
        warnings.extend(more);
        let text = spec.to_string();
        let written = fs::write(own.path().join(CONFIG), text);
        written.map_err(|error| own.failed("write", &error))?;
        Ok(Self {
            path: own.path().to_owned(),
            own: Some(own),
            warnings,
        })
    }

    /// Refuses what a restore by the daemon can't do, in words.
    fn check(&self) -> Result<(), Failure> {
        let spec = self.config()?;
        let root = spec["root"]["path"].as_str().unwrap_or_default();
        if root.is_empty() || !self.path.join(root).is_dir() {
            return Err(invalid(
                &self.path,
                &format!(
                    "the container's root {} does not exist; correct root.path in its config.json",
                    self.path.join(root).display()
                ),
            ));
        }
        if spec["process"]["terminal"] == true {
            return Err(Failure::new(
                Kind::State,
                "the container has a terminal, which the daemon has none for; restore it by `cedana-runc restore --console-socket`, or checkpoint one that was started without -t",
            ));
        }
        Ok(())
    }

    fn config(&self) -> Result<Value, Failure> {
        let path = self.path.join(CONFIG);
        let text = read_bounded(&path).map_err(|error| unreadable(&path, &error))?;
        let spec = serde_json::from_slice(&text);
        spec.map_err(|error| invalid(&path, &format!("it is not an OCI configuration: {error}")))
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file that gets the container's output.
    ///
    /// # Errors
    /// It can't be made.
    pub(crate) fn output(&self) -> Result<File, Failure> {
        let path = self.path.join(OUTPUT);
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path);
        let file = file.map_err(|error| {
            Failure::new(
                Kind::System,
                format!(
                    "cannot open {} for the container's output: {error}",
                    path.display()
                ),
            )
        })?;
        match file.metadata() {
            Ok(status) if status.is_file() => Ok(file),
            _ => Err(invalid(
                &path,
                "it is not a regular file, so it can't have the container's output",
            )),
        }
    }

    /// Leaves a directory of ours to its container.
    pub(crate) fn keep(self) {
        if let Some(own) = self.own {
            own.keep();
        }
    }
}

/// Moves the bundle in `rootfs` of a bundle's directory up into it.
fn lift(bundle: &Path) -> io::Result<()> {
    let (rootfs, within) = (bundle.join(ROOTFS), bundle.join("unpacked"));
    fs::rename(&rootfs, &within)?;
    for name in [CONFIG, ROOTFS] {
        fs::rename(within.join(name), bundle.join(name))?;
    }
    fs::remove_dir_all(within)
}

/// Whether a directory has directories, as every container's root has.
fn has_directories(path: &Path) -> bool {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut kinds = entries.filter_map(|entry| entry.file_type().ok());
    kinds.any(|kind| kind.is_dir())
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let mut text = Vec::new();
    file.take(MAX_CONFIG + 1).read_to_end(&mut text)?;
    match text.len() as u64 > MAX_CONFIG {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(text),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => Kind::NotFound,
        _ => Kind::Invalid,
    };
    Failure::new(kind, format!("cannot read {}: {error}", path.display()))
}

fn invalid(path: &Path, why: &str) -> Failure {
    Failure::new(
        Kind::Invalid,
        format!("cannot use the bundle {}: {why}", path.display()),
    )
}
