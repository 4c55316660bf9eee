//! What this user may do.

use std::fs;

use super::Machine;
use super::finding::Finding;

/// A capability by its number (linux/capability.h), and what is impossible without it.
struct Capability {
    name: &'static str,
    number: u32,
    /// Whether nothing can be checkpointed without it.
    is_needed: bool,
}

/// CAP_CHECKPOINT_RESTORE is not among them: CAP_SYS_ADMIN includes it (capabilities(7)).
const CAPABILITIES: [Capability; 4] = [
    Capability {
        name: "CAP_SYS_ADMIN",
        number: 21,
        is_needed: true,
    },
    Capability {
        name: "CAP_SYS_PTRACE",
        number: 19,
        is_needed: true,
    },
    Capability {
        name: "CAP_NET_ADMIN",
        number: 12,
        is_needed: true,
    },
    // CRIU reads the limits of processes by it.
    Capability {
        name: "CAP_SYS_RESOURCE",
        number: 24,
        is_needed: false,
    },
];

pub(super) fn capabilities(machine: &Machine) -> Finding {
    const CHECK: &str = "capabilities";
    if !machine.is_root {
        return Finding::hidden(CHECK);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    judged(CHECK, effective(&status).unwrap_or_default())
        .needed_for("the daemon and the engines, which run as root")
}

fn effective(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn judged(check: &'static str, effective: u64) -> Finding {
    let lacking = |needed: bool| -> Vec<&str> {
        CAPABILITIES
            .iter()
            .filter(|capability| capability.is_needed == needed)
            .filter(|capability| effective & (1 << capability.number) == 0)
            .map(|capability| capability.name)
            .collect()
    };
    let (needed, others) = (lacking(true), lacking(false));
    let remedy = "run this, the daemon and the engines outside of a container, or give it these capabilities";
    if !needed.is_empty() {
        return Finding::missing(check, format!("root without {}", needed.join(", ")), remedy);
    }
    match others.is_empty() {
        true => Finding::fit(check, "root with all that are needed"),
        false => Finding::lesser(
            check,
            format!(
                "root without {}: processes of other users can't be dumped",
                others.join(", ")
            ),
            remedy,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn needed_capabilities_are_named() {
        let all = effective("Name:\tx\nCapEff:\t000001ffffffffff\n").expect("a set");
        assert_eq!(judged("x", all).verdict, Verdict::Fit);
        let few = judged("x", all & !(1 << 24));
        assert_eq!(few.verdict, Verdict::Lesser);
        let none = judged("x", 0);
        assert_eq!(none.verdict, Verdict::Missing);
        assert!(
            none.found.contains("CAP_SYS_ADMIN, CAP_SYS_PTRACE"),
            "{}",
            none.found
        );
        assert_eq!(effective("Name: x\n"), None);
    }
}
