//! Finds the processes that were forked and did not exec.
//!
//! Their memory began as a copy of their parent's. CRIU restores it by fork, and then
//! reads the child's pages one by one to compare each with the inherited page (CRIU's
//! mem.c, `restore_priv_vma_content`). For all other processes it reads long runs.
//!
//! exec gives a process a new stack at a random address, and fork keeps it. So two
//! processes with the same stack address come from the same exec.

use std::collections::{BTreeMap, BTreeSet};

use super::dir::Dir;
use super::error::Error;
use super::proto::{Mm, PagemapHead};
use super::pstree::processes;
use super::source::Images;

/// The names of these processes' page files. They only affect the caching of CRIU's
/// reads, so an image that is not understood is ignored.
pub(crate) fn pages<I: Images + ?Sized>(dir: &I) -> Result<BTreeSet<String>, Error> {
    match read(dir) {
        Err(Error::Unknown { .. } | Error::TooMany { .. }) => Ok(BTreeSet::new()),
        names => names,
    }
}

fn read<I: Images + ?Sized>(dir: &I) -> Result<BTreeSet<String>, Error> {
    let dir = Dir(dir);
    let processes = processes(&dir)?;
    let mut stacks = BTreeMap::new();
    for process in &processes {
        // A zombie has no memory.
        if let Some(mm) = dir.first::<Mm>(&format!("mm-{}.img", process.pid))? {
            stacks.insert(process.pid, mm.mm_start_stack);
        }
    }
    let mut names = BTreeSet::new();
    for process in &processes {
        let stack = stacks.get(&process.pid);
        if stack.is_none() || stack != stacks.get(&process.ppid) {
            continue;
        }
        let pagemap = format!("pagemap-{}.img", process.pid);
        if let Some(head) = dir.first::<PagemapHead>(&pagemap)? {
            names.insert(format!("pages-{}.img", head.pages_id));
        }
    }
    Ok(names)
}
