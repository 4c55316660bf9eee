//! The messages of causes, for the user.

use std::fmt;

use super::kinds::{Cause, Descriptor, Socket, Watched};

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
