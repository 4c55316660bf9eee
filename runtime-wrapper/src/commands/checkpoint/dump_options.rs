//! A dump's options for the runtime and CRIU.

use cedana_checkpoint::capture::Expected;
use cedana_checkpoint::criu::DumpOptions;

use super::attempts::Attempts;
use super::prepared::Prepared;
use crate::criu::action_script;
use crate::host::procfs::{memory, namespace_inode, netns_inode};
use crate::host::test_hooks;
use crate::oci::nested_mounts;
use crate::oci::state::{Container, Kind, Network};
use cedana_contract::pid::Pid;

/// CRIU's options for one attempt.
pub(super) fn criu_options(
    prepared: &Prepared<'_>,
    attempts: &Attempts<'_>,
    waits: bool,
) -> DumpOptions {
    let Prepared {
        container, config, ..
    } = prepared;
    DumpOptions {
        external_netns: own_netns(container),
        external_mounts: match (&prepared.spec, &container.config) {
            (Some(spec), Some(config)) => {
                nested_mounts::external_keys(spec, config, container.init)
            }
            _ => Vec::new(),
        },
        ghost_limit: config.checkpoint.ghost_limit,
        link_remap: config.checkpoint.link_remap,
        timeout: attempts.freeze_timeout(),
        action_script: waits.then(action_script::program),
    }
}

/// The network namespace to leave out of the dump: the container's own. For one
/// with a path the runtime tells CRIU, and no dump has the host's.
fn own_netns(container: &Container) -> Option<u64> {
    if container.network != Network::Own || in_own_user_namespace(container) {
        return None;
    }
    let theirs = netns_inode(&container.init.to_string()).ok()?;
    let ours = netns_inode("self").ok()?;
    (theirs != ours).then_some(theirs)
}

/// Whether the container is in a user namespace of its own. A network namespace
/// that the runtime made for it belongs to that user namespace, and CRIU can only
/// create it anew: from within the new user namespace no other one can be entered
/// (setns(2), EPERM).
fn in_own_user_namespace(container: &Container) -> bool {
    let users = |pid: &str| namespace_inode(pid, "user").ok();
    users(&container.init.to_string()) != users("self")
}

/// The runtime's flags for options that it always sends to CRIU and that a
/// configuration file therefore can't set. They precede the caller's own flags,
/// which win.
pub(super) fn runtime_flags(prepared: &Prepared<'_>) -> Vec<&'static str> {
    let settings = &prepared.config.checkpoint;
    [
        (settings.tcp_established, "--tcp-established"),
        (settings.file_locks, "--file-locks"),
        (settings.ext_unix_sk, "--ext-unix-sk"),
        (
            settings.link_remap
                && prepared.container.kind == Kind::Runc
                && takes_link_remap(&prepared.runtime_version),
            "--link-remap",
        ),
    ]
    .into_iter()
    .filter_map(|(wanted, flag)| wanted.then_some(flag))
    .collect()
}

/// Whether runc has the flag: since 1.3, which always sends the option. Earlier
/// ones leave it to the configuration file.
fn takes_link_remap(version: &str) -> bool {
    runc_version(version).is_some_and(|version| version >= (1, 3))
}

/// The version in `runc --version`, whose first line is "runc version 1.3.6".
fn runc_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.lines().next()?.rsplit(' ').next()?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// What CRIU will write.
pub(super) fn expected(processes: &[Pid]) -> Expected {
    let sum = || processes.iter().filter_map(|pid| memory(*pid)).sum();
    Expected {
        bytes: test_hooks::expected_bytes().unwrap_or_else(sum),
        processes: processes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_runc() {
        assert_eq!(
            runc_version("runc version 1.3.6\nspec: 1.2.1\n"),
            Some((1, 3))
        );
        assert_eq!(runc_version("runc version 1.1.15+ds1\n"), Some((1, 1)));
        assert_eq!(runc_version("runc version 1.2.0-rc.1+dev\n"), Some((1, 2)));
        assert_eq!(runc_version("runc version unknown\n"), None);
        assert_eq!(runc_version(""), None);
    }
}
