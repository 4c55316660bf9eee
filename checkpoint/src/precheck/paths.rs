//! Every recorded path leads to a file of the container, without a symbolic link.
//!
//! CRIU opens the files of a checkpoint by their paths, as root and before a process has
//! its own credentials. If the container, or another that shares a directory with it,
//! puts a link in the place of a directory after the checkpoint, CRIU follows it, and
//! through /proc/self/fd to files of the host. The kernel recorded the paths, so an
//! honest one has no link, no `.` and no `..`. Each is looked up where its mount's files
//! are before the restore:
//!
//! ```text
//! root, bind mount    the host's directory: openat2(RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS),
//!                     and the file is of the recorded type
//! tmpfs               the names in the checkpoint's archive
//! proc                the text: nothing below fd, root, cwd and the like
//! the kernel's other  none of their files is a link to elsewhere
//! ```
//!
//! CRIU makes a deleted file again (`ghost`) in its directory, and removes it later, in
//! the host's mount namespace, so the directory is looked up in the same way. The name
//! of a unix socket is the application's, and may have links: they must not lead
//! through proc.
//!
//! A directory that other containers can write to may change between this check and the
//! restore.

use std::collections::{HashMap, HashSet};
use std::fs::File as StdFile;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::fstat;

use super::archive;
use super::capabilities::CapabilitySet;
use super::granted::Granted;
use super::messages::{File, RegFile, Remap};
use super::mounts::Mounted;
use super::places::{Files, Place, as_path};
use super::refusal::Refusals;
use crate::images::Error;
use crate::images::dir::Dir;

/// Flags of open(2) that the kernel doesn't keep: CRIU would make or empty the file.
const MAKING: u32 = 0o100 | 0o200 | 0o1000;
const S_IFMT: u32 = 0o170_000;
/// A look-up that stays below a directory, and follows no link.
const BENEATH: ResolveFlag = ResolveFlag::RESOLVE_BENEATH.union(ResolveFlag::RESOLVE_NO_SYMLINKS);
/// `O_PATH` and `O_NOFOLLOW`.
const LINK: u32 = 0o10_000_000 | 0o400_000;
/// `REMAP_TYPE__LINKED` and `REMAP_TYPE__GHOST` of remap-file-path.proto.
const LINKED: u32 = 0;
const GHOST: u32 = 1;
/// The links of proc, and directories of such links.
const PROC_LINKS: [&str; 8] = [
    "cwd",
    "exe",
    "fd",
    "map_files",
    "ns",
    "root",
    "self",
    "thread-self",
];

/// A tmpfs: the numbers that name its archive, and where it is mounted.
type Archived = (u32, u32, String);

/// The look-up of a checkpoint's paths.
pub(super) struct Paths<'a> {
    dir: Dir<'a>,
    pub(super) mounts: &'a Mounted,
    /// The opened directories of the host, by their places.
    opened: HashMap<usize, Option<OwnedFd>>,
    /// Files that were deleted, by ID.
    deleted: HashSet<u32>,
    /// Paths on a tmpfs.
    archived: HashMap<Archived, Vec<Vec<u8>>>,
    granted: &'a Granted,
}

impl<'a> Paths<'a> {
    /// # Errors
    /// The image of deleted files is damaged.
    pub(super) fn new(
        dir: &Dir<'a>,
        mounts: &'a Mounted,
        granted: &'a Granted,
    ) -> Result<Self, Error> {
        let mut deleted = HashSet::new();
        dir.each("remap-fpath.img", |remap: Remap| {
            // The file of a process that has ended, the third kind, is opened by its path.
            if matches!(remap.remap_type, Some(LINKED | GHOST)) {
                deleted.insert(remap.orig_id);
            }
            Ok(())
        })?;
        Ok(Self {
            dir: *dir,
            mounts,
            opened: HashMap::new(),
            deleted,
            archived: HashMap::new(),
            granted,
        })
    }

    /// Checks one open file.
    pub(super) fn check(&mut self, file: &File, refusals: &mut Refusals) {
        if let Some(regular) = &file.reg {
            self.regular(file.id, regular, refusals);
        }
        if let Some(socket) = &file.usk {
            self.socket(socket, refusals);
        }
        let inner = [
            file.reg.as_ref().map(|regular| regular.id),
            file.usk.as_ref().map(|socket| socket.id),
        ];
        if inner.into_iter().flatten().any(|id| id != file.id) {
            refusals.checkpoint("has a file with two numbers", "CRIU gives it one");
        }
    }

    fn regular(&mut self, id: u32, file: &RegFile, refusals: &mut Refusals) {
        let shown = String::from_utf8_lossy(&file.name).into_owned();
        if file.flags & MAKING != 0 {
            refusals.file(&shown, "would be made or emptied", "an open file exists");
        }
        if !is_plain(&file.name) {
            return refusals.file(
                &shown,
                "has a path that leads elsewhere",
                "the kernel records plain paths",
            );
        }
        let mount = mount_of(file.mnt_id);
        let Some(namespace) = self.namespace(mount) else {
            return refusals.file(&shown, "is on another mount", "the container has others");
        };
        let Some((index, rest)) = self.place(namespace, &file.name) else {
            return refusals.file(&shown, "is on no mount", "the container has a root");
        };
        let is_deleted = self.deleted.contains(&id);
        // CRIU makes a deleted file on the recorded mount, whatever its path says.
        if is_deleted && mount.is_some_and(|id| id != self.mounts.places[index].id) {
            return refusals.file(&shown, "is on another mount", "its path says which");
        }
        match &self.mounts.places[index].files {
            Files::Host(_) => {
                if let Err(why) = self.on_host(index, &rest, file, is_deleted) {
                    refusals.file(&shown, &why, "the kernel records a path without links");
                }
            }
            Files::Archive { .. } => self.archived(index, rest),
            Files::Processes if !is_plain_in_proc(&rest) => refusals.file(
                &shown,
                "leads out of proc",
                "the kernel records where a link leads",
            ),
            Files::Processes if self.is_privileged(&rest) => refusals.file(
                &shown,
                "shows the machine's memory or log",
                "the configuration gives no capability for that",
            ),
            Files::Processes | Files::Kernel | Files::Unknown => {}
        }
    }

    /// The mount namespace of a recorded mount; the container's, if none is recorded.
    pub(super) fn namespace(&self, mount: Option<u32>) -> Option<u32> {
        match mount {
            Some(id) => self.mounts.namespaces.get(&id).copied(),
            None => Some(self.mounts.namespace),
        }
    }

    /// The mount of a namespace that a path is on, and the rest of the path. As the kernel
    /// does, it goes from the root to the mounts on it that are on the path's way.
    pub(super) fn place(&self, namespace: u32, path: &[u8]) -> Option<(usize, Vec<u8>)> {
        let below = |place: &Place| -> Option<usize> {
            let mountpoint = place.mountpoint.trim_end_matches('/').as_bytes();
            let rest = path.strip_prefix(mountpoint)?;
            (rest.is_empty() || rest[0] == b'/').then_some(mountpoint.len())
        };
        let places = &self.mounts.places;
        let all: Vec<usize> = (0..places.len())
            .filter(|index| places[*index].namespace == namespace)
            .collect();
        let ways: Vec<(usize, usize)> = all
            .iter()
            .filter_map(|index| Some((below(&places[*index])?, *index)))
            .collect();
        let is_on = |index: usize, above: usize| places[index].parent == places[above].id;
        let mut roots = ways.iter().copied().filter(|(length, index)| {
            let mut others = all.iter().filter(|other| *other != index);
            *length == 0 && !others.any(|other| is_on(*index, *other))
        });
        let (mut length, mut index) = roots.next()?;
        // As many steps as there are mounts: they could be on each other in a circle.
        for _ in 0..ways.len() {
            let on = ways.iter().filter(|(at, _)| *at >= length);
            let next = on.filter(|(_, other)| *other != index && is_on(*other, index));
            match next.min() {
                Some(next) => (length, index) = *next,
                None => break,
            }
        }
        let rest = path[length..].strip_prefix(b"/").unwrap_or_default();
        Some((index, rest.to_owned()))
    }

    /// Notes a path on a tmpfs, for [`Self::finish`].
    pub(super) fn archived(&mut self, index: usize, path: Vec<u8>) {
        let place = &self.mounts.places[index];
        if let Files::Archive { device, mount } = place.files {
            let tmpfs = (device, mount, place.mountpoint.clone());
            self.archived.entry(tmpfs).or_default().push(path);
        }
    }

    /// Looks a path up in a directory of the host.
    fn on_host(
        &mut self,
        index: usize,
        rest: &[u8],
        file: &RegFile,
        is_deleted: bool,
    ) -> Result<(), String> {
        let Some(root) = self.open(index) else {
            // Without the directory the restore fails.
            return Ok(());
        };
        if rest.is_empty() {
            return Ok(());
        }
        let path = match is_deleted {
            // CRIU makes it there.
            true => as_path(rest).parent().unwrap_or(Path::new("")),
            false => as_path(rest),
        };
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        // A link itself may be open, by these two flags.
        let is_link = file.flags & LINK == LINK;
        let last = if is_link {
            OFlag::O_NOFOLLOW
        } else {
            OFlag::empty()
        };
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | last)
            .resolve(BENEATH);
        match openat2(root, path, how) {
            Ok(found) => match file.mode.filter(|_| !is_deleted) {
                Some(mode) => is_of_type(&found, mode),
                None => Ok(()),
            },
            Err(Errno::ELOOP | Errno::EXDEV) => Err("has a symbolic link in its path".to_owned()),
            // CRIU finds no file either.
            Err(_) => Ok(()),
        }
    }

    fn open(&mut self, index: usize) -> Option<&OwnedFd> {
        let Files::Host(path) = &self.mounts.places[index].files else {
            return None;
        };
        let open = || opened(path);
        self.opened.entry(index).or_insert_with(open).as_ref()
    }

    /// Whether a file of proc needs a capability when it is opened, which CRIU has.
    fn is_privileged(&self, rest: &[u8]) -> bool {
        let has = |capability| self.granted.bounding.contains(capability);
        let is_log = rest == b"kmsg" || rest == b"kallsyms";
        (is_log && !has(CapabilitySet::SYSLOG))
            || (rest.ends_with(b"/pagemap") && !has(CapabilitySet::SYS_ADMIN))
    }

    /// Checks the directories of the container's own mounts, and the paths on file
    /// systems whose files are in the checkpoint.
    ///
    /// # Errors
    /// An archive can't be read.
    pub(super) fn finish(mut self, refusals: &mut Refusals) -> Result<(), Error> {
        for bind in &self.mounts.binds {
            let has_link = match &bind.files {
                Files::Host(root) => opened(root).is_some_and(|root| has_link(&root, &bind.path)),
                Files::Archive { device, mount } => {
                    let tmpfs = (*device, *mount, bind.from.clone());
                    self.archived
                        .entry(tmpfs)
                        .or_default()
                        .push(bind.path.clone());
                    false
                }
                Files::Processes => !is_plain_in_proc(&bind.path),
                Files::Kernel => false,
                // Whether one has is not known before the restore.
                Files::Unknown => !bind.path.is_empty(),
            };
            if has_link {
                refusals.mount(
                    &bind.mountpoint,
                    "may show a directory behind a symbolic link",
                    "the kernel records a path without links",
                );
            }
        }
        for ((device, mount, mountpoint), paths) in self.archived {
            let found = archive::read(&self.dir, device, mount, self.granted)?;
            if let Some(what) = found.strange {
                refusals.mount(&mountpoint, &what, "the container could not have made it");
            }
            for path in paths {
                let mut above = as_path(&path).ancestors();
                if above.any(|above| found.links.contains(above.as_os_str().as_bytes())) {
                    refusals.file(
                        &format!(
                            "{}/{}",
                            mountpoint.trim_end_matches('/'),
                            String::from_utf8_lossy(&path)
                        ),
                        "has a symbolic link in its path",
                        "the kernel records a path without links",
                    );
                }
            }
        }
        Ok(())
    }
}

/// A directory or file of the host, opened for look-ups only.
fn opened(path: &Path) -> Option<OwnedFd> {
    let mut options = StdFile::options();
    options.read(true).custom_flags(OFlag::O_PATH.bits());
    options.open(path).ok().map(OwnedFd::from)
}

/// Whether a path below a directory has a symbolic link.
fn has_link(root: &OwnedFd, path: &[u8]) -> bool {
    if path.is_empty() {
        return false;
    }
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(BENEATH);
    matches!(
        openat2(root, as_path(path), how),
        Err(Errno::ELOOP | Errno::EXDEV)
    )
}

/// The ID of a mount in a file's record: zigzag-encoded, negative if there is none.
pub(super) fn mount_of(zigzag: Option<u32>) -> Option<u32> {
    Some(zigzag.filter(|zigzag| zigzag & 1 == 0)? >> 1)
}

/// Compares a file's type with the recorded mode.
fn is_of_type(found: &OwnedFd, mode: u32) -> Result<(), String> {
    match fstat(found) {
        Ok(stat) if stat.st_mode & S_IFMT != mode & S_IFMT => {
            Err("is of another type than the one that was open".to_owned())
        }
        _ => Ok(()),
    }
}

/// Whether a recorded path is absolute and has plain components. CRIU cuts its first
/// byte off, whatever it is (criu/files-reg.c, `collect_one_regfile`).
pub(super) fn is_plain(name: &[u8]) -> bool {
    let is_plain = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
    match name.strip_prefix(b"/") {
        Some(b"") => true,
        Some(rest) => rest.split(|byte| *byte == b'/').all(is_plain),
        None => false,
    }
}

/// Whether a path below proc leads to no file elsewhere.
fn is_plain_in_proc(rest: &[u8]) -> bool {
    let rest = String::from_utf8_lossy(rest);
    let mut names = rest.split('/').peekable();
    while let Some(name) = names.next() {
        let is_last = names.peek().is_none();
        // The directories of links may be open themselves.
        let is_directory = ["fd", "map_files", "ns"].contains(&name);
        if PROC_LINKS.contains(&name) && !(is_last && is_directory) {
            return false;
        }
    }
    true
}
