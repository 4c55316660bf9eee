//! The namespaces of processes.
//!
//! CRIU numbers the namespaces that it finds (ids-N.img). A process with the number
//! that CRIU's own process had (`root_ids` of the inventory) is restored into CRIU's
//! namespace, which is the host's (criu/pstree.c, `get_clone_mask`). So init has
//! another number than CRIU for exactly the kinds that the configuration lists, and
//! every other process has init's.
//!
//! Exceptions:
//! - a process may have a mount or a network namespace of its own within the
//!   container's, which it can only have made with CAP_SYS_ADMIN;
//! - the time namespace is left out: CRIU restores every container in a new one;
//! - a cgroup namespace is not in the mask. cgroup.img says which one CRIU makes.

use super::capabilities::CapabilitySet;
use super::granted::Granted;
use super::granted::Namespace;
use super::messages::File;
use super::process::{Process, Processes};
use super::refusal::Refusals;
use crate::images::proto::Ids;

/// The kinds that CRIU restores by number.
const NUMBERED: [Namespace; 6] = [
    Namespace::Pid,
    Namespace::Network,
    Namespace::Ipc,
    Namespace::Uts,
    Namespace::Mount,
    Namespace::User,
];

/// Checks all processes.
pub(super) fn check(processes: &Processes, granted: &Granted, refusals: &mut Refusals) {
    let Some(host) = &processes.inventory.root_ids else {
        return refusals.checkpoint(
            "has no numbers of the host's namespaces",
            "CRIU writes them",
        );
    };
    let Some((init, others)) = processes.living.split_first() else {
        return refusals.checkpoint("has no process that runs", "a container has one");
    };
    for kind in NUMBERED {
        let (own, criu) = (number(init.ids.as_ref(), kind), number(Some(host), kind));
        let listed = granted.namespaces.contains(&kind);
        match own == criu {
            true if listed => refusals.process(
                init,
                &format!("is in the host's {kind} namespace"),
                "the configuration gives the container another",
            ),
            false if !listed => refusals.process(
                init,
                &format!("is in a {kind} namespace of its own"),
                "the configuration gives it the host's",
            ),
            _ => {}
        }
        for process in others.iter().chain(&processes.dead) {
            nested(process, kind, own, granted, refusals);
        }
    }
}

fn nested(
    process: &Process,
    kind: Namespace,
    container: Option<u32>,
    granted: &Granted,
    refusals: &mut Refusals,
) {
    // CRIU gives a process without an image its parent's namespaces.
    let Some(ids) = &process.ids else { return };
    if number(Some(ids), kind) == container {
        return;
    }
    let may_nest = matches!(kind, Namespace::Mount | Namespace::Network)
        && granted.namespaces.contains(&kind)
        && granted.bounding.contains(CapabilitySet::SYS_ADMIN);
    if !may_nest {
        refusals.process(
            process,
            &format!("is in another {kind} namespace than init"),
            "the configuration gives the container one",
        );
    }
}

/// Checks descriptors of namespaces: one of the host's would let the process enter it.
pub(super) fn check_file(
    file: &File,
    processes: &Processes,
    granted: &Granted,
    refusals: &mut Refusals,
) {
    let (Some(descriptor), Some(host)) = (&file.nsf, &processes.inventory.root_ids) else {
        return;
    };
    let kind = NUMBERED
        .into_iter()
        .find(|kind| number(Some(host), *kind) == Some(descriptor.ns_id));
    if let Some(kind) = kind
        && granted.namespaces.contains(&kind)
    {
        refusals.checkpoint(
            &format!("has the host's {kind} namespace open"),
            "the configuration gives the container another",
        );
    }
}

/// CRIU's number of a process's namespace; 0 counts as none.
fn number(ids: Option<&Ids>, kind: Namespace) -> Option<u32> {
    let ids = ids?;
    let number = match kind {
        Namespace::Pid => ids.pid_ns_id,
        Namespace::Network => ids.net_ns_id,
        Namespace::Ipc => ids.ipc_ns_id,
        Namespace::Uts => ids.uts_ns_id,
        Namespace::Mount => ids.mnt_ns_id,
        Namespace::User => ids.user_ns_id,
        Namespace::Cgroup => ids.cgroup_ns_id,
    };
    number.filter(|number| *number != 0)
}
