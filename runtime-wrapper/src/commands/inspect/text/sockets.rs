//! Sockets and their addresses.

use std::collections::BTreeMap;

use cedana_checkpoint::images::{Inet, Protocol, SocketKind, SocketType};
use cedana_checkpoint::inspect::{Inspection, OpenFile, OpenFileKind};

use super::super::table::Align::{Left, Right};
use super::super::table::Table;
use super::cells::absent;
use crate::output::printable::printable;

pub(super) fn sockets(found: &Inspection) -> Table {
    let mut holders: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for process in &found.processes {
        for file in process.files.iter().filter(|file| is_socket(file)) {
            let holder = format!("{}/{}", process.pid, file.fd);
            holders.entry(file.id).or_default().push(holder);
        }
    }
    let mut table = Table::new(&[
        ("TYPE", Left),
        ("STATE", Left),
        ("RECV-Q", Right),
        ("SEND-Q", Right),
        ("NETNS", Right),
        ("PID/FD", Left),
        ("ADDRESS", Left),
    ]);
    for socket in &found.sockets {
        let (kind, state) = kind_and_state(&socket.kind);
        let (received, sent) = match &socket.kind {
            SocketKind::Inet(inet) => (inet.receive_queue, inet.send_queue),
            _ => (None, None),
        };
        table.row([
            kind,
            state,
            received.map_or_else(absent, |bytes| bytes.to_string()),
            sent.map_or_else(absent, |bytes| bytes.to_string()),
            socket.netns.map_or_else(absent, |id| id.to_string()),
            holders
                .get(&socket.id)
                .map_or_else(absent, |all| all.join(",")),
            printable(&address(&socket.kind)),
        ]);
    }
    table
}

pub(super) fn is_socket(file: &OpenFile) -> bool {
    matches!(
        file.kind,
        OpenFileKind::Inet | OpenFileKind::Unix | OpenFileKind::Packet | OpenFileKind::Netlink
    )
}

fn kind_and_state(kind: &SocketKind) -> (String, String) {
    match kind {
        SocketKind::Inet(inet) => (
            protocol(inet),
            inet.state.map_or_else(absent, |state| {
                // The names of ss(8) and netstat(8).
                let mut name = String::new();
                for (at, letter) in format!("{state:?}").char_indices() {
                    if at > 0 && letter.is_ascii_uppercase() {
                        name.push('-');
                    }
                    name.push(letter.to_ascii_uppercase());
                }
                name
            }),
        ),
        SocketKind::Unix(unix) => (
            format!("unix {}", socket_type(unix.kind)),
            match (unix.listening, unix.peer) {
                (true, _) => "LISTEN".to_owned(),
                (false, Some(_)) => "CONNECTED".to_owned(),
                (false, None) => absent(),
            },
        ),
        SocketKind::Netlink { .. } => ("netlink".to_owned(), absent()),
        SocketKind::Packet { kind, .. } => (format!("packet {}", socket_type(*kind)), absent()),
    }
}

fn protocol(inet: &Inet) -> String {
    let name = match inet.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::UdpLite => "udplite",
        Protocol::Icmp => "icmp",
        Protocol::IcmpV6 => "icmpv6",
        Protocol::Other(number) => return format!("ip {number}"),
    };
    let six = if inet.source.is_ipv6() { "6" } else { "" };
    format!("{name}{six}")
}

fn socket_type(kind: SocketType) -> &'static str {
    match kind {
        SocketType::Stream => "stream",
        SocketType::Dgram => "dgram",
        SocketType::Raw => "raw",
        SocketType::SeqPacket => "seqpacket",
        SocketType::Other(_) => "other",
    }
}

fn address(kind: &SocketKind) -> String {
    match kind {
        SocketKind::Inet(inet) => {
            let peer = inet.destination.map(|peer| format!(" -> {peer}"));
            let on = inet.interface.as_ref().map(|name| format!(" on {name}"));
            format!(
                "{}{}{}",
                inet.source,
                peer.unwrap_or_default(),
                on.unwrap_or_default()
            )
        }
        SocketKind::Unix(unix) => {
            let name = unix.name.as_deref().unwrap_or("*");
            let peer = unix.peer.map(|inode| format!(" -> [{inode}]"));
            format!("{name} [{}]{}", unix.inode, peer.unwrap_or_default())
        }
        SocketKind::Netlink { protocol, port } => format!("protocol {protocol}, port {port}"),
        SocketKind::Packet {
            protocol,
            interface,
            ..
        } => format!("protocol {protocol:#06x}, interface {interface}"),
    }
}

/// The type, address and state of a socket.
pub(super) fn endpoint(kind: &SocketKind) -> String {
    let (name, state) = kind_and_state(kind);
    let state = if state == absent() {
        String::new()
    } else {
        format!(" ({state})")
    };
    format!("{name} {}{state}", address(kind))
}
