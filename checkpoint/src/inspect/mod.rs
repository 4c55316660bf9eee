//! Describes the content of a checkpoint, for people and programs.
//!
//! ```text
//! pstree ─► per process: core-N, ids-N, mm-N, pagemap-N, fdinfo-N, fs-N
//! files, memfd, tty-info, remap-fpath ─► what a descriptor or a mapping is
//! mountpoints-N, netns-N, stats-dump, cedana-manifest.json ─► the rest
//! ```
//!
//! Only these small images are read, never the memory itself, and only files that the
//! manifest lists. They are not compared with its digests, so it takes the same time
//! for a checkpoint of any size, also for one of a stock runtime. The result is plain
//! data that serializes as documented in docs/inspect.md. A released key keeps its name
//! and meaning.

mod files;
mod memory;
mod mounts;
mod namespaces;
mod processes;
mod sizes;
mod store;

use std::path::Path;

use serde::Serialize;

pub use files::{OpenFile, OpenFileKind};
pub use memory::{Mapping, MappingKind, Memory, Share, SharedMemory};
pub use mounts::{Mount, external_mounts};
pub use namespaces::{Namespace, NamespaceKind};
pub use processes::{Process, ProcessState, Thread};
pub use sizes::{DumpCost, Sizes};
pub use store::InStore;

use crate::format::manifest::Manifest;
use crate::format::{Error, Listed};
use crate::images::dir::Dir;
use crate::images::{self, Network, Socket, network, proto};
use crate::opened::OpenedDir;
use files::Files;
use memory::Pages;
use namespaces::pairs;

/// Bytes that the descriptions of files may take for a checkpoint of any size, and for
/// each byte of its small images. A descriptor has twelve bytes, and its description a few
/// hundred.
const FREE_ROOM: u64 = 256 << 20;
const ROOM: u64 = 32;

/// The result of [`inspect`].
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// The version of CRIU's image format.
    pub image_version: u32,
    /// The architecture that it was taken on, by the kernel's name.
    pub machine: &'static str,
    /// The manifest; absent if a stock runtime took the checkpoint.
    pub manifest: Option<Manifest>,
    /// Its sizes.
    pub sizes: Sizes,
    /// The memory that is in the node's store; absent if the checkpoint has all of it.
    pub store: Option<InStore>,
    /// The cost of the dump by CRIU's statistics, if there are any.
    pub dump: Option<DumpCost>,
    /// The network namespace on restore.
    pub network: Network,
    /// The namespaces that its processes are in.
    pub namespaces: Vec<Namespace>,
    /// The processes, parents before children.
    pub processes: Vec<Process>,
    /// Memory that processes share and that has no file.
    pub shared_memory: Vec<SharedMemory>,
    /// The sockets that its processes have open.
    pub sockets: Vec<Socket>,
    /// The mounts of its mount namespaces.
    pub mounts: Vec<Mount>,
}

/// The cost of a dump by CRIU's statistics in its working directory; `None` if there
/// are none.
///
/// # Errors
/// They are damaged.
pub fn dump_cost(work: &Path) -> Result<Option<DumpCost>, images::Error> {
    sizes::dump_cost(&Dir(work))
}

/// Inspects the checkpoint in `path`, a directory or an archive.
///
/// # Errors
/// It is not a checkpoint, or a small image is damaged. Memory is not read.
pub fn inspect(path: &Path) -> Result<Inspection, Error> {
    let opened = OpenedDir::open_any(path).map_err(|source| images::Error::Directory {
        dir: path.to_owned(),
        source,
    })?;
    let manifest = Manifest::read(&opened)?;
    let images = Listed::new(&opened, manifest.as_ref())?;
    let dir = Dir(&images);
    let listing = dir.files()?;
    let Some(inventory) = dir.first::<proto::Inventory>("inventory.img")? else {
        let dir = path.to_owned();
        return Err(images::Error::NoInventory { dir }.into());
    };
    let small = listing
        .iter()
        .filter(|(name, _)| !name.starts_with("pages-"));
    let small = small.fold(0, |sum: u64, (_, size)| sum.saturating_add(*size));
    let room = FREE_ROOM.saturating_add(small.saturating_mul(ROOM));
    let files = Files::read(&dir, room)?;
    let mut pages = Pages::read(&dir, &listing)?;
    let found = processes::read(&dir, &files, &mut pages)?;
    if files.is_exhausted() {
        let file = path.join("files.img");
        return Err(images::Error::TooMany { file }.into());
    }
    let ids = found.iter().filter_map(|found| found.ids.as_ref());
    let inspection = Inspection {
        image_version: inventory.img_version,
        machine: found
            .iter()
            .find_map(|found| found.machine)
            .unwrap_or("unknown"),
        manifest: None,
        sizes: sizes::of(&listing, &pages.files, images.packed_bytes()),
        store: match &manifest {
            Some(manifest) => store::of(&opened, manifest)?,
            None => None,
        },
        dump: sizes::dump_cost(&dir)?,
        network: network(&images),
        namespaces: namespaces::of(&dir, inventory.root_ids.as_ref(), ids.map(pairs))?,
        mounts: mounts::read(&dir, &listing)?,
        processes: found.into_iter().map(|found| found.process).collect(),
        shared_memory: pages.shared.into_values().collect(),
        sockets: files.into_sockets(),
    };
    drop(images);
    Ok(Inspection {
        manifest,
        ..inspection
    })
}

#[cfg(test)]
mod tests;
