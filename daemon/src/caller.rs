//! The caller of a request.
//!
//! On the socket it is the user that the kernel names: user, group and supplementary
//! groups at the time of the connection (SO_PEERCRED, SO_PEERGROUPS). What else a
//! process's rights depend on, its limits, umask and no_new_privs, is read from
//! /proc/PID. If that is no longer the caller's, the strictest values are taken. A
//! caller with the token, or over mutual TLS, is root. No field of a request
//! names the caller.

use std::fs;
use std::os::fd::AsFd;

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
    /// The socket's.
    pub fn of_socket(socket: impl AsFd) -> std::io::Result<Self> {
        let peer = getsockopt(&socket, PeerCredentials)?;
        let groups = sys::peer_groups(socket.as_fd())?;
        let inherited = Inherited::of(peer.pid(), peer.uid()).unwrap_or_else(Inherited::strictest);
        Ok(Self(inherited.with(peer.uid(), peer.gid(), groups)))
    }

    /// Root, after a secret was shown.
    #[must_use]
    pub fn root() -> Self {
        let own = std::process::id().cast_signed();
        let inherited = Inherited::of(own, 0).unwrap_or_else(Inherited::strictest);
        let mut credentials = inherited.with(0, 0, Vec::new());
        // The daemon's own is for its secrets.
        credentials.umask = 0o022;
        Self(credentials)
    }
}

/// What a program inherits from the process that starts it.
#[derive(Debug, PartialEq, Eq)]
struct Inherited {
    umask: u32,
    no_new_privs: bool,
    oom_score_adj: i32,
    limits: Vec<Limit>,
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
        let (owner, umask, no_new_privs) = parse_status(&file("status")?)?;
        (owner == uid).then_some(Self {
            umask,
            no_new_privs,
            oom_score_adj,
            limits,
        })
    }

    fn strictest() -> Self {
        Self {
            umask: 0o077,
            no_new_privs: true,
            oom_score_adj: 0,
            limits: Vec::new(),
        }
    }

    fn with(self, uid: u32, gid: u32, groups: Vec<u32>) -> Credentials {
        Credentials {
            uid,
            gid,
            groups,
            umask: self.umask,
            no_new_privs: self.no_new_privs,
            oom_score_adj: self.oom_score_adj,
            limits: self.limits,
        }
    }
}

/// Effective user ID, umask and no_new_privs of /proc/PID/status.
fn parse_status(text: &str) -> Option<(u32, u32, bool)> {
    let value = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    let uid = value("Uid")?.split_whitespace().nth(1)?.parse().ok()?;
    let umask = u32::from_str_radix(value("Umask")?, 8).ok()?;
    Some((uid, umask, value("NoNewPrivs")? != "0"))
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
