//! A checkpoint that is to be exported: its directory or archive, opened and verified.

use std::path::Path;
use std::time::SystemTime;

use super::error::{Error, read};
use crate::format::contents::{self, Contents, Node};
use crate::format::manifest::{Key, Machine, Manifest, PARENT, Versions};
use crate::format::{self};
use crate::images::Images;
use crate::opened::OpenedDir;

/// See the module's documentation. The frames of memory are verified when they are read.
#[derive(Debug)]
pub struct Source {
    pub(super) opened: OpenedDir,
    /// `None` if a stock runtime took it.
    pub(super) manifest: Option<Manifest>,
    pub(super) contents: Contents,
}

impl Source {
    /// Opens everything in it. Memory that is not in it is in this store.
    ///
    /// # Errors
    /// It is no checkpoint, is damaged, or needs another one.
    pub fn new(opened: OpenedDir, store: &Path) -> Result<Self, Error> {
        let manifest = Manifest::read(&opened).map_err(format::Error::from)?;
        let contents = match &manifest {
            Some(manifest) => contents::open(&opened, manifest, store)?,
            None => contents::stock(&opened, store)?,
        };
        let path = opened.path().to_owned();
        if contents.directory.contains_key(PARENT) {
            return Err(Error::Parent { path });
        }
        if !contents.directory.contains_key("inventory.img") {
            let missing = crate::images::Error::NoInventory { dir: path };
            return Err(format::Error::from(missing).into());
        }
        Ok(Self {
            opened,
            manifest,
            contents,
        })
    }

    /// Its path, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.opened.path()
    }

    /// The name of what it is of: a job, or a container's ID. Empty if it doesn't say.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.manifest {
            Some(manifest) => match &manifest.process {
                Some(process) => &process.name,
                None => &manifest.container.id,
            },
            None => "",
        }
    }

    /// Whether its memory is in the store, and this key did not sign that. Another user's
    /// archive could name chunks that are not that user's.
    #[must_use]
    pub fn claims_store(&self, key: Option<&Key>) -> bool {
        self.manifest.as_ref().is_some_and(|manifest| {
            manifest.store.is_some() && !key.is_some_and(|key| manifest.is_signed_by(key))
        })
    }

    /// Its images, for checks.
    #[must_use]
    pub fn images(&self) -> &dyn Images {
        &self.contents
    }

    /// The manifest, or one that says what is known.
    pub(super) fn described(&self) -> Result<Manifest, Error> {
        if let Some(manifest) = &self.manifest {
            return Ok(manifest.clone());
        }
        let taken = match self.contents.directory.get("inventory.img") {
            Some(Node::File { metadata, .. } | Node::Stock { metadata, .. }) => {
                metadata.modified().ok()
            }
            _ => None,
        };
        let taken = taken.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        let created = taken.map_or(0, |since| since.as_secs());
        unknown(created).map_err(read(self.path()))
    }
}

/// The manifest of a checkpoint that another program took.
///
/// Nothing says on which machine. CRIU compares the architecture and the registers itself,
/// so this machine's are noted, and no features, which are then not compared.
pub(super) fn unknown(created: u64) -> std::io::Result<Manifest> {
    let mut manifest = Manifest::of(Vec::new());
    manifest.created = created;
    manifest.machine = Machine {
        kernel: "unknown".to_owned(),
        cpu_features: Vec::new(),
        ..Machine::here()?
    };
    manifest.versions = Versions {
        cedana: env!("CARGO_PKG_VERSION").to_owned(),
        ..Versions::default()
    };
    Ok(manifest)
}
