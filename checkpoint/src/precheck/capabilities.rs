//! Sets of capabilities (capabilities(7)).

use std::fmt;

/// The names of capabilities, by their numbers (include/uapi/linux/capability.h).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A set of capabilities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapabilitySet(u64);

impl CapabilitySet {
    pub(super) const SETGID: Self = Self(1 << 6);
    pub(super) const SETUID: Self = Self(1 << 7);
    pub(super) const NET_ADMIN: Self = Self(1 << 12);
    pub(super) const NET_RAW: Self = Self(1 << 13);
    pub(super) const SYS_ADMIN: Self = Self(1 << 21);
    pub(super) const SYS_NICE: Self = Self(1 << 23);
    pub(super) const SYS_RESOURCE: Self = Self(1 << 24);
    pub(super) const MKNOD: Self = Self(1 << 27);
    pub(super) const SYSLOG: Self = Self(1 << 34);
    pub(super) const BPF: Self = Self(1 << 39);

    /// The set with these names, `CAP_CHOWN` or `chown`. Unknown names are ignored, as
    /// runtimes ignore them.
    pub fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let bits = names.into_iter().filter_map(|name| {
            let name = name.to_ascii_uppercase();
            let name = name.strip_prefix("CAP_").unwrap_or(&name);
            NAMES.iter().position(|known| *known == name)
        });
        Self(bits.fold(0, |set, bit| set | 1 << bit))
    }

    /// A set of CRIU's images: 32 capabilities in each number.
    pub(super) fn of_words(words: &[u32]) -> Self {
        let word = |index: usize| words.get(index).copied().map_or(0, u64::from);
        Self(word(0) | word(1) << 32)
    }

    /// Whether it has all capabilities of `other`.
    pub(super) fn contains(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// The capabilities that `other` lacks.
    pub(super) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for CapabilitySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for bit in (0..64).filter(|bit| self.0 & (1 << bit) != 0) {
            f.write_str(separator)?;
            match NAMES.get(bit) {
                Some(name) => write!(f, "CAP_{name}")?,
                None => write!(f, "capability {bit}")?,
            }
            separator = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_have_names_and_words() {
        let set = CapabilitySet::named(["CAP_CHOWN", "bpf", "CAP_OF_A_LATER_KERNEL"]);
        assert_eq!(set, CapabilitySet::of_words(&[1, 1 << 7]));
        assert_eq!(set.to_string(), "CAP_CHOWN, CAP_BPF");
        assert_eq!(
            CapabilitySet::named(["SYS_ADMIN"]),
            CapabilitySet::SYS_ADMIN
        );
        assert_eq!(
            CapabilitySet::named(["setgid", "setuid"]),
            CapabilitySet(0xc0)
        );
        assert!(set.contains(CapabilitySet::BPF));
        assert!(!CapabilitySet::BPF.contains(set));
        assert_eq!(set.without(CapabilitySet::BPF).to_string(), "CAP_CHOWN");
        let unknown = CapabilitySet::of_words(&[0, 1 << 31]);
        assert_eq!(unknown.to_string(), "capability 63");
    }
}
