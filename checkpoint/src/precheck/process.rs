//! The processes of a checkpoint.

use super::messages::{Core, Inventory, TaskCore, ThreadCore};
use crate::images::dir::Dir;
use crate::images::proto::{Ids, PstreeEntry};
use crate::images::{Error, Images};

/// `TASK_DEAD` and `TASK_ZOMBIE` of CRIU: processes that are restored as zombies and
/// run no code.
const DEAD: [u32; 2] = [2, 6];

/// A process that will run.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) ids: Option<Ids>,
    pub(super) leader: TaskCore,
    /// The leader's first.
    pub(super) threads: Vec<ThreadCore>,
}

/// The processes of a checkpoint, and its inventory.
pub(super) struct Processes {
    pub(super) inventory: Inventory,
    pub(super) tree: Vec<PstreeEntry>,
    /// The first one is init.
    pub(super) living: Vec<Process>,
    /// Zombies. CRIU makes their namespaces, too.
    pub(super) dead: Vec<Process>,
}

impl Processes {
    /// Reads the processes.
    ///
    /// # Errors
    /// An image is missing or damaged.
    pub(super) fn read<I: Images + ?Sized>(dir: &Dir<'_, I>) -> Result<Self, Error> {
        let inventory = dir.first("inventory.img")?.unwrap_or_default();
        let tree: Vec<PstreeEntry> = dir.all("pstree.img")?;
        let (mut living, mut dead) = (Vec::new(), Vec::new());
        for entry in &tree {
            let name = format!("core-{}.img", entry.pid);
            let leader: Option<Core> = dir.first(&name)?;
            let Some(Core {
                tc: Some(task),
                thread_core,
            }) = leader
            else {
                // CRIU can't restore a process without one.
                continue;
            };
            let ids = dir.first(&format!("ids-{}.img", entry.pid))?;
            if DEAD.contains(&task.task_state) {
                dead.push(Process {
                    pid: entry.pid,
                    ids,
                    leader: task,
                    threads: Vec::new(),
                });
                continue;
            }
            let mut threads = vec![thread_core.unwrap_or_default()];
            for thread in entry.threads.iter().filter(|thread| **thread != entry.pid) {
                let core: Option<Core> = dir.first(&format!("core-{thread}.img"))?;
                threads.push(core.and_then(|core| core.thread_core).unwrap_or_default());
            }
            living.push(Process {
                pid: entry.pid,
                ids,
                leader: task,
                threads,
            });
        }
        Ok(Self {
            inventory,
            tree,
            living,
            dead,
        })
    }
}

impl Process {
    /// CRIU's number of its mount namespace.
    pub(super) fn mount_namespace(&self) -> Option<u32> {
        self.ids.as_ref()?.mnt_ns_id
    }
}

impl TaskCore {
    /// Whether the image has the fields by which old versions of CRIU stored filters.
    pub(super) fn old_seccomp(&self) -> bool {
        self.old_seccomp_mode.is_some_and(|mode| mode != 0) || self.old_seccomp_filter.is_some()
    }
}
