//! A checkpoint's way to disk: where CRIU writes, what stores it meanwhile, and what is
//! left to do when CRIU is done.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use cedana_checkpoint::capture::{self, Capture, Captured, Expected};
use cedana_checkpoint::criu::Version;
use cedana_checkpoint::format::manifest::{self, Cost, Entry, FORMAT, Machine, Manifest, Versions};
use cedana_checkpoint::format::pages::Compression;
use cedana_checkpoint::format::publish::{self, Durability, Staging};
use cedana_checkpoint::inspect::DumpCost;
use cedana_checkpoint::progress::{Observer, Phase, Progress};
use cedana_config::Config;
use serde_json::Value;

use super::{Dump, compression};
use crate::cli::Request;
use crate::commands::error::Error;
use crate::criu::Failure;
use crate::engine::checkpoint_dir;
use crate::oci::state::Container;
use crate::output::report::Reporter;

/// The largest OCI configuration that is taken along. Real ones are some ten
/// kilobytes.
const MAX_SPEC: u64 = 4 << 20;

/// Annotations by which engines tell a container's image (containerd's CRI,
/// CRI-O).
const IMAGE_NAMES: [&str; 2] = [
    "io.kubernetes.cri.image-name",
    "io.kubernetes.cri-o.ImageName",
];

/// What the manifest says beside what is stored.
pub(super) struct Facts<'a> {
    pub(super) criu: Version,
    pub(super) runtime: &'a str,
    pub(super) container: &'a Container,
    pub(super) config: &'a Config,
}

/// What CRIU does while a checkpoint is finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Criu {
    /// It waits before it ends the container.
    Waits,
    /// It has ended, with these statistics.
    Ended(Option<DumpCost>),
}

/// A checkpoint that is being taken.
pub(super) struct Storing<'a> {
    request: &'a Request,
    store: Staging,
    capture: Option<Capture>,
    compression: Compression,
    ends: bool,
    observer: Arc<Observer>,
    start: Instant,
}

/// Where the runtime is to put things.
pub(super) struct Paths {
    images: PathBuf,
    /// Where CRIU logs.
    pub(super) work: PathBuf,
    work_flag: bool,
    parent: Option<PathBuf>,
}

impl Paths {
    /// Where CRIU writes the images.
    pub(super) fn images(&self) -> &Path {
        &self.images
    }

    /// The runtime's flags that say so.
    pub(super) fn flags(&self) -> Vec<(&'static str, &OsStr)> {
        let mut flags = vec![("image-path", self.images.as_os_str())];
        if self.work_flag {
            flags.push(("work-path", self.work.as_os_str()));
        }
        if let Some(parent) = &self.parent {
            flags.push(("parent-path", parent.as_os_str()));
        }
        flags
    }
}

impl<'a> Storing<'a> {
    /// Makes a place for the images, and captures them there if `capture`. `waits` says
    /// that the container stands still until its caller has the checkpoint stored.
    pub(super) fn begin(
        request: &'a Request,
        config: &Config,
        dump: &Dump,
        capture: bool,
        waits: bool,
        expected: Option<Expected>,
        observer: Arc<Observer>,
    ) -> Result<Self, Error> {
        let dir = request.image_path();
        let durability = match checkpoint_dir::is_packed(&dir) {
            true => Durability::Copied,
            false => Durability::Disk,
        };
        let store = match dump.lazy {
            true => Staging::in_place(&dir),
            false => Staging::prepare(&dir, durability),
        };
        let store = store.map_err(|source| in_store(request, source))?;
        let compression = compression::choose(config, waits && durability == Durability::Copied);
        let capture = match capture {
            true => {
                let options = capture::Options {
                    compression,
                    memory: config.checkpoint.memory,
                    flush: durability == Durability::Disk,
                    expected,
                };
                let capture = Capture::start(store.place(), options, Arc::clone(&observer));
                Some(capture.map_err(|source| in_capture(request, source))?)
            }
            false => None,
        };
        Ok(Self {
            request,
            store,
            capture,
            compression,
            ends: dump.ends,
            observer,
            start: Instant::now(),
        })
    }

    pub(super) fn paths(&self, request: &Request) -> Paths {
        let images = self.store.place().to_owned();
        let shown = request.image_path();
        let work = request.work_path();
        let within = work == shown;
        Paths {
            work_flag: within
                && request
                    .value("work-path")
                    .is_some_and(|path| !path.is_empty()),
            work: if within { images.clone() } else { work },
            // It is relative to the images, which are one directory further down
            // until they are published.
            parent: parent(request).map(|path| match images == shown {
                true => path.to_owned(),
                false => Path::new("..").join(path),
            }),
            images,
        }
    }

    /// The images are written: stores what is left of them, and publishes the
    /// checkpoint.
    pub(super) fn finish(
        mut self,
        facts: &Facts<'_>,
        criu: Criu,
        reporter: &Reporter,
    ) -> Result<(), Error> {
        match self.complete(facts, criu, reporter) {
            // The container is gone, and there is nothing else left of it.
            Err(error) if self.ends && criu != Criu::Waits => Err(Error::Unfinished {
                id: self.request.id.clone(),
                source: Box::new(error),
                left: self.store.keep(),
            }),
            result => result,
        }
    }

    fn complete(
        &mut self,
        facts: &Facts<'_>,
        criu: Criu,
        reporter: &Reporter,
    ) -> Result<(), Error> {
        let request = self.request;
        let dumped = self.start.elapsed();
        let captured = match self.capture.take() {
            Some(capture) => {
                let captured = capture.finish();
                Some(captured.map_err(|source| in_capture(request, source))?)
            }
            None => None,
        };
        let parent = match parent(request) {
            Some(parent) => self.store.parent(parent),
            None => Ok(None),
        };
        let parent = parent.map_err(|source| in_store(request, source))?;
        let Some(Captured {
            files,
            raw_bytes,
            stored_bytes,
            punched,
        }) = captured
        else {
            return self
                .store
                .publish(None)
                .map_err(|source| in_store(request, source));
        };
        if !punched {
            reporter.warning(&format!(
                "the file system of {} cannot punch holes: until a checkpoint is done it takes the room of all memory there, {} MiB this time",
                self.store.dir().display(),
                raw_bytes >> 20
            ));
        }
        if !self.store.place().join("inventory.img").exists() {
            let failure = Failure::without_log(
                "the runtime reported success, but there is no inventory.img; is this runtime able to checkpoint?",
            );
            return Err(Error::failed(request, failure));
        }
        (self.observer)(Progress {
            phase: Phase::Sync,
            raw: raw_bytes,
            done: raw_bytes,
            stored: stored_bytes,
        });
        let files = self
            .store
            .digest(files)
            .map_err(|source| in_store(request, source))?;
        let mut manifest = self.manifest(facts, files)?;
        manifest.parent = parent;
        manifest.cost = Cost {
            frozen_us: match criu {
                Criu::Ended(Some(cost)) if !self.ends => Some(cost.frozen_us.into()),
                _ => None,
            },
            dump_us: micros(dumped),
            total_us: micros(self.start.elapsed()),
            raw_bytes,
            stored_bytes,
        };
        self.store
            .publish(Some(&manifest))
            .map_err(|source| in_store(request, source))
    }

    fn manifest(&self, facts: &Facts<'_>, files: Vec<Entry>) -> Result<Manifest, Error> {
        let created = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let container = facts.container;
        Ok(Manifest {
            format: FORMAT,
            created: created.map_or(0, |since| since.as_secs()),
            files,
            parent: None,
            machine: Machine::here().map_err(|source| Error::Machine {
                id: self.request.id.clone(),
                source,
            })?,
            versions: Versions {
                cedana: env!("CARGO_PKG_VERSION").to_owned(),
                criu: facts.criu.to_string(),
                runtime: facts.runtime.lines().next().unwrap_or_default().to_owned(),
            },
            container: manifest::Container {
                id: self.request.id.clone(),
                image: IMAGE_NAMES
                    .iter()
                    .find_map(|name| container.annotations.get(*name).cloned()),
                // A convenience: a bundle that is gone is no reason to fail.
                spec: container.config.as_deref().and_then(read_spec),
            },
            options: options(self.request, facts.config, self.compression, self.ends),
            cost: Cost::default(),
        })
    }

    /// Stops the capture and removes what was written.
    pub(super) fn abandon(mut self) -> Result<(), publish::Error> {
        self.capture = None;
        self.store.abandon()
    }
}

fn parent(request: &Request) -> Option<&Path> {
    let parent = request.value("parent-path")?;
    (!parent.is_empty()).then(|| Path::new(parent))
}

/// How the checkpoint was taken, by the settings' and flags' names.
fn options(
    request: &Request,
    config: &Config,
    compression: Compression,
    ends: bool,
) -> BTreeMap<String, Value> {
    let settings = &config.checkpoint;
    let flag = |name: &'static str, setting: bool| {
        (
            name,
            Value::from(setting || request.has(&name.replace('_', "-"))),
        )
    };
    let mut options = vec![
        flag("tcp_established", settings.tcp_established),
        flag("file_locks", settings.file_locks),
        flag("ext_unix_sk", settings.ext_unix_sk),
        flag("link_remap", settings.link_remap),
        flag("shell_job", false),
        ("ghost_limit", Value::from(settings.ghost_limit)),
        ("leave_running", Value::from(!ends)),
    ];
    match compression {
        Compression::None => options.push(("compression", Value::from("none"))),
        Compression::Zstd { level } => options.extend([
            ("compression", Value::from("zstd")),
            ("level", Value::from(level)),
        ]),
    }
    options
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn read_spec(path: &Path) -> Option<Value> {
    let mut text = Vec::new();
    File::open(path)
        .ok()?
        .take(MAX_SPEC)
        .read_to_end(&mut text)
        .ok()?;
    serde_json::from_slice(&text).ok()
}

fn micros(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn in_store(request: &Request, source: publish::Error) -> Error {
    Error::Store {
        verb: request.verb,
        id: request.id.clone(),
        source,
    }
}

fn in_capture(request: &Request, source: capture::Error) -> Error {
    Error::Follow {
        id: request.id.clone(),
        source,
    }
}
