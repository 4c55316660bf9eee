//! Processes in a session that CRIU can't put them into.
//!
//! A process is born in its parent's session and can only leave it for one of its
//! own. So CRIU restores a process in session S as a descendant of the process
//! that made S (criu/pstree.c, `prepare_pstree_ids`). Init's adopted children are
//! moved there for the time of the restore; those of another subreaper are not:
//! "Can't find a session leader for N". A daemon that forks, makes a session,
//! forks again and lets the one between end (daemon(3)) is such a process, when a
//! supervisor below init has adopted it (`tini -s`, `PR_SET_CHILD_SUBREAPER`).

use std::collections::HashMap;

use crate::commands::checkpoint::doubt::Doubt;
use crate::host::procfs::Stat;

pub(super) fn look(init: i32, processes: &HashMap<i32, Stat>) -> Option<Doubt> {
    let mut lost: Vec<i32> = processes
        .keys()
        .copied()
        .filter(|&pid| !placed(pid, init, processes))
        .collect();
    lost.sort_unstable();
    let pid = *lost.first()?;
    let Stat { name, parent, .. } = &processes[&pid];
    Some(Doubt::new(
        format!(
            "process {pid} ({name}) is in a session that none of its ancestors has made: process {parent} ({}) adopted it as a subreaper, and CRIU can't restore that",
            processes.get(parent).map_or("?", |stat| stat.name.as_str())
        ),
        "run the supervisor as the container's init, or the daemon in the foreground",
    ))
}

/// Whether CRIU finds a place for a process. One of which not enough is known
/// counts as placed.
fn placed(pid: i32, init: i32, processes: &HashMap<i32, Stat>) -> bool {
    let Some(stat) = processes.get(&pid) else {
        return true;
    };
    // Init's own session is where all begin, and CRIU moves init's children.
    if pid == init || stat.parent == init || stat.session == pid || stat.session == 0 {
        return true;
    }
    let mut ancestor = stat.parent;
    // As many steps as there are processes lead out of every loop.
    for _ in 0..processes.len() {
        let Some(stat_of_ancestor) = processes.get(&ancestor) else {
            return true;
        };
        // Born there, or of a parent that is there itself.
        if ancestor == stat.session || stat_of_ancestor.session == stat.session {
            return true;
        }
        if ancestor == init {
            return false;
        }
        // Moved below the process that made its session, or the place of it.
        if stat_of_ancestor.parent == init && stat_of_ancestor.session != ancestor {
            let leader = stat_of_ancestor.session;
            ancestor = match processes.contains_key(&leader) {
                true => leader,
                false => init,
            };
            continue;
        }
        ancestor = stat_of_ancestor.parent;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// PID, parent and session.
    fn tree(processes: &[(i32, i32, i32)]) -> HashMap<i32, Stat> {
        let stat = |&(pid, parent, session): &(i32, i32, i32)| {
            let stat = Stat {
                name: format!("p{pid}"),
                state: 'S',
                parent,
                session,
                threads: 1,
                exit: None,
            };
            (pid, stat)
        };
        processes.iter().map(stat).collect()
    }

    fn lost(processes: &[(i32, i32, i32)]) -> bool {
        look(1, &tree(processes)).is_some()
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
        // A process that made a session after it had a child.
        assert!(!lost(&[(1, 0, 1), (2, 1, 2), (3, 2, 1)]));
        // A child of an adopted one, which made a session of its own since.
        assert!(!lost(&[(1, 0, 1), (6, 1, 99), (7, 6, 7), (8, 7, 99)]));
    }

    #[test]
    fn a_subreaper_below_init_adopts_what_is_lost() {
        // The process that made session 4 has ended; 2 adopted its child.
        assert!(lost(&[(1, 0, 1), (2, 1, 1), (5, 2, 4)]));
        // It lives, elsewhere in the tree.
        assert!(lost(&[(1, 0, 1), (2, 1, 1), (4, 2, 4), (5, 2, 4)]));
        let doubt = look(1, &tree(&[(1, 0, 1), (2, 1, 1), (5, 2, 4), (6, 2, 4)]));
        let text = doubt.expect("lost").to_string();
        assert!(text.contains("5 (p5)") && text.contains("2 (p2)"), "{text}");
    }

    #[test]
    fn what_has_gone_meanwhile_is_no_doubt() {
        assert!(!lost(&[(1, 0, 1), (5, 3, 4)]));
        assert!(!lost(&[]));
    }

    proptest! {
        #[test]
        fn loops_end(tree in proptest::collection::vec((0..6i32, 0..6i32, 0..6i32), 0..6)) {
            let _ = lost(&tree);
        }
    }
}
