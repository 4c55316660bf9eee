//! A pids limit that leaves CRIU no room.
//!
//! runc restores from within the container's cgroup: CRIU, its cgroup daemon
//! (criu/cgroup.c, `cgroupd`) and for a moment a helper that sets mounts right
//! (criu/mount.c, `call_helper_process`) count against the container's limit
//! beside the processes that CRIU forks. Threads come last, when the helper has
//! ended. crun restores from outside.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::Seen;
use crate::commands::checkpoint::doubt::Doubt;

/// CRIU and its cgroup daemon.
const CRIU: u64 = 2;
/// The helper.
const HELPER: u64 = 1;

pub(super) fn look(seen: &Seen<'_>) -> Option<Doubt> {
    let limit = limit(seen.spec)?;
    let processes = seen.processes.len() as u64;
    let threads = seen.processes.values().map(|s| u64::from(s.threads)).sum();
    let needed = needed(processes, threads);
    if needed <= limit {
        return None;
    }
    // A limit raised by an update applies to the next start.
    if current(seen).is_none_or(|current| current > limit) {
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

/// The limit that the next start has. 0 and below stand for none.
fn limit(spec: &Value) -> Option<u64> {
    let limit = spec.pointer("/linux/resources/pids/limit")?.as_i64()?;
    u64::try_from(limit).ok().filter(|limit| *limit > 0)
}

/// The limit that is in force; nothing if there is none or it can't be read.
fn current(seen: &Seen<'_>) -> Option<u64> {
    let membership = fs::read_to_string(format!("/proc/{}/cgroup", seen.container.init)).ok()?;
    let max = fs::read_to_string(directory(&membership)?.join("pids.max")).ok()?;
    max.trim().parse().ok()
}

/// The directory of the pids controller, of either version, by /proc/PID/cgroup
/// (cgroups(7)).
fn directory(membership: &str) -> Option<PathBuf> {
    let of = |wanted: &str| {
        membership.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let controllers = fields.next()?;
            let path = fields.next()?;
            controllers
                .split(',')
                .any(|name| name == wanted)
                .then(|| path.trim_start_matches('/'))
        })
    };
    if let Some(path) = of("pids") {
        return Some(PathBuf::from("/sys/fs/cgroup/pids").join(path));
    }
    Some(PathBuf::from("/sys/fs/cgroup").join(of("")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_helper_is_gone_when_threads_come() {
        assert_eq!(needed(20, 20), 23);
        assert_eq!(needed(1, 20), 22);
        assert_eq!(needed(19, 20), 22);
    }

    #[test]
    fn limits_of_a_specification() {
        let spec = |limit: Value| json!({"linux": {"resources": {"pids": {"limit": limit}}}});
        assert_eq!(limit(&spec(json!(20))), Some(20));
        for none in [json!(0), json!(-1), json!(null), json!("20")] {
            assert_eq!(limit(&spec(none)), None);
        }
        assert_eq!(limit(&json!({})), None);
        assert_eq!(limit(&Value::Null), None);
    }

    #[test]
    fn both_cgroup_versions() {
        assert_eq!(
            directory("4:pids:/docker/a\n1:cpu,cpuacct:/x\n0::/y\n"),
            Some("/sys/fs/cgroup/pids/docker/a".into())
        );
        assert_eq!(directory("0::/a:b\n"), Some("/sys/fs/cgroup/a:b".into()));
        assert_eq!(directory(""), None);
    }
}
