//! Finds the parts of a checkpoint that CRIU dumps without an error and can't restore.
//!
//! Three kinds are known, the first two seen with CRIU 4.2:
//!
//! - **A deleted file within a deleted directory that is open too.** CRIU creates
//!   both again under their old names and removes them when they are open
//!   (criu/files-reg.c, `prepare_remaps` and `try_clean_remaps`). It does both in
//!   the order of remap-fpath.img. If the directory comes first there, CRIU creates
//!   the file within it and can't remove the directory: "Couldn't unlink remap ...:
//!   Directory not empty". If the file comes first, CRIU creates it further up, in a
//!   directory that exists, and the restore succeeds. The order is that of the dump,
//!   so only the images have it.
//! - **A file of a thread in /proc**, `/proc/PID/task/TID/...`. CRIU opens files
//!   before it starts threads, so the path does not exist then. A process's first
//!   thread, whose TID is the PID, exists.
//! - **A thread with AMX tiles in use.** CRIU's images have no place for the tiles,
//!   nor for the permission to use them (criu/arch/x86/crtools.c). They do have the
//!   header of the processor's state (`XSTATE_BV`), which has a bit for the tiles.
//!   The restore succeeds, and the thread's next tile instruction raises SIGILL. A
//!   thread that has released its tiles has no such bits, and fails in the same way.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::dir::{Dir, number};
use super::error::Error;
use super::proto::{Core, FileEntry, Mount, PstreeEntry, RegFile, RemapFilePath};

/// The part of a checkpoint on which a restore fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unrestorable {
    /// A deleted file, or directory, within a deleted directory that is open.
    Within {
        /// The deleted directory.
        directory: String,
        /// The deleted file in it.
        file: String,
    },
    /// A file in /proc of a thread that is not its process's first.
    Thread(String),
    /// A process that has AMX tiles in use: its PID in the container.
    Tiles(u32),
}

/// The state components of AMX in `XSTATE_BV`: the tiles' configuration and their
/// data (Intel SDM volume 1, 13.1).
const TILES: u64 = 1 << 17 | 1 << 18;

/// The bytes of /proc/cpuinfo that are read: one processor, since all have the same
/// features.
const ONE_PROCESSOR: u64 = 16 << 10;

const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;

/// `REMAP_TYPE__GHOST` of remap-file-path.proto: a deleted file whose content is
/// in the checkpoint.
const GHOST: u32 = 1;

/// `FSTYPE__PROC` of mnt.proto.
const PROC: u32 = 1;

/// The parts of the checkpoint in `dir` that CRIU can't restore.
///
/// # Errors
/// An image is damaged.
pub fn unrestorable(dir: &Path) -> Result<Vec<Unrestorable>, Error> {
    let dir = Dir(dir);
    let remaps: Vec<RemapFilePath> = dir.all("remap-fpath.img")?;
    let mut files = HashMap::new();
    dir.each("files.img", |entry: FileEntry| {
        if let Some(file) = entry.reg {
            files.insert(entry.id, file);
        }
        Ok(())
    })?;
    let mut found = within(&remaps, &files);
    if files.values().any(|file| thread(&file.name).is_some()) {
        found.extend(of_threads(&files, &proc_mounts(&dir)?));
    }
    // CRIU waits while the images are read, and each thread has one.
    if has_tiles() {
        found.extend(with_tiles(&dir)?);
    }
    Ok(found)
}

/// Whether this machine's processors have AMX.
fn has_tiles() -> bool {
    let mut text = String::new();
    // Only Linux on x86 has this flag.
    File::open("/proc/cpuinfo")
        .and_then(|file| file.take(ONE_PROCESSOR).read_to_string(&mut text))
        .is_ok_and(|_| text.contains(" amx_tile"))
}

/// The first process with tiles in use.
fn with_tiles(dir: &Dir<'_>) -> Result<Option<Unrestorable>, Error> {
    for process in dir.all::<PstreeEntry>("pstree.img")? {
        for thread in &process.threads {
            let core: Option<Core> = dir.first(&format!("core-{thread}.img"))?;
            if core.is_some_and(|core| uses_tiles(&core)) {
                return Ok(Some(Unrestorable::Tiles(process.pid)));
            }
        }
    }
    Ok(None)
}

fn uses_tiles(core: &Core) -> bool {
    let state = || core.thread_info.as_ref()?.fpregs.as_ref()?.xsave.as_ref();
    state().is_some_and(|xsave| xsave.xstate_bv & TILES != 0)
}

/// The deleted directories that are open in the checkpoint in `dir`. CRIU creates each
/// again under its old name and removes it when it is open, so a restore fails if
/// another file has that name by then.
///
/// # Errors
/// An image is damaged.
pub fn deleted_directories(dir: &Path) -> Result<Vec<String>, Error> {
    let dir = Dir(dir);
    let remaps: Vec<RemapFilePath> = dir.all("remap-fpath.img")?;
    let ghosts = remaps
        .iter()
        .filter(|remap| remap.remap_type == Some(GHOST))
        .map(|remap| remap.orig_id);
    let ghosts: HashSet<u32> = ghosts.collect();
    let mut directories = Vec::new();
    dir.each("files.img", |entry: FileEntry| {
        if let Some(file) = entry.reg.filter(is_directory)
            && ghosts.contains(&entry.id)
        {
            directories.push(absolute(&file.name));
        }
        Ok(())
    })?;
    directories.sort_unstable();
    directories.dedup();
    Ok(directories)
}

fn is_directory(file: &RegFile) -> bool {
    file.mode.is_some_and(|mode| mode & S_IFMT == S_IFDIR)
}

/// Each deleted directory with the first deleted file that CRIU creates within it.
fn within(remaps: &[RemapFilePath], files: &HashMap<u32, RegFile>) -> Vec<Unrestorable> {
    let mut seen = HashSet::new();
    let mut directories: Vec<&RegFile> = Vec::new();
    let mut found = Vec::new();
    for remap in remaps {
        // CRIU creates a deleted file for the first of its descriptors.
        if remap.remap_type != Some(GHOST) || !seen.insert(remap.remap_id) {
            continue;
        }
        let Some(file) = files.get(&remap.orig_id) else {
            continue;
        };
        let mut outer = directories.iter();
        if let Some(directory) = outer.find(|outer| contains(outer, file)) {
            found.push(Unrestorable::Within {
                directory: absolute(&directory.name),
                file: absolute(&file.name),
            });
        }
        if is_directory(file) {
            directories.push(file);
        }
    }
    found
}

fn contains(directory: &RegFile, file: &RegFile) -> bool {
    directory.mnt_id == file.mnt_id
        && file
            .name
            .strip_prefix(&directory.name)
            .is_some_and(|rest| rest.starts_with('/'))
}

fn of_threads(files: &HashMap<u32, RegFile>, mounts: &HashMap<u32, String>) -> Vec<Unrestorable> {
    let mut found: Vec<_> = files
        .values()
        .filter(|file| {
            mounts
                .get(&file.mnt_id.map_or(0, |zigzag| zigzag >> 1))
                .and_then(|mountpoint| {
                    let name = file.name.trim_start_matches('/');
                    name.strip_prefix(mountpoint.as_str())
                })
                .and_then(thread)
                .is_some_and(|(pid, tid)| pid != tid)
        })
        .map(|file| absolute(&file.name))
        .collect();
    found.sort_unstable();
    found.into_iter().map(Unrestorable::Thread).collect()
}

/// The mountpoints of procfs mounts by ID, without their leading slash.
fn proc_mounts(dir: &Dir<'_>) -> Result<HashMap<u32, String>, Error> {
    let mut mounts = HashMap::new();
    for name in dir.names()? {
        if number::<u32>(&name, "mountpoints-").is_none() {
            continue;
        }
        dir.each(&name, |mount: Mount| {
            if mount.fstype == PROC && mount.root == "/" {
                let mountpoint = mount.mountpoint.trim_start_matches(['.', '/']);
                mounts.insert(mount.mnt_id, mountpoint.to_owned());
            }
            Ok(())
        })?;
    }
    Ok(mounts)
}

/// PID and TID of a path that contains `/PID/task/TID`.
fn thread(path: &str) -> Option<(u32, u32)> {
    let (before, after) = path.split_once("/task/")?;
    let pid = before.rsplit('/').next()?.parse().ok()?;
    let tid = after.split('/').next()?;
    // The directory of a thread that has ended.
    let tid = tid.strip_suffix(" (deleted)").unwrap_or(tid).parse().ok()?;
    Some((pid, tid))
}

fn absolute(name: &str) -> String {
    format!("/{}", name.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::super::proto::{FpregsX86, ThreadInfoX86, XsaveX86};
    use super::*;
    use proptest::prelude::*;

    const DIRECTORY: u32 = S_IFDIR | 0o755;
    const FILE: u32 = 0o100_644;

    fn file(name: &str, mode: u32) -> RegFile {
        RegFile {
            name: name.into(),
            mode: Some(mode),
            mnt_id: Some(20),
            ..Default::default()
        }
    }

    /// Deleted files in the order of the dump.
    fn dumped(deleted: &[(&str, u32)]) -> Vec<Unrestorable> {
        let remap = |id: u32| RemapFilePath {
            orig_id: id,
            remap_id: 100 + id,
            remap_type: Some(GHOST),
        };
        let remaps: Vec<_> = (0..deleted.len() as u32).map(remap).collect();
        let files = deleted
            .iter()
            .zip(0..)
            .map(|((name, mode), id)| (id, file(name, *mode)))
            .collect();
        within(&remaps, &files)
    }

    #[test]
    fn only_a_directory_before_its_file_is_unrestorable() {
        let lost = Unrestorable::Within {
            directory: "/tmp/d".into(),
            file: "/tmp/d/f".into(),
        };
        let (directory, inside) = (("tmp/d", DIRECTORY), ("tmp/d/f", FILE));
        assert_eq!(dumped(&[directory, inside]), [lost]);
        assert_eq!(dumped(&[inside, directory]), []);
        assert_eq!(dumped(&[inside]), []);
        assert_eq!(dumped(&[directory, ("tmp/d2/f", FILE)]), []);
        assert_eq!(dumped(&[directory, ("tmp/f", FILE)]), []);
        assert_eq!(dumped(&[("tmp/d", FILE), inside]), []);
        assert_eq!(dumped(&[directory, ("tmp/d/e", DIRECTORY)]).len(), 1);
        assert_eq!(dumped(&[("tmp/d/e", DIRECTORY), directory]), []);
    }

    #[test]
    fn a_second_descriptor_does_not_count() {
        let files = [(1, file("tmp/d/f", FILE)), (2, file("tmp/d", DIRECTORY))].into();
        let remap = |orig_id, remap_id| RemapFilePath {
            orig_id,
            remap_id,
            remap_type: Some(GHOST),
        };
        assert_eq!(within(&[remap(1, 7), remap(2, 8), remap(1, 7)], &files), []);
    }

    #[test]
    fn paths_of_threads() {
        for (path, found) in [
            ("proc/1/task/6/stat", Some((1, 6))),
            ("proc/1/task/6", Some((1, 6))),
            ("proc/1/task/6 (deleted)", Some((1, 6))),
            ("/1/task/6/fd", Some((1, 6))),
            ("proc/1/task", None),
            ("proc/self/task/6", None),
            ("home/task/x", None),
            ("", None),
        ] {
            assert_eq!(thread(path), found, "{path}");
        }
    }

    #[test]
    fn only_files_in_procfs_are_files_of_threads() {
        let mounts = [(10, "proc".to_owned())].into();
        let at = |name: &str, mnt_id: Option<u32>| RegFile {
            mnt_id,
            ..file(name, FILE)
        };
        let files = [
            (1, at("/proc/1/task/6/stat", Some(20))),
            (2, at("/proc/1/task/1/stat", Some(20))),
            // A program's own file of the same name, and a file of an unknown mount.
            (3, at("/proc/1/task/7/stat", Some(22))),
            (4, at("/proc/1/task/8/stat", None)),
        ]
        .into();
        assert_eq!(
            of_threads(&files, &mounts),
            [Unrestorable::Thread("/proc/1/task/6/stat".into())]
        );
    }

    #[test]
    fn a_dump_of_ordinary_programs_has_none() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/inspect/data");
        assert_eq!(unrestorable(&data).expect("whole"), []);
        assert!(deleted_directories(&data).expect("whole").is_empty());
        assert_eq!(with_tiles(&Dir(&data)).expect("whole"), None);
        // Its images do have the processor's state.
        let core: Core = Dir(&data).first("core-1.img").expect("read").expect("one");
        let fpregs = core.thread_info.and_then(|info| info.fpregs);
        let state = fpregs.and_then(|fpregs| fpregs.xsave).expect("xsave");
        assert_ne!(state.xstate_bv, 0);
    }

    #[test]
    fn tiles_are_in_the_state_of_a_thread() {
        let core = |xstate_bv| Core {
            thread_info: Some(ThreadInfoX86 {
                fpregs: Some(FpregsX86 {
                    xsave: Some(XsaveX86 { xstate_bv }),
                }),
            }),
            ..Core::default()
        };
        // CRIU restores AVX-512 and protection keys.
        assert!(!uses_tiles(&core(0x2e7)));
        assert!(uses_tiles(&core(0x602e7)));
        assert!(uses_tiles(&core(1 << 17)));
        assert!(!uses_tiles(&Core::default()));
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "(proc|[0-9]|/|task|\u{20}|\\(deleted\\)|\\PC){0,12}") {
            if let Some((pid, tid)) = thread(&path) {
                // A number is in the path as its digits, with leading zeros at most.
                let (before, after) = path.split_once("/task/").expect("a thread's");
                prop_assert!(before.ends_with(&pid.to_string()));
                prop_assert!(after.contains(&tid.to_string()));
            }
        }
    }
}
