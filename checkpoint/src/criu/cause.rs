//! What went wrong inside CRIU, as a person needs to hear it.
//!
//! CRIU says "Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider
//! using --tcp-established option". Here each message that has a known meaning
//! becomes a [`Cause`], whose text names the cause and what to do about it. The
//! texts matched are those of CRIU 3.17 to 4.2.

use std::fmt;

/// A known reason for CRIU to refuse or fail.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// An established TCP connection while keeping them is turned off.
    TcpEstablished,
    /// A connection that is not yet accepted, or a unix socket's.
    InFlight,
    /// A netlink socket with data that its process has not read.
    NetlinkUnread,
    /// A socket of a protocol or family that CRIU does not know.
    UnsupportedSocket(Socket),
    /// A unix socket whose other end is outside the container.
    ExternalUnixSocket,
    /// An open io_uring.
    IoUring,
    /// An open userfaultfd.
    Userfaultfd,
    /// Another kind of open file that CRIU can't dump.
    UnsupportedFile(String),
    /// File locks while carrying them is turned off.
    FileLocks,
    /// A deleted open file above the limit.
    GhostTooLarge {
        /// Its path in the container.
        path: String,
        /// Its size in bytes.
        size: u64,
    },
    /// An unlinked file while link remapping is turned off.
    LinkRemap(String),
    /// A watched file that can't be found again.
    Inotify,
    /// A namespace made inside the container.
    NestedNamespace(String),
    /// A process that another one traces, or that is stopped.
    Traced,
    /// Freezing took too long.
    FreezeTimeout,
    /// Another uid's limits can't be read.
    Rlimit,
    /// The process refuses code injection (a just-in-time compiler's memory).
    Inject,
    /// Connections can't be held still during the dump.
    NetworkLock,
    /// A full disk.
    NoSpace,
    /// Not enough memory.
    NoMemory,
    /// A file that was open at the dump is gone.
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
    /// A mount of the checkpoint has no counterpart in the bundle.
    MissingMount(String),
    /// The checkpoint's network namespace must be handed in and was not.
    MissingNetns,
    /// Another socket holds the address.
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

/// What is known of a socket that CRIU refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// Protocol number.
    Protocol(u32),
    /// Address family number.
    Family(u32),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TcpEstablished => f.write_str("the container has an established TCP connection, and keeping connections is turned off; set tcp_established = true or close the connection"),
            Self::InFlight => f.write_str("a connection was being opened at that moment, or a socket had connections nobody had accepted; try again shortly"),
            Self::NetlinkUnread => f.write_str("a netlink socket had data that its process had not read, which CRIU can't carry; try again shortly"),
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
            Self::Inotify => f.write_str("a process watches a file by inotify or fanotify that CRIU can't find again (overlay file systems can't decode its handle); mount the overlay with index=on,nfs_export=on, or set irmap-scan-path and force-irmap in /etc/criu/runc.conf"),
            Self::NestedNamespace(kind) => write!(f, "a process inside the container has made a {kind} namespace of its own, which CRIU does not support; end it before the checkpoint"),
            Self::Traced => f.write_str("a process in the container is stopped or traced (a debugger, strace, SIGSTOP); detach or continue it first"),
            Self::FreezeTimeout => f.write_str("the container could not be frozen in time (a process waits in the kernel, or the node is overloaded); try again, or raise the timeout"),
            Self::Rlimit => f.write_str("the limits of a process of another user can't be read: CAP_SYS_RESOURCE is missing on this node; run the engine with that capability"),
            Self::Inject => f.write_str("CRIU can't write its code into a process, whose memory is mapped so that it refuses (PHP's JIT does); turn the just-in-time compiler off"),
            Self::NetworkLock => f.write_str("the container's connections can't be held still: iptables or nftables failed; install iptables and check that the kernel has the filter tables"),
            Self::NoSpace => f.write_str("the disk is full (No space left on device); free space or choose another directory"),
            Self::NoMemory => f.write_str("there is not enough memory; free some or raise the container's limit"),
            Self::MissingFile(path) => write!(f, "the file {path}, open at the checkpoint, is missing in the container's file system; restore with the files of that time (the same mounts and writable layer)"),
            Self::FileSize { path, found, expected } => write!(f, "the file {path} has {found} bytes but had {expected} at the checkpoint; restore with the files of that time"),
            Self::BusyPid(pid) => write!(f, "the process id {pid} is in use; stop the process that has it, or give the container its own PID namespace"),
            Self::MissingMount(what) => write!(f, "a mount of the checkpoint is missing ({what}); give the container the same mounts as at the checkpoint"),
            Self::MissingNetns => f.write_str("the checkpoint was taken in a network namespace of its own and the bundle has none; start it without host networking"),
            Self::AddressInUse => f.write_str("an address that the container listens on is in use; stop the program that has it, or restore into a fresh network namespace"),
            Self::AddressNotAvailable => f.write_str("an address of the container's sockets does not exist in the network it is restored into; give it the address it had at the checkpoint"),
            Self::DamagedImage(file) => write!(f, "the checkpoint's image is damaged or truncated ({file}); take the checkpoint again or restore another"),
            Self::Cpu(what) => write!(f, "this processor lacks what the processes used at the checkpoint ({what}); restore on a processor with the same features"),
            Self::Vdso => f.write_str("this CRIU does not understand this kernel's vDSO; install a newer CRIU"),
            Self::TooOld => f.write_str("this CRIU is too old for this kernel, whose sockets lack an option it asks for (\"Can't get 1:16 opt\"); install CRIU 4.2 or later"),
        }
    }
}

impl Cause {
    /// Whether a container that goes on running may be without this cause a moment
    /// later, so that another attempt is worth its freeze.
    #[must_use]
    pub fn passes_by_itself(&self) -> bool {
        matches!(
            self,
            Self::InFlight | Self::NetlinkUnread | Self::FreezeTimeout
        )
    }

    /// The meaning of one error message, if it is a known one.
    #[must_use]
    pub fn of(message: &str) -> Option<Self> {
        sockets(message)
            .or_else(|| files(message))
            .or_else(|| processes(message))
            .or_else(|| restore(message))
            .or_else(|| system(message))
    }
}

fn sockets(m: &str) -> Option<Cause> {
    if m.contains("Connected TCP socket") {
        return Some(Cause::TcpEstablished);
    }
    if m.contains("n-flight") {
        return Some(Cause::InFlight);
    }
    // criu/sk-netlink.c, the only file with these words.
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
        return Some(Cause::Inotify);
    }
    None
}

fn processes(m: &str) -> Option<Cause> {
    if let Some(rest) = after(m, "Can't dump nested ") {
        let kind = rest.split(' ').next()?;
        return Some(Cause::NestedNamespace(kind.to_owned()));
    }
    if m.contains("Nested mount namespaces are not supported") {
        return Some(Cause::NestedNamespace("mount".to_owned()));
    }
    if m.contains("Unseizable non-zombie") || m.contains("task interruption, aborting") {
        return Some(Cause::Traced);
    }
    if m.contains("Timeout reached") || m.contains("Unable to freeze cgroup") {
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
        // CRIU prints this before it has the place's name.
        let known = !place.is_empty() && place != "(null)";
        let place = if known {
            place
        } else {
            "one that came from outside"
        };
        return Some(Cause::MissingMount(place.to_owned()));
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

fn system(m: &str) -> Option<Cause> {
    if m.contains("No space left on device") {
        return Some(Cause::NoSpace);
    }
    if m.contains("Cannot allocate memory") {
        return Some(Cause::NoMemory);
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

/// CRIU names files of the container relative to its root.
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
