//! Finds processes in a session that CRIU can't restore them into.
//!
//! A process starts in its parent's session and can only leave it for a new one. So
//! CRIU restores a process in session S as a descendant of S's leader (criu/pstree.c,
//! `prepare_pstree_ids`). CRIU moves children that init adopted there during the
//! restore, but not those that another subreaper adopted: "Can't find a session leader
//! for N". An example is a daemon that forks, makes a session, forks again and lets the
//! process in between exit (daemon(3)), if a supervisor below init has adopted it
//! (`tini -s`, `PR_SET_CHILD_SUBREAPER`).

use std::collections::HashMap;

use crate::commands::checkpoint::doubt::Doubt;
use crate::host::procfs::Stat;
use cedana_contract::pid::Pid;

pub(super) fn check(init: Pid, processes: &HashMap<Pid, Stat>) -> Option<Doubt> {
    let mut lost: Vec<Pid> = processes
        .keys()
        .copied()
        .filter(|&pid| !has_place(pid, init, processes))
        .collect();
    lost.sort_unstable();
    let pid = *lost.first()?;
    let Stat { name, parent, .. } = &processes[&pid];
    let parent = (*parent)?;
    Some(Doubt::new(
        format!(
            "process {pid} ({name}) is in a session whose leader is none of its ancestors: process {parent} ({}) adopted it as a subreaper, and CRIU can't restore that",
            processes
                .get(&parent)
                .map_or("?", |stat| stat.name.as_str())
        ),
        "run the supervisor as the container's init, or the daemon in the foreground",
    ))
}

/// Whether CRIU can restore a process into its session; true if too little is known.
fn has_place(pid: Pid, init: Pid, processes: &HashMap<Pid, Stat>) -> bool {
    let Some(stat) = processes.get(&pid) else {
        return true;
    };
    // Every process starts in init's session, and CRIU moves init's children.
    let (Some(mut ancestor), Some(session)) = (stat.parent, stat.session) else {
        return true;
    };
    if pid == init || ancestor == init || session == pid {
        return true;
    }
    // The number of steps is limited in case of a loop.
    for _ in 0..processes.len() {
        let Some(stat_of_ancestor) = processes.get(&ancestor) else {
            return true;
        };
        // Its session's leader, or a process that is in the session itself.
        if ancestor == session || stat_of_ancestor.session == Some(session) {
            return true;
        }
        if ancestor == init {
            return false;
        }
        // CRIU moves it below its session's leader, or below init without a leader.
        let Some(parent) = stat_of_ancestor.parent else {
            return true;
        };
        ancestor = match stat_of_ancestor.session {
            leader if parent != init || leader == Some(ancestor) => parent,
            Some(leader) if processes.contains_key(&leader) => leader,
            _ => init,
        };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::pid;
    use proptest::prelude::*;

    /// PID, parent and session.
    fn tree(processes: &[(i32, i32, i32)]) -> HashMap<Pid, Stat> {
        let stat = |&(number, parent, session): &(i32, i32, i32)| {
            let stat = Stat {
                name: format!("p{number}"),
                state: 'S',
                parent: parent.try_into().ok(),
                session: session.try_into().ok(),
                threads: 1,
                exit: None,
            };
            (pid(number), stat)
        };
        processes.iter().map(stat).collect()
    }

    fn lost(processes: &[(i32, i32, i32)]) -> bool {
        check(pid(1), &tree(processes)).is_some()
    }

    #[test]
    fn ordinary_trees_are_restored() {
        // A shell with a job, a session below it, and a daemon that init adopted.
        assert!(!lost(&[
            (1, 0, 1),
            (2, 1, 1),
            (3, 2, 1),
            (4, 2, 4),
            (5, 4, 4),
            (6, 1, 99)
        ]));
        // Init adopted a child of a session that is still there.
        assert!(!lost(&[(1, 0, 1), (4, 1, 4), (5, 1, 4), (6, 5, 4)]));
        // A process that made a session after it forked a child.
        assert!(!lost(&[(1, 0, 1), (2, 1, 2), (3, 2, 1)]));
        // A child of an adopted process that made a session of its own.
        assert!(!lost(&[(1, 0, 1), (6, 1, 99), (7, 6, 7), (8, 7, 99)]));
    }

    #[test]
    fn children_adopted_by_a_subreaper_below_init_are_lost() {
        // The process that made session 4 has ended; 2 adopted its child.
        assert!(lost(&[(1, 0, 1), (2, 1, 1), (5, 2, 4)]));
        // It runs elsewhere in the tree.
        assert!(lost(&[(1, 0, 1), (2, 1, 1), (4, 2, 4), (5, 2, 4)]));
        let doubt = check(pid(1), &tree(&[(1, 0, 1), (2, 1, 1), (5, 2, 4), (6, 2, 4)]));
        let text = doubt.expect("lost").to_string();
        assert!(text.contains("5 (p5)") && text.contains("2 (p2)"), "{text}");
    }

    #[test]
    fn ended_processes_are_accepted() {
        assert!(!lost(&[(1, 0, 1), (5, 3, 4)]));
        assert!(!lost(&[]));
    }

    proptest! {
        #[test]
        fn loops_end(tree in proptest::collection::vec((1..7i32, 0..7i32, 0..7i32), 0..6)) {
            let _ = lost(&tree);
        }
    }
}
