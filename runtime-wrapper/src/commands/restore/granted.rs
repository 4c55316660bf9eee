//! What a bundle's configuration gives its container, as the precheck compares it with a
//! checkpoint.
//!
//! Read without oci-spec's types, as everywhere here: a field that is unknown or has an
//! unexpected value gives nothing, so the check is stricter then, and never wrong.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cedana_checkpoint::criu::config::ExternalMount;
use cedana_checkpoint::precheck::{
    CapabilitySet, Granted, Mapping, Mappings, MountEntry, Mounts, Namespace, NestedMount, User,
};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::statvfs::statvfs;
use serde_json::Value;

use crate::host::{mountinfo, procfs};
use crate::oci::spec::is_bind;

/// Devices that runc binds into a container with a user namespace, in which it can't
/// make them (libcontainer/specconv, `AllowedDevices`).
const DEFAULT_DEVICES: [&str; 6] = [
    "/dev/null",
    "/dev/random",
    "/dev/full",
    "/dev/tty",
    "/dev/zero",
    "/dev/urandom",
];

/// `MS_RDONLY` of mount(2).
const READ_ONLY: u32 = 1;

/// Names of resource limits, by the kernel's numbers (getrlimit(2)).
const LIMITS: [&str; 16] = [
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];

/// What `spec` gives the container of `bundle`, in whose root CRIU also mounts `nested`.
pub(super) fn granted(spec: &Value, bundle: &Path, nested: &[ExternalMount]) -> Granted {
    let process = &spec["process"];
    let user = user(&process["user"]);
    let capabilities = &process["capabilities"];
    let bounding = capability_set(&capabilities["bounding"]);
    let no_new_privileges = process["noNewPrivileges"] == true;
    Granted {
        // The program of user 0 has the bounding set after its exec, any other the
        // ambient one (capabilities(7)).
        permitted: match (user.uid, no_new_privileges) {
            (0, false) => bounding,
            (0, true) => capability_set(&capabilities["permitted"]),
            _ => capability_set(&capabilities["ambient"]),
        },
        bounding,
        user,
        no_new_privileges,
        seccomp: has_seccomp(&spec["linux"]["seccomp"]),
        label: label(process),
        namespaces: namespaces(spec),
        joins_user_namespace: array(&spec["linux"]["namespaces"]).any(|namespace| {
            let path = namespace["path"].as_str().unwrap_or_default();
            namespace["type"] == "user" && !path.is_empty()
        }),
        mappings: Mappings {
            users: mappings(&spec["linux"]["uidMappings"]),
            groups: mappings(&spec["linux"]["gidMappings"]),
        },
        limits: limits(process),
        oom_score_adj: process["oomScoreAdj"]
            .as_i64()
            .and_then(|value| value.try_into().ok()),
        mounts: mounts(spec, bundle, nested),
    }
}

fn user(user: &Value) -> User {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    User {
        uid: id(&user["uid"]).unwrap_or_default(),
        gid: id(&user["gid"]).unwrap_or_default(),
        groups: array(&user["additionalGids"]).filter_map(id).collect(),
    }
}

fn capability_set(names: &Value) -> CapabilitySet {
    CapabilitySet::named(array(names).filter_map(Value::as_str))
}

/// Whether a runtime makes a filter: runc makes none that allows everything
/// (libcontainer/specconv, `SetupSeccomp`).
fn has_seccomp(seccomp: &Value) -> bool {
    let allows = matches!(
        seccomp["defaultAction"].as_str(),
        None | Some("SCMP_ACT_ALLOW")
    );
    seccomp.is_object() && !(allows && array(&seccomp["syscalls"]).next().is_none())
}

/// The label that a security module of this machine enforces.
fn label(process: &Value) -> Option<String> {
    let named = |key: &str| {
        let label = process[key].as_str().filter(|label| !label.is_empty());
        label.filter(|label| *label != "unconfined")
    };
    let has_apparmor = || {
        // As runc finds out, and CRIU.
        Path::new("/sys/kernel/security/apparmor").exists()
            && fs::read_to_string("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|enabled| enabled.starts_with('Y'))
    };
    let has_selinux = || Path::new("/sys/fs/selinux/enforce").exists();
    let apparmor = named("apparmorProfile").filter(|_| has_apparmor());
    let label = apparmor.or_else(|| named("selinuxLabel").filter(|_| has_selinux()));
    label.map(str::to_owned)
}

fn namespaces(spec: &Value) -> BTreeSet<Namespace> {
    let listed = array(&spec["linux"]["namespaces"]);
    let kinds = listed.filter_map(|namespace| {
        Some(match namespace["type"].as_str()? {
            "cgroup" => Namespace::Cgroup,
            "ipc" => Namespace::Ipc,
            "mount" => Namespace::Mount,
            "network" => Namespace::Network,
            "pid" => Namespace::Pid,
            "user" => Namespace::User,
            "uts" => Namespace::Uts,
            _ => return None,
        })
    });
    kinds.collect()
}

fn mappings(mappings: &Value) -> Vec<Mapping> {
    let number = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let mapping = |mapping: &Value| {
        Some(Mapping {
            inside: number(&mapping["containerID"])?,
            outside: number(&mapping["hostID"])?,
            count: number(&mapping["size"])?,
        })
    };
    array(mappings).filter_map(mapping).collect()
}

fn limits(process: &Value) -> Vec<(u32, u64)> {
    let limit = |limit: &Value| {
        let name = limit["type"].as_str()?;
        let number = LIMITS.iter().position(|known| *known == name)?;
        Some((u32::try_from(number).ok()?, limit["hard"].as_u64()?))
    };
    array(&process["rlimits"]).filter_map(limit).collect()
}

fn mounts(spec: &Value, bundle: &Path, nested: &[ExternalMount]) -> Mounts {
    let root = spec["root"]["path"].as_str().unwrap_or("rootfs");
    let root = bundle.join(root);
    let paths = |value: &Value| -> Vec<String> {
        array(value)
            .filter_map(Value::as_str)
            .map(|path| within(&root, path))
            .collect()
    };
    let linux = &spec["linux"];
    let mut devices: Vec<String> = array(&linux["devices"])
        .filter_map(|device| device["path"].as_str())
        .map(str::to_owned)
        .collect();
    devices.extend(DEFAULT_DEVICES.map(str::to_owned));
    let entries: Vec<MountEntry> = array(&spec["mounts"])
        .filter_map(|mount| entry(mount, bundle, &root))
        .collect();
    Mounts {
        read_only_root: spec["root"]["readonly"] == true,
        masked: paths(&linux["maskedPaths"]),
        read_only: paths(&linux["readonlyPaths"]),
        terminal: spec["process"]["terminal"] == true,
        devices,
        nested: nested
            .iter()
            .map(|mount| nested_mount(mount, &entries))
            .collect(),
        entries,
        root,
    }
}

fn entry(mount: &Value, bundle: &Path, root: &Path) -> Option<MountEntry> {
    let destination = within(root, mount["destination"].as_str()?);
    let source = || -> Option<PathBuf> {
        let source = bundle.join(mount["source"].as_str()?);
        // A restore is given the target of a link.
        Some(source.canonicalize().unwrap_or(source))
    };
    let bind = is_bind(mount);
    let source = bind.then(source).flatten();
    let options = || array(&mount["options"]).filter_map(Value::as_str);
    let hosts = source.as_deref().map_or(0, flags_of);
    Some(MountEntry {
        destination,
        kind: match bind {
            true => "bind".to_owned(),
            false => mount["type"].as_str().unwrap_or_default().to_owned(),
        },
        source,
        // A bind mount of a read-only mount is read-only.
        flags: flags(options()) | hosts & READ_ONLY,
        layers: options().map(str::to_owned).collect(),
    })
}

/// A mount below a recursive bind mount has the flags that it has on the host. What is
/// no mount there is part of the bind mount.
fn nested_mount(mount: &ExternalMount, entries: &[MountEntry]) -> NestedMount {
    let host = mountinfo::own().unwrap_or_default();
    let is_mount = host.iter().any(|host| host.mountpoint == mount.source);
    let key = Path::new(&mount.key);
    let above = entries
        .iter()
        .filter(|entry| key.starts_with(&entry.destination));
    let above = above.max_by_key(|entry| entry.destination.len());
    let binds = above.map_or(0, |entry| entry.flags);
    NestedMount {
        key: mount.key.clone(),
        source: mount.source.clone(),
        flags: flags_of(&mount.source) | if is_mount { 0 } else { binds },
    }
}

/// The flags of the mount that a path of the host is on: read-only, nosuid, nodev and
/// noexec, which have the same bits as in mount(2).
fn flags_of(path: &Path) -> u32 {
    let flags = statvfs(path).map_or(0, |file_system| file_system.flags().bits());
    u32::try_from(flags & 0xf).unwrap_or(0)
}

/// The flags of mount(2) that options set (mount(8)); the later of two counts.
fn flags<'a>(options: impl Iterator<Item = &'a str>) -> u32 {
    options.fold(0, |flags, option| match option {
        "ro" | "rro" => flags | 1,
        "rw" => flags & !1,
        "nosuid" => flags | 2,
        "suid" => flags & !2,
        "nodev" => flags | 4,
        "dev" => flags & !4,
        "noexec" => flags | 8,
        "exec" => flags & !8,
        _ => flags,
    })
}

/// A path of the container with the links of its root followed, as runtimes do before
/// they mount.
fn within(root: &Path, path: &str) -> String {
    let names = path
        .split('/')
        .filter(|name| !name.is_empty() && *name != ".");
    let plain = format!("/{}", names.collect::<Vec<_>>().join("/"));
    // They are mounted before anything in them is covered.
    if plain.starts_with("/proc/") || plain.starts_with("/sys/") {
        return plain;
    }
    // A mountpoint may be missing, which a runtime then makes.
    let existing = Path::new(&plain).ancestors().find_map(|above| {
        let rest = Path::new(&plain).strip_prefix(above).ok()?;
        Some(Path::new(&resolved(root, above)?).join(rest))
    });
    existing
        .and_then(|path| {
            path.to_str()
                .map(|path| path.trim_end_matches('/').to_owned())
        })
        .filter(|path| !path.is_empty())
        .unwrap_or(plain)
}

/// A path with its links followed within `root`; `None` if it doesn't exist.
fn resolved(root: &Path, path: &Path) -> Option<String> {
    let dir = fs::File::open(root).ok()?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    let found = openat2(&dir, path, how).ok()?;
    let name = |fd: &dyn std::os::fd::AsRawFd| fs::read_link(procfs::descriptor(fd)).ok();
    let below = name(&found)?.strip_prefix(name(&dir)?).ok()?.to_owned();
    Some(format!("/{}", below.to_str()?))
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_users_capabilities_are_those_after_its_exec() {
        let spec = |uid: u32, more: Value| {
            let mut spec = json!({"process": {
                "user": {"uid": uid, "gid": 7, "additionalGids": [8]},
                "capabilities": {"bounding": ["CAP_CHOWN", "CAP_SETUID"], "permitted": ["CAP_CHOWN"], "ambient": []},
            }});
            if let (Some(process), Some(more)) = (spec["process"].as_object_mut(), more.as_object())
            {
                process.extend(more.clone());
            }
            granted(&spec, Path::new("/nowhere"), &[])
        };
        let root = spec(0, json!({}));
        assert_eq!(root.permitted, CapabilitySet::named(["chown", "setuid"]));
        assert_eq!((root.user.gid, root.user.groups), (7, vec![8]));
        let restricted = spec(0, json!({"noNewPrivileges": true}));
        assert_eq!(restricted.permitted, CapabilitySet::named(["chown"]));
        assert_eq!(spec(9, json!({})).permitted, CapabilitySet::default());
    }

    #[test]
    fn a_filter_that_allows_everything_is_none() {
        assert!(!has_seccomp(&Value::Null));
        assert!(!has_seccomp(&json!({"defaultAction": "SCMP_ACT_ALLOW"})));
        assert!(has_seccomp(&json!({"defaultAction": "SCMP_ACT_ERRNO"})));
        let denies = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["bpf"]}]});
        assert!(has_seccomp(&denies));
    }

    #[test]
    fn options_become_flags() {
        let of = |options: &str| flags(options.split(','));
        assert_eq!(of("rbind,ro,nosuid,nodev,noexec"), 15);
        assert_eq!(of("ro,rw,noexec,exec,rprivate"), 0);
    }

    #[test]
    fn links_of_the_root_are_followed_within_it() {
        let root = tempfile::tempdir().expect("tempdir");
        fs::create_dir_all(root.path().join("run/lock")).expect("mkdir");
        std::os::unix::fs::symlink("/run", root.path().join("var")).expect("symlink");
        assert_eq!(within(root.path(), "/var/lock"), "/run/lock");
        assert_eq!(within(root.path(), "/var//missing/"), "/run/missing");
    }
}
