//! Programs that exist in memory only.
//!
//! CRIU stores a memfd that is open or mapped, and forgets that a process may
//! have been started from one: at the restore there is "No entry for reg-file-ID"
//! of its program (CRIU 4.2, criu/memfd.c and criu/files-reg.c).

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Seen;
use crate::commands::checkpoint::doubt::Doubt;

pub(super) fn look(seen: &Seen<'_>) -> Option<Doubt> {
    let pid = seen.pids().into_iter().find(|&pid| {
        let exe = format!("/proc/{pid}/exe");
        // A file on disk may have that name, but then it has a link.
        fs::read_link(&exe).is_ok_and(|target| names_memfd(&target))
            && fs::metadata(&exe).is_ok_and(|program| program.nlink() == 0)
    })?;
    Some(Doubt::new(
        format!(
            "the program of {} exists in memory only (a memfd), and CRIU can't start it again",
            seen.name(pid)
        ),
        "have it started from a file",
    ))
}

/// The kernel shows a memfd as a deleted file of that name in the root directory
/// (memfd_create(2)).
fn names_memfd(target: &Path) -> bool {
    let target = target.as_os_str().as_bytes();
    target.starts_with(b"/memfd:") && target.ends_with(b" (deleted)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_memfds() {
        assert!(names_memfd(Path::new("/memfd:x (deleted)")));
        assert!(names_memfd(Path::new("/memfd: (deleted)")));
        assert!(!names_memfd(Path::new("/tmp/memfd:x (deleted)")));
        assert!(!names_memfd(Path::new("/usr/bin/sleep (deleted)")));
        assert!(!names_memfd(Path::new("/memfd:x")));
    }
}
