//! The causes, by kind.

/// A known reason for which CRIU refuses or fails.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// An established TCP connection, with `tcp_established` off.
    TcpEstablished,
    /// A TCP or unix connection that is being opened or is not accepted yet.
    InFlight,
    /// A netlink socket with data that its process has not read.
    NetlinkUnread,
    /// A socket of a protocol or family that CRIU does not know.
    UnsupportedSocket(Socket),
    /// A unix socket that is connected to a process outside the container.
    ExternalUnixSocket,
    /// An open io_uring.
    IoUring,
    /// An open userfaultfd.
    Userfaultfd,
    /// Another kind of open file that CRIU can't dump, in CRIU's words.
    UnsupportedFile(String),
    /// A file lock, with `file_locks` off.
    FileLocks,
    /// A deleted open file that is larger than `ghost_limit`.
    GhostTooLarge {
        /// Its path in the container.
        path: String,
        /// Its size in bytes.
        size: u64,
    },
    /// An open file that was unlinked but has another name, with `link_remap` off.
    LinkRemap(String),
    /// A file watched by inotify or fanotify that CRIU can't find by its handle.
    Inotify(Watched),
    /// A mount that CRIU can't derive from the container's other mounts.
    MountBelow(String),
    /// An open file on a mount that is not in the container.
    OutsideFile(Descriptor),
    /// A POSIX message queue, with its name if it is known.
    MessageQueue(Option<String>),
    /// A pipe in packet mode.
    PacketPipe,
    /// A descriptor of /dev/tty in a process that does not lead the terminal's
    /// session.
    ControllingTerminal,
    /// Unread control messages, such as credentials, in a unix socket.
    ControlMessages,
    /// Memory of memfd_secret(2).
    SecretMemory,
    /// An epoll set with an entry for a descriptor that was closed.
    EpollTarget,
    /// A namespace of this kind that a process created inside the container.
    NestedNamespace(String),
    /// A traced or stopped process.
    Traced,
    /// A process that runs on without its main thread.
    DeadLeader,
    /// A process exited or was killed while CRIU worked on it.
    Ended,
    /// A process was killed while CRIU restored it.
    Killed,
    /// A process of the container has no free file descriptor.
    NoDescriptor,
    /// CRIU itself has no free file descriptor.
    NoDescriptorLeft,
    /// The limit of processes and threads is reached.
    PidsLimit,
    /// A limit of watched files is reached: the name of its sysctl.
    WatchLimit(&'static str),
    /// A program that CRIU runs is not installed.
    MissingProgram(String),
    /// The freeze took too long.
    FreezeTimeout,
    /// The limits of another user's process can't be read.
    Rlimit,
    /// CRIU can't inject code into a process because of its mappings (PHP's JIT).
    Inject,
    /// CRIU can't block the container's connections during the dump.
    NetworkLock,
    /// A full disk.
    NoSpace,
    /// Not enough memory.
    NoMemory,
    /// A file that was open at the dump does not exist.
    MissingFile(String),
    /// A file that was open at the dump has another size.
    FileSize {
        /// Its path in the container.
        path: String,
        /// The size now, in bytes.
        found: u64,
        /// The size at the dump, in bytes.
        expected: u64,
    },
    /// A process id of the checkpoint is in use.
    BusyPid(u32),
    /// The ID of a thread of the checkpoint is in use.
    BusyThread,
    /// A mount of the checkpoint has no counterpart in the bundle.
    MissingMount(String),
    /// The runtime passed no network namespace for one that the dump left out.
    MissingNetns,
    /// Another socket uses the address.
    AddressInUse,
    /// The address is not configured in the target namespace.
    AddressNotAvailable,
    /// An image file is damaged.
    DamagedImage(String),
    /// The processor lacks a feature that the processes use.
    Cpu(String),
    /// This CRIU does not understand this kernel's vDSO.
    Vdso,
    /// This CRIU is too old for this kernel.
    TooOld,
}

/// Protocol or family of a socket that CRIU refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// Protocol number.
    Protocol(u32),
    /// Address family number.
    Family(u32),
}

/// A file that a process watches by inotify or fanotify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched {
    /// CRIU's errors do not name it.
    Unknown,
    /// A file that /proc identified.
    File {
        /// PID and name of the watching process.
        process: String,
        /// The file's inode.
        inode: u64,
        /// Its path in the container, `None` if it was not found.
        path: Option<String>,
    },
}

/// A descriptor that a process has open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Its number.
    pub number: u32,
    /// Its path in CRIU's log.
    pub path: String,
}

impl Cause {
    /// Whether this cause can pass within moments while the container runs, so that
    /// another attempt is worth its freeze. [`Cause::Ended`] is not one: CRIU's own
    /// code may have ended the process, and another attempt would end the next.
    #[must_use]
    pub fn passes_by_itself(&self) -> bool {
        matches!(
            self,
            Self::InFlight | Self::NetlinkUnread | Self::ControlMessages | Self::FreezeTimeout
        )
    }

    /// Whether CRIU logs the same message for a process that ends during a dump: its
    /// files in /proc are missing, and so are the mounts if it is init.
    #[must_use]
    pub fn may_mean_ended(&self) -> bool {
        matches!(
            self,
            // A zombie has no IPC namespace, which differs from init's.
            Self::NestedNamespace(_)
                // CRIU waits for a process that was killed in the freezer of cgroup v1.
                | Self::FreezeTimeout
                | Self::Traced
                // The threads of a killed process end one after the other.
                | Self::DeadLeader
                | Self::MissingMount(_)
                | Self::MissingFile(_)
                // The kernel has closed its end of a connection.
                | Self::ExternalUnixSocket
                | Self::EpollTarget
                // A zombie has no mappings.
                | Self::Inject
                | Self::Vdso
        )
    }
}
