//! The mounts of a process, by /proc/PID/mountinfo (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::host::procfs;
use cedana_contract::pid::Pid;

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) id: String,
    /// The ID of the mount that it is mounted on.
    pub(crate) parent: String,
    /// `MAJOR:MINOR` of the file system.
    pub(crate) device: String,
    /// The directory of the file system that is mounted, as the kernel escapes it.
    pub(crate) root: String,
    pub(crate) mountpoint: PathBuf,
    /// Mounts and unmounts on it propagate to its peers.
    pub(crate) shared: bool,
    pub(crate) filesystem: String,
    /// The options of the file system, as the kernel escapes them.
    pub(crate) options: String,
}

/// The mounts of this process.
pub(crate) fn own() -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read_to_string("/proc/self/mountinfo")?))
}

/// The mounts of another process.
pub(crate) fn of(pid: Pid) -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read_to_string(
        procfs::of(pid).join("mountinfo"),
    )?))
}

/// The mounts in a mountinfo, without lines that lack a field.
pub(crate) fn parse(mountinfo: &str) -> Vec<Mount> {
    mountinfo.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Mount> {
    let mut fields = line.split(' ');
    let mut next = || fields.next();
    let mount = Mount {
        id: next()?.to_owned(),
        parent: next()?.to_owned(),
        device: next()?.to_owned(),
        root: next()?.to_owned(),
        mountpoint: unescape(next()?),
        shared: false,
        filesystem: String::new(),
        options: String::new(),
    };
    // The mount's options, then any number of tags up to a hyphen.
    let mut shared = false;
    for tag in fields.by_ref().skip(1).take_while(|tag| *tag != "-") {
        shared |= tag.starts_with("shared:");
    }
    let mut next = || fields.next().unwrap_or_default().to_owned();
    let filesystem = next();
    let _source = next();
    let options = next();
    Some(Mount {
        shared,
        filesystem,
        options,
        ..mount
    })
}

/// A path in which the kernel wrote blanks, newlines and backslashes as `\040`
/// (seq_path(9)).
fn unescape(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut path = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes
            .get(at + 1..at + 4)
            .filter(|_| bytes[at] == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                path.push(byte);
                at += 4;
            }
            None => {
                path.push(bytes[at]);
                at += 1;
            }
        }
    }
    OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_field_is_parsed() {
        let line = r"36 35 98:0 /mnt1 /mnt/a\040b rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue";
        let mount = Mount {
            id: "36".to_owned(),
            parent: "35".to_owned(),
            device: "98:0".to_owned(),
            root: "/mnt1".to_owned(),
            mountpoint: "/mnt/a b".into(),
            shared: true,
            filesystem: "ext3".to_owned(),
            options: "rw,errors=continue".to_owned(),
        };
        assert_eq!(parse(&format!("{line}\n1 2\n")), [mount]);
    }

    proptest! {
        #[test]
        fn no_mountinfo_panics(text in "[\\\\0-9a-f :/\\PC\n]{0,80}") {
            let _ = parse(&text);
            let _ = unescape(&text);
        }
    }
}
