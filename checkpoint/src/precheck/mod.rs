//! Compares a checkpoint with its container's configuration, before CRIU restores it.
//!
//! CRIU is root and does what the images say: users, capabilities, filters, namespaces,
//! mounts, cgroups, limits, and paths to open, make or remove. Whoever can edit a
//! checkpoint, or could write to the container's files after it, would decide all of
//! them. So everything that gives a process more than the memory and the descriptors
//! that it had is compared with what the administrator configured ([`Granted`]), and a
//! difference is a [`Refusal`].
//!
//! ```text
//!  images (as CRIU will read them) ──► check ◄── Granted (from config.json)
//!                                        │
//!                                        ▼
//!                                    refusals
//!
//! process       processes and threads, read once
//! credentials   users, groups, capabilities, seccomp, labels
//! namespaces    which namespaces are the host's
//! mounts        every mount is one of the configuration's
//! paths         every recorded path leads into the container, without a link
//! archive       the links in the files of a tmpfs
//! cgroups       names of cgroups and of their properties
//! limits        resource limits, OOM score, scheduling
//! files         images and descriptors that no container has
//! ```
//!
//! The images are read by their numbered fields. A field that CRIU adds in a later
//! version is not compared. What is not compared at all, because the configuration
//! says nothing about it: memory, registers, the contents of pipes, sockets and
//! temporary files, names of the host, timers, and signals.

mod archive;
mod capabilities;
mod cgroups;
mod credentials;
mod files;
mod granted;
mod limits;
mod messages;
mod mounts;
mod namespaces;
mod paths;
mod process;

use std::fmt;
use std::path::Path;

pub use capabilities::CapabilitySet;
pub use granted::{Granted, Mapping, Mappings, MountEntry, Mounts, Namespace, User};

use crate::images::Error;
use crate::images::dir::Dir;
use messages::{File, Seccomp};
use process::{Process, Processes};

/// The most refusals that are collected. One is enough to refuse a restore.
const MAX_REFUSALS: usize = 8;

/// A difference between a checkpoint and a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The process, mount or file, or the checkpoint itself.
    pub subject: String,
    /// What the checkpoint says of it.
    pub wants: String,
    /// What the configuration gives.
    pub gives: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            subject,
            wants,
            gives,
        } = self;
        write!(f, "{subject} {wants}, but {gives}")
    }
}

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
    files::check_numbers(&processes, granted, &mut refusals)?;
    files::check_mappings(&dir, &processes, granted, &mut refusals)?;
    namespaces::check(&processes, granted, &mut refusals);
    let filters: Seccomp = dir.first("seccomp.img")?.unwrap_or_default();
    for process in &processes.living {
        credentials::check(process, &filters, granted, &mut refusals);
        limits::check(process, granted, &mut refusals);
    }
    cgroups::check(&dir, granted, &mut refusals)?;
    let mounts = mounts::check(&dir, &processes, granted, &mut refusals)?;
    let mut paths = paths::Paths::new(&dir, &mounts)?;
    dir.each("files.img", |file: File| {
        namespaces::check_file(&file, &processes, granted, &mut refusals);
        files::check_descriptor(&file, granted, &mut refusals);
        paths.check(&file, &mut refusals);
        Ok(())
    })?;
    paths.finish(&mut refusals)?;
    Ok(refusals.0)
}

/// The differences found so far.
#[derive(Debug, Default)]
struct Refusals(Vec<Refusal>);

impl Refusals {
    fn add(&mut self, subject: String, wants: &str, gives: &str) {
        if self.0.len() < MAX_REFUSALS {
            self.0.push(Refusal {
                subject,
                wants: wants.to_owned(),
                gives: gives.to_owned(),
            });
        }
    }

    fn process(&mut self, process: &Process, wants: &str, gives: &str) {
        let subject = format!("process {} ({})", process.pid, process.leader.comm);
        self.add(subject, wants, gives);
    }

    fn mount(&mut self, mountpoint: &str, wants: &str, gives: &str) {
        self.add(format!("the mount on {mountpoint}"), wants, gives);
    }

    fn file(&mut self, path: &str, wants: &str, gives: &str) {
        self.add(format!("the file {path}"), wants, gives);
    }

    fn checkpoint(&mut self, wants: &str, gives: &str) {
        self.add("the checkpoint".to_owned(), wants, gives);
    }
}

#[cfg(test)]
mod tests;
