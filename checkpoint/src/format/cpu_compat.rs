//! Checks whether this machine can restore a checkpoint from another one.
//!
//! A program detects the processor's features once, and selects functions or generates
//! code accordingly. Restored on a processor that lacks one of those features, it is
//! killed by SIGILL some time later. CRIU compares only the features of the floating
//! point registers, which it saves itself.

use std::fs;
use std::io;

use super::manifest::Machine;

/// Features of x86 that programs use, by their names in /proc/cpuinfo. Only the kernel
/// uses the other flags (virtualization, mitigations, clocks), and they differ between
/// its versions.
const X86: [&str; 51] = [
    "3dnow",
    "3dnowext",
    "abm",
    "adx",
    "aes",
    "avx",
    "avx2",
    "bmi1",
    "bmi2",
    "cldemote",
    "clflush",
    "clflushopt",
    "clwb",
    "clzero",
    "cmov",
    "cx16",
    "cx8",
    "enqcmd",
    "erms",
    "f16c",
    "fma",
    "fma4",
    "fsgsbase",
    "fsrm",
    "fxsr",
    "gfni",
    "lahf_lm",
    "lzcnt",
    "mmx",
    "mmxext",
    "monitorx",
    "movbe",
    "movdir64b",
    "movdiri",
    "pclmulqdq",
    "pku",
    "pni",
    "popcnt",
    "rdpid",
    "rdrand",
    "rdseed",
    "rdtscp",
    "rtm",
    "serialize",
    "sse",
    "sse2",
    "ssse3",
    "tbm",
    "vaes",
    "vpclmulqdq",
    "waitpkg",
];

/// Prefixes of further features that programs use, for processors to come.
const X86_FAMILIES: [&str; 7] = ["amx_", "avx10", "avx512", "avx_", "sha", "sse4", "xsave"];

/// The reason that a checkpoint can't be restored on this machine.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unfit {
    /// Another architecture.
    #[error(
        "the checkpoint was taken on {theirs} and this machine is {ours}; restore it on a node of that architecture"
    )]
    Architecture {
        /// The checkpoint's.
        theirs: String,
        /// This machine's.
        ours: String,
    },
    /// Another size of memory pages.
    #[error(
        "the checkpoint was taken with memory pages of {theirs} bytes and this kernel has pages of {ours}; restore it on a node whose kernel has the same page size"
    )]
    PageSize {
        /// The checkpoint's.
        theirs: u64,
        /// This machine's.
        ours: u64,
    },
    /// The processor lacks features.
    #[error("this processor lacks features that the processes may be using ({}); restore on a processor that has them", features.join(", "))]
    Features {
        /// Their names in /proc/cpuinfo.
        features: Vec<String>,
    },
}

impl Machine {
    /// Returns this machine.
    ///
    /// # Errors
    /// /proc or sysconf(3) can't be read.
    pub fn here() -> io::Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let page_size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?;
        Ok(Self {
            architecture: std::env::consts::ARCH.to_owned(),
            page_size: page_size.and_then(|size| size.try_into().ok()).unwrap_or(0),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
            cpu_features: features(&cpuinfo),
        })
    }

    /// Checks that a checkpoint from `self` can be restored `here`.
    ///
    /// # Errors
    /// The reason that it can't.
    pub fn check(&self, here: &Self) -> Result<(), Unfit> {
        if self.architecture != here.architecture {
            return Err(Unfit::Architecture {
                theirs: self.architecture.clone(),
                ours: here.architecture.clone(),
            });
        }
        if self.page_size != here.page_size {
            return Err(Unfit::PageSize {
                theirs: self.page_size,
                ours: here.page_size,
            });
        }
        let features: Vec<String> = self
            .cpu_features
            .iter()
            .filter(|name| self.architecture != "x86_64" || is_used(name))
            .filter(|name| !here.cpu_features.contains(name))
            .cloned()
            .collect();
        if features.is_empty() {
            Ok(())
        } else {
            Err(Unfit::Features { features })
        }
    }
}

fn is_used(feature: &str) -> bool {
    X86.contains(&feature)
        || X86_FAMILIES
            .iter()
            .any(|family| feature.starts_with(family))
}

/// The features that all processors in a /proc/cpuinfo have, because a process can run
/// on any of them.
fn features(cpuinfo: &str) -> Vec<String> {
    let mut lists = cpuinfo.lines().filter_map(|line| {
        let (key, value) = line.split_once(':')?;
        matches!(key.trim(), "flags" | "Features").then(|| value.split_whitespace())
    });
    let mut common: Vec<&str> = lists.next().map(Iterator::collect).unwrap_or_default();
    for list in lists {
        let list: Vec<&str> = list.collect();
        common.retain(|name| list.contains(name));
    }
    common.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(architecture: &str, features: &[&str]) -> Machine {
        Machine {
            architecture: architecture.to_owned(),
            page_size: 4096,
            kernel: "6.1".to_owned(),
            cpu_features: features.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    #[test]
    fn only_features_that_programs_use_count() {
        let old = machine("x86_64", &["avx2", "ibrs"]);
        let new = machine(
            "x86_64",
            &["avx2", "avx512f", "avx512_vnni", "sha_ni", "constant_tsc"],
        );
        assert_eq!(old.check(&new), Ok(()));
        let unfit = new.check(&old).expect_err("lacks");
        assert_eq!(
            unfit.to_string(),
            "this processor lacks features that the processes may be using (avx512f, avx512_vnni, sha_ni); restore on a processor that has them"
        );
        let arm = machine("aarch64", &["sve"]);
        assert!(matches!(arm.check(&old), Err(Unfit::Architecture { .. })));
        let plain = machine("aarch64", &[]);
        assert!(matches!(arm.check(&plain), Err(Unfit::Features { .. })));
        let mut large = plain.clone();
        large.page_size = 65536;
        assert!(matches!(large.check(&plain), Err(Unfit::PageSize { .. })));
    }

    #[test]
    fn features_of_every_processor() {
        let two =
            "processor\t: 0\nflags\t\t: fpu avx2 sha_ni\n\nprocessor: 1\nflags : fpu sha_ni\n";
        assert_eq!(features(two), ["fpu", "sha_ni"]);
        assert_eq!(features("Features : fp asimd\n"), ["fp", "asimd"]);
        assert!(features("").is_empty());
        let here = Machine::here().expect("this machine");
        assert_eq!(here.check(&here), Ok(()));
        assert!(here.page_size >= 4096);
    }
}
