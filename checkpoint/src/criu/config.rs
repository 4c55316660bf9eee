//! CRIU configuration file with the options that OCI runtimes have no flag for.
//!
//! OCI runtimes drive CRIU over RPC and have flags for only a few of its
//! options. CRIU reads the file named by the environment variable
//! `CRIU_CONFIG_FILE` when it starts, in RPC mode too (criu/config.c,
//! `next_config`), then applies the RPC request, and then the file that the
//! request names (`org.criu.config`, by default /etc/criu/runc.conf). So:
//!
//! ```text
//! /etc/criu/default.conf  <  this file, by CRIU_CONFIG_FILE  <  RPC  <  the user's runc.conf
//! ```
//!
//! This file sets what the runtime's request leaves out, and the user's file
//! overrides both. An option that runtimes always send, true or false, has no
//! effect here and must be passed as the runtime's flag: `tcp-established`,
//! `file-locks`, `ext-unix-sk`, `shell-job`.

use std::path::PathBuf;
use std::time::Duration;

/// The key by which runc and crun look up an external network namespace on
/// restore (runc's `criuNsToKey`, crun's `CRIU_EXT_NETNS`).
pub const NETNS_KEY: &str = "extRootNetNS";

/// Environment variable by which CRIU finds the file.
pub const FILE_VARIABLE: &str = "CRIU_CONFIG_FILE";

/// The options of a dump that the runtime has no flag for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpOptions {
    /// Inode of the container's network namespace if the dump leaves it out, `None`
    /// otherwise. The engine owns interfaces, addresses and routes and sets them up
    /// anew before a restore. A dump with the namespace loses them, because runtimes
    /// ask CRIU for an empty network namespace.
    pub external_netns: Option<u64>,
    /// Mount points in the container of mounts that the dump leaves out and that the
    /// runtime doesn't name: those below a recursive bind mount. Each path must
    /// [fit](fits).
    pub external_mounts: Vec<String>,
    /// Largest deleted but open file that is copied into the images, in bytes.
    /// CRIU's own limit of 1 MiB is below what databases and build tools hold.
    pub ghost_limit: u64,
    /// Lets CRIU link unlinked open files that have another name under a temporary
    /// one. Without it a file deleted from an image layer can't be dumped at all.
    pub link_remap: bool,
    /// CRIU's time limit for freezing the container. Its default of 10 s is too short
    /// for a big container on a loaded node.
    pub timeout: Duration,
    /// A program that CRIU runs at each stage. If it fails after the dump, CRIU lets
    /// the processes run on (CRIU 3.19 and later).
    pub action_script: Option<PathBuf>,
}

impl DumpOptions {
    /// Returns the file's text. `inherited` is the text of the file that the
    /// environment named before. Its options come last and override the others.
    #[must_use]
    pub fn render(&self, inherited: Option<&str>) -> String {
        let mut text = String::new();
        if let Some(inode) = self.external_netns {
            text.push_str(&format!("external net[{inode}]:{NETNS_KEY}\n"));
        }
        for place in &self.external_mounts {
            text.push_str(&external_mount(place, place));
        }
        text.push_str(&format!("ghost-limit {}\n", self.ghost_limit));
        if self.link_remap {
            text.push_str("link-remap\n");
        }
        text.push_str(IRMAP_SCAN_PATH);
        text.push_str(&format!("timeout {}\n", self.timeout.as_secs()));
        if let Some(script) = &self.action_script {
            text.push_str(&format!("action-script {}\n", script.display()));
        }
        append(&mut text, inherited);
        text
    }
}

/// A directory in which CRIU looks, besides its own list (`/etc`, `/var/log`, ...),
/// for a file that is watched by inotify and that an overlay file system can't find by
/// its handle. Chromium watches the time zone's directory. A missing path costs
/// nothing, and CRIU reads the list only for such a watch.
const IRMAP_SCAN_PATH: &str = "irmap-scan-path /usr/share/zoneinfo\n";

/// A mount that the dump left out, for CRIU to bind at the restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalMount {
    /// Its mount point in the container, which is its key in the images.
    pub key: String,
    /// Path on the host that CRIU mounts there.
    pub source: PathBuf,
}

/// Whether CRIU's parser reads a path as one value. It cuts values at blanks and
/// `#`, and long ones in quotation marks too (criu/config.c, `parse_statement`).
#[must_use]
pub fn fits(path: &str) -> bool {
    let breaks = |c: char| c.is_whitespace() || c.is_control() || "#\"\\".contains(c);
    !path.is_empty() && !path.contains(breaks)
}

fn external_mount(key: &str, value: &str) -> String {
    format!("external mnt[{key}]:{value}\n")
}

/// The options of a restore that the runtime has no flag for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    /// Closes the TCP connections of the checkpoint instead of restoring them. runc
    /// has no flag for it (crun does) and does not send the option.
    pub tcp_close: bool,
    /// Mounts of the checkpoint that the runtime doesn't pass. Both paths of each must
    /// [fit](fits).
    pub external_mounts: Vec<ExternalMount>,
    /// A program that CRIU runs at each step. CRIU knows it since 3.19.
    pub action_script: Option<PathBuf>,
}

impl RestoreOptions {
    /// Returns the file's text. `inherited` is as for a dump.
    #[must_use]
    pub fn render(&self, inherited: Option<&str>) -> String {
        let mut text = String::new();
        if self.tcp_close {
            text.push_str("tcp-close\n");
        }
        for mount in &self.external_mounts {
            text.push_str(&external_mount(&mount.key, &mount.source.to_string_lossy()));
        }
        if let Some(script) = &self.action_script {
            text.push_str(&format!("action-script {}\n", script.display()));
        }
        append(&mut text, inherited);
        text
    }
}

fn append(text: &mut String, inherited: Option<&str>) {
    if let Some(inherited) = inherited {
        text.push_str(inherited);
        // CRIU's parser reads a statement up to its newline.
        if !inherited.is_empty() && !inherited.ends_with('\n') {
            text.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> DumpOptions {
        DumpOptions {
            external_netns: Some(4026532512),
            external_mounts: Vec::new(),
            ghost_limit: 512 << 20,
            link_remap: true,
            timeout: Duration::from_secs(60),
            action_script: None,
        }
    }

    #[test]
    fn everything_set() {
        assert_eq!(
            options().render(None),
            "external net[4026532512]:extRootNetNS\nghost-limit 536870912\nlink-remap\nirmap-scan-path /usr/share/zoneinfo\ntimeout 60\n"
        );
    }

    #[test]
    fn host_network_and_no_remap() {
        let text = DumpOptions {
            external_netns: None,
            link_remap: false,
            action_script: Some("/proc/1/exe".into()),
            ..options()
        }
        .render(None);
        assert_eq!(
            text,
            "ghost-limit 536870912\nirmap-scan-path /usr/share/zoneinfo\ntimeout 60\naction-script /proc/1/exe\n"
        );
    }

    #[test]
    fn a_restore_has_only_options_that_are_on() {
        let mut options = RestoreOptions::default();
        assert_eq!(options.render(None), "");
        options.tcp_close = true;
        options.action_script = Some("/proc/1/exe".into());
        assert_eq!(
            options.render(None),
            "tcp-close\naction-script /proc/1/exe\n"
        );
    }

    #[test]
    fn external_mounts_and_their_paths() {
        let text = DumpOptions {
            external_mounts: vec!["/host/run".into(), "/host/b".into()],
            ..options()
        }
        .render(None);
        assert!(
            text.contains(
                "\nexternal mnt[/host/run]:/host/run\nexternal mnt[/host/b]:/host/b\nghost"
            ),
            "{text}"
        );
        let text = RestoreOptions {
            tcp_close: false,
            external_mounts: vec![ExternalMount {
                key: "/host/run".into(),
                source: "/run".into(),
            }],
            action_script: None,
        }
        .render(None);
        assert_eq!(text, "external mnt[/host/run]:/run\n");
        assert!(fits("/a:b]c"));
        for path in ["", "/a b", "/a\tb", "/a\nb", "/a#b", "/a\"b", "/a\\b"] {
            assert!(!fits(path), "{path:?}");
        }
    }

    #[test]
    fn inherited_options_come_last() {
        let text = options().render(Some("timeout 5\ntcp-close"));
        assert!(
            text.ends_with("timeout 60\ntimeout 5\ntcp-close\n"),
            "{text}"
        );
    }
}
