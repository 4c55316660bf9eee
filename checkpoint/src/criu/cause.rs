//! Causes of CRIU's failures, with their remedies.
//!
//! CRIU logs "Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider
//! using --tcp-established option". This module maps each such message that has a
//! known meaning to a [`Cause`]. The cause's text names the reason and what to do
//! about it. The messages are those of CRIU 3.17 to 4.2.

use std::fmt;

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

impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.number {
            0 => "standard input",
            1 => "standard output",
            2 => "standard error",
            number => return write!(f, "descriptor {number}"),
        };
        f.write_str(name)
    }
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const REASON: &str = "by inotify or fanotify, and CRIU can't find that file because the container's overlay file system does not decode file handles; end the watch, mount the overlay with index=on,nfs_export=on, or set";
        const SETTINGS: &str = "irmap-scan-path and force-irmap in /etc/criu/runc.conf";
        match self {
            Self::Unknown => write!(f, "a process watches a file {REASON} {SETTINGS}"),
            Self::File {
                process,
                inode,
                path: None,
            } => write!(
                f,
                "process {process} watches a file (inode {inode}; its path was not found) {REASON} {SETTINGS}"
            ),
            Self::File {
                process,
                path: Some(path),
                ..
            } => {
                let dir = match path.rsplit_once('/') {
                    Some((dir, _)) if !dir.is_empty() => dir,
                    _ => "/",
                };
                write!(
                    f,
                    "process {process} watches {path} {REASON} \"irmap-scan-path {dir}\" and \"force-irmap\" in /etc/criu/runc.conf"
                )
            }
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TcpEstablished => f.write_str("the container has an established TCP connection, and keeping connections is turned off; set tcp_established = true or close the connection"),
            Self::InFlight => f.write_str("the container has a connection that is being opened, or a listening socket with connections that the application has not accepted; have the application accept or close them, and try again"),
            Self::NetlinkUnread => f.write_str("a process has a netlink socket with data that it has not read, which CRIU can't carry; have the application read the data, and try again"),
            Self::UnsupportedSocket(Socket::Protocol(262)) => f.write_str("the container has an MPTCP socket (protocol 262), which CRIU does not support; turn MPTCP off in the application (Go: GODEBUG=multipathtcp=0)"),
            Self::UnsupportedSocket(Socket::Protocol(number)) => write!(f, "the container has a socket of protocol {number}, which CRIU does not support; close it before the checkpoint"),
            Self::UnsupportedSocket(Socket::Family(number)) => write!(f, "the container has a socket of address family {number}, which CRIU does not support; close it before the checkpoint"),
            Self::ExternalUnixSocket => f.write_str("a unix socket is connected to a process outside the container; set ext_unix_sk = true if it is a datagram socket, otherwise close the connection"),
            Self::IoUring => f.write_str("a process uses io_uring, which CRIU does not support; deny io_uring by seccomp when the container starts (Docker's default profile does), so that the application falls back"),
            Self::Userfaultfd => f.write_str("a process uses userfaultfd, which CRIU does not support; turn the feature off in the application"),
            Self::UnsupportedFile(what) => write!(f, "a process has a file open that CRIU does not support ({what}); close it before the checkpoint"),
            Self::FileLocks => f.write_str("a process holds a file lock, and carrying locks is turned off; set file_locks = true"),
            Self::GhostTooLarge { path, size } => write!(f, "the deleted file {path} is still open and has {size} bytes, more than the limit; raise ghost_limit"),
            Self::LinkRemap(path) => write!(f, "the file {path} was deleted while open and has another name; set link_remap = true"),
            Self::Inotify(watched) => watched.fmt(f),
            Self::MountBelow(path) => write!(f, "the container has a mount at {path} that CRIU can't restore (it came with a recursive bind mount and is no longer mounted on the host, or it was mounted inside the container); unmount it, or give the container a bind mount without the mounts below it (Docker: bind-recursive=disabled)"),
            Self::OutsideFile(file) => write!(f, "a process has {file} on {}, a file that is outside of the container's mounts; start the container with a pipe, a terminal or /dev/null there (as ctr, Docker and Podman do), or let the process open the file through a bind mount", file.path),
            Self::MessageQueue(name) => {
                f.write_str("the container has a POSIX message queue")?;
                if let Some(name) = name {
                    write!(f, " ({name})")?;
                }
                f.write_str(", which CRIU does not support; close and unlink it (mq_unlink) before the checkpoint")
            }
            Self::PacketPipe => f.write_str("a process has a pipe in packet mode (O_DIRECT), which CRIU does not support; close it before the checkpoint, or use a unix socket of type SOCK_SEQPACKET in the application"),
            Self::ControllingTerminal => f.write_str("a process that does not lead the terminal's session has /dev/tty open, such as a shell within a shell, screen or script; leave the inner shell before the checkpoint, or start the program without the outer one (exec)"),
            Self::ControlMessages => f.write_str("a unix socket holds messages with credentials (SO_PASSCRED) that were not read yet, which CRIU does not support; have the application read them, and try again"),
            Self::SecretMemory => f.write_str("a process has secret memory (memfd_secret), which the kernel hides from all other processes, CRIU included; turn the feature off in the application"),
            Self::EpollTarget => f.write_str("an epoll set holds a file after its process has closed the descriptor and kept a copy open, and CRIU can't restore that; remove a descriptor from the set (EPOLL_CTL_DEL) before it is closed, then take another checkpoint"),
            Self::DeadLeader => f.write_str("a process's main thread has ended while other threads of it run, which CRIU does not support; let the main thread wait for the others (pthread_join) in the application, or end the process"),
            Self::Ended => f.write_str("a process of the container ended while CRIU was working on it; see the container's state and output, and try again if it runs"),
            Self::Killed => f.write_str("a process was killed while CRIU was restoring it (signal 9); if the kernel's log names the memory limit, raise it, and try again"),
            Self::NoDescriptor => f.write_str("a process has too few free file descriptors, and CRIU needs some in it; raise its limit of open files (RLIMIT_NOFILE), or close some"),
            Self::NoDescriptorLeft => f.write_str("CRIU has no free file descriptor; raise the limit of open files of the engine (LimitNOFILE in its systemd unit), or fs.file-max"),
            Self::PidsLimit => f.write_str("the limit of processes and threads is reached, and a restore needs a few more than the container has; raise the container's limit of PIDs (Docker: --pids-limit) or RLIMIT_NPROC"),
            Self::WatchLimit(name) => write!(f, "the limit {name} is reached; raise it by sysctl"),
            Self::MissingProgram(program) => write!(f, "CRIU needs the program {program}, which is not in its PATH; install it"),
            Self::NestedNamespace(kind) => write!(f, "a process inside the container has made a {kind} namespace of its own, which CRIU does not support; end it before the checkpoint"),
            Self::Traced => f.write_str("a process in the container is stopped or traced (a debugger, strace, SIGSTOP); detach or continue it first"),
            Self::FreezeTimeout => f.write_str("the container could not be frozen in time (a process waits in the kernel, or the node is overloaded); end what the process waits for, or raise checkpoint.timeout"),
            Self::Rlimit => f.write_str("the limits of a process of another user can't be read: CAP_SYS_RESOURCE is missing on this node; run the engine with that capability"),
            Self::Inject => f.write_str("CRIU can't write its code into a process because of the way its memory is mapped (as PHP's JIT does); turn the just-in-time compiler off"),
            Self::NetworkLock => f.write_str("CRIU can't block the container's connections during the dump: iptables or nftables failed; install iptables and check that the kernel has the filter tables"),
            Self::NoSpace => f.write_str("the disk is full (No space left on device); free space or choose another directory"),
            Self::NoMemory => f.write_str("there is not enough memory; free some or raise the container's limit"),
            Self::MissingFile(path) => write!(f, "the file {path}, open at the checkpoint, is missing in the container's file system; restore with the files of the checkpoint (the same mounts and writable layer)"),
            Self::FileSize { path, found, expected } => write!(f, "the file {path} has {found} bytes but had {expected} at the checkpoint; restore with the files of the checkpoint"),
            Self::BusyPid(pid) => write!(f, "the process id {pid} is in use; stop the process that uses it, or give the container its own PID namespace"),
            Self::BusyThread => f.write_str("the ID of a thread is in use; stop the process that uses it, or give the container its own PID namespace"),
            Self::MissingMount(what) => write!(f, "a mount of the checkpoint is missing ({what}); give the container the same mounts as at the checkpoint"),
            Self::MissingNetns => f.write_str("the container had its own network namespace at the checkpoint and the bundle has none; start it without host networking"),
            Self::AddressInUse => f.write_str("an address that the container listens on is in use; stop the program that uses it, or restore into a fresh network namespace"),
            Self::AddressNotAvailable => f.write_str("an address of the container's sockets does not exist in the network it is restored into; give it the address it had at the checkpoint"),
            Self::DamagedImage(file) => write!(f, "the checkpoint's image is damaged or truncated ({file}); take the checkpoint again or restore another"),
            Self::Cpu(what) => write!(f, "this processor lacks what the processes used at the checkpoint ({what}); restore on a processor with the same features"),
            Self::Vdso => f.write_str("this CRIU does not understand this kernel's vDSO; install a newer CRIU"),
            Self::TooOld => f.write_str("this CRIU is too old: it asks for a socket option that this kernel lacks (\"Can't get 1:16 opt\"); install CRIU 4.2 or later"),
        }
    }
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

    /// Maps one error message to its cause, `None` if it is unknown.
    #[must_use]
    pub fn of(message: &str) -> Option<Self> {
        ended(message)
            .or_else(|| sockets(message))
            .or_else(|| limits(message))
            .or_else(|| files(message))
            .or_else(|| processes(message))
            .or_else(|| restore(message))
            .or_else(|| system(message))
    }
}

/// Processes that exit or are killed while CRIU works on them.
fn ended(m: &str) -> Option<Cause> {
    // Signals that other programs send to end a process. Any other signal means a
    // fault in the process or in CRIU's code in it.
    let signal = number_after(m, "si_status=");
    let by_signal = m.starts_with("si_code=") && matches!(signal, Some(9 | 15));
    let unexpected = [
        "was killed by 9 unexpectedly",
        "was killed by 15 unexpectedly",
    ];
    let ended = is_missing_in_proc(m)
        || wait_found_ended(m)
        || by_signal
        || unexpected.iter().any(|text| m.contains(text))
        || m.ends_with(": No such process")
        || m.contains("Failed to read ack")
        || m.contains("Message reply from daemon is trimmed");
    if ended {
        return Some(Cause::Ended);
    }
    m.contains(" killed by signal 9").then_some(Cause::Killed)
}

/// Whether a file of a process in /proc can't be opened because the process has
/// ended.
fn is_missing_in_proc(m: &str) -> bool {
    // criu/mount.c, of /proc/PID/root. The second error stands alone if the process
    // ended a moment earlier, at readlink(2).
    if m.contains("Can't open the task root: No such file")
        || m.contains("Unable to get the root file descriptor of pid ")
    {
        return true;
    }
    // "Can't open 42/status on procfs", and the line with "42" alone before it.
    let Some(path) = after(m, "Can't open ") else {
        return false;
    };
    let name = path.trim_start_matches(|c: char| c.is_ascii_digit());
    name != path
        && (name.starts_with(": No such")
            || name.contains(" on procfs: No such")
            // The kernel's error for a process that has left its namespaces
            // (`mounts_open_common` in fs/proc_namespace.c).
            || name.starts_with("/mountinfo on procfs: Invalid argument"))
}

/// Whether CRIU waited for a process to stop and got the status of a process that has
/// ended. It can be another process: when its namespace dumpers end, CRIU waits for
/// any child.
fn wait_found_ended(m: &str) -> bool {
    let status = if let Some(rest) = after(m, "Task is still running (pid: ") {
        after(rest, "status: 0x")
            .and_then(|text| i32::from_str_radix(text.trim_end_matches(')'), 16).ok())
    } else if let Some(rest) = after(m, " is in unexpected state: ") {
        i32::from_str_radix(rest, 16).ok()
    } else {
        number_after(m, "Namespaces dumping finished with error ")
            .filter(|status| status & 0x7f != 0)
    };
    // wait(2): the signal, 0 for an exit, 0x7f for a stop.
    status.is_some_and(|status| matches!(status & 0x7f, 0 | 9 | 15))
}

/// Limits that share an error number with other causes.
fn limits(m: &str) -> Option<Cause> {
    let number = number_after::<i32>(m, "Unable to create a thread: -");
    match number {
        Some(EAGAIN) => return Some(Cause::PidsLimit),
        Some(EEXIST) => return Some(Cause::BusyThread),
        Some(ENOMEM) => return Some(Cause::NoMemory),
        _ => {}
    }
    if m.contains("Can't fork for ") && m.ends_with(": Resource temporarily unavailable") {
        return Some(Cause::PidsLimit);
    }
    let inotify = m.contains("inotify");
    if m.ends_with(": Too many open files") {
        return Some(match () {
            () if inotify => Cause::WatchLimit("fs.inotify.max_user_instances"),
            () if m.contains("in victim") => Cause::NoDescriptor,
            () => Cause::NoDescriptorLeft,
        });
    }
    if m.ends_with(": Too many open files in system") {
        return Some(Cause::NoDescriptorLeft);
    }
    if m.ends_with(": No space left on device") {
        if m.contains("Can't add watch for") {
            return Some(Cause::WatchLimit("fs.inotify.max_user_watches"));
        }
        if m.contains("Can't add event on") {
            return Some(Cause::WatchLimit("fs.epoll.max_user_watches"));
        }
    }
    None
}

/// Error numbers as CRIU's restorer prints them (errno(3)).
const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;
const EEXIST: i32 = 17;

fn sockets(m: &str) -> Option<Cause> {
    if m.contains("Connected TCP socket") {
        return Some(Cause::TcpEstablished);
    }
    if m.contains("n-flight") {
        return Some(Cause::InFlight);
    }
    // Only criu/sk-netlink.c prints these words.
    if m.contains("The socket has data to read") {
        return Some(Cause::NetlinkUnread);
    }
    if m.contains("Can't get 1:16 opt") {
        return Some(Cause::TooOld);
    }
    if let Some(number) = number_after(m, "Unsupported proto ") {
        return Some(Cause::UnsupportedSocket(Socket::Protocol(number)));
    }
    for text in [
        "Unsupported socket family: ",
        "Unknown socket collected (family ",
    ] {
        if let Some(number) = number_after(m, text) {
            return Some(Cause::UnsupportedSocket(Socket::Family(number)));
        }
    }
    if m.contains("External socket is used")
        || m.contains("Can't dump half of stream unix connection")
        || m.contains("name-less external socket")
    {
        return Some(Cause::ExternalUnixSocket);
    }
    if m.contains("Control messages in queue") {
        return Some(Cause::ControlMessages);
    }
    if m.contains("Can't bind") || m.contains("Can't listen") {
        if m.contains("Address already in use") {
            return Some(Cause::AddressInUse);
        }
        if m.contains("Cannot assign requested address") {
            return Some(Cause::AddressNotAvailable);
        }
    }
    None
}

fn files(m: &str) -> Option<Cause> {
    if m.contains("[io_uring]") {
        return Some(Cause::IoUring);
    }
    if m.contains("[userfaultfd]") {
        return Some(Cause::Userfaultfd);
    }
    if m.contains("Can't dump file") && m.contains("of that type") {
        let what = after(m, "] (").unwrap_or(m).trim_end_matches(')');
        return Some(Cause::UnsupportedFile(what.trim().to_owned()));
    }
    if m.contains("Some file locks are hold") {
        return Some(Cause::FileLocks);
    }
    if let Some(rest) = after(m, "Can't dump ghost file ") {
        let (path, rest) = rest.rsplit_once(" of ")?;
        return Some(Cause::GhostTooLarge {
            path: path.to_owned(),
            size: number(rest)?,
        });
    }
    if let Some(rest) = after(m, "Can't create link remap for ") {
        let path = rest.split_once(". Use").map_or(rest, |(path, _)| path);
        return Some(Cause::LinkRemap(path.to_owned()));
    }
    if m.contains("Can't dump that handle") {
        return Some(Cause::Inotify(Watched::Unknown));
    }
    if m.contains("packetized mode for pipes") {
        return Some(Cause::PacketPipe);
    }
    // The kernel's name for this memory, as a mapping and as an open file.
    if m.contains("(/secretmem (deleted))") || m.ends_with(" path=/secretmem (deleted)") {
        return Some(Cause::SecretMemory);
    }
    if m.contains("mqueue isn't empty") {
        return Some(Cause::MessageQueue(None));
    }
    if m.contains("Can't lookup mount=") {
        return Some(Cause::OutsideFile(Descriptor {
            number: number_after(m, " fd=")?,
            path: after(m, " path=")?.to_owned(),
        }));
    }
    if m.contains("ctty inheritance detected") {
        return Some(Cause::ControllingTerminal);
    }
    // A dump logs the first, with no error before it, if the kernel has
    // KCMP_EPOLL_TFD, else the second. A restore logs the third.
    let epoll = [
        "Dump eventpoll (pid: ",
        "Escaped/closed fd descriptor",
        "Can't add event on ",
    ];
    epoll
        .iter()
        .any(|text| m.contains(text))
        .then_some(Cause::EpollTarget)
}

fn processes(m: &str) -> Option<Cause> {
    if let Some(rest) = after(m, "Can't dump nested ") {
        let kind = rest.split(' ').next()?;
        return Some(Cause::NestedNamespace(kind.to_owned()));
    }
    if m.contains("Nested mount namespaces are not supported") {
        return Some(Cause::NestedNamespace("mount".to_owned()));
    }
    if m.contains("Zombies with threads") || m.contains("Zombie thread not supported") {
        return Some(Cause::DeadLeader);
    }
    if m.contains("Unseizable non-zombie") || m.contains("task interruption, aborting") {
        return Some(Cause::Traced);
    }
    // The last comes from a plugin that could not pause its device in that time
    // (plugins/cuda/cuda_plugin.c).
    if m.contains("Timeout reached")
        || m.contains("Unable to freeze cgroup")
        || m.contains("PAUSE_DEVICES failed")
    {
        return Some(Cause::FreezeTimeout);
    }
    if m.contains("Can't get rlimit") {
        return Some(Cause::Rlimit);
    }
    if m.contains("POKEDATA failed") {
        return Some(Cause::Inject);
    }
    None
}

fn restore(m: &str) -> Option<Cause> {
    if let Some(rest) = after(m, "Can't open file ")
        && let Some((path, _)) = rest.split_once(" on restore: No such file")
    {
        return Some(Cause::MissingFile(absolute(path)));
    }
    if let Some((path, rest)) = after(m, "File ").and_then(|r| r.split_once(" has bad size ")) {
        return Some(Cause::FileSize {
            path: absolute(path),
            found: number(rest)?,
            expected: number_after(rest, "(expect ")?,
        });
    }
    if let Some(pid) = number_after(m, "Can't fork for ") {
        return m.ends_with("File exists").then_some(Cause::BusyPid(pid));
    }
    if let Some(rest) = after(m, "do not match expected ") {
        return Some(Cause::BusyPid(number(rest)?));
    }
    if m.contains("Unable to find an external netns") {
        return Some(Cause::MissingNetns);
    }
    if let Some(rest) = after(m, "No mapping for ") {
        let place = rest.split_once(':').map_or(rest, |(_, place)| place);
        let place = place.trim_end_matches(" mountpoint");
        // CRIU prints "(null)" if it has not read the mount point yet.
        let known = !place.is_empty() && place != "(null)";
        let place = if known { place } else { "an external mount" };
        return Some(Cause::MissingMount(place.to_owned()));
    }
    if let Some(place) = unsupported_mount(m) {
        return Some(Cause::MountBelow(absolute(place)));
    }
    let mount = m.starts_with("mnt: ") || m.starts_with("mnt-v2: ");
    if mount && m.ends_with("No such file or directory") {
        let what = after(m, ": ").unwrap_or(m);
        return Some(Cause::MissingMount(what.to_owned()));
    }
    for text in [
        "Unexpected EOF on ",
        "agic doesn't match for ",
        " expected on ",
    ] {
        if let Some(file) = after(m, text) {
            return Some(Cause::DamagedImage(file.to_owned()));
        }
    }
    if m.contains("Images corrupted") || m.contains("image corruption") {
        return Some(Cause::DamagedImage("pstree.img".to_owned()));
    }
    None
}

/// Mount point of a mount that CRIU can't restore: a bind mount without its source,
/// one with its master outside of the container, or one of an unknown file system.
fn unsupported_mount(m: &str) -> Option<&str> {
    if let Some((mount, _)) = m.split_once(" doesn't have a proper root mount") {
        let (_, place) = mount.split_once(":./").or(mount.rsplit_once(':'))?;
        return Some(place);
    }
    if let Some((mount, _)) = m.split_once(" (master_id: ")
        && m.contains("has unreachable sharing")
    {
        let (_, place) = after(mount, "Mount ")?.split_once(' ')?;
        return Some(place);
    }
    let (place, rest) = after(m, "FS mnt ")?.split_once(" dev 0x")?;
    rest.contains(" unsupported id ").then_some(place)
}

fn system(m: &str) -> Option<Cause> {
    if m.contains("No space left on device") {
        return Some(Cause::NoSpace);
    }
    if m.contains("Cannot allocate memory") {
        return Some(Cause::NoMemory);
    }
    if let Some(program) = after(m, "execvp(\"")
        && let Some((program, _)) = program.split_once("\", ...) failed: No such file")
    {
        return Some(Cause::MissingProgram(program.to_owned()));
    }
    if m.contains("Locking network failed") || m.contains("iptables-restore returned") {
        return Some(Cause::NetworkLock);
    }
    for text in [
        "capabilities do not match run time",
        "FPU feature required by image",
        "CPU xfeatures has unsupported bits",
        "CPU xsave size mismatch",
        "CPU xsave max size mismatch",
    ] {
        if m.contains(text) {
            return Some(Cause::Cpu(after(m, "cpu: ").unwrap_or(m).to_owned()));
        }
    }
    let vdso = m.starts_with("vdso: ") || m.contains("vDSO") || m.contains("vdso VMAs");
    vdso.then_some(Cause::Vdso)
}

/// Turns CRIU's path, relative to the container's root, into an absolute one.
fn absolute(path: &str) -> String {
    format!("/{}", path.trim_start_matches(['.', '/']))
}

fn after<'a>(message: &'a str, text: &str) -> Option<&'a str> {
    message.split_once(text).map(|(_, rest)| rest)
}

fn number_after<N: std::str::FromStr>(message: &str, text: &str) -> Option<N> {
    number(after(message, text)?)
}

fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text[..end].parse().ok()
}
