//! What a dump may give to an unprivileged user: the memory of the user's own processes.
//!
//! CRIU dumps every descendant of a process, and one of them may have become another
//! user's by a set-user-ID program. Its credentials can change until CRIU has stopped it,
//! so they are read in CRIU's images, before the user can read the checkpoint. The rules
//! are those of ptrace(2) for an unprivileged tracer: the same user in all IDs, no
//! capability, and memory that is dumpable. The kernel clears that attribute when a process
//! changes its user, and for a program that its user can't read.
//!
//! A file whose path can't be opened for a user at the restore is refused here, too.

use std::collections::HashSet;

use super::granted::User;
use super::messages::{File, Ghost, Mm};
use super::open_files::plain_path;
use super::process::Processes;
use super::refusal::Refusals;
use super::user::credentials;
use crate::images::dir::Dir;
use crate::images::{Error, Images};

/// `SUID_DUMP_USER` of the kernel's include/linux/sched/coredump.h.
const DUMPABLE: i32 = 1;

/// Compares the images of a dump with what `user` may read. Returns the first few
/// differences.
///
/// # Errors
/// An image is missing or damaged.
pub fn check_dumped<I: Images + ?Sized>(
    images: &I,
    user: &User,
) -> Result<Vec<super::Refusal>, Error> {
    let dir = Dir(images);
    let mut refusals = Refusals::default();
    let processes = Processes::read(&dir)?;
    for process in &processes.living {
        let before = refusals.0.len();
        credentials(process, user, &mut refusals);
        let memory: Option<Mm> = dir.first(&format!("mm-{}.img", process.pid))?;
        if memory.and_then(|memory| memory.dumpable) != Some(DUMPABLE) {
            refusals.process(
                process,
                "is protected (prctl(2), PR_SET_DUMPABLE)",
                &format!("the checkpoint is for user {}", user.uid),
            );
        }
        // Root's process differs in everything.
        refusals.0.truncate(before + 1);
    }
    let known = processes.living.iter().chain(&processes.dead);
    let known: HashSet<u32> = known.map(|process| process.pid).collect();
    if processes.tree.is_empty()
        || !processes
            .tree
            .iter()
            .all(|entry| known.contains(&entry.pid))
    {
        refusals.checkpoint("has a process without an image", "each one has one");
    }
    dir.each("files.img", |file: File| {
        if let Some(file) = &file.reg {
            plain_path(&file.name, &mut refusals);
        }
        Ok(())
    })?;
    for name in dir.names()? {
        if !name.starts_with("ghost-file-") {
            continue;
        }
        let ghost: Option<Ghost> = dir.first(&name)?;
        if ghost.is_none_or(|ghost| ghost.uid != user.uid) {
            refusals.checkpoint(
                "has the content of a deleted file of another user",
                &format!("it is for user {}", user.uid),
            );
        }
    }
    Ok(refusals.0)
}
