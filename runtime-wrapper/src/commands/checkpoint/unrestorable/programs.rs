//! Finds processes that were started from a memfd.
//!
//! CRIU stores a memfd that is open or mapped, but not one that is only a process's
//! program. The restore then fails with "No entry for reg-file-ID" (CRIU 4.2,
//! criu/memfd.c and criu/files-reg.c).

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Inspected;
use crate::commands::checkpoint::doubt::Doubt;
use crate::host::procfs;

pub(super) fn check(container: &Inspected<'_>) -> Option<Doubt> {
    let pid = container.pids().into_iter().find(|&pid| {
        let exe = procfs::of(pid).join("exe");
        // A file on disk may have such a name, but it has a link.
        fs::read_link(&exe).is_ok_and(|target| names_memfd(&target))
            && fs::metadata(&exe).is_ok_and(|program| program.nlink() == 0)
    })?;
    Some(Doubt::new(
        format!(
            "the program of {} exists in memory only (a memfd), and CRIU can't start it again",
            container.name(pid)
        ),
        "have it started from a file",
    ))
}

/// Whether a link's target is a memfd: the kernel shows one as a deleted file in the
/// root directory (memfd_create(2)).
fn names_memfd(target: &Path) -> bool {
    let target = target.as_os_str().as_bytes();
    target.starts_with(b"/memfd:") && target.ends_with(b" (deleted)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memfds_are_recognized_by_name() {
        assert!(names_memfd(Path::new("/memfd:x (deleted)")));
        assert!(names_memfd(Path::new("/memfd: (deleted)")));
        assert!(!names_memfd(Path::new("/tmp/memfd:x (deleted)")));
        assert!(!names_memfd(Path::new("/usr/bin/sleep (deleted)")));
        assert!(!names_memfd(Path::new("/memfd:x")));
    }
}
