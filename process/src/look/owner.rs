//! Whose memory the processes have, when the checkpoint is for an unprivileged user.
//!
//! The images that CRIU writes decide ([`cedana_checkpoint::precheck::check_dumped`]); this
//! tells the user before anything is frozen.

use std::fs;
use std::os::unix::fs::MetadataExt;

use cedana_checkpoint::host::procfs::{self, Stat};
use cedana_contract::pid::Pid;

use crate::obstacle::Obstacle;
use crate::owner::Owner;

/// What of a process is not `owner`'s.
pub(super) fn foreign(pid: Pid, stat: &Stat, owner: &Owner) -> Option<Obstacle> {
    if owner.is_root() || stat.is_dead() {
        return None;
    }
    let status = fs::read_to_string(procfs::of(pid).join("status")).ok()?;
    // The owner of this file is root for memory that is not dumpable (proc(5)).
    let memory = fs::metadata(procfs::of(pid).join("environ")).ok()?;
    let is_protected = memory.uid() != owner.uid;
    let has = differs(&status, owner)
        .or_else(|| is_protected.then(|| "is protected (prctl(2), PR_SET_DUMPABLE)".to_owned()))?;
    Some(Obstacle::Foreign {
        pid,
        name: stat.name.clone(),
        has,
        owner: owner.uid,
    })
}

/// The credentials of /proc/PID/status (proc_pid_status(5)) that are not a user's.
fn differs(status: &str, owner: &Owner) -> Option<String> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let numbers = |name: &str| -> Vec<u32> {
        let words = field(name).unwrap_or_default().split_ascii_whitespace();
        words.filter_map(|word| word.parse().ok()).collect()
    };
    if let Some(uid) = numbers("Uid:").into_iter().find(|uid| *uid != owner.uid) {
        return Some(format!("runs as user {uid}"));
    }
    let is_given = |gid: &u32| *gid == owner.gid || owner.groups.contains(gid);
    let mut groups = numbers("Gid:").into_iter().chain(numbers("Groups:"));
    if let Some(gid) = groups.find(|gid| !is_given(gid)) {
        return Some(format!("is in group {gid}"));
    }
    let has_some = |name: &&str| field(name).is_none_or(|set| set.trim().contains(|c| c != '0'));
    ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"]
        .iter()
        .any(has_some)
        .then(|| "has capabilities".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_others_are_named() {
        let owner = Owner {
            uid: 7,
            gid: 8,
            groups: vec![9],
        };
        let none = "0000000000000000";
        let text = |uids: &str, gids: &str, effective: &str| {
            format!(
                "Uid:\t{uids}\nGid:\t{gids}\nGroups:\t9 8 \nCapInh:\t{none}\nCapPrm:\t{none}\nCapEff:\t{effective}\nCapBnd:\t000001ffffffffff\nCapAmb:\t{none}\n"
            )
        };
        let found = |uids, gids, effective| differs(&text(uids, gids, effective), &owner);
        assert_eq!(found("7\t7\t7\t7", "8\t8\t9\t8", none), None);
        let other = found("7\t7\t0\t7", "8\t8\t8\t8", none).expect("another user");
        assert_eq!(other, "runs as user 0");
        let other = found("7\t7\t7\t7", "8\t0\t8\t8", none).expect("another group");
        assert_eq!(other, "is in group 0");
        assert!(found("7\t7\t7\t7", "8\t8\t8\t8", "0000000000000001").is_some());
        // A file of another form says nothing good.
        assert!(differs("", &owner).is_some());
    }
}
