//! CRIU, and what it can do on this kernel.

use std::env;
use std::path::Path;

use cedana_checkpoint::criu::Version;
use cedana_checkpoint::criu::version::{self, Error};

use super::Machine;
use super::finding::Finding;
use super::{kernel, program, search_path};

/// A feature of CRIU that is asked for by `criu check --feature`.
struct Feature {
    check: &'static str,
    name: &'static str,
    needed_for: &'static str,
    without: &'static str,
    remedy: &'static str,
}

/// Those that something of ours, or of the engines, uses and does without.
const FEATURES: [Feature; 3] = [
    Feature {
        check: "lazy-restore",
        name: "uffd-noncoop",
        needed_for: "lazy restore",
        without: "this CRIU and kernel have no events of userfaultfd; every restore is eager",
        remedy: "use a kernel with CONFIG_USERFAULTFD",
    },
    Feature {
        check: "dirty-tracking",
        name: "mem_dirty_track",
        needed_for: "pre-dumps, as by podman container checkpoint --pre-checkpoint",
        without: "this CRIU and kernel don't track written pages; pre-dumps fail",
        remedy: "use a kernel with CONFIG_MEM_SOFT_DIRTY, or Linux 6.7 and CRIU 4.0 or later",
    },
    Feature {
        check: "pidfd-store",
        name: "pidfd_store",
        needed_for: "pre-dumps of processes that come and go",
        without: "this CRIU can't recognize PIDs that were used again between pre-dumps",
        remedy: "install a newer CRIU",
    },
];

/// CRIU's version, whether it works, and its features.
pub(super) async fn all(machine: &Machine) -> Vec<Finding> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = match version::find(&path) {
        // A user's PATH may lack the directory that root's has.
        Err(Error::Missing { path }) => match search_path::find("criu", machine.is_root) {
            Some(program) => version::ask(&program).map(|version| (program, version)),
            None => Err(Error::Missing { path }),
        },
        found => found,
    };
    let (program, found) = match found {
        Ok(found) => found,
        Err(error) => return vec![unusable(&error)],
    };
    let mut findings = vec![fit(&program, found, kernel::running())];
    if !machine.is_root {
        findings.push(Finding::hidden("criu-check").needed_for("every checkpoint and restore"));
        return findings;
    }
    findings.push(works(&program).await);
    for feature in &FEATURES {
        findings.push(has(&program, feature).await);
    }
    findings
}

const NEEDED_FOR: &str = "every checkpoint and restore";

/// CRIU 4.2 is the first that restores sockets of Linux 6.16 (docs/errors.md).
const FOR_LINUX_6_16: Version = Version {
    major: 4,
    minor: 2,
    sublevel: 0,
};

fn fit(program: &Path, version: Version, kernel: Option<(u32, u32)>) -> Finding {
    let found = format!("{version}, {}", program.display());
    match kernel.is_some_and(|kernel| kernel >= (6, 16)) && version < FOR_LINUX_6_16 {
        true => Finding::missing(
            "criu",
            format!("{found}: too old for this kernel"),
            format!("install CRIU {FOR_LINUX_6_16} or later"),
        ),
        false => Finding::fit("criu", found),
    }
    .needed_for(NEEDED_FOR)
}

fn unusable(error: &Error) -> Finding {
    let install = format!(
        "install CRIU {} or later ({FOR_LINUX_6_16} on Linux 6.16 and later)",
        Version::MINIMUM
    );
    let (found, remedy) = match error {
        Error::Missing { path } => (
            format!("not installed: no program \"criu\" in PATH ({path})"),
            install,
        ),
        Error::TooOld { program, found } => {
            (format!("{found}, {}: too old", program.display()), install)
        }
        Error::Run { program, source } => (
            format!("cannot run {}: {source}", program.display()),
            "reinstall CRIU".to_owned(),
        ),
        error => (error.to_string(), install),
    };
    Finding::missing("criu", found, remedy).needed_for(NEEDED_FOR)
}

/// What CRIU itself says of the kernel's mandatory features.
async fn works(program: &Path) -> Finding {
    const CHECK: &str = "criu-check";
    let said = program::run(program, &["check"], "").await;
    match said {
        Ok(said) if said.success => Finding::fit(CHECK, "the kernel has what CRIU needs"),
        Ok(said) => Finding::missing(
            CHECK,
            format!("`criu check` failed: {}", said.reason()),
            "see `criu check`, and use a kernel with the options of https://criu.org/Linux_kernel",
        ),
        Err(error) => Finding::missing(CHECK, error, "reinstall CRIU"),
    }
    .needed_for(NEEDED_FOR)
}

/// Whether CRIU has a feature on this kernel.
pub(super) async fn has_feature(program: &Path, name: &str) -> bool {
    let said = program::run(program, &["check", "--feature", name], "").await;
    said.is_ok_and(|said| said.success)
}

async fn has(program: &Path, feature: &Feature) -> Finding {
    match has_feature(program, feature.name).await {
        true => Finding::fit(feature.check, format!("CRIU has {}", feature.name)),
        false => Finding::lesser(feature.check, feature.without, feature.remedy),
    }
    .needed_for(feature.needed_for)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn an_old_criu_is_too_old_for_a_new_kernel() {
        let version = |major, minor| Version {
            major,
            minor,
            sublevel: 0,
        };
        let verdict = |version, kernel| fit(Path::new("/criu"), version, Some(kernel)).verdict;
        assert_eq!(verdict(version(4, 1), (6, 15)), Verdict::Fit);
        assert_eq!(verdict(version(4, 1), (6, 16)), Verdict::Missing);
        assert_eq!(verdict(version(4, 2), (7, 0)), Verdict::Fit);
    }

    #[test]
    fn a_missing_criu_has_its_remedy() {
        let finding = unusable(&Error::Missing {
            path: "/bin".into(),
        });
        assert_eq!(finding.verdict, Verdict::Missing);
        assert!(finding.found.contains("/bin"), "{}", finding.found);
        assert!(finding.remedy.contains("install CRIU 3.17 or later"));
    }
}
