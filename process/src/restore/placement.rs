//! Whether the processes can come back under their own IDs.

use std::fs;

use cedana_checkpoint::host::{process_tree, procfs};
use cedana_checkpoint::images::Ids;

use cedana_contract::pid::Pid;

/// Refuses IDs that are taken. CRIU restores a process under the PID that it had.
pub(super) fn check_free(ids: &Ids) -> Result<(), String> {
    let all = ids.processes.iter().chain(&ids.threads);
    let taken = all.filter(|id| procfs::of_thread(**id).exists());
    match taken.min() {
        None => Ok(()),
        Some(id) => Err(format!(
            "its process ID {id} is taken by another process{}; end that process, or restore it in a namespace of its own",
            name_of(*id)
        )),
    }
}

/// The PID, here, of a process in the namespace of this keeper.
pub(super) fn outside(inside: Pid, keeper: Pid) -> Option<Pid> {
    let status = |pid: Pid| fs::read_to_string(procfs::of(pid).join("status"));
    process_tree::pids(keeper).into_iter().find(|pid| {
        let status = status(*pid).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let last = line.and_then(|line| line.split_ascii_whitespace().last()?.parse().ok());
        last == Some(inside)
    })
}

fn name_of(id: u32) -> String {
    let path = procfs::of_thread(id).join("comm");
    match std::fs::read_to_string(path) {
        Ok(name) => format!(" ({})", name.trim_end()),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_ids_are_named() {
        let ids = |processes: &[u32], threads: &[u32]| Ids {
            processes: processes.to_vec(),
            threads: threads.to_vec(),
        };
        check_free(&ids(&[u32::MAX], &[])).expect("free");
        let own = std::process::id();
        for taken in [ids(&[own], &[]), ids(&[u32::MAX], &[own])] {
            let why = check_free(&taken).expect_err("taken");
            assert!(why.contains(&own.to_string()), "{why}");
        }
    }
}
