//! The sockets of a checkpoint.
//!
//! They are records of files.img like every other open file. A restore needs their
//! addresses: a connection can be restored only in a network that has its address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Serialize;

use super::dir::{Dir, MAX_RECORDS};
use super::frame::Fault;
use super::proto::{self, FileEntry};
use super::source::Images;
use crate::images::Error;

/// A socket that a process has open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Socket {
    /// CRIU's number for the open file.
    pub id: u32,
    /// CRIU's number for its network namespace; `None` if CRIU is older.
    pub netns: Option<u32>,
    /// The kind of socket.
    #[serde(flatten)]
    pub kind: SocketKind,
}

/// A socket by address family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "family", rename_all = "lowercase")]
pub enum SocketKind {
    /// AF_INET or AF_INET6, by the type of the addresses.
    Inet(Inet),
    /// AF_UNIX.
    Unix(Unix),
    /// AF_NETLINK.
    Netlink {
        /// The protocol's number (linux/netlink.h).
        protocol: u32,
        /// The port ID that it is bound to.
        port: u32,
    },
    /// AF_PACKET.
    Packet {
        /// SOCK_RAW or SOCK_DGRAM.
        #[serde(rename = "type")]
        kind: SocketType,
        /// The protocol's number (linux/if_ether.h).
        protocol: u32,
        /// The interface's index, or 0 for all.
        interface: u32,
    },
}

/// An internet socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inet {
    /// The protocol.
    pub protocol: Protocol,
    /// The state of a TCP socket.
    pub state: Option<TcpState>,
    /// Its own address; all zeros if it is not bound.
    pub source: SocketAddr,
    /// The address of its peer, if it is connected.
    pub destination: Option<SocketAddr>,
    /// The interface to which it is bound.
    pub interface: Option<String>,
    /// Bytes that have arrived but were not read yet.
    pub receive_queue: Option<u32>,
    /// Bytes that were written but not acknowledged yet.
    pub send_queue: Option<u32>,
}

/// The protocol of an internet socket (IANA's protocol numbers).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Protocol {
    Tcp,
    Udp,
    UdpLite,
    Icmp,
    IcmpV6,
    /// A raw socket's.
    Other(u32),
}

/// The states of TCP (include/net/tcp_states.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum TcpState {
    Established,
    SynSent,
    SynRecv,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
}

/// A socket's type (socket(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum SocketType {
    Stream,
    Dgram,
    Raw,
    SeqPacket,
    Other(u32),
}

/// A unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unix {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: SocketType,
    /// Whether it accepts connections.
    pub listening: bool,
    /// Its path, or `@` and its name in the abstract namespace.
    pub name: Option<String>,
    /// Its inode number.
    pub inode: u32,
    /// The inode of the socket that it is connected to.
    pub peer: Option<u32>,
}

/// The sockets of the checkpoint in `dir`.
///
/// # Errors
/// `files.img` or the image of a connection is damaged.
pub fn sockets<I: Images + ?Sized>(dir: &I) -> Result<Vec<Socket>, Error> {
    let dir = Dir(dir);
    let mut sockets = Vec::new();
    each_file(&dir, |entry| {
        sockets.extend(Socket::of(&dir, &entry)?);
        Ok(())
    })?;
    Ok(sockets)
}

/// The internet sockets of the checkpoint in `dir`, without the lengths of their queues.
/// So no image of a connection is opened, of which there may be thousands.
///
/// # Errors
/// `files.img` is damaged.
pub fn addresses<I: Images + ?Sized>(dir: &I) -> Result<Vec<Inet>, Error> {
    let mut sockets = Vec::new();
    each_file(&Dir(dir), |entry| {
        sockets.extend(entry.isk.as_ref().and_then(Inet::of));
        Ok(())
    })?;
    Ok(sockets)
}

/// Calls `take` for each open file. They are not collected: in memory an entry is much
/// larger than the few bytes that it can have in the image.
pub(crate) fn each_file<I: Images + ?Sized>(
    dir: &Dir<'_, I>,
    mut take: impl FnMut(FileEntry) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut failed = None;
    let mut left = MAX_RECORDS;
    let read = dir.each("files.img", |entry: FileEntry| {
        left = left.checked_sub(1).ok_or(Fault::TooMany)?;
        take(entry).map_err(|error| {
            failed = Some(error);
            Fault::Malformed
        })
    });
    match failed {
        Some(error) => Err(error),
        None => read,
    }
}

impl Socket {
    /// An open file as a socket; `None` if it is none.
    pub(crate) fn of<I: Images + ?Sized>(
        dir: &Dir<'_, I>,
        entry: &FileEntry,
    ) -> Result<Option<Self>, Error> {
        let (netns, kind) = if let Some(isk) = &entry.isk {
            let Some(mut inet) = Inet::of(isk) else {
                return Ok(None);
            };
            // Only a connected socket has such a file.
            let stream = format!("tcp-stream-{:x}.img", isk.ino);
            if let Some(stream) = dir.first::<proto::TcpStream>(&stream)? {
                inet.receive_queue = Some(stream.inq_len);
                inet.send_queue = Some(stream.outq_len);
            }
            (isk.ns_id, SocketKind::Inet(inet))
        } else if let Some(usk) = &entry.usk {
            (usk.ns_id, SocketKind::Unix(Unix::of(usk)))
        } else if let Some(nlsk) = &entry.nlsk {
            let kind = SocketKind::Netlink {
                protocol: nlsk.protocol,
                port: nlsk.portid,
            };
            (nlsk.ns_id, kind)
        } else if let Some(psk) = &entry.psk {
            let kind = SocketKind::Packet {
                kind: psk.kind.into(),
                // CRIU stores it in network byte order, as packet(7) does.
                protocol: u16::from_be(psk.protocol as u16).into(),
                interface: psk.ifindex,
            };
            (psk.ns_id, kind)
        } else {
            return Ok(None);
        };
        Ok(Some(Self {
            id: entry.id,
            netns,
            kind,
        }))
    }
}

impl Inet {
    /// `None` if its addresses are invalid.
    fn of(isk: &proto::InetSocket) -> Option<Self> {
        let protocol = match isk.proto {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            136 => Protocol::UdpLite,
            1 => Protocol::Icmp,
            58 => Protocol::IcmpV6,
            other => Protocol::Other(other),
        };
        let destination = address(isk.family, &isk.dst_addr, isk.dst_port)?;
        Some(Self {
            protocol,
            state: (protocol == Protocol::Tcp)
                .then(|| TcpState::of(isk.state))
                .flatten(),
            source: address(isk.family, &isk.src_addr, isk.src_port)?,
            destination: (destination.port() != 0 || !destination.ip().is_unspecified())
                .then_some(destination),
            interface: isk.ifname.clone(),
            receive_queue: None,
            send_queue: None,
        })
    }
}

/// Converts an address as CRIU stores it: the words of the kernel's structure, and the
/// port as a number. The words are in the machine's byte order, which is little-endian
/// on all of CRIU's architectures but s390.
fn address(family: u32, words: &[u32], port: u32) -> Option<SocketAddr> {
    const AF_INET: u32 = 2;
    const AF_INET6: u32 = 10;
    let ip: IpAddr = match (family, words) {
        (AF_INET, [word, ..]) => Ipv4Addr::from(word.to_le_bytes()).into(),
        (AF_INET6, &[a, b, c, d, ..]) => {
            let mut bytes = [0; 16];
            for (to, word) in bytes.chunks_exact_mut(4).zip([a, b, c, d]) {
                to.copy_from_slice(&word.to_le_bytes());
            }
            Ipv6Addr::from(bytes).into()
        }
        // The peer's address may be empty if the socket has no peer.
        (AF_INET, []) => Ipv4Addr::UNSPECIFIED.into(),
        (AF_INET6, _) => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::try_from(port).ok()?))
}

impl TcpState {
    fn of(number: u32) -> Option<Self> {
        use TcpState::*;
        const STATES: [TcpState; 11] = [
            Established,
            SynSent,
            SynRecv,
            FinWait1,
            FinWait2,
            TimeWait,
            Close,
            CloseWait,
            LastAck,
            Listen,
            Closing,
        ];
        STATES.get((number as usize).checked_sub(1)?).copied()
    }
}

impl From<u32> for SocketType {
    fn from(number: u32) -> Self {
        match number {
            1 => Self::Stream,
            2 => Self::Dgram,
            3 => Self::Raw,
            5 => Self::SeqPacket,
            other => Self::Other(other),
        }
    }
}

impl Unix {
    fn of(usk: &proto::UnixSocket) -> Self {
        const LISTEN: u32 = 10;
        // The name ends with NUL if the address passed to bind(2) did.
        let trimmed = usk.name.strip_suffix(&[0]).unwrap_or(&usk.name);
        let name = match trimmed {
            [] => None,
            [0, rest @ ..] => Some(format!("@{}", String::from_utf8_lossy(rest))),
            path => {
                let path = String::from_utf8_lossy(path);
                // For a relative name CRIU also stores the directory it was bound in.
                Some(match &usk.name_dir {
                    Some(dir) => format!("{dir}/{path}"),
                    None => path.into_owned(),
                })
            }
        };
        Self {
            kind: usk.kind.into(),
            listening: usk.state == LISTEN,
            name,
            inode: usk.ino,
            peer: (usk.peer != 0).then_some(usk.peer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(family: u32, source: &[u32], destination: &[u32]) -> proto::InetSocket {
        proto::InetSocket {
            family,
            proto: 6,
            state: 1,
            src_port: 8080,
            dst_port: 4000,
            src_addr: source.to_vec(),
            dst_addr: destination.to_vec(),
            ..Default::default()
        }
    }

    #[test]
    fn addresses_of_both_families() {
        let inet = Inet::of(&socket(2, &[0x0100_007f], &[0x0502_000a])).expect("inet");
        assert_eq!(inet.source.to_string(), "127.0.0.1:8080");
        assert_eq!(
            inet.destination
                .map(|address| address.to_string())
                .as_deref(),
            Some("10.0.2.5:4000")
        );
        assert_eq!(inet.state, Some(TcpState::Established));
        let inet = Inet::of(&socket(10, &[0, 0, 0, 0x0100_0000], &[0, 0, 0, 0])).expect("inet6");
        assert_eq!(inet.source.to_string(), "[::1]:8080");
        let mut listening = socket(10, &[0; 4], &[]);
        listening.dst_port = 0;
        listening.state = 10;
        let inet = Inet::of(&listening).expect("inet6");
        assert_eq!(inet.destination, None);
        assert_eq!(inet.state, Some(TcpState::Listen));
    }

    #[test]
    fn invalid_addresses_are_no_socket() {
        assert!(Inet::of(&socket(3, &[0], &[0])).is_none());
        let mut far = socket(2, &[0], &[0]);
        far.src_port = 70000;
        assert!(Inet::of(&far).is_none());
        assert_eq!(TcpState::of(0), None);
        assert_eq!(TcpState::of(12), None);
    }

    #[test]
    fn unix_names() {
        let name = |name: &[u8], dir: Option<&str>| {
            Unix::of(&proto::UnixSocket {
                name: name.to_vec(),
                name_dir: dir.map(str::to_owned),
                ..Default::default()
            })
            .name
        };
        assert_eq!(name(b"", None), None);
        assert_eq!(name(b"/tmp/s\0", None).as_deref(), Some("/tmp/s"));
        assert_eq!(name(b"\0abc", None).as_deref(), Some("@abc"));
        assert_eq!(name(b"s", Some("/run")).as_deref(), Some("/run/s"));
    }
}
