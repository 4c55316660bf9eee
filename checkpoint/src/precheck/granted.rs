//! The grants of a container's configuration that a checkpoint could contradict.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use super::capabilities::CapabilitySet;

/// The grants of a configuration, filled by its reader. The defaults give nothing.
#[derive(Debug, Clone, Default)]
pub struct Granted {
    /// The user and the groups of the container's program.
    pub user: User,
    /// The bounding set: no process of the container ever has more.
    pub bounding: CapabilitySet,
    /// The permitted set of the container's program.
    pub permitted: CapabilitySet,
    /// Whether programs gain no privileges (`no_new_privs`).
    pub no_new_privileges: bool,
    /// Whether a seccomp filter applies.
    pub seccomp: bool,
    /// The label of a Linux security module, if one is enforced here.
    pub label: Option<String>,
    /// The namespaces that the container has, its own or another's.
    pub namespaces: BTreeSet<Namespace>,
    /// Whether the user namespace is another's.
    pub joins_user_namespace: bool,
    /// The mappings of user and group IDs of a user namespace.
    pub mappings: Mappings,
    /// Hard limits of resources, by the kernel's numbers (getrlimit(2)).
    pub limits: Vec<(u32, u64)>,
    /// The OOM score adjustment, if the configuration has one.
    pub oom_score_adj: Option<i32>,
    /// The container's file systems.
    pub mounts: Mounts,
}

/// A user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// The user ID, within the container's user namespace.
    pub uid: u32,
    /// The group ID.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// A kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Namespace {
    Cgroup,
    Ipc,
    Mount,
    Network,
    Pid,
    User,
    Uts,
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cgroup => "cgroup",
            Self::Ipc => "IPC",
            Self::Mount => "mount",
            Self::Network => "network",
            Self::Pid => "PID",
            Self::User => "user",
            Self::Uts => "UTS",
        })
    }
}

/// The mappings of a user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mappings {
    /// Of user IDs.
    pub users: Vec<Mapping>,
    /// Of group IDs.
    pub groups: Vec<Mapping>,
}

/// A range of IDs (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mapping {
    /// The first ID inside.
    pub inside: u32,
    /// The first ID outside.
    pub outside: u32,
    /// The number of IDs.
    pub count: u32,
}

/// A container's file systems.
#[derive(Debug, Clone, Default)]
pub struct Mounts {
    /// The root's directory on the host.
    pub root: PathBuf,
    /// Whether the root is read-only.
    pub read_only_root: bool,
    /// The mounts of the configuration, in its order.
    pub entries: Vec<MountEntry>,
    /// Paths that are covered.
    pub masked: Vec<String>,
    /// Paths that are read-only.
    pub read_only: Vec<String>,
    /// Whether the container has a terminal, on /dev/console.
    pub terminal: bool,
    /// Device nodes that a runtime binds where it can't make them.
    pub devices: Vec<String>,
    /// Mounts that came with a recursive bind mount.
    pub nested: Vec<NestedMount>,
}

/// A mount of the host below the source of a recursive bind mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NestedMount {
    /// The mountpoint in the container, which is its key.
    pub key: String,
    /// The host's path.
    pub source: PathBuf,
    /// Flags of mount(2) that it has on the host.
    pub flags: u32,
}

/// One mount of a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountEntry {
    /// The mountpoint, with the symbolic links of the container's root followed.
    pub destination: String,
    /// The type of the file system, for a bind mount `bind`.
    pub kind: String,
    /// The host's file or directory of a bind mount.
    pub source: Option<PathBuf>,
    /// Flags as of mount(2) that the configuration sets (read-only, nosuid, nodev,
    /// noexec), and read-only if the source of a bind mount is.
    pub flags: u32,
    /// The directories in the options of an overlay: `lowerdir=...` and the like.
    pub layers: Vec<String>,
}
