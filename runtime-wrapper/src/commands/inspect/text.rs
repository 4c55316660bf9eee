//! A checkpoint as text for people.
//!
//! What comes from the checkpoint was written by whoever ran in the container:
//! before it reaches a terminal, [`shown`] takes its control characters away.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use cedana_checkpoint::format::manifest::Manifest;
use cedana_checkpoint::images::{Inet, Network, Protocol, Socket, SocketKind, SocketType};
use cedana_checkpoint::inspect::{
    Inspection, MappingKind, Memory, Namespace, OpenFile, OpenFileKind, Process, ProcessState,
    Share,
};
use time::OffsetDateTime;

use super::table::Align::{Left, Right};
use super::table::Table;
use crate::output::units::{bytes, duration};

/// How many mappings of a process are shown.
const MAPPINGS: usize = 5;

pub(super) fn render(dir: &Path, found: &Inspection) -> String {
    let mut text = String::new();
    summary(&mut text, dir, found);
    let sections = [
        (
            format!("Processes ({})", found.processes.len()),
            processes(&found.processes),
        ),
        (
            "Memory, by process and its largest mappings".to_owned(),
            memory(&found.processes),
        ),
        ("Shared memory".to_owned(), shared_memory(found)),
        ("Open files".to_owned(), open_files(found)),
        (format!("Sockets ({})", found.sockets.len()), sockets(found)),
        (format!("Mounts ({})", found.mounts.len()), mounts(found)),
        ("Namespaces".to_owned(), namespaces(&found.namespaces)),
    ];
    for (title, table) in sections {
        let mut body = String::new();
        table.write(&mut body);
        if !body.is_empty() {
            // Writing to a string cannot fail, here and below.
            let _ = write!(text, "\n{title}\n{body}");
        }
    }
    text
}

fn summary(text: &mut String, dir: &Path, found: &Inspection) {
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<12}{value}");
    };
    line("Checkpoint", shown(&dir.display().to_string()));
    if let Some(manifest) = &found.manifest {
        let image = manifest.container.image.as_deref();
        let of = image
            .map(|image| format!(" of {image}"))
            .unwrap_or_default();
        line(
            "Container",
            shown(&format!("{}{of}", manifest.container.id)),
        );
        line("Taken", shown(&taken(manifest)));
    } else {
        line(
            "Taken",
            "by a stock runtime: there is no manifest".to_owned(),
        );
    }
    let kernel = found.manifest.as_ref().map(|manifest| {
        let machine = &manifest.machine;
        format!(
            ", Linux {}, {} CPU features",
            machine.kernel,
            machine.cpu_features.len()
        )
    });
    line(
        "Machine",
        shown(&format!("{}{}", found.machine, kernel.unwrap_or_default())),
    );
    let sizes = &found.sizes;
    line(
        "Size",
        format!(
            "{} files, {}{}",
            sizes.files,
            bytes(sizes.raw_bytes),
            stored(sizes.raw_bytes, sizes.stored_bytes)
        ),
    );
    line(
        "Memory",
        format!(
            "{}{}",
            bytes(sizes.memory_raw_bytes),
            stored(sizes.memory_raw_bytes, sizes.memory_stored_bytes)
        ),
    );
    if let Some(dump) = &found.dump {
        line(
            "Dump",
            format!(
                "frozen {} after {} of freezing; memory taken in {}, written in {}, {} pages",
                duration(dump.frozen_us.into()),
                duration(dump.freezing_us.into()),
                duration(dump.memory_dump_us.into()),
                duration(dump.memory_write_us.into()),
                dump.pages_written
            ),
        );
    }
    if let Some(manifest) = &found.manifest {
        let cost = &manifest.cost;
        let frozen = cost
            .frozen_us
            .map(|frozen| format!("frozen {}, ", duration(frozen)));
        line(
            "Cost",
            format!(
                "{}CRIU {}, in all {}",
                frozen.unwrap_or_default(),
                duration(cost.dump_us),
                duration(cost.total_us)
            ),
        );
    }
    let network = match found.network {
        Network::External => "external: a restore is given a namespace",
        Network::Own => "its own: in the checkpoint, a restore makes it anew",
        Network::Host => "the host's",
    };
    line("Network", network.to_owned());
}

fn taken(manifest: &Manifest) -> String {
    let versions = &manifest.versions;
    let at = i64::try_from(manifest.created)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .map(|at| {
            format!(
                "{:04}-{:02}-{:02} {:02}:{:02}:{:02} UTC, ",
                at.year(),
                u8::from(at.month()),
                at.day(),
                at.hour(),
                at.minute(),
                at.second()
            )
        });
    format!(
        "{}cedana {}, {}, CRIU {}",
        at.unwrap_or_default(),
        versions.cedana,
        versions.runtime,
        versions.criu
    )
}

fn processes(processes: &[Process]) -> Table {
    let mut table = Table::new(&[
        ("PID", Right),
        ("PPID", Right),
        ("UID", Right),
        ("STATE", Left),
        ("THREADS", Right),
        ("MAPPED", Right),
        ("IN IMAGE", Right),
        ("COMMAND", Left),
    ]);
    for (process, depth) in tree(processes) {
        let total = process.memory.as_ref().map(|memory| memory.total);
        table.row([
            process.pid.to_string(),
            process.ppid.to_string(),
            process.uid.map_or_else(none, |uid| uid.to_string()),
            match process.state {
                ProcessState::Running => "running",
                ProcessState::Stopped => "stopped",
                ProcessState::Zombie => "zombie",
                ProcessState::Unknown => "unknown",
            }
            .to_owned(),
            process.threads.len().to_string(),
            total.map_or_else(none, |total| bytes(total.mapped_bytes)),
            total.map_or_else(none, in_image),
            format!("{}{}", "  ".repeat(depth), command(process)),
        ]);
    }
    table
}

/// The processes with their depth in the tree, children below their parents. A
/// parent that is not there, or a loop, makes a process a root.
fn tree(processes: &[Process]) -> Vec<(&Process, usize)> {
    const DEEPEST: usize = 32;
    let parents: BTreeMap<u32, u32> = processes
        .iter()
        .map(|process| (process.pid, process.ppid))
        .collect();
    processes
        .iter()
        .map(|process| {
            let mut pid = process.ppid;
            let mut depth = 0;
            while let Some(parent) = parents.get(&pid)
                && depth < DEEPEST
            {
                depth += 1;
                pid = *parent;
            }
            (process, depth)
        })
        .collect()
}

fn command(process: &Process) -> String {
    let executable = process
        .executable
        .as_ref()
        .map(|path| format!(" ({path})"))
        .unwrap_or_default();
    shown(&format!("{}{executable}", process.comm))
}

fn memory(processes: &[Process]) -> Table {
    let mut table = Table::new(&[
        ("PID", Right),
        ("WHAT", Left),
        ("MAPPED", Right),
        ("IN IMAGE", Right),
        ("ADDRESS", Left),
        ("PATH", Left),
    ]);
    for process in processes {
        let Some(memory) = &process.memory else {
            continue;
        };
        let pid = process.pid.to_string();
        let mut row = |what: &str, share: Share, address: String, path: &str| {
            table.row([
                pid.clone(),
                what.to_owned(),
                bytes(share.mapped_bytes),
                in_image(share),
                address,
                shown(path),
            ]);
        };
        for (what, share) in parts(memory) {
            if share.mapped_bytes > 0 {
                row(what, share, String::new(), "");
            }
        }
        for mapping in memory.largest.iter().take(MAPPINGS) {
            row(
                &format!("  {} {}", mapping.access, mapping_kind(mapping.kind)),
                mapping.share,
                format!("{:x}", mapping.start),
                mapping.path.as_deref().unwrap_or_default(),
            );
        }
    }
    table
}

fn parts(memory: &Memory) -> [(&'static str, Share); 5] {
    [
        ("total", memory.total),
        ("anonymous", memory.anonymous),
        ("file", memory.file),
        ("shared", memory.shared),
        ("other", memory.other),
    ]
}

fn mapping_kind(kind: MappingKind) -> &'static str {
    match kind {
        MappingKind::Heap => "heap",
        MappingKind::Stack => "stack",
        MappingKind::Anonymous => "anonymous",
        MappingKind::File => "file",
        MappingKind::SharedFile => "shared file",
        MappingKind::SharedAnonymous => "shared memory",
        MappingKind::Memfd => "memory file",
        MappingKind::SysvShm => "System V shm",
        MappingKind::AioRing => "AIO ring",
        MappingKind::Socket => "socket",
        MappingKind::Vdso => "vdso",
        MappingKind::Vvar => "vvar",
        MappingKind::Vsyscall => "vsyscall",
        MappingKind::Uprobes => "uprobes",
        MappingKind::Other => "other",
    }
}

fn shared_memory(found: &Inspection) -> Table {
    let mut table = Table::new(&[
        ("ID", Right),
        ("MAPPED", Right),
        ("IN IMAGE", Right),
        ("PIDS", Left),
        ("NAME", Left),
    ]);
    for segment in &found.shared_memory {
        let pids: Vec<String> = segment.pids.iter().map(u32::to_string).collect();
        table.row([
            segment.id.to_string(),
            bytes(segment.share.mapped_bytes),
            in_image(segment.share),
            if pids.is_empty() {
                none()
            } else {
                pids.join(",")
            },
            shown(segment.name.as_deref().unwrap_or_default()),
        ]);
    }
    table
}

fn open_files(found: &Inspection) -> Table {
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
                shown(&process.comm),
                file.fd.to_string(),
                file.access.unwrap_or("").to_owned(),
                file_kind(file.kind).to_owned(),
                file.offset.map_or_else(String::new, |at| at.to_string()),
                shown(&format!("{name}{deleted}")),
            ]);
        }
    }
    table
}

fn is_socket(file: &OpenFile) -> bool {
    matches!(
        file.kind,
        OpenFileKind::Inet | OpenFileKind::Unix | OpenFileKind::Packet | OpenFileKind::Netlink
    )
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

fn sockets(found: &Inspection) -> Table {
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
            received.map_or_else(none, |bytes| bytes.to_string()),
            sent.map_or_else(none, |bytes| bytes.to_string()),
            socket.netns.map_or_else(none, |id| id.to_string()),
            holders
                .get(&socket.id)
                .map_or_else(none, |all| all.join(",")),
            shown(&address(&socket.kind)),
        ]);
    }
    table
}

fn kind_and_state(kind: &SocketKind) -> (String, String) {
    match kind {
        SocketKind::Inet(inet) => (
            protocol(inet),
            inet.state.map_or_else(none, |state| {
                // As ss(8) and netstat(8) write them.
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
                (false, None) => none(),
            },
        ),
        SocketKind::Netlink { .. } => ("netlink".to_owned(), none()),
        SocketKind::Packet { kind, .. } => (format!("packet {}", socket_type(*kind)), none()),
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

/// A socket in one word and its address.
fn endpoint(kind: &SocketKind) -> String {
    let (name, state) = kind_and_state(kind);
    let state = if state == none() {
        String::new()
    } else {
        format!(" ({state})")
    };
    format!("{name} {}{state}", address(kind))
}

fn mounts(found: &Inspection) -> Table {
    let mut table = Table::new(&[
        ("MOUNTPOINT", Left),
        ("TYPE", Left),
        ("SOURCE", Left),
        ("ROOT", Left),
        ("EXTERNAL", Left),
    ]);
    for mount in &found.mounts {
        table.row([
            shown(&mount.mountpoint),
            shown(&mount.fstype),
            shown(&mount.source),
            shown(&mount.root),
            shown(mount.external.as_deref().unwrap_or_default()),
        ]);
    }
    table
}

fn namespaces(namespaces: &[Namespace]) -> Table {
    let mut table = Table::new(&[("KIND", Left), ("ID", Right), ("WHERE FROM", Left)]);
    for namespace in namespaces {
        let from = match (&namespace.external, namespace.host) {
            (Some(key), _) => format!("external, given as {key}"),
            (None, true) => "the host's".to_owned(),
            (None, false) => "the checkpoint".to_owned(),
        };
        table.row([
            format!("{:?}", namespace.kind).to_lowercase(),
            namespace.id.to_string(),
            shown(&from),
        ]);
    }
    table
}

fn none() -> String {
    "-".to_owned()
}

/// What of a share is in the checkpoint, or in the one that it builds upon.
fn in_image(share: Share) -> String {
    match share.parent_bytes {
        0 => bytes(share.image_bytes),
        parent => format!("{} + {} in parent", bytes(share.image_bytes), bytes(parent)),
    }
}

fn stored(raw: u64, stored: u64) -> String {
    if raw == stored || raw == 0 {
        return String::new();
    }
    let percent = stored as f64 / raw as f64 * 100.0;
    format!(", stored in {} ({percent:.0} %)", bytes(stored))
}

/// Text that came from a container, with its control characters in Rust's
/// notation: a name must not move a terminal's cursor or pass for another row.
fn shown(text: &str) -> String {
    // Beside Unicode's controls: what turns the direction of writing around.
    let hidden = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if hidden(letter) {
            out.extend(letter.escape_default());
        } else {
            out.push(letter);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_sizes() {
        assert_eq!(stored(100, 100), "");
        assert_eq!(stored(2048, 1024), ", stored in 1.00 KiB (50 %)");
    }

    #[test]
    fn nothing_reaches_the_terminal_as_a_command() {
        assert_eq!(shown("a\x1b[31m\nb\u{202e}ä"), "a\\u{1b}[31m\\nb\\u{202e}ä");
    }
}
