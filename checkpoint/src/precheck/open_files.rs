//! The files that CRIU opens by path for a user's processes.
//!
//! CRIU has one record for each open description, and one for a file that is mapped, a
//! working directory or a program (here: used without a description). A caller that
//! gives CRIU a descriptor gives it for all records of a path
//! (criu/files-reg.c, `open_path`), so they must be content with one.

use std::collections::BTreeMap;
use std::collections::HashSet;

use super::messages::RegFile;
use super::process::Processes;
use super::refusal::Refusals;
use crate::images::dir::{Dir, number};
use crate::images::proto::{FdInfo, Fs, Mm};
use crate::images::{Error, Images};

// Flags of open(2).
const ACCESS: u32 = 0o3;
const WRITE_ONLY: u32 = 0o1;
const READ_WRITE: u32 = 0o2;
const APPEND: u32 = 0o2_000;
const PATH: u32 = 0o10_000_000;

/// The files of a checkpoint by their paths, which are absolute and plain.
pub type OpenFiles = BTreeMap<String, Vec<OpenFile>>;

/// CRIU's record of a file that the processes have open or mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenFile {
    /// The flags of open(2).
    pub flags: u32,
    /// The position.
    pub position: u64,
    /// Its size at the checkpoint, if CRIU recorded it.
    pub size: Option<u64>,
    /// Its type and permissions (`st_mode`), if CRIU recorded them.
    pub mode: Option<u32>,
    /// Whether it is an open description, and not only a mapping or the like.
    pub is_description: bool,
}

impl OpenFile {
    pub(super) fn new(file: &RegFile, is_description: bool) -> Self {
        Self {
            flags: file.flags,
            // CRIU restores no position if it recorded this one.
            position: file.pos.filter(|pos| *pos != u64::MAX).unwrap_or_default(),
            size: file.size,
            mode: file.mode,
            is_description,
        }
    }

    /// The record that one descriptor in place of all `records` of a path must fit.
    ///
    /// # Errors
    /// One descriptor can't be all of them.
    pub fn one(records: &[Self]) -> Result<&Self, &'static str> {
        let mut descriptions = records.iter().filter(|record| record.is_description);
        let Some(one) = descriptions.next().or(records.first()) else {
            return Err("is not open");
        };
        for other in descriptions {
            if other.flags != one.flags {
                return Err("is open in several ways");
            }
            if !one.is_stateless() {
                return Err("is open several times, each with a position of its own");
            }
        }
        let mut uses = records.iter().filter(|record| !record.is_description);
        match uses.all(|used| used.fits(one)) {
            true => Ok(one),
            false => Err("is open in several ways"),
        }
    }

    /// Whether two descriptions of the file act as one does: they have no position, or none
    /// that a system call reads.
    fn is_stateless(&self) -> bool {
        self.flags & PATH != 0 || self.flags & (ACCESS | APPEND) == WRITE_ONLY | APPEND
    }

    /// Whether what is used without a description can use this one.
    fn fits(&self, description: &Self) -> bool {
        let access = description.flags & ACCESS;
        self.flags & PATH == description.flags & PATH
            && (access == self.flags & ACCESS || access == READ_WRITE)
    }
}

/// CRIU's numbers of files that processes use without a description.
///
/// # Errors
/// An image can't be read.
pub(super) fn without_description<I: Images + ?Sized>(
    dir: &Dir<'_, I>,
    processes: &Processes,
) -> Result<HashSet<u32>, Error> {
    let mut numbers = HashSet::new();
    for entry in &processes.tree {
        if let Some(fs) = dir.first::<Fs>(&format!("fs-{}.img", entry.pid))? {
            numbers.extend([fs.cwd_id, fs.root_id]);
        }
        if let Some(mm) = dir.first::<Mm>(&format!("mm-{}.img", entry.pid))? {
            numbers.insert(mm.exe_file_id);
            let mapped = mm.vmas.iter().map(|vma| u32::try_from(vma.shmid));
            numbers.extend(mapped.flatten());
        }
    }
    for name in dir.names()? {
        if number::<u32>(&name, "fdinfo-").is_some() {
            dir.each(&name, |descriptor: FdInfo| {
                numbers.remove(&descriptor.id);
                Ok(())
            })?;
        }
    }
    Ok(numbers)
}

/// A recorded path that CRIU and this program take for the same: text, from the root, and
/// without components that lead elsewhere. CRIU cuts off its first byte and looks the rest
/// up as the name of a descriptor that it was given.
///
/// Others are refused.
pub(super) fn plain_path(name: &[u8], refusals: &mut Refusals) -> Option<String> {
    let text = std::str::from_utf8(name).ok();
    let path = text.filter(|_| super::paths::is_plain(name));
    if path.is_none() {
        refusals.file(
            &String::from_utf8_lossy(name).escape_debug().to_string(),
            "has a path that is not plain text from the root",
            "CRIU would open it as root; rename or close it, or have root dump and restore it",
        );
    }
    path.map(str::to_owned)
}

/// Whether a path leads into a process's directory of proc. The process may be another one
/// at the restore.
#[must_use]
pub fn is_in_process(path: &str) -> bool {
    let rest = path.strip_prefix("/proc/").unwrap_or_default();
    rest.split('/').any(names_process)
}

/// Whether a name in proc is that of a process's directory.
#[must_use]
pub fn names_process(name: &str) -> bool {
    matches!(name, "self" | "thread-self")
        || (!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(flags: u32, position: u64, is_description: bool) -> OpenFile {
        OpenFile {
            flags,
            position,
            size: None,
            mode: None,
            is_description,
        }
    }

    #[test]
    fn one_descriptor_stands_for_one_description() {
        let read = record(0, 0, true);
        let mapped = record(0, 0, false);
        let once = [mapped.clone(), record(0, 7, true), mapped.clone()];
        assert_eq!(OpenFile::one(&once), Ok(&record(0, 7, true)));
        assert_eq!(OpenFile::one(std::slice::from_ref(&mapped)), Ok(&mapped));
        // At the same position, too: they move apart.
        for other in [read.clone(), record(0, 7, true)] {
            let error = OpenFile::one(&[read.clone(), other]).expect_err("twice");
            assert!(error.contains("several times"), "{error}");
        }
        for other in [record(WRITE_ONLY, 0, true), record(READ_WRITE, 0, false)] {
            let error = OpenFile::one(&[read.clone(), other]).expect_err("two ways");
            assert!(error.contains("several ways"), "{error}");
        }
        OpenFile::one(&[mapped, record(READ_WRITE, 0, true)]).expect("can be read");
        assert!(OpenFile::one(&[]).is_err());
    }

    #[test]
    fn descriptions_without_a_position_are_one() {
        for flags in [WRITE_ONLY | APPEND, PATH] {
            let two = [record(flags, 3, true), record(flags, 9, true)];
            OpenFile::one(&two).expect("one is enough");
        }
        let two = [3, 3].map(|at| record(READ_WRITE | APPEND, at, true));
        OpenFile::one(&two).expect_err("they read at their positions");
    }

    #[test]
    fn only_plain_text_is_a_path() {
        let mut refusals = Refusals::default();
        for path in ["/", "/a", "/a/b c"] {
            let found = plain_path(path.as_bytes(), &mut refusals);
            assert_eq!(found.as_deref(), Some(path));
        }
        assert!(refusals.0.is_empty());
        for path in [
            &b"/a\xff"[..],
            b"",
            b"a",
            b"//a",
            b"/a//b",
            b"/a/",
            b"/a/../b",
            b"/./a",
            b"/a\0b",
        ] {
            assert_eq!(plain_path(path, &mut refusals), None, "{path:?}");
        }
        assert!(refusals.0[0].to_string().contains("not plain text"));
    }

    #[test]
    fn directories_of_processes_are_told_from_files_of_proc() {
        for path in ["/proc/1/mem", "/proc/self", "/proc/7/task/8/stat"] {
            assert!(is_in_process(path), "{path}");
        }
        for path in ["/proc", "/proc/meminfo", "/proc/sys/kernel/pid_max", "/7"] {
            assert!(!is_in_process(path), "{path}");
        }
    }
}
