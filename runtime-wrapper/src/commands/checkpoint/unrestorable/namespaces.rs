//! Finds descendants of init in the host's namespaces.
//!
//! CRIU's dump refuses a process in a namespace that neither init nor CRIU itself is
//! in, and accepts one in CRIU's own. CRIU's restore can't put it there: "Can't restore
//! sub-task in NS" (criu/pstree.c, `prepare_pstree_kobj_ids`). Such a process was
//! started by `exec` or nsenter, and init adopted it when its parent ended. A restored
//! container is in a time namespace that CRIU made, and the `exec` of runc before 1.2
//! doesn't enter it.

use std::fs;
use std::path::PathBuf;

use super::Inspected;
use crate::commands::checkpoint::doubt::Doubt;
use crate::host::procfs;
use cedana_contract::pid::Pid;

/// The namespaces that all processes of a dump must share. Mount and network
/// namespaces may differ, a PID namespace can't be left, and CRIU does not compare
/// cgroup namespaces.
const SHARED: [&str; 4] = ["time", "uts", "ipc", "user"];

pub(super) fn check(container: &Inspected<'_>) -> Option<Doubt> {
    let pids = container.pids();
    let (kind, pid) = outsider(container.container.init, &pids, |pid, kind| {
        // The runtime starts CRIU in our own namespaces.
        let process = procfs::of(pid.unwrap_or_else(Pid::own));
        fs::read_link(process.join("ns").join(kind)).ok()
    })?;
    Some(Doubt::new(
        format!(
            "{} was started from outside of the container and is in the host's {kind} namespace, where CRIU can't restore it",
            container.name(pid)
        ),
        "end it",
    ))
}

/// The first process that shares a namespace with CRIU and not with init.
fn outsider(
    init: Pid,
    pids: &[Pid],
    namespace: impl Fn(Option<Pid>, &str) -> Option<PathBuf>,
) -> Option<(&'static str, Pid)> {
    SHARED.into_iter().find_map(|kind| {
        let criu = namespace(None, kind)?;
        if namespace(Some(init), kind)? == criu {
            return None;
        }
        pids.iter()
            .copied()
            .find(|&pid| namespace(Some(pid), kind).is_some_and(|its| its == criu))
            .map(|pid| (kind, pid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::pid;

    /// Process 3 is in other namespaces of these kinds; `None` is CRIU.
    fn found(kinds: &[&str], inits: &str, third: &str) -> Option<(&'static str, Pid)> {
        outsider(pid(1), &[1, 2, 3].map(pid), |process, kind| {
            Some(PathBuf::from(match process {
                None => "host",
                Some(process) if process == pid(3) && kinds.contains(&kind) => third,
                Some(_) => inits,
            }))
        })
    }

    #[test]
    fn a_process_in_the_hosts_namespace_is_an_outsider() {
        for kind in SHARED {
            assert_eq!(found(&[kind], "own", "host"), Some((kind, pid(3))));
        }
        assert_eq!(found(&["mnt", "net"], "own", "host"), None);
    }

    #[test]
    fn nested_namespaces_are_left_to_the_dump() {
        assert_eq!(found(&SHARED, "own", "nested"), None);
    }

    #[test]
    fn a_container_in_the_hosts_namespaces_has_no_outsider() {
        assert_eq!(found(&SHARED, "host", "host"), None);
        assert_eq!(found(&SHARED, "host", "nested"), None);
    }

    #[test]
    fn missing_namespaces_are_accepted() {
        assert_eq!(outsider(pid(1), &[1, 2].map(pid), |_, _| None), None);
    }
}
