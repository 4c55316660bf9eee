//! Drops the segments of restored connections until the restore has ended.
//!
//! A peer retransmits unacknowledged segments at any time. If the network namespace
//! already has the address but not the connection, the kernel answers with a reset,
//! which ends the connection. While CRIU fills the connection's queues, a segment would
//! be counted twice. CRIU locks the network only for the checkpoint: a namespace that
//! it is given for the restore has none of its rules (criu/cr-restore.c,
//! `network_lock_internal` with an empty namespace alone). So segments to the
//! connections are dropped, from before the namespace has its addresses until the
//! runtime's restore has ended.
//!
//! The container must not send the first segment either. When CRIU hands a connection
//! over to the kernel, the kernel sends the peer a window probe, an acknowledgement
//! without data (`tcp_send_window_probe`, by TCP_REPAIR_OFF). If addresses are
//! translated on the way, the translation was often deleted with the old container
//! (Docker does so). The probe then reaches the peer untranslated, and the peer answers
//! with a reset, since it has no such connection. If the peer sends first, the
//! translation is made anew and the connection continues. CRIU's own lock would not
//! help, because it ends before. So the connections' probes are dropped, too, limited to
//! the probes' number of bytes.
//!
//! The rules are made and removed as a whole, in a time that hardly depends on the
//! number of connections: removing the rules of 4,000 connections one by one takes
//! iptables half a minute.
//!
//! ```text
//! nftables   a table with a set of connections; the kernel removes the table with the
//!            nft process that made it, and nft exits when this process has exited
//! iptables   two chains, where nftables is missing; if we are killed they remain, and
//!            affect only the connections of this container, whose restore has failed
//! ```

mod iptables;
mod nftables;

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use cedana_checkpoint::images::Inet;

/// The lock of connections, until it is dropped.
pub(crate) struct NetworkLock {
    /// `None` if there is no connection to lock.
    _rules: Option<Rules>,
}

/// The rules, which are removed when they are dropped.
enum Rules {
    Nftables { _table: nftables::Table },
    Iptables { _chains: iptables::Chains },
}

/// The ends of a connection, of one address family.
#[derive(Debug, Clone, Copy)]
struct Ends {
    own: SocketAddr,
    peer: SocketAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl NetworkLock {
    /// Locks connections before they are restored in a network namespace.
    ///
    /// # Errors
    /// Neither nft nor iptables can make the rules: connections may be lost.
    pub(crate) fn begin(netns: &Path, connections: &[Inet]) -> io::Result<Self> {
        let ends: Vec<Ends> = connections.iter().filter_map(Ends::of).collect();
        if ends.is_empty() {
            return Ok(Self { _rules: None });
        }
        let rules = match nftables::Table::add(netns, &ends) {
            Ok(table) => Rules::Nftables { _table: table },
            Err(nftables) => match iptables::Chains::add(netns, &ends) {
                Ok(chains) => Rules::Iptables { _chains: chains },
                Err(iptables) => {
                    return Err(io::Error::other(format!("{nftables}; {iptables}")));
                }
            },
        };
        Ok(Self {
            _rules: Some(rules),
        })
    }
}

impl Ends {
    /// `None` without a peer, and for loopback, which is exempt: CRIU itself sends the
    /// peer's last segment to half-closed connections (soccr, `send_fin`).
    fn of(inet: &Inet) -> Option<Self> {
        let (own, peer) = (canonical(inet.source), canonical(inet.destination?));
        let is_locked = !own.ip().is_loopback() && own.is_ipv4() == peer.is_ipv4();
        is_locked.then_some(Self { own, peer })
    }

    fn family(self) -> Family {
        match self.own.is_ipv4() {
            true => Family::V4,
            false => Family::V6,
        }
    }
}

impl Family {
    const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The length of an address family's header in bytes, without options.
    fn header(self) -> usize {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }

    /// The largest window probe in bytes: the headers, and the longest options of such
    /// a segment, a timestamp.
    fn probe(self) -> usize {
        self.header() + 20 + 12
    }

    /// The bytes of a connection's probes. The kernel may send a second one.
    fn quota(self) -> usize {
        2 * self.probe()
    }
}

/// The address on the wire: IPv4 for an IPv4-mapped address (RFC 4291, 2.5.5.2).
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
fn ends(own: &str, peer: &str) -> Ends {
    let address = |text: &str| canonical(text.parse().expect("an address"));
    Ends {
        own: address(own),
        peer: address(peer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_ipv4() {
        let mapped = ends("[::ffff:10.0.0.2]:80", "[::ffff:10.0.0.9]:5000");
        assert_eq!(mapped.family(), Family::V4);
        assert_eq!(mapped.own, "10.0.0.2:80".parse().expect("an address"));
    }
}
