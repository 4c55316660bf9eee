use std::collections::HashMap;

use super::*;
use crate::host::procfs::Stat;

fn stats(pairs: &[(i32, i32)]) -> HashMap<i32, Stat> {
    pairs
        .iter()
        .map(|&(pid, parent)| {
            let stat = Stat {
                name: "x".to_owned(),
                state: 'S',
                parent,
                session: pid,
                threads: 1,
                exit: None,
            };
            (pid, stat)
        })
        .collect()
}

#[test]
fn exec_sessions_are_no_descendants() {
    let stats = stats(&[(10, 1), (11, 10), (12, 11), (20, 5), (21, 20)]);
    for pid in [10, 11, 12] {
        assert!(descends(pid, 10, &stats));
    }
    for pid in [20, 21] {
        assert!(!descends(pid, 10, &stats));
    }
}

#[test]
fn reused_ids_cannot_loop() {
    assert!(!descends(1, 9, &stats(&[(1, 2), (2, 1)])));
}

#[test]
fn versions_of_runc() {
    assert_eq!(
        runc_version("runc version 1.3.6\nspec: 1.2.1\n"),
        Some((1, 3))
    );
    assert_eq!(runc_version("runc version 1.1.15+ds1\n"), Some((1, 1)));
    assert_eq!(runc_version("runc version 1.2.0-rc.1+dev\n"), Some((1, 2)));
    assert_eq!(runc_version("runc version unknown\n"), None);
    assert_eq!(runc_version(""), None);
}
