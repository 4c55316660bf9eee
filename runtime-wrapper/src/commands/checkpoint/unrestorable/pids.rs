//! Finds a pids limit that is too low for CRIU's restore.
//!
//! runc restores from within the container's cgroup. CRIU, its cgroup daemon
//! (criu/cgroup.c, `cgroupd`) and for a moment a helper for mounts (criu/mount.c,
//! `call_helper_process`) count against the container's limit, in addition to the
//! processes that CRIU forks. Threads are made last, when the helper has ended. crun
//! restores from outside.

use serde_json::Value;

use super::Inspected;
use crate::commands::checkpoint::doubt::Doubt;
use crate::host::cgroup;

/// CRIU and its cgroup daemon.
const CRIU: u64 = 2;
/// The helper.
const HELPER: u64 = 1;

pub(super) fn check(container: &Inspected<'_>) -> Option<Doubt> {
    let limit = limit(container.spec)?;
    let processes = container.processes.len() as u64;
    let threads = container
        .processes
        .values()
        .map(|s| u64::from(s.threads))
        .sum();
    let needed = needed(processes, threads);
    if needed <= limit {
        return None;
    }
    // A limit raised by an update applies to the next start.
    if cgroup::pids_limit(container.container.init).is_none_or(|current| current > limit) {
        return None;
    }
    Some(Doubt::new(
        format!(
            "the container has {threads} processes and threads and may have {limit} (its pids limit), and CRIU needs room for {needed} to restore it"
        ),
        "raise the limit",
    ))
}

fn needed(processes: u64, threads: u64) -> u64 {
    (processes + CRIU + HELPER).max(threads + CRIU)
}

/// The limit of the next start, `None` if it is 0 or negative.
fn limit(spec: &Value) -> Option<u64> {
    let limit = spec.pointer("/linux/resources/pids/limit")?.as_i64()?;
    u64::try_from(limit).ok().filter(|limit| *limit > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_helper_has_ended_when_threads_are_made() {
        assert_eq!(needed(20, 20), 23);
        assert_eq!(needed(1, 20), 22);
        assert_eq!(needed(19, 20), 22);
    }

    #[test]
    fn only_positive_numbers_are_limits() {
        let spec = |limit: Value| json!({"linux": {"resources": {"pids": {"limit": limit}}}});
        assert_eq!(limit(&spec(json!(20))), Some(20));
        for none in [json!(0), json!(-1), json!(null), json!("20")] {
            assert_eq!(limit(&spec(none)), None);
        }
        assert_eq!(limit(&json!({})), None);
        assert_eq!(limit(&Value::Null), None);
    }
}
