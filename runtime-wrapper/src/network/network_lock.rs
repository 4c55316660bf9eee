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
//! If we are killed the rules remain. They affect only the connections of this
//! container, whose restore has failed then.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cedana_checkpoint::images::Inet;

use crate::network::netns::within;

/// The lock of connections, until it is dropped.
pub(crate) struct NetworkLock {
    netns: PathBuf,
    rules: Vec<(Family, Vec<String>)>,
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
    /// iptables is missing or fails: connections may be lost.
    pub(crate) fn begin(netns: &Path, connections: &[Inet]) -> io::Result<Self> {
        let mut lock = Self {
            netns: netns.to_owned(),
            rules: Vec::new(),
        };
        for family in [Family::V4, Family::V6] {
            let rules: Vec<_> = connections
                .iter()
                .filter_map(|inet| Some((canonical(inet.source), canonical(inet.destination?))))
                .filter(|(own, _)| !own.ip().is_loopback() && own.is_ipv4() == family.is_v4())
                .flat_map(|(own, peer)| rules(own, peer))
                .collect();
            if !rules.is_empty() {
                family.apply(netns, "-I", &rules)?;
                lock.rules.push((family, rules));
            }
        }
        Ok(lock)
    }
}

impl Drop for NetworkLock {
    fn drop(&mut self) {
        for (family, rules) in &self.rules {
            // An error means that the namespace, with its rules, was removed.
            let _ = family.apply(&self.netns, "-D", rules);
        }
    }
}

impl Family {
    fn is_v4(self) -> bool {
        self == Self::V4
    }

    fn apply(self, netns: &Path, verb: &str, rules: &[String]) -> io::Result<()> {
        let program = match self {
            Self::V4 => "iptables-restore",
            Self::V6 => "ip6tables-restore",
        };
        let mut table = String::from("*filter\n");
        for rule in rules {
            let _ = writeln!(table, "{verb} {rule}");
        }
        table.push_str("COMMIT\n");
        let output = within(netns, move || {
            let mut child = Command::new(program)
                .args(["-w", "--noflush"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()?;
            // If it ends early, its stderr has the reason.
            let _ = child
                .stdin
                .take()
                .map(|mut stdin| stdin.write_all(table.as_bytes()));
            child.wait_with_output()
        })
        .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(io::Error::other(format!(
                "{program}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ))),
        }
    }
}

/// The address on the wire: IPv4 for an IPv4-mapped address (RFC 4291, 2.5.5.2).
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The rules for one connection. Loopback is exempt, because CRIU itself sends the
/// peer's last segment to half-closed connections (soccr, `send_fin`).
fn rules(own: SocketAddr, peer: SocketAddr) -> [String; 2] {
    let header = if own.is_ipv4() { 20 } else { 40 };
    // Including the longest options of such a segment, a timestamp.
    let probe = header + 20 + 12;
    // The kernel may send a second one.
    let quota = 2 * probe;
    let ends = |from: SocketAddr, to: SocketAddr| {
        format!(
            "-p tcp -s {} --sport {} -d {} --dport {}",
            from.ip(),
            from.port(),
            to.ip(),
            to.port()
        )
    };
    [
        format!("INPUT ! -i lo {} -j DROP", ends(peer, own)),
        format!(
            "OUTPUT ! -o lo {} --tcp-flags ALL ACK -m length --length 0:{probe} \
             -m quota --quota {quota} -j DROP",
            ends(own, peer)
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn rules_name_one_connection_and_a_probe() {
        let [incoming, outgoing] = rules(address("10.0.0.2:80"), address("10.0.0.9:5000"));
        assert_eq!(
            incoming,
            "INPUT ! -i lo -p tcp -s 10.0.0.9 --sport 5000 -d 10.0.0.2 --dport 80 -j DROP"
        );
        assert!(
            outgoing.contains("-s 10.0.0.2 --sport 80 -d 10.0.0.9 --dport 5000 "),
            "{outgoing}"
        );
        assert!(outgoing.contains("--length 0:52 "), "{outgoing}");
        assert!(outgoing.contains("--quota 104 "), "{outgoing}");
    }

    #[test]
    fn ipv6_has_longer_headers_and_mapped_addresses_are_ipv4() {
        let [_, outgoing] = rules(address("[fd00::2]:80"), address("[fd00::9]:5000"));
        assert!(outgoing.contains("--length 0:72 "), "{outgoing}");
        let mapped = canonical(address("[::ffff:10.0.0.2]:80"));
        assert_eq!(mapped, address("10.0.0.2:80"));
    }
}
