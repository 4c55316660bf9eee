//! The mappings of a process and their kinds.

use serde::Serialize;

use super::pages::Share;
use crate::images::proto::{MemfdInode, Vma};
use crate::inspect::files::Files;

/// One mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// Access rights, as /proc/PID/maps shows them: `rwx`, `r--`.
    pub access: String,
    /// The kind of mapping.
    pub kind: MappingKind,
    /// The file, or the name of a memory file.
    pub path: Option<String>,
    /// The size, in this checkpoint and in its parent.
    #[serde(flatten)]
    pub share: Share,
}

/// The kind of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum MappingKind {
    Heap,
    Stack,
    Anonymous,
    File,
    SharedFile,
    SharedAnonymous,
    Memfd,
    SysvShm,
    AioRing,
    Socket,
    Vdso,
    Vvar,
    Vsyscall,
    Uprobes,
    Other,
}

impl MappingKind {
    /// The kernel's name of shared memory without a file. CRIU 4 stores it as a memory file
    /// of that name.
    const ANONYMOUS_SHARED: &str = "/dev/zero";

    pub(super) fn of(vma: &Vma, files: &Files) -> Self {
        match Self::by_status(vma.status) {
            Self::Memfd
                if memfd(vma, files).is_some_and(|memfd| memfd.name == Self::ANONYMOUS_SHARED) =>
            {
                Self::SharedAnonymous
            }
            kind => kind,
        }
    }

    /// Maps the bits of CRIU's criu/include/image.h. Special bits are checked first, because
    /// they come with a general one.
    fn by_status(status: u32) -> Self {
        use MappingKind::*;
        const BITS: [(u32, MappingKind); 15] = [
            (14, Memfd),
            (10, SysvShm),
            (13, AioRing),
            (11, Socket),
            (3, Vdso),
            (12, Vvar),
            (2, Vsyscall),
            (17, Uprobes),
            (5, Heap),
            (1, Stack),
            (15, Stack),
            (6, File),
            (7, SharedFile),
            (8, SharedAnonymous),
            (9, Anonymous),
        ];
        BITS.iter()
            .find(|(bit, _)| status & (1 << bit) != 0)
            .map_or(Other, |(_, kind)| *kind)
    }

    /// The segment of shared memory behind a mapping.
    pub(super) fn segment(self, vma: &Vma, files: &Files) -> Option<u64> {
        match self {
            Self::SharedAnonymous | Self::Memfd => match memfd(vma, files) {
                Some(memfd) => Some(memfd.shmid.into()),
                None => Some(vma.shmid),
            },
            Self::SysvShm => Some(vma.shmid),
            _ => None,
        }
    }

    pub(super) fn path(self, vma: &Vma, files: &Files) -> Option<String> {
        match self {
            Self::File | Self::SharedFile => files.path(u32::try_from(vma.shmid).ok()?),
            Self::Memfd => Some(format!("memfd:{}", memfd(vma, files)?.name)),
            _ => None,
        }
    }
}

/// The memory file of a mapping; `None` for another mapping.
fn memfd<'a>(vma: &Vma, files: &'a Files) -> Option<&'a MemfdInode> {
    const MEMFD: u32 = 1 << 14;
    if vma.status & MEMFD == 0 {
        return None;
    }
    files.memfd(u32::try_from(vma.shmid).ok()?)
}

pub(super) fn access(prot: u32) -> String {
    [(1, 'r'), (2, 'w'), (4, 'x')]
        .into_iter()
        .map(|(bit, letter)| if prot & bit != 0 { letter } else { '-' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_by_status() {
        let kind = MappingKind::by_status;
        assert_eq!(kind(0x201), MappingKind::Anonymous);
        assert_eq!(kind(0x221), MappingKind::Heap);
        assert_eq!(kind(0x41), MappingKind::File);
        assert_eq!(kind(0x4081), MappingKind::Memfd);
        assert_eq!(kind(0), MappingKind::Other);
    }
}
