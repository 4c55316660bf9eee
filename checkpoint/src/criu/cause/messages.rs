//! Maps CRIU's error messages to causes.

use super::kinds::{Cause, Descriptor, Socket, Watched};

impl Cause {
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
