//! The caller of a request.
//!
//! On the socket it is the user that the kernel names: user, group and supplementary
//! groups at the time of the connection (SO_PEERCRED, SO_PEERGROUPS). What else a
//! process's rights depend on, its limits, umask, no_new_privs and bounding set, is read
//! from /proc/PID while a pidfd shows that the process lives. A caller that has exited is
//! refused, and so is one that is confined where a job would not be: with a seccomp filter,
//! another root directory or user namespace, or as root without the daemon's capabilities.
//! A caller with the token, or over mutual TLS, is root. No field of a request names the
//! caller.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::job::spec::{Credentials, Limit};
use crate::sys;

/// The kernel's resources, as /proc/PID/limits names them.
const RESOURCES: [(&str, u32); 16] = [
    ("Max cpu time", libc::RLIMIT_CPU),
    ("Max file size", libc::RLIMIT_FSIZE),
    ("Max data size", libc::RLIMIT_DATA),
    ("Max stack size", libc::RLIMIT_STACK),
    ("Max core file size", libc::RLIMIT_CORE),
    ("Max resident set", libc::RLIMIT_RSS),
    ("Max processes", libc::RLIMIT_NPROC),
    ("Max open files", libc::RLIMIT_NOFILE),
    ("Max locked memory", libc::RLIMIT_MEMLOCK),
    ("Max address space", libc::RLIMIT_AS),
    ("Max file locks", libc::RLIMIT_LOCKS),
    ("Max pending signals", libc::RLIMIT_SIGPENDING),
    ("Max msgqueue size", libc::RLIMIT_MSGQUEUE),
    ("Max nice priority", libc::RLIMIT_NICE),
    ("Max realtime priority", libc::RLIMIT_RTPRIO),
    ("Max realtime timeout", libc::RLIMIT_RTTIME),
];

/// A caller, with all that a job inherits.
#[derive(Debug, Clone)]
pub struct Caller(Credentials);

impl Caller {
    /// The user ID.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.0.uid
    }

    /// Whether the caller may see and touch the jobs of all users.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.uid == 0
    }

    /// What a job of the caller runs with.
    #[must_use]
    pub fn credentials(&self) -> &Credentials {
        &self.0
    }

    /// The peer of a unix socket.
    ///
    /// # Errors
    /// The socket's, or the peer is refused.
    pub fn of_socket(socket: impl AsFd) -> io::Result<Self> {
        let peer = getsockopt(&socket, PeerCredentials)?;
        let groups = sys::peer_groups(socket.as_fd())?;
        let exited = || io::Error::other(format!("its process {} has exited", peer.pid()));
        let process = sys::peer_process(socket.as_fd(), peer.pid())?.ok_or_else(exited)?;
        let inherited = Inherited::of(peer.pid(), peer.uid());
        let confined = confined(peer.pid(), peer.uid())?;
        // Until here its ID was no other process's.
        if sys::has_exited(process.as_fd())? {
            return Err(exited());
        }
        if let Some(what) = confined {
            return Err(io::Error::other(format!(
                "its process {} {what}, which a job would not have",
                peer.pid()
            )));
        }
        let inherited = inherited.ok_or_else(exited)?;
        Ok(Self(inherited.with(peer.uid(), peer.gid(), groups)))
    }

    /// Root, after a secret was shown.
    ///
    /// # Errors
    /// The daemon's own limits can't be read.
    pub fn root() -> io::Result<Self> {
        let own = std::process::id().cast_signed();
        let uid = nix::unistd::geteuid().as_raw();
        let unreadable = || io::Error::other("cannot read /proc/self");
        let inherited = Inherited::of(own, uid).ok_or_else(unreadable)?;
        let mut credentials = inherited.with(0, 0, Vec::new());
        // The daemon's own is for its secrets.
        credentials.umask = 0o022;
        Ok(Self(credentials))
    }
}

/// What a program inherits from the process that starts it.
#[derive(Debug, PartialEq, Eq)]
struct Inherited {
    umask: u32,
    no_new_privs: bool,
    oom_score_adj: i32,
    bounding: u64,
    limits: Vec<Limit>,
}

/// How a process is confined where this one is not; None if it isn't.
fn confined(pid: i32, uid: u32) -> io::Result<Option<&'static str>> {
    let status = |pid: &str| fs::read_to_string(format!("/proc/{pid}/status"));
    let user_namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user"));
    let root = |pid: &str| -> io::Result<(u64, u64)> {
        let root = fs::metadata(format!("/proc/{pid}/root/"))?;
        Ok((root.dev(), root.ino()))
    };
    let theirs = pid.to_string();
    let (own, other) = (status("self")?, status(&theirs)?);
    if value(&other, "Seccomp") != value(&own, "Seccomp") {
        return Ok(Some("has a seccomp filter"));
    }
    if user_namespace(&theirs)? != user_namespace("self")? {
        return Ok(Some("has a user namespace"));
    }
    if root(&theirs)? != root("self")? {
        return Ok(Some("has another root directory"));
    }
    let capabilities = |status: &str| capabilities(status, "CapEff").unwrap_or(0);
    if uid == 0 && capabilities(&own) & !capabilities(&other) != 0 {
        return Ok(Some("is root without all capabilities"));
    }
    Ok(None)
}

impl Inherited {
    /// That of a process; None if it has ended, or is another user's by now.
    fn of(pid: i32, uid: u32) -> Option<Self> {
        if pid <= 0 {
            return None;
        }
        let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
        let limits = parse_limits(&file("limits")?);
        let oom_score_adj = file("oom_score_adj")?.trim().parse().ok()?;
        // The last, so that all of it was read from a process of this user.
        let status = file("status")?;
        let (owner, umask, no_new_privs) = parse_status(&status)?;
        (owner == uid).then_some(Self {
            umask,
            no_new_privs,
            oom_score_adj,
            bounding: capabilities(&status, "CapBnd")?,
            limits,
        })
    }

    fn with(self, uid: u32, gid: u32, groups: Vec<u32>) -> Credentials {
        Credentials {
            uid,
            gid,
            groups,
            umask: self.umask,
            no_new_privs: self.no_new_privs,
            oom_score_adj: self.oom_score_adj,
            bounding: self.bounding,
            limits: self.limits,
        }
    }
}

/// Effective user ID, umask and no_new_privs of /proc/PID/status.
fn parse_status(text: &str) -> Option<(u32, u32, bool)> {
    let uid = value(text, "Uid")?.split_whitespace().nth(1)?;
    let umask = u32::from_str_radix(value(text, "Umask")?, 8).ok()?;
    Some((uid.parse().ok()?, umask, value(text, "NoNewPrivs")? != "0"))
}

/// A set of capabilities of /proc/PID/status, as bits.
fn capabilities(status: &str, name: &str) -> Option<u64> {
    u64::from_str_radix(value(status, name)?, 16).ok()
}

/// A value of /proc/PID/status.
fn value<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = status.lines();
    let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found.map(str::trim)
}

fn parse_limits(text: &str) -> Vec<Limit> {
    let number = |word: &str| match word {
        "unlimited" => Some(u64::MAX),
        word => word.parse().ok(),
    };
    let limit = |line: &str| {
        let (name, resource) = RESOURCES.iter().find(|(name, _)| line.starts_with(name))?;
        let mut words = line[name.len()..].split_whitespace();
        Some(Limit {
            resource: *resource,
            soft: number(words.next()?)?,
            hard: number(words.next()?)?,
        })
    };
    text.lines().filter_map(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_as_the_kernel_describes_it() {
        let uid = nix::unistd::geteuid().as_raw();
        let own = std::process::id().cast_signed();
        let inherited = Inherited::of(own, uid).expect("this process");
        assert_eq!(inherited.limits.len(), RESOURCES.len());
        let (soft, hard) =
            nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
                .expect("limits");
        let expected = Limit {
            resource: libc::RLIMIT_NOFILE,
            soft,
            hard,
        };
        assert!(inherited.limits.contains(&expected));
        assert_eq!(Inherited::of(own, uid + 1), None);
        assert_eq!(Inherited::of(0, uid), None);
    }

    #[test]
    fn the_peer_of_a_socket_is_who_the_kernel_says() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().expect("sockets");
        let caller = Caller::of_socket(&ours).expect("a peer");
        assert_eq!(caller.uid(), nix::unistd::geteuid().as_raw());
        let groups: Vec<_> = nix::unistd::getgroups()
            .expect("groups")
            .into_iter()
            .map(|g| g.as_raw())
            .collect();
        assert_eq!(caller.credentials().groups, groups);
    }
}
