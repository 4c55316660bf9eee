//! Processes that joined init's family from outside its namespaces.
//!
//! CRIU's dump refuses a process in a namespace that neither init nor CRIU itself
//! is in, and lets one in CRIU's own pass. Its restore can't put it there: "Can't
//! restore sub-task in NS" (criu/pstree.c, `prepare_pstree_kobj_ids`). Such a
//! process was started by `exec` or nsenter and adopted by init when its parent
//! ended. A restored container is in a time namespace that CRIU made, and the
//! `exec` of runc before 1.2 doesn't enter it.

use std::fs;

use super::{Doubt, Seen};

/// Those that all processes of a dump must share. Mount and network namespaces
/// may differ, a PID namespace can't be left, and cgroup namespaces are not
/// compared.
const SHARED: [&str; 4] = ["time", "uts", "ipc", "user"];

pub(super) fn look(seen: &Seen<'_>) -> Option<Doubt> {
    let init = seen.container.init.to_string();
    let of = |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
    for kind in SHARED {
        let (Some(inits), Some(crius)) = (of(&init, kind), of("self", kind)) else {
            continue;
        };
        if inits == crius {
            continue;
        }
        let outsider = seen
            .pids()
            .into_iter()
            .find(|pid| of(&pid.to_string(), kind).is_some_and(|theirs| theirs == crius));
        if let Some(pid) = outsider {
            return Some(Doubt::new(
                format!(
                    "{} came into the container from outside and is in the host's {kind} namespace, where CRIU can't put it again",
                    seen.name(pid)
                ),
                "end it",
            ));
        }
    }
    None
}
