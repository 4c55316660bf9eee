//! The namespaces of a checkpoint's processes.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::images::dir::Dir;
use crate::images::proto::{Ids, Netns};
use crate::images::{Error, Images};

/// A namespace that at least one process is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Namespace {
    /// Its kind.
    pub kind: NamespaceKind,
    /// CRIU's number for it.
    pub id: u32,
    /// Whether CRIU itself was in it. It is then the host's, and a restored process uses
    /// the namespace that the restore runs in.
    pub host: bool,
    /// The key under which a restore must supply it, if the dump left it out.
    pub external: Option<String>,
}

/// The kinds of namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum NamespaceKind {
    Pid,
    Net,
    Ipc,
    Uts,
    Mnt,
    User,
    Cgroup,
    Time,
}

pub(super) fn of<I: Images + ?Sized>(
    dir: &Dir<'_, I>,
    host: Option<&Ids>,
    processes: impl Iterator<Item = [(NamespaceKind, Option<u32>); 8]>,
) -> Result<Vec<Namespace>, Error> {
    let host: BTreeSet<_> = host.into_iter().flat_map(pairs).collect();
    let found: BTreeSet<_> = processes
        .flatten()
        // A missing or zero number means that the kernel has no such namespaces.
        .filter_map(|(kind, id)| Some((kind, id.filter(|id| *id != 0)?)))
        .collect();
    let mut namespaces = Vec::new();
    for (kind, id) in found {
        let external = match kind {
            NamespaceKind::Net => dir
                .first::<Netns>(&format!("netns-{id}.img"))?
                .and_then(|netns| netns.ext_key),
            _ => None,
        };
        namespaces.push(Namespace {
            kind,
            id,
            host: host.contains(&(kind, Some(id))),
            external,
        });
    }
    Ok(namespaces)
}

/// A process's namespaces by kind.
pub(super) fn pairs(ids: &Ids) -> [(NamespaceKind, Option<u32>); 8] {
    use NamespaceKind::*;
    [
        (Pid, ids.pid_ns_id),
        (Net, ids.net_ns_id),
        (Ipc, ids.ipc_ns_id),
        (Uts, ids.uts_ns_id),
        (Mnt, ids.mnt_ns_id),
        (User, ids.user_ns_id),
        (Cgroup, ids.cgroup_ns_id),
        (Time, ids.time_ns_id),
    ]
}
