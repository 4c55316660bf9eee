//! Options of Internet sockets that CRIU has no field for (CRIU's `sk-opts.proto`,
//! `sk-inet.proto`, `tcp-stream.proto`).
//!
//! Another process's socket is reached through a copy of its descriptor. An option is
//! recorded if it isn't what a new socket of the same kind in the same network namespace
//! has, and put back if the restored one differs. Only what any process may set is put
//! back: a congestion control algorithm has to be one that the namespace allows all.
//!
//! `TCP_WINDOW_CLAMP` is not among them: the kernel moves it itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use cedana_contract::pid::Pid;
use cedana_contract::pidfd;
use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{getsockopt, setsockopt, sockopt::TcpCongestion};
use serde::{Deserialize, Serialize};

use crate::host::procfs;
use crate::sys;

/// The options of a socket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Socket {
    /// The ID of a process that has it open, in the container's PID namespace.
    pub(super) process: u32,
    /// The process's descriptor.
    pub(super) descriptor: i32,
    /// Options by their names ([`OPTIONS`]).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    options: BTreeMap<String, i32>,
    /// `TCP_CONGESTION`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    congestion_control: Option<String>,
}

/// An option whose value is a number.
struct Known {
    name: &'static str,
    level: i32,
    number: i32,
}

const fn known(name: &'static str, level: i32, number: i32) -> Known {
    Known {
        name,
        level,
        number,
    }
}

/// All options, by their names in socket(7), ip(7), ipv6(7) and tcp(7).
const OPTIONS: [Known; 25] = [
    known("SO_TIMESTAMP", libc::SOL_SOCKET, libc::SO_TIMESTAMP),
    known("SO_TIMESTAMPNS", libc::SOL_SOCKET, libc::SO_TIMESTAMPNS),
    known("SO_TIMESTAMPING", libc::SOL_SOCKET, libc::SO_TIMESTAMPING),
    known(
        "TCP_USER_TIMEOUT",
        libc::IPPROTO_TCP,
        libc::TCP_USER_TIMEOUT,
    ),
    known(
        "TCP_DEFER_ACCEPT",
        libc::IPPROTO_TCP,
        libc::TCP_DEFER_ACCEPT,
    ),
    known("TCP_SYNCNT", libc::IPPROTO_TCP, libc::TCP_SYNCNT),
    known("TCP_LINGER2", libc::IPPROTO_TCP, libc::TCP_LINGER2),
    known(
        "TCP_NOTSENT_LOWAT",
        libc::IPPROTO_TCP,
        libc::TCP_NOTSENT_LOWAT,
    ),
    known(
        "TCP_THIN_LINEAR_TIMEOUTS",
        libc::IPPROTO_TCP,
        libc::TCP_THIN_LINEAR_TIMEOUTS,
    ),
    known("TCP_FASTOPEN", libc::IPPROTO_TCP, libc::TCP_FASTOPEN),
    known("IP_RECVTTL", libc::IPPROTO_IP, libc::IP_RECVTTL),
    known("IP_RECVTOS", libc::IPPROTO_IP, libc::IP_RECVTOS),
    known("IP_MTU_DISCOVER", libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
    known("IP_MINTTL", libc::IPPROTO_IP, libc::IP_MINTTL),
    known("IP_MULTICAST_TTL", libc::IPPROTO_IP, libc::IP_MULTICAST_TTL),
    known(
        "IP_MULTICAST_LOOP",
        libc::IPPROTO_IP,
        libc::IP_MULTICAST_LOOP,
    ),
    known("IP_RECVERR", libc::IPPROTO_IP, libc::IP_RECVERR),
    known(
        "IPV6_RECVHOPLIMIT",
        libc::IPPROTO_IPV6,
        libc::IPV6_RECVHOPLIMIT,
    ),
    known("IPV6_RECVTCLASS", libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
    known(
        "IPV6_MTU_DISCOVER",
        libc::IPPROTO_IPV6,
        libc::IPV6_MTU_DISCOVER,
    ),
    known(
        "IPV6_UNICAST_HOPS",
        libc::IPPROTO_IPV6,
        libc::IPV6_UNICAST_HOPS,
    ),
    known(
        "IPV6_MULTICAST_HOPS",
        libc::IPPROTO_IPV6,
        libc::IPV6_MULTICAST_HOPS,
    ),
    known(
        "IPV6_MULTICAST_LOOP",
        libc::IPPROTO_IPV6,
        libc::IPV6_MULTICAST_LOOP,
    ),
    known("IPV6_RECVERR", libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    known("IPV6_TCLASS", libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
];

/// The namespace's list of algorithms that need no capability.
const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

/// Family, type and protocol.
type Kind = [i32; 3];

/// What a socket has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Found {
    /// In the order of [`OPTIONS`].
    options: Vec<Option<i32>>,
    congestion_control: Option<OsString>,
}

/// The sockets of processes whose options were set. `id` is a process's ID in the
/// container.
pub(super) fn of(processes: &[Pid], init: Pid, id: impl Fn(Pid) -> Option<u32>) -> Vec<Socket> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for process in processes {
        let Some((pidfd, id)) = pidfd::open(*process).ok().zip(id(*process)) else {
            continue;
        };
        for (number, inode) in descriptors(*process) {
            // Several descriptors may share a socket.
            if seen.insert(inode)
                && let Some((kind, socket)) = internet(pidfd.as_fd(), number)
            {
                found.push((id, number, kind, look(kind, socket.as_fd())));
            }
        }
    }
    let kinds: BTreeSet<Kind> = found.iter().map(|(_, _, kind, _)| *kind).collect();
    let usual = usual(init, kinds);
    let changed = found
        .into_iter()
        .filter_map(|(process, number, kind, found)| {
            let usual = usual.get(&kind)?;
            let socket = Socket {
                process,
                descriptor: number,
                options: changed(&found, usual),
                congestion_control: found
                    .congestion_control
                    .filter(|name| Some(name) != usual.congestion_control.as_ref())
                    .and_then(|name| name.into_string().ok()),
            };
            let is_usual = socket.options.is_empty() && socket.congestion_control.is_none();
            (!is_usual).then_some(socket)
        });
    changed.collect()
}

fn changed(found: &Found, usual: &Found) -> BTreeMap<String, i32> {
    let values = OPTIONS.iter().zip(found.options.iter().zip(&usual.options));
    values
        .filter(|(_, (found, usual))| found != usual)
        .filter_map(|(known, (found, _))| Some((known.name.to_owned(), (*found)?)))
        .collect()
}

/// Gives the sockets of a process their options again, by descriptor. Returns what failed.
pub(super) fn put_back(
    process: Pid,
    sockets: &BTreeMap<i32, &Socket>,
) -> Vec<(&'static str, io::Error)> {
    let Ok(pidfd) = pidfd::open(process) else {
        return Vec::new();
    };
    let failed = sockets
        .values()
        .flat_map(|socket| socket.put_back(process, pidfd.as_fd()));
    failed.collect()
}

impl Socket {
    fn put_back(&self, process: Pid, pidfd: BorrowedFd<'_>) -> Vec<(&'static str, io::Error)> {
        let Some((kind, socket)) = internet(pidfd, self.descriptor) else {
            // CRIU has closed its connection, or it wasn't one.
            return Vec::new();
        };
        let wanted = OPTIONS
            .iter()
            .filter_map(|known| Some((known, *self.options.get(known.name)?)))
            .filter(|(known, _)| applies(known.level, kind));
        let mut failed = Vec::new();
        for (known, value) in wanted {
            let (level, number) = (known.level, known.number);
            if sys::socket_option(socket.as_fd(), level, number) == Some(value) {
                continue;
            }
            if let Err(error) = sys::set_socket_option(socket.as_fd(), level, number, value) {
                failed.push((known.name, error));
            }
        }
        if let Some(name) = &self.congestion_control
            && let Err(error) = set_congestion_control(process, &socket, name)
        {
            failed.push(("TCP_CONGESTION", error));
        }
        failed
    }
}

/// Sets an algorithm that processes without a capability may set: with one, the kernel
/// would also load a module of that name.
fn set_congestion_control(process: Pid, socket: &OwnedFd, name: &str) -> io::Result<()> {
    let wanted = OsString::from(name);
    if getsockopt(socket, TcpCongestion).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    let allowed = within(process, || fs::read_to_string(ALLOWED))?;
    if !allowed
        .split_ascii_whitespace()
        .any(|allowed| allowed == name)
    {
        return Err(io::Error::other(
            "the algorithm is not in net.ipv4.tcp_allowed_congestion_control",
        ));
    }
    Ok(setsockopt(socket, TcpCongestion, &wanted)?)
}

/// The sockets of a process: descriptors, and inodes.
fn descriptors(process: Pid) -> Vec<(i32, String)> {
    let entries = fs::read_dir(procfs::of(process).join("fd"));
    let entries = entries.into_iter().flatten().flatten();
    let sockets = entries.filter_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?;
        let inode = target.to_str()?.strip_prefix("socket:")?.to_owned();
        Some((entry.file_name().to_str()?.parse().ok()?, inode))
    });
    sockets.collect()
}

/// A copy of a process's descriptor, if it is an Internet socket.
fn internet(pidfd: BorrowedFd<'_>, number: i32) -> Option<(Kind, OwnedFd)> {
    let socket = pidfd::descriptor(pidfd, number).ok()?;
    let kind = [libc::SO_DOMAIN, libc::SO_TYPE, libc::SO_PROTOCOL]
        .map(|option| sys::socket_option(socket.as_fd(), libc::SOL_SOCKET, option));
    let [Some(family), Some(kind), Some(protocol)] = kind else {
        return None;
    };
    let is_internet = matches!(family, libc::AF_INET | libc::AF_INET6)
        && matches!(kind, libc::SOCK_STREAM | libc::SOCK_DGRAM);
    is_internet.then_some(([family, kind, protocol], socket))
}

/// Whether sockets of this kind have options of this level.
fn applies(level: i32, [family, kind, _]: Kind) -> bool {
    match level {
        libc::IPPROTO_TCP => kind == libc::SOCK_STREAM,
        libc::IPPROTO_IPV6 => family == libc::AF_INET6,
        // Those of IPv4 count for mapped addresses of an IPv6 socket.
        _ => true,
    }
}

fn look(kind: Kind, socket: BorrowedFd<'_>) -> Found {
    let option = |known: &Known| {
        let applies = applies(known.level, kind);
        applies
            .then(|| sys::socket_option(socket, known.level, known.number))
            .flatten()
    };
    Found {
        options: OPTIONS.iter().map(option).collect(),
        congestion_control: match kind[1] {
            libc::SOCK_STREAM => getsockopt(&socket, TcpCongestion).ok(),
            _ => None,
        },
    }
}

/// What new sockets of these kinds have in a process's network namespace.
fn usual(process: Pid, kinds: BTreeSet<Kind>) -> HashMap<Kind, Found> {
    if kinds.is_empty() {
        return HashMap::new();
    }
    let found = within(process, move || {
        let new = kinds.into_iter().filter_map(|kind| {
            let socket = sys::socket(kind).ok()?;
            Some((kind, look(kind, socket.as_fd())))
        });
        Ok(new.collect())
    });
    // A namespace that can't be entered: nothing is recorded.
    found.unwrap_or_default()
}

/// Calls `operation` in a process's network namespace, on a thread of its own.
fn within<T: Send + 'static>(
    process: Pid,
    operation: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let namespace = File::open(procfs::of(process).join("ns/net"))?;
    let entered = thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        operation()
    });
    let result = entered.join();
    result.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::AsRawFd;

    #[test]
    fn a_new_socket_has_nothing_to_record() {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let pidfd = pidfd::open(Pid::own()).expect("a pidfd");
        for number in [tcp.as_raw_fd(), udp.as_raw_fd()] {
            let (kind, socket) = internet(pidfd.as_fd(), number).expect("a socket");
            let new = sys::socket(kind).expect("a socket");
            let (found, usual) = (look(kind, socket.as_fd()), look(kind, new.as_fd()));
            assert_eq!(changed(&found, &usual), BTreeMap::new());
        }
        let file = File::open("/dev/null").expect("open");
        assert!(internet(pidfd.as_fd(), file.as_raw_fd()).is_none());
    }

    #[test]
    fn options_are_those_of_another_socket_again() {
        let set = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let restored = TcpListener::bind("127.0.0.1:0").expect("a socket");
        for (level, number, value) in [
            (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 7654),
            (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 15),
            (libc::IPPROTO_IP, libc::IP_MINTTL, 3),
            (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1),
        ] {
            sys::set_socket_option(set.as_fd(), level, number, value).expect("set");
        }
        let kind = [libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP];
        let new = sys::socket(kind).expect("a socket");
        let options = changed(&look(kind, set.as_fd()), &look(kind, new.as_fd()));
        assert_eq!(options.len(), 4, "{options:?}");
        let recorded = Socket {
            process: 1,
            descriptor: restored.as_raw_fd(),
            options,
            congestion_control: Some("no_such_module".to_owned()),
        };
        let failed = put_back(Pid::own(), &[(recorded.descriptor, &recorded)].into());
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert_eq!(failed[0].0, "TCP_CONGESTION");
        assert_eq!(look(kind, restored.as_fd()), look(kind, set.as_fd()));
    }
}
