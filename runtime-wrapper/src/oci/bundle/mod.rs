//! A bundle's config.json, and its temporary replacement during a restore.
//!
//! A runtime gives CRIU the network namespace whose path is in config.json. Without a
//! path a restored container gets an empty namespace in which even the loopback
//! interface is down. So config.json names a namespace during a restore
//! ([`Bundle::replace_config`] lists the other changes):
//!
//! ```text
//! lock the bundle directory
//! .config.json.cedana   a second name for the original      (link)
//! config.json           the replacement                     (rename)
//!     ... the runtime's restore ...
//! config.json           the original                        (rename)
//! ```
//!
//! Every step is atomic. If we are killed in between, the original still has its second
//! name, and the next restore of the bundle first renames it back. The lock tells a
//! killed run from a running one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use cedana_checkpoint::criu::config::ExternalMount;
use cedana_checkpoint::fuse::Root;
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

use crate::cli::BundlePath;
use crate::oci::nested_mounts;
use crate::oci::spec::{self, is_bind, netns_entry, netns_entry_mut};

const CONFIG: &str = "config.json";
const ORIGINAL: &str = ".config.json.cedana";

/// The property that marks a replacement. Runtimes ignore unknown properties (OCI
/// runtime-spec, config.md, "Extensibility").
const MARK: &str = "io.cedana.lent";

/// Why a bundle can't be used for a restore.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the bundle {} does not exist or is no directory: {source}", path.display())]
    Missing { path: PathBuf, source: io::Error },
    #[error("the bundle's {} cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the bundle's {} is not an OCI configuration: {what}", path.display())]
    Invalid { path: PathBuf, what: String },
    #[error("the bundle's {} cannot be changed: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("another restore is using the bundle {}; wait for it to end", path.display())]
    Busy { path: PathBuf },
    #[error("the source {} of the container's mount {destination} does not exist; create it or restore with the mounts of the checkpoint", mount_source.display())]
    MountSource {
        mount_source: PathBuf,
        destination: String,
    },
    #[error("the checkpoint has a mount at {destination}, below a recursive bind mount, and its source {} does not exist, or has a blank or a symbolic link in its path; create it or restore with the mounts of the checkpoint", mount_source.display())]
    MountBelow {
        mount_source: PathBuf,
        destination: String,
    },
}

/// A bundle, locked against other restores.
#[derive(Debug)]
pub(crate) struct Bundle {
    path: BundlePath,
    spec: Value,
    _lock: Flock<File>,
}

impl Bundle {
    /// Locks and reads a bundle, after putting back a killed run's original.
    pub(crate) fn open(path: &BundlePath) -> Result<Self, Error> {
        let missing = |source| Error::Missing {
            path: path.to_path_buf(),
            source,
        };
        let dir = File::open(&**path).map_err(missing)?;
        if !dir.metadata().map_err(missing)?.is_dir() {
            return Err(missing(io::ErrorKind::NotADirectory.into()));
        }
        let lock =
            Flock::lock(dir, FlockArg::LockExclusiveNonblock).map_err(
                |(_, errno)| match errno {
                    nix::errno::Errno::EWOULDBLOCK => Error::Busy {
                        path: path.to_path_buf(),
                    },
                    errno => missing(errno.into()),
                },
            )?;
        put_back(path)?;
        let config = path.join(CONFIG);
        let text = fs::read(&config).map_err(|source| Error::Read {
            path: config.clone(),
            source,
        })?;
        let spec: Value = serde_json::from_slice(&text).map_err(|error| Error::Invalid {
            path: config.clone(),
            what: error.to_string(),
        })?;
        if !spec.is_object() {
            return Err(Error::Invalid {
                path: config,
                what: "not an object".to_owned(),
            });
        }
        Ok(Self {
            path: path.clone(),
            spec,
            _lock: lock,
        })
    }

    /// The configuration, as the engine wrote it.
    pub(crate) fn spec(&self) -> &Value {
        &self.spec
    }

    /// The bundle's directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the bundle still exists.
    pub(crate) fn exists(&self) -> bool {
        self.path.join(CONFIG).exists()
    }

    pub(crate) fn annotations(&self) -> BTreeMap<String, String> {
        spec::annotations(&self.spec)
    }

    /// Whether the container gets a network namespace, and config.json has no path for it.
    pub(crate) fn wants_netns(&self) -> bool {
        self.has_netns() && netns_path(&self.spec).is_empty()
    }

    /// The path of the container's network namespace, empty if config.json has none.
    pub(crate) fn netns_path(&self) -> &Path {
        Path::new(netns_path(&self.spec))
    }

    /// Whether hooks run after the container's namespaces are made and before its
    /// processes start (OCI runtime-spec, config.md, "POSIX-platform Hooks").
    pub(crate) fn has_hooks(&self) -> bool {
        ["prestart", "createRuntime"].iter().any(|kind| {
            let hooks = self.spec.pointer(&format!("/hooks/{kind}"));
            hooks
                .and_then(Value::as_array)
                .is_some_and(|hooks| !hooks.is_empty())
        })
    }

    /// The memory limit of the container's cgroup in bytes (OCI runtime-spec,
    /// config-linux.md, "Memory"); `None` if it is missing or negative.
    pub(crate) fn memory_limit(&self) -> Option<u64> {
        let limit = self.spec.pointer("/linux/resources/memory/limit")?;
        limit.as_u64().filter(|limit| *limit > 0)
    }

    /// The host's user that is root in the container (OCI runtime-spec,
    /// config-linux.md, "User namespace mappings").
    pub(crate) fn root(&self) -> Root {
        let mapped = || {
            let mappings = self.spec.pointer("/linux/uidMappings")?.as_array()?;
            let first = mappings.iter().find(|m| m["containerID"] == 0)?;
            u32::try_from(first["hostID"].as_u64()?).ok()
        };
        Root(mapped().unwrap_or_default())
    }

    /// The container's `oom_score_adj`, `None` if config.json sets none.
    pub(crate) fn oom_score_adj(&self) -> Option<i64> {
        self.spec.pointer("/process/oomScoreAdj")?.as_i64()
    }

    /// Whether the container gets a network namespace at all.
    pub(crate) fn has_netns(&self) -> bool {
        netns_entry(&self.spec).is_some()
    }

    /// Checks that the sources of the bind mounts exist. The runtime's or CRIU's own
    /// error would come late and name neither mount nor remedy.
    pub(crate) fn check_mounts(&self) -> Result<(), Error> {
        for mount in mounts(&self.spec).filter(|mount| is_bind(mount)) {
            let text = |key| mount.get(key).and_then(Value::as_str);
            let Some(source) = text("source") else {
                continue;
            };
            let mount_source = self.path.join(source);
            if !mount_source.exists() {
                return Err(Error::MountSource {
                    mount_source,
                    destination: text("destination").unwrap_or_default().to_owned(),
                });
            }
        }
        Ok(())
    }

    /// The mounts that CRIU makes for the checkpoint's mounts with these keys, which are
    /// below a recursive bind mount and therefore unknown to the runtime.
    pub(crate) fn nested_mounts(&self, keys: Vec<String>) -> Result<Vec<ExternalMount>, Error> {
        let root = self.spec.pointer("/root/path").and_then(Value::as_str);
        let rootfs = self.path.join(root.unwrap_or("rootfs"));
        nested_mounts::external_mounts(keys, &self.spec, &self.path, &rootfs).map_err(
            |(destination, mount_source)| Error::MountBelow {
                mount_source,
                destination,
            },
        )
    }

    /// Whether a restore by runc would unmount mounts of the host.
    pub(crate) fn would_unmount_host_mounts(&self) -> bool {
        nested_mounts::would_unmount_host_mounts(&self.spec, &self.path)
    }

    /// Replaces config.json until the returned guard is dropped. The replacement names
    /// this network namespace, and has the targets of symbolic links as the sources of
    /// bind mounts. (Runtimes follow links when they create a container, but CRIU 4.2
    /// mounts the link itself, which then has no target. Docker's `--init` is an
    /// example: `/usr/bin/docker-init` is a link in Debian.) Returns `None` if
    /// config.json needs no change.
    pub(crate) fn replace_config(
        &self,
        netns: Option<&Path>,
    ) -> Result<Option<ReplacedConfig>, Error> {
        let config = self.path.join(CONFIG);
        let failed = |source| Error::Write {
            path: config.clone(),
            source,
        };
        let mut spec = self.spec.clone();
        if let (Some(netns), Some(entry)) = (netns, netns_entry_mut(&mut spec)) {
            entry["path"] = Value::from(netns.to_string_lossy());
        }
        for mount in mounts_mut(&mut spec).filter(|mount| is_bind(mount)) {
            let link = mount
                .get("source")
                .and_then(Value::as_str)
                .map(|source| self.path.join(source))
                .filter(|source| source.is_symlink());
            if let Some(link) = link {
                let target = link.canonicalize().map_err(failed)?;
                mount["source"] = Value::from(target.to_string_lossy());
            }
        }
        if spec == self.spec {
            return Ok(None);
        }
        spec[MARK] = Value::from(true);
        fs::hard_link(&config, self.path.join(ORIGINAL)).map_err(failed)?;
        let replaced = ReplacedConfig {
            bundle: self.path.clone(),
        };
        spec::replace(&config, spec.to_string().as_bytes()).map_err(failed)?;
        Ok(Some(replaced))
    }
}

fn mounts(spec: &Value) -> impl Iterator<Item = &Value> {
    spec.get("mounts")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn mounts_mut(spec: &mut Value) -> impl Iterator<Item = &mut Value> {
    spec.get_mut("mounts")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

/// Puts the original config.json back when it is dropped.
#[derive(Debug)]
pub(crate) struct ReplacedConfig {
    bundle: BundlePath,
}

impl Drop for ReplacedConfig {
    fn drop(&mut self) {
        // If this fails, the original keeps its second name, and the next restore puts
        // it back.
        let _ = put_back(&self.bundle);
    }
}

fn netns_path(spec: &Value) -> &str {
    netns_entry(spec)
        .and_then(|entry| entry.get("path")?.as_str())
        .unwrap_or_default()
}

/// Puts the original config.json back if config.json is a replacement.
fn put_back(bundle: &Path) -> Result<(), Error> {
    let config = bundle.join(CONFIG);
    let original = bundle.join(ORIGINAL);
    // rename(2) does nothing if both are names of one file, so the second name is
    // removed instead.
    use std::os::unix::fs::MetadataExt;
    let inode = |path: &Path| fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()));
    let done = match (inode(&original), inode(&config)) {
        (Err(error), _) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        (Ok(original_inode), Ok(inode)) if original_inode == inode => fs::remove_file(&original),
        // The engine has written a new one, which is kept.
        _ if !is_replacement(&config) => fs::remove_file(&original),
        _ => fs::rename(&original, &config),
    };
    done.map_err(|source| Error::Write {
        path: config,
        source,
    })
}

/// Whether a configuration is a replacement. An unreadable one counts, since it is the
/// result of an unfinished write.
fn is_replacement(config: &Path) -> bool {
    let read =
        |path: &Path| -> Option<Value> { serde_json::from_slice(&fs::read(path).ok()?).ok() };
    read(config).is_none_or(|spec| spec.get(MARK).is_some())
}

#[cfg(test)]
mod tests;
