//! Processes that joined init's family from outside its namespaces.
//!
//! CRIU's dump refuses a process in a namespace that neither init nor CRIU itself
//! is in, and lets one in CRIU's own pass. Its restore can't put it there: "Can't
//! restore sub-task in NS" (criu/pstree.c, `prepare_pstree_kobj_ids`). Such a
//! process was started by `exec` or nsenter and adopted by init when its parent
//! ended. A restored container is in a time namespace that CRIU made, and the
//! `exec` of runc before 1.2 doesn't enter it.

use std::fs;
use std::path::PathBuf;

use super::Seen;
use crate::commands::checkpoint::doubt::Doubt;

/// Those that all processes of a dump must share. Mount and network namespaces
/// may differ, a PID namespace can't be left, and cgroup namespaces are not
/// compared.
const SHARED: [&str; 4] = ["time", "uts", "ipc", "user"];

pub(super) fn look(seen: &Seen<'_>) -> Option<Doubt> {
    let pids = seen.pids();
    let (kind, pid) = outsider(seen.container.init, &pids, |pid, kind| {
        // CRIU is started by the runtime, in our own namespaces.
        let pid = pid.map_or("self".to_owned(), |pid| pid.to_string());
        fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()
    })?;
    Some(Doubt::new(
        format!(
            "{} came into the container from outside and is in the host's {kind} namespace, where CRIU can't put it again",
            seen.name(pid)
        ),
        "end it",
    ))
}

/// The first process that shares a namespace with CRIU and not with init.
fn outsider(
    init: i32,
    pids: &[i32],
    namespace: impl Fn(Option<i32>, &str) -> Option<PathBuf>,
) -> Option<(&'static str, i32)> {
    SHARED.into_iter().find_map(|kind| {
        let crius = namespace(None, kind)?;
        if namespace(Some(init), kind)? == crius {
            return None;
        }
        pids.iter()
            .copied()
            .find(|&pid| namespace(Some(pid), kind).is_some_and(|theirs| theirs == crius))
            .map(|pid| (kind, pid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Process 3 is in other namespaces of these kinds; `None` is CRIU.
    fn found(kinds: &[&str], inits: &str, third: &str) -> Option<(&'static str, i32)> {
        outsider(1, &[1, 2, 3], |pid, kind| {
            Some(PathBuf::from(match pid {
                None => "host",
                Some(3) if kinds.contains(&kind) => third,
                Some(_) => inits,
            }))
        })
    }

    #[test]
    fn one_in_the_hosts_is_an_outsider() {
        for kind in SHARED {
            assert_eq!(found(&[kind], "own", "host"), Some((kind, 3)));
        }
        assert_eq!(found(&["mnt", "net"], "own", "host"), None);
    }

    #[test]
    fn the_dump_refuses_nested_ones_by_itself() {
        assert_eq!(found(&SHARED, "own", "nested"), None);
    }

    #[test]
    fn a_container_that_shares_the_hosts() {
        assert_eq!(found(&SHARED, "host", "host"), None);
        assert_eq!(found(&SHARED, "host", "nested"), None);
    }

    #[test]
    fn what_the_kernel_does_not_have_is_no_doubt() {
        assert_eq!(outsider(1, &[1, 2], |_, _| None), None);
    }
}
