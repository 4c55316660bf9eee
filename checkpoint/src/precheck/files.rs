//! Images, numbers and descriptors that no container of this configuration has.

use std::fs;

use super::capabilities::CapabilitySet;
use super::granted::Granted;
use super::granted::{Mapping, Namespace};
use super::messages::{Extent, File, Ghost, Userns};
use super::process::Processes;
use super::refusal::Refusals;
use crate::images::Error;
use crate::images::dir::{Dir, number};

/// Images whose restore changes the host, and that the containers of runtimes don't
/// have: profiles of AppArmor namespaces (criu/apparmor.c), automounts, and
/// interpreters of binaries.
const HOSTS: [&str; 3] = ["apparmor.img", "autofs-", "binfmt-misc"];

/// Images of firewall rules.
const RULES: [&str; 3] = ["iptables-", "ip6tables-", "nftables-"];

/// Images of CRIU before 3.0, which CRIU still reads in place of those that are compared.
const OLD: [&str; 6] = [
    "creds-",
    "rlimit-",
    "vmas-",
    "reg-files.img",
    "ns-files.img",
    "unixsk.img",
];

/// The most descriptors that a runtime keeps of a container: its standard streams.
const STREAMS: usize = 3;

// File types and modes of stat(2).
const S_IFMT: u32 = 0o170_000;
const S_IFIFO: u32 = 0o010_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFBLK: u32 = 0o060_000;
const S_IFREG: u32 = 0o100_000;
/// Set-user-ID and set-group-ID.
const SET_ID: u32 = 0o6_000;

/// The kind of a raw socket (`SOCK_RAW`).
const RAW: u32 = 3;

/// The largest process ID that a kernel can have (`PID_MAX_LIMIT`).
const PID_MAX_LIMIT: u32 = 1 << 22;

/// Checks the images by their names.
///
/// # Errors
/// The directory can't be read.
pub(super) fn check_names(dir: &Dir<'_>, refusals: &mut Refusals) -> Result<(), Error> {
    for name in dir.names()? {
        let is_one_of = |names: &[&str]| names.iter().any(|known| name.starts_with(known));
        if is_one_of(&RULES) && names_program(dir, &name)? {
            refusals.checkpoint(
                &format!("has firewall rules in {name} that name a file of the host"),
                "CRIU writes none",
            );
        }
        if is_one_of(&HOSTS) {
            refusals.checkpoint(
                &format!("has {name}, whose restore changes the host"),
                "no container has it",
            );
        } else if is_one_of(&OLD) {
            refusals.checkpoint(
                &format!("has {name} of an old version of CRIU"),
                "current ones store it elsewhere",
            );
        }
    }
    descriptors(dir, refusals);
    Ok(())
}

/// Checks the deleted files that CRIU makes again as root: no link, which CRIU would
/// follow, and no device or set-user-ID program that the container could not have made.
///
/// # Errors
/// An image can't be read.
pub(super) fn check_ghosts(
    dir: &Dir<'_>,
    granted: &Granted,
    refusals: &mut Refusals,
) -> Result<(), Error> {
    for name in dir.names()? {
        if number::<u32>(&name, "ghost-file-").is_none() {
            continue;
        }
        let ghost: Ghost = dir.first(&name)?.unwrap_or_default();
        let may_make = match ghost.mode & S_IFMT {
            S_IFREG | S_IFDIR | S_IFIFO => true,
            S_IFCHR | S_IFBLK => granted.bounding.contains(CapabilitySet::MKNOD),
            _ => false,
        };
        let is_root = granted.user.uid == 0;
        if !may_make || (ghost.mode & SET_ID != 0 && !is_root) {
            refusals.checkpoint(
                &format!("has the deleted file {name} of mode {:o}", ghost.mode),
                "the container could not have made it",
            );
        }
    }
    Ok(())
}

/// Whether firewall rules, which CRIU hands to a program of the host, name another one
/// or a file (iptables-restore(8), `--modprobe`; nft(8), `include`).
fn names_program(dir: &Dir<'_>, name: &str) -> Result<bool, Error> {
    let path = dir.0.join(name);
    let rules = fs::read(&path).map_err(|source| Error::File { file: path, source })?;
    let words: [&[u8]; 2] = [b"modprobe", b"include"];
    Ok(words
        .iter()
        .any(|word| rules.windows(word.len()).any(|part| part == *word)))
}

/// Checks runc's and crun's list of the standard streams' names. They give CRIU as many
/// of their own descriptors as the list has names.
fn descriptors(dir: &Dir<'_>, refusals: &mut Refusals) {
    let Ok(text) = fs::read(dir.0.join("descriptors.json")) else {
        return;
    };
    let names: Option<Vec<String>> = serde_json::from_slice(&text).ok();
    if names.is_none_or(|names| names.len() > STREAMS) {
        refusals.checkpoint(
            "has no list of three names in descriptors.json",
            "a runtime keeps a container's standard streams",
        );
    }
}

/// Checks process IDs and the name of CRIU's run.
pub(super) fn check_numbers(processes: &Processes, refusals: &mut Refusals) {
    // CRIU raises the host's kernel.pid_max for a larger one (criu/pstree.c,
    // `prepare_pstree`).
    let largest = fs::read_to_string("/proc/sys/kernel/pid_max")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(PID_MAX_LIMIT);
    let ids = processes.tree.iter().flat_map(|entry| {
        // CRIU doesn't set the thread of a zombie (criu/cr-dump.c, `dump_zombies`), writes
        // what the memory had before, and reads it for living processes only.
        let is_dead = processes.dead.iter().any(|dead| dead.pid == entry.pid);
        let threads = entry.threads.iter().filter(move |_| !is_dead);
        [entry.pid, entry.pgid, entry.sid]
            .into_iter()
            .chain(threads.copied())
    });
    if let Some(id) = ids.into_iter().find(|id| *id > largest) {
        refusals.checkpoint(
            &format!("has the process ID {id}"),
            &format!("this machine's kernel.pid_max is {largest}"),
        );
    }
    // CRIU makes a command of nft out of it (criu/netfilter.c).
    let is_run = |id: &String| id.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    if !processes.inventory.dump_criu_run_id.iter().all(is_run) {
        refusals.checkpoint("has no UUID of CRIU's run", "CRIU writes one");
    }
}

/// Checks the mappings of the container's user namespace, which CRIU writes as root.
///
/// # Errors
/// The image is damaged.
pub(super) fn check_mappings(
    dir: &Dir<'_>,
    processes: &Processes,
    granted: &Granted,
    refusals: &mut Refusals,
) -> Result<(), Error> {
    // One that the container joins has mappings of its own already.
    if !granted.namespaces.contains(&Namespace::User) || granted.joins_user_namespace {
        return Ok(());
    }
    let own = processes
        .living
        .first()
        .and_then(|init| init.ids.as_ref()?.user_ns_id);
    for name in dir.names()? {
        let Some(id) = number::<u32>(&name, "userns-") else {
            continue;
        };
        let image: Userns = dir.first(&name)?.unwrap_or_default();
        let is_same = |image: &[Extent], given: &[Mapping]| {
            let mut image: Vec<Mapping> = image.iter().map(Extent::mapping).collect();
            let mut given = given.to_owned();
            image.sort_unstable();
            given.sort_unstable();
            image == given
        };
        let (users, groups) = (&granted.mappings.users, &granted.mappings.groups);
        if Some(id) != own || !is_same(&image.uid_map, users) || !is_same(&image.gid_map, groups) {
            refusals.checkpoint(
                "has other mappings of user or group IDs",
                "the configuration's apply",
            );
        }
    }
    Ok(())
}

impl Extent {
    fn mapping(&self) -> Mapping {
        Mapping {
            inside: self.first,
            outside: self.lower_first,
            count: self.count,
        }
    }
}

/// Checks a descriptor that CRIU makes with its own capabilities.
pub(super) fn check_descriptor(file: &File, granted: &Granted, refusals: &mut Refusals) {
    let is_raw = file.isk.as_ref().is_some_and(|socket| socket.kind == RAW);
    let needs = if file.psk.is_some() || is_raw {
        ("a raw socket", CapabilitySet::NET_RAW)
    } else if file.tunf.is_some() {
        ("a tun device", CapabilitySet::NET_ADMIN)
    } else if file.ffy.is_some() {
        ("a fanotify group", CapabilitySet::SYS_ADMIN)
    } else if file.bpf.is_some() && !granted.bounding.contains(CapabilitySet::SYS_ADMIN) {
        ("a BPF map", CapabilitySet::BPF)
    } else {
        return;
    };
    let (what, capability) = needs;
    if !granted.bounding.contains(capability) {
        refusals.checkpoint(
            &format!("has {what} open"),
            &format!("the configuration gives no {capability}"),
        );
    }
}
