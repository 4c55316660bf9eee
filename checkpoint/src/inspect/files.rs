//! Open files: the descriptors of a process.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};

use serde::Serialize;

use crate::images::dir::Dir;
use crate::images::frame::Fault;
use crate::images::proto::{self, FdInfo, FileEntry, MemfdInode, RemapFilePath, TtyInfo};
use crate::images::{Error, Images, Socket, each_file};

/// One descriptor of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenFile {
    /// The descriptor.
    pub fd: u32,
    /// CRIU's number for the open file. Duplicated descriptors have the same number.
    pub id: u32,
    /// The kind of file.
    pub kind: OpenFileKind,
    /// The path, or another name: `pipe:[3]`, `memfd:name`.
    pub name: Option<String>,
    /// Whether it can be read and written: `r`, `w`, `rw`.
    pub access: Option<&'static str>,
    /// The offset.
    pub offset: Option<u64>,
    /// Whether the file was deleted. Its content is then in the checkpoint.
    pub deleted: bool,
    /// Whether it is closed on exec.
    pub close_on_exec: bool,
}

/// The kind of a descriptor's file (`fd_types` of CRIU's fdinfo.proto).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum OpenFileKind {
    File,
    Directory,
    Device,
    Pipe,
    Fifo,
    Inet,
    Unix,
    Packet,
    Netlink,
    Eventfd,
    Epoll,
    Inotify,
    Fanotify,
    Signalfd,
    Timerfd,
    Tty,
    Namespace,
    Tun,
    External,
    Memfd,
    BpfMap,
    Pidfd,
    Unknown,
}

/// An open file, before other files and tables are resolved.
#[derive(Debug)]
enum Open {
    File {
        name: String,
        flags: u32,
        offset: u64,
        mode: u32,
    },
    Pipe {
        id: u32,
        flags: u32,
    },
    Fifo(Option<u32>),
    Tty(u32, Option<u32>),
    Memfd {
        inode: u32,
        flags: u32,
        offset: u64,
    },
    Told(String),
    Nothing,
}

/// All open files of a checkpoint.
#[derive(Debug)]
pub(super) struct Files {
    open: HashMap<(u32, u32), Open>,
    sockets: Vec<Socket>,
    deleted: HashSet<u32>,
    ttys: HashMap<u32, TtyInfo>,
    memfds: HashMap<u64, MemfdInode>,
    /// Bytes that descriptions may still take.
    left: Cell<u64>,
}

/// `fd_types`.
const REG: u32 = 1;
const MEMFD: u32 = 18;

impl Files {
    /// Reads the open files. Their descriptions may take `room` bytes: a name, or a table
    /// of descriptors, can be in a few bytes of the images many times.
    pub(super) fn read<I: Images + ?Sized>(dir: &Dir<'_, I>, room: u64) -> Result<Self, Error> {
        let mut open = HashMap::new();
        let mut sockets = Vec::new();
        each_file(dir, |entry| {
            sockets.extend(Socket::of(dir, &entry)?);
            open.insert((entry.kind, entry.id), Open::of(entry));
            Ok(())
        })?;
        let deleted = dir
            .all::<RemapFilePath>("remap-fpath.img")?
            .into_iter()
            // The content of a file with another name (0), or of an exited process's file
            // in /proc (2), is not in the checkpoint.
            .filter(|remap| remap.remap_type.unwrap_or(1) == 1)
            .map(|remap| remap.orig_id)
            .collect();
        let ttys = dir.all::<TtyInfo>("tty-info.img")?;
        let memfds = dir.all::<MemfdInode>("memfd.img")?;
        Ok(Self {
            open,
            sockets,
            deleted,
            ttys: ttys.into_iter().map(|tty| (tty.id, tty)).collect(),
            memfds: memfds
                .into_iter()
                .map(|mut memfd| {
                    memfd.name = bounded(memfd.name);
                    (memfd.inode_id, memfd)
                })
                .collect(),
            left: Cell::new(room),
        })
    }

    pub(super) fn into_sockets(self) -> Vec<Socket> {
        self.sockets
    }

    /// Takes room for a description. False if there is none left.
    fn takes(&self, bytes: usize) -> bool {
        let left = self.left.get().checked_sub(bytes as u64);
        self.left.set(left.unwrap_or_default());
        left.is_some()
    }

    /// Whether descriptions were left out, because there was no room.
    pub(super) fn is_exhausted(&self) -> bool {
        self.left.get() == 0
    }

    /// The path of a regular file.
    pub(super) fn path(&self, id: u32) -> Option<String> {
        match self.open.get(&(REG, id))? {
            Open::File { name, .. } => self.takes(name.len() + 1).then(|| absolute(name)),
            _ => None,
        }
    }

    /// The memory file of a descriptor.
    pub(super) fn memfd(&self, id: u32) -> Option<&MemfdInode> {
        match self.open.get(&(MEMFD, id))? {
            Open::Memfd { inode, .. } => self.memfds.get(&u64::from(*inode)),
            _ => None,
        }
    }

    /// A process's descriptors, by the number of its table.
    pub(super) fn table<I: Images + ?Sized>(
        &self,
        dir: &Dir<'_, I>,
        table: u32,
    ) -> Result<Vec<OpenFile>, Error> {
        let image = format!("fdinfo-{table}.img");
        let mut files = Vec::new();
        dir.each(&image, |descriptor: FdInfo| {
            let file = self.describe(&descriptor);
            let name = file.name.as_ref().map_or(0, String::len);
            if !self.takes(size_of::<OpenFile>() + name) {
                return Err(Fault::TooMany);
            }
            files.push(file);
            Ok(())
        })?;
        files.sort_by_key(|file| file.fd);
        Ok(files)
    }

    fn describe(&self, descriptor: &FdInfo) -> OpenFile {
        const FD_CLOEXEC: u32 = 1;
        let mut file = OpenFile {
            fd: descriptor.fd,
            id: descriptor.id,
            kind: OpenFileKind::of(descriptor.kind),
            name: None,
            access: None,
            offset: None,
            deleted: false,
            close_on_exec: descriptor.flags & FD_CLOEXEC != 0,
        };
        match self.open.get(&(descriptor.kind, descriptor.id)) {
            Some(Open::File {
                name,
                flags,
                offset,
                mode,
            }) => {
                file.kind = OpenFileKind::of_mode(*mode);
                file.name = Some(absolute(name));
                file.access = access(*flags);
                file.offset = Some(*offset);
                file.deleted = self.deleted.contains(&descriptor.id);
            }
            Some(Open::Pipe { id, flags }) => {
                file.name = Some(format!("pipe:[{id}]"));
                file.access = access(*flags);
            }
            Some(Open::Fifo(path)) => file.name = path.and_then(|id| self.path(id)),
            Some(Open::Tty(info, path)) => {
                let pty = self.ttys.get(info).and_then(|tty| tty.pty.as_ref());
                file.name = path
                    .and_then(|id| self.path(id))
                    .or_else(|| Some(format!("/dev/pts/{}", pty?.index)));
            }
            Some(Open::Memfd {
                inode,
                flags,
                offset,
            }) => {
                let memfd = self.memfds.get(&u64::from(*inode));
                file.name = memfd.map(|memfd| format!("memfd:{}", memfd.name));
                file.access = access(*flags);
                file.offset = Some(*offset);
            }
            Some(Open::Told(name)) => file.name = Some(name.clone()),
            Some(Open::Nothing) | None => {}
        }
        file
    }
}

impl Open {
    fn of(entry: FileEntry) -> Self {
        if let Some(reg) = entry.reg {
            return Self::File {
                name: bounded(reg.name),
                flags: reg.flags,
                offset: reg.pos,
                mode: reg.mode.unwrap_or_default(),
            };
        }
        if let Some(pipe) = entry.pipe {
            return Self::Pipe {
                id: pipe.pipe_id,
                flags: pipe.flags,
            };
        }
        if let Some(fifo) = entry.fifo {
            return Self::Fifo(fifo.regf_id);
        }
        if let Some(tty) = entry.tty {
            return Self::Tty(tty.tty_info_id, tty.regf_id);
        }
        if let Some(memfd) = entry.memfd {
            return Self::Memfd {
                inode: memfd.inode_id,
                flags: memfd.flags,
                offset: memfd.pos,
            };
        }
        let told = if let Some(efd) = entry.efd {
            format!("counter {}", efd.counter)
        } else if let Some(epfd) = entry.epfd {
            format!("{} descriptors", epfd.tfd.len())
        } else if let Some(ify) = entry.ify {
            format!("{} watches", ify.wd.len())
        } else if let Some(bpf) = entry.bpf {
            bpf.map_name
        } else if let Some(pidfd) = entry.pidfd {
            format!("process {}", pidfd.nspid)
        } else if let Some(proto::TunFile { netdev: Some(name) }) = entry.tunf {
            name
        } else {
            return Self::Nothing;
        };
        Self::Told(bounded(told))
    }
}

impl OpenFileKind {
    fn of(number: u32) -> Self {
        use OpenFileKind::*;
        const KINDS: [OpenFileKind; 21] = [
            Unknown, File, Pipe, Fifo, Inet, Unix, Eventfd, Epoll, Inotify, Signalfd, Packet, Tty,
            Fanotify, Netlink, Namespace, Tun, External, Timerfd, Memfd, BpfMap, Pidfd,
        ];
        KINDS.get(number as usize).copied().unwrap_or(Unknown)
    }

    /// Maps a file mode (inode(7)). CRIU's regular files include directories and devices.
    fn of_mode(mode: u32) -> Self {
        match mode & 0o170_000 {
            0o040_000 => Self::Directory,
            0o020_000 | 0o060_000 => Self::Device,
            _ => Self::File,
        }
    }
}

/// Cuts a name that is longer than any path of the kernel (PATH_MAX).
fn bounded(mut name: String) -> String {
    const PATH_MAX: usize = 4096;
    if name.len() > PATH_MAX {
        let end = (0..=PATH_MAX).rfind(|at| name.is_char_boundary(*at));
        name.truncate(end.unwrap_or_default());
    }
    name
}

/// Makes a path of CRIU's absolute. CRIU stores paths relative to the root of the mount
/// namespace.
fn absolute(name: &str) -> String {
    let name = name.strip_prefix('.').unwrap_or(name);
    if name.starts_with('/') {
        name.to_owned()
    } else {
        format!("/{name}")
    }
}

/// The access mode of open(2).
fn access(flags: u32) -> Option<&'static str> {
    ["r", "w", "rw"].get((flags & 3) as usize).copied()
}
