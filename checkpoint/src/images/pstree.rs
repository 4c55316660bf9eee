//! The process tree, with every process and thread in it once.
//!
//! Other images are read for each process and thread. If one were named many times in a
//! few bytes, so would its images be read, and what they hold be kept.

use std::collections::HashSet;

use super::dir::{Dir, MAX_RECORDS};
use super::proto::PstreeEntry;
use super::source::Images;
use crate::images::Error;

const IMAGE: &str = "pstree.img";

/// The processes, parents before children, as CRIU writes them.
pub(crate) fn processes<I: Images + ?Sized>(dir: &Dir<'_, I>) -> Result<Vec<PstreeEntry>, Error> {
    let processes: Vec<PstreeEntry> = dir.all(IMAGE)?;
    let mut pids = HashSet::new();
    let mut threads = HashSet::new();
    // A process is its own first thread.
    let is_new = |process: &PstreeEntry| {
        let mut own = process.threads.iter();
        pids.insert(process.pid)
            && own.all(|thread| threads.len() < MAX_RECORDS && threads.insert(*thread))
    };
    match processes.iter().all(is_new) {
        true => Ok(processes),
        false => Err(Error::TooMany {
            file: dir.0.path().join(IMAGE),
        }),
    }
}

/// The numbers that a restore takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ids {
    /// The PIDs of the processes, the root's first.
    pub processes: Vec<u32>,
    /// The IDs of all threads.
    pub threads: Vec<u32>,
}

/// The IDs of the processes and threads of a checkpoint.
///
/// # Errors
/// The image is damaged.
pub fn ids<I: Images + ?Sized>(images: &I) -> Result<Ids, Error> {
    let mut ids = Ids::default();
    for process in processes(&Dir(images))? {
        ids.processes.push(process.pid);
        ids.threads.extend(process.threads);
    }
    Ok(ids)
}

/// Refuses a tree that [`processes`] refuses. One that is not understood is left to the
/// reader that needs it.
pub(crate) fn check<I: Images + ?Sized>(images: &I) -> Result<(), Error> {
    match processes(&Dir(images)) {
        Ok(_) | Err(Error::Unknown { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::proto::wire::put_varint;
    use std::fs;
    use std::path::Path;

    fn write(dir: &Path, processes: &[(u64, &[u64])]) {
        let mut image = 0x5456_4319u32.to_le_bytes().to_vec();
        image.extend([0; 4]);
        for (pid, threads) in processes {
            let mut record = Vec::new();
            let fields = [(1, *pid), (2, 0), (3, 1), (4, 1)];
            let threads = threads.iter().map(|thread| (5, *thread));
            for (number, value) in fields.into_iter().chain(threads) {
                put_varint(&mut record, number << 3);
                put_varint(&mut record, value);
            }
            image.extend((record.len() as u32).to_le_bytes());
            image.extend(record);
        }
        fs::write(dir.join(IMAGE), image).expect("write");
    }

    #[test]
    fn a_process_or_thread_that_is_there_twice_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let read = |tree: &[(u64, &[u64])]| {
            write(dir.path(), tree);
            processes(&Dir(dir.path())).map(|processes| processes.len())
        };
        let found = read(&[(1, &[1, 2, 3]), (7, &[7]), (8, &[])]);
        assert_eq!(found.expect("a tree"), 3);
        for twice in [
            &[(1, &[1][..]), (1, &[])][..],
            &[(1, &[1, 1])],
            &[(1, &[1]), (2, &[2, 1])],
        ] {
            let error = read(twice).expect_err("twice");
            assert!(matches!(error, Error::TooMany { .. }), "{error}");
            assert!(check(dir.path()).is_err());
        }
        fs::remove_file(dir.path().join(IMAGE)).expect("remove");
        check(dir.path()).expect("none");
    }
}
