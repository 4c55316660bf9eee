//! What is in a checkpoint, for people and programs that ask.
//!
//! ```text
//! pstree ─► per process: core-N, ids-N, mm-N, pagemap-N, fdinfo-N, fs-N
//! files, memfd, tty-info, remap-fpath ─► what a descriptor or a mapping is
//! mountpoints-N, netns-N, stats-dump, cedana-manifest.json ─► the rest
//! ```
//!
//! Only these small images are read, never the memory itself, so it takes the
//! same for a checkpoint of any size, and for one that a stock runtime took. The
//! result is plain data that serializes as documented in docs/inspect.md: a key
//! keeps its name and meaning once it was released.

mod files;
mod memory;
mod mounts;
mod namespaces;
mod processes;
mod sizes;

use std::path::Path;

use serde::Serialize;

pub use files::{OpenFile, OpenFileKind};
pub use memory::{Mapping, MappingKind, Memory, Share, SharedMemory};
pub use mounts::{Mount, external_mounts};
pub use namespaces::{Namespace, NamespaceKind};
pub use processes::{Process, ProcessState, Thread};
pub use sizes::{DumpCost, Sizes};

use crate::format::Error;
use crate::format::manifest::Manifest;
use crate::images::dir::Dir;
use crate::images::{self, Network, Socket, network, proto};
use files::Files;
use memory::Pages;
use namespaces::pairs;

/// Everything that [`inspect`] finds.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// The version of CRIU's image format.
    pub image_version: u32,
    /// The architecture that it was taken on, as the kernel calls it.
    pub machine: &'static str,
    /// What the checkpoint says of itself; absent if a stock runtime took it.
    pub manifest: Option<Manifest>,
    /// How large it is.
    pub sizes: Sizes,
    /// What CRIU's statistics say of the dump, if they are there.
    pub dump: Option<DumpCost>,
    /// Where the network comes from on restore.
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

/// What CRIU's statistics in its working directory say of a dump; nothing if it
/// left none.
///
/// # Errors
/// They are damaged.
pub fn dump_cost(work: &Path) -> Result<Option<DumpCost>, images::Error> {
    sizes::dump_cost(&Dir(work))
}

/// Looks into the checkpoint in `path`.
///
/// # Errors
/// It is no checkpoint, or one of its small images is damaged. The memory is not
/// looked at.
pub fn inspect(path: &Path) -> Result<Inspection, Error> {
    let dir = Dir(path);
    let listing = dir.files()?;
    let Some(inventory) = dir.first::<proto::Inventory>("inventory.img")? else {
        let dir = path.to_owned();
        return Err(images::Error::NoInventory { dir }.into());
    };
    let files = Files::read(&dir)?;
    let mut pages = Pages::read(&dir, &listing)?;
    let found = processes::read(&dir, &files, &mut pages)?;
    let ids = found.iter().filter_map(|found| found.ids.as_ref());
    Ok(Inspection {
        image_version: inventory.img_version,
        machine: found
            .iter()
            .find_map(|found| found.machine)
            .unwrap_or("unknown"),
        manifest: Manifest::read(path)?,
        sizes: sizes::of(&listing, &pages.files),
        dump: sizes::dump_cost(&dir)?,
        network: network(path),
        namespaces: namespaces::of(&dir, inventory.root_ids.as_ref(), ids.map(pairs))?,
        mounts: mounts::read(&dir, &listing)?,
        processes: found.into_iter().map(|found| found.process).collect(),
        shared_memory: pages.shared.into_values().collect(),
        sockets: files.into_sockets(),
    })
}

#[cfg(test)]
mod tests;
