//! Resource limits, the OOM score and scheduling, which CRIU sets with root's privilege
//! (criu/pie/restorer.c, `restore_rlims` and `restore_sched_info`; criu/cr-restore.c,
//! `prepare_proc_misc`).
//!
//! A process may lower its limits and its priority, and with CAP_SYS_RESOURCE or
//! CAP_SYS_NICE raise them. What the configuration doesn't mention a container inherits
//! from the engine, so it isn't compared.

use std::fs;

use super::capabilities::CapabilitySet;
use super::granted::Granted;
use super::process::Process;
use super::refusal::Refusals;

/// The number of the limit of real-time priorities (`RLIMIT_RTPRIO`).
const RTPRIO: u32 = 14;
/// `SCHED_FIFO` and `SCHED_RR` of sched(7).
const REAL_TIME: [u32; 2] = [1, 2];

/// Checks a process.
pub(super) fn check(process: &Process, granted: &Granted, refusals: &mut Refusals) {
    if !granted.bounding.contains(CapabilitySet::SYS_RESOURCE) {
        resources(process, granted, refusals);
    }
    if !granted.bounding.contains(CapabilitySet::SYS_NICE) {
        scheduling(process, granted, refusals);
    }
}

fn resources(process: &Process, granted: &Granted, refusals: &mut Refusals) {
    let limits = process.leader.rlimits.as_ref().map(|all| &all.rlimits);
    for (resource, hard) in &granted.limits {
        let index = usize::try_from(*resource).unwrap_or(usize::MAX);
        let limit = limits.and_then(|limits| limits.get(index));
        // Without a limit in the image CRIU's own stays.
        let own = limit.map_or(u64::MAX, |limit| limit.hard.max(limit.current));
        if own > *hard {
            refusals.process(
                process,
                &format!("has {own} as the limit of resource {resource}"),
                &format!("the configuration gives {hard}"),
            );
        }
    }
    if let (Some(own), Some(given)) = (process.leader.oom_score_adj, granted.oom_score_adj)
        && own < given
    {
        refusals.process(
            process,
            &format!("has the OOM score adjustment {own}"),
            &format!("the configuration gives {given}"),
        );
    }
}

fn scheduling(process: &Process, granted: &Granted, refusals: &mut Refusals) {
    let may_be_real_time = granted
        .limits
        .iter()
        .any(|(resource, hard)| *resource == RTPRIO && *hard > 0);
    for thread in &process.threads {
        let policy = thread.sched_policy.unwrap_or(0);
        if REAL_TIME.contains(&policy) && !may_be_real_time {
            refusals.process(
                process,
                "is scheduled in real time",
                "the configuration gives no CAP_SYS_NICE",
            );
        }
        let nice = thread.sched_nice.map_or(0, signed);
        if nice < 0 && nice < own_nice() {
            refusals.process(
                process,
                &format!("has the nice value {nice}"),
                "the configuration gives no CAP_SYS_NICE",
            );
        }
    }
}

/// Decodes a zigzag-encoded number.
fn signed(zigzag: u32) -> i32 {
    (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed()
}

/// The nice value that a new container would inherit: field 19 of proc_pid_stat(5).
fn own_nice() -> i32 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let nice = rest.split_ascii_whitespace().nth(16);
    nice.and_then(|nice| nice.parse().ok()).unwrap_or(0)
}
