//! State that CRIU refuses to dump, or dumps and can't restore: one process for each.
//!
//! A child that calls exec holds each of them: with a full descriptor table or without
//! its main thread, the workload itself could not report.

use std::ffi::{c_char, c_int, c_long, c_uint, c_void};
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::ptr;
use std::thread;
use std::time::Duration;

const O_CREAT: c_int = 0o100;
const O_RDWR: c_int = 2;
/// Packet mode of a pipe (pipe(2)).
const O_DIRECT: c_int = 0o40000;
const AF_UNIX: c_int = 1;
const SOCK_STREAM: c_int = 1;
const SOL_SOCKET: c_int = 1;
const SO_PASSCRED: c_int = 16;
const RLIMIT_NOFILE: c_int = 7;
const EPOLL_CTL_ADD: c_int = 1;
const IN_MODIFY: c_uint = 2;
const PROT_READ_WRITE: c_int = 3;
const MAP_SHARED: c_int = 1;
const PAGE: usize = 4096;
const MEMFD_SECRET: c_long = 447;
#[cfg(target_arch = "x86_64")]
const EXIT: c_long = 60;
#[cfg(not(target_arch = "x86_64"))]
const EXIT: c_long = 93;

/// The event of epoll_ctl(2), which is packed on x86-64 only.
#[cfg_attr(target_arch = "x86_64", repr(C, packed))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C))]
struct EpollEvent {
    events: u32,
    data: u64,
}

#[repr(C)]
struct Limit {
    soft: u64,
    hard: u64,
}

unsafe extern "C" {
    fn pipe2(fds: *mut c_int, flags: c_int) -> c_int;
    fn socketpair(family: c_int, kind: c_int, protocol: c_int, fds: *mut c_int) -> c_int;
    fn setsockopt(fd: c_int, level: c_int, name: c_int, at: *const c_void, length: c_uint)
    -> c_int;
    fn write(fd: c_int, bytes: *const c_void, count: usize) -> isize;
    fn mq_open(name: *const c_char, flags: c_int, ...) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
    fn ftruncate(fd: c_int, length: i64) -> c_int;
    fn mmap(
        at: *mut c_void,
        length: usize,
        prot: c_int,
        flags: c_int,
        fd: c_int,
        offset: i64,
    ) -> *mut c_void;
    fn setrlimit(resource: c_int, limit: *const Limit) -> c_int;
    fn dup(fd: c_int) -> c_int;
    fn close(fd: c_int) -> c_int;
    fn epoll_create1(flags: c_int) -> c_int;
    fn epoll_ctl(epoll: c_int, operation: c_int, fd: c_int, event: *mut EpollEvent) -> c_int;
    fn inotify_init1(flags: c_int) -> c_int;
    fn inotify_add_watch(fd: c_int, path: *const c_char, mask: c_uint) -> c_int;
    fn fork() -> c_int;
}

/// A child process that holds one such state.
pub(crate) struct Holder {
    kind: String,
    child: Child,
}

impl Holder {
    pub(crate) fn start(kind: &str) -> io::Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .args(["--hold", kind])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        match line.trim() {
            "held" => Ok(Self {
                kind: kind.to_owned(),
                child,
            }),
            other => Err(io::Error::other(format!("{kind}: {other}"))),
        }
    }

    /// Fails if the child has exited.
    pub(crate) fn verify(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("{} has exited: {status}", self.kind)),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Runs the child.
pub(crate) fn hold(kind: &str) -> ! {
    let held = match kind {
        "packet-pipe" => pair(O_DIRECT).map(drop),
        "message-queue" => message_queue(),
        "control-messages" => control_messages(),
        "secret-memory" => secret_memory(),
        "epoll-elsewhere" => epoll_elsewhere(),
        "epoll-twice" => epoll_twice(),
        "inotify" => inotify(),
        "dead-leader" => Ok(()),
        kind => match kind.strip_prefix("free-descriptors-") {
            Some(count) => few_descriptors(count),
            None => Err(io::Error::other("unknown")),
        },
    };
    let told = match held {
        Ok(()) => "held".to_owned(),
        Err(error) => error.to_string(),
    };
    let _ = writeln!(io::stdout(), "{told}");
    if kind == "dead-leader" {
        thread::spawn(wait);
        // SAFETY: exit ends this thread, which holds nothing that the other needs.
        unsafe { syscall(EXIT, 0) };
    }
    wait()
}

fn wait() -> ! {
    loop {
        thread::sleep(Duration::from_secs(1000));
    }
}

fn ok(result: c_int) -> io::Result<c_int> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

fn pair(flags: c_int) -> io::Result<[c_int; 2]> {
    let mut fds = [0; 2];
    // SAFETY: the array holds the two numbers that the call writes.
    ok(unsafe { pipe2(fds.as_mut_ptr(), flags) })?;
    Ok(fds)
}

fn message_queue() -> io::Result<()> {
    let default = ptr::null::<c_void>();
    // SAFETY: the name is a C string, and null asks for default attributes.
    ok(unsafe { mq_open(c"/queue".as_ptr(), O_CREAT | O_RDWR, 0o600, default) })?;
    Ok(())
}

/// An unread message with its sender's credentials.
fn control_messages() -> io::Result<()> {
    let (mut fds, on): ([c_int; 2], c_int) = ([0; 2], 1);
    let length = size_of::<c_int>() as c_uint;
    // SAFETY: the pointers are to values that outlive the calls.
    unsafe {
        ok(socketpair(AF_UNIX, SOCK_STREAM, 0, fds.as_mut_ptr()))?;
        let on = (&raw const on).cast();
        ok(setsockopt(fds[1], SOL_SOCKET, SO_PASSCRED, on, length))?;
        if write(fds[0], c"unread".as_ptr().cast(), 6) != 6 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn secret_memory() -> io::Result<()> {
    // SAFETY: the new file is one page long and mapped at an address that the kernel
    // chooses; the byte is written within that page.
    unsafe {
        let fd = ok(syscall(MEMFD_SECRET, 0) as c_int)?;
        ok(ftruncate(fd, PAGE as i64))?;
        let at = mmap(ptr::null_mut(), PAGE, PROT_READ_WRITE, MAP_SHARED, fd, 0);
        if at.addr() == usize::MAX {
            return Err(io::Error::last_os_error());
        }
        at.cast::<u8>().write_volatile(1);
    }
    Ok(())
}

fn watch(epoll: c_int, fd: c_int) -> io::Result<()> {
    let mut event = EpollEvent { events: 1, data: 0 };
    // SAFETY: the event outlives the call.
    ok(unsafe { epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &raw mut event) })?;
    Ok(())
}

/// An epoll set with a target that is closed here and open in a child.
fn epoll_elsewhere() -> io::Result<()> {
    let [reader, _writer] = pair(0)?;
    // SAFETY: there is one thread; the child only waits.
    unsafe {
        let epoll = ok(epoll_create1(0))?;
        watch(epoll, reader)?;
        if ok(fork())? == 0 {
            close(epoll);
            wait();
        }
        close(reader);
    }
    Ok(())
}

/// An epoll set with one target under two descriptors, of which one is closed.
fn epoll_twice() -> io::Result<()> {
    let [reader, _writer] = pair(0)?;
    // SAFETY: the descriptors are this process's own.
    unsafe {
        let epoll = ok(epoll_create1(0))?;
        watch(epoll, reader)?;
        watch(epoll, ok(dup(reader))?)?;
        close(reader);
    }
    Ok(())
}

fn inotify() -> io::Result<()> {
    std::fs::create_dir_all("/watched/here")?;
    // SAFETY: the path is a C string.
    unsafe {
        let fd = ok(inotify_init1(0))?;
        ok(inotify_add_watch(fd, c"/watched/here".as_ptr(), IN_MODIFY))?;
    }
    Ok(())
}

/// All descriptors that the limit allows, except for the last few.
fn few_descriptors(free: &str) -> io::Result<()> {
    let free: usize = free.parse().map_err(io::Error::other)?;
    let limit = Limit { soft: 64, hard: 64 };
    // SAFETY: the limit outlives the call.
    ok(unsafe { setrlimit(RLIMIT_NOFILE, &raw const limit) })?;
    let mut last = Vec::new();
    // SAFETY: standard input is open; the copies are closed once each.
    unsafe {
        while let Ok(fd) = ok(dup(0)) {
            last.push(fd);
        }
        for fd in last.iter().rev().take(free) {
            close(*fd);
        }
    }
    Ok(())
}
