//! Open files.

use std::collections::BTreeMap;

use cedana_checkpoint::images::Socket;
use cedana_checkpoint::inspect::{Inspection, OpenFileKind};

use super::super::table::Align::{Left, Right};
use super::super::table::Table;
use super::sockets::{endpoint, is_socket};
use crate::output::printable::printable;

pub(super) fn open_files(found: &Inspection) -> Table {
    let sockets: BTreeMap<u32, &Socket> = found
        .sockets
        .iter()
        .map(|socket| (socket.id, socket))
        .collect();
    let mut table = Table::new(&[
        ("PID", Right),
        ("COMMAND", Left),
        ("FD", Right),
        ("MODE", Left),
        ("TYPE", Left),
        ("OFFSET", Right),
        ("NAME", Left),
    ]);
    for process in &found.processes {
        for file in &process.files {
            let deleted = if file.deleted { " (deleted)" } else { "" };
            let name = match (is_socket(file), sockets.get(&file.id)) {
                (true, Some(socket)) => endpoint(&socket.kind),
                _ => file.name.clone().unwrap_or_default(),
            };
            table.row([
                process.pid.to_string(),
                printable(&process.comm),
                file.fd.to_string(),
                file.access.unwrap_or("").to_owned(),
                file_kind(file.kind).to_owned(),
                file.offset.map_or_else(String::new, |at| at.to_string()),
                printable(&format!("{name}{deleted}")),
            ]);
        }
    }
    table
}

fn file_kind(kind: OpenFileKind) -> &'static str {
    match kind {
        OpenFileKind::File => "file",
        OpenFileKind::Directory => "directory",
        OpenFileKind::Device => "device",
        OpenFileKind::Pipe => "pipe",
        OpenFileKind::Fifo => "fifo",
        OpenFileKind::Inet => "inet",
        OpenFileKind::Unix => "unix",
        OpenFileKind::Packet => "packet",
        OpenFileKind::Netlink => "netlink",
        OpenFileKind::Eventfd => "eventfd",
        OpenFileKind::Epoll => "epoll",
        OpenFileKind::Inotify => "inotify",
        OpenFileKind::Fanotify => "fanotify",
        OpenFileKind::Signalfd => "signalfd",
        OpenFileKind::Timerfd => "timerfd",
        OpenFileKind::Tty => "tty",
        OpenFileKind::Namespace => "namespace",
        OpenFileKind::Tun => "tun",
        OpenFileKind::External => "external",
        OpenFileKind::Memfd => "memfd",
        OpenFileKind::BpfMap => "bpf map",
        OpenFileKind::Pidfd => "pidfd",
        OpenFileKind::Unknown => "unknown",
    }
}
