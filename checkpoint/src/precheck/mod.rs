//! Compares a checkpoint with its container's configuration, before CRIU restores it.
//!
//! CRIU is root and does what the images say: users, capabilities, filters, namespaces,
//! mounts, cgroups, limits, and paths to open, make or remove. An edited checkpoint, or
//! files that the container changed after it, would decide all of them. So everything
//! that gives a process more than the memory and the descriptors that it had is compared
//! with the administrator's configuration ([`Granted`]). A difference is a [`Refusal`].
//!
//! ```text
//!  images (as CRIU will read them) ──► check ◄── Granted (from config.json)
//!                                        │
//!                                        ▼
//!                                    refusals
//!
//! refusal       a difference
//! process       processes and threads, read once
//! credentials   users, groups, capabilities, seccomp, labels
//! namespaces    which namespaces are the host's
//! mount         one recorded mount
//! own           mounts that the container made itself
//! binds         directories that CRIU binds from one mount to another
//! nested        mounts of a namespace within the container's
//! covers        masked and read-only paths
//! mounts        every mount is one of the configuration's
//! places        where the files of a mount come from
//! paths         every recorded path leads into the container, without a link
//! sockets       the names of unix sockets
//! archive       the links in the files of a tmpfs
//! cgroups       names of cgroups and of their properties
//! limits        resource limits, OOM score, scheduling
//! user          plain processes of an unprivileged user
//! dumped        what a dump may give to an unprivileged user
//! files         images and descriptors that no container has
//! ```
//!
//! The images are read by their numbered fields. A field that CRIU adds in a later
//! version is not compared. What is not compared at all, because the configuration
//! says nothing about it: memory, registers, the contents of pipes, sockets and
//! temporary files, names of the host, timers, and signals.

mod archive;
mod binds;
mod capabilities;
mod cgroups;
mod covers;
mod credentials;
mod dumped;
mod files;
mod granted;
mod limits;
mod messages;
mod mount;
mod mounts;
mod namespaces;
mod nested;
mod open_files;
mod own;
mod paths;
mod places;
mod process;
mod refusal;
mod sockets;
mod user;

use std::path::Path;

pub use capabilities::CapabilitySet;
pub use dumped::check_dumped;
pub use granted::{Granted, Mapping, Mappings, MountEntry, Mounts, Namespace, NestedMount, User};
pub use open_files::{OpenFile, OpenFiles, is_in_process, names_process};
pub use refusal::Refusal;
pub use user::{UserFiles, check_user};

use crate::images::Error;
use crate::images::dir::Dir;
use messages::{File, Seccomp};
use process::Processes;
use refusal::Refusals;

/// Compares the checkpoint in `dir` with what its container is granted. Returns the
/// first few differences, none for an honest checkpoint.
///
/// # Errors
/// An image is damaged, or has a record that this version does not understand.
pub fn check(dir: &Path, granted: &Granted) -> Result<Vec<Refusal>, Error> {
    let dir = Dir(dir);
    let mut refusals = Refusals::default();
    files::check_names(&dir, &mut refusals)?;
    let processes = Processes::read(&dir)?;
    files::check_numbers(&processes, &mut refusals);
    files::check_ghosts(&dir, granted, &mut refusals)?;
    files::check_mappings(&dir, &processes, granted, &mut refusals)?;
    namespaces::check(&processes, granted, &mut refusals);
    let filters: Seccomp = dir.first("seccomp.img")?.unwrap_or_default();
    for process in &processes.living {
        credentials::check(process, &filters, granted, &mut refusals);
        limits::check(process, granted, &mut refusals);
    }
    cgroups::check(&dir, &processes, granted, &mut refusals)?;
    let mounts = mounts::check(&dir, &processes, granted, &mut refusals)?;
    let mut paths = paths::Paths::new(&dir, &mounts, granted)?;
    dir.each("files.img", |file: File| {
        namespaces::check_file(&file, &processes, granted, &mut refusals);
        files::check_descriptor(&file, granted, &mut refusals);
        paths.check(&file, &mut refusals);
        Ok(())
    })?;
    paths.finish(&mut refusals)?;
    Ok(refusals.0)
}

#[cfg(test)]
mod tests;
