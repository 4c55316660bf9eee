//! States in which CRIU can't take a checkpoint, but which pass: each lasts until the
//! test opens a fifo for writing.

use std::ffi::{CString, c_char, c_int, c_long, c_void};
use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::sync::mpsc;
use std::thread;

const AF_NETLINK: c_int = 16;
const SOCK_RAW_CLOEXEC: c_int = 3 | 0o2_000_000;
const MSG_DONTWAIT: c_int = 0x40;
const PTRACE_SEIZE: c_int = 0x4206;

/// `posix_spawn_file_actions_t`, which has 80 bytes in glibc and in musl.
#[repr(C, align(16))]
struct FileActions([u8; 256]);

unsafe extern "C" {
    fn socket(family: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn send(fd: c_int, from: *const c_void, length: usize, flags: c_int) -> isize;
    fn recv(fd: c_int, to: *mut c_void, length: usize, flags: c_int) -> isize;
    fn ptrace(request: c_int, ...) -> c_long;
    fn posix_spawn_file_actions_init(actions: *mut FileActions) -> c_int;
    fn posix_spawn_file_actions_addopen(
        actions: *mut FileActions,
        fd: c_int,
        path: *const c_char,
        flags: c_int,
        mode: u32,
    ) -> c_int;
    fn posix_spawn(
        pid: *mut c_int,
        path: *const c_char,
        actions: *const FileActions,
        attributes: *const c_void,
        arguments: *const *const c_char,
        environment: *const *const c_char,
    ) -> c_int;
}

/// Waits until the test opens the fifo.
fn wait(fifo: &str) {
    // An error ends the wait as well; the test then finds its state missing.
    let _ = File::open(fifo);
}

/// A connection in its listener's queue, accepted after the wait.
pub(crate) fn backlog(fifo: String) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    thread::spawn(move || {
        wait(&fifo);
        let server = listener.accept();
        loop {
            thread::park();
            // Kept open until the program exits.
            let _ = (&client, &server, &listener);
        }
    });
    Ok(())
}

/// A netlink socket with an unread answer, read after the wait.
pub(crate) fn netlink(fifo: String) -> io::Result<()> {
    // SAFETY: socket touches no memory.
    let fd = unsafe { socket(AF_NETLINK, SOCK_RAW_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // nlmsghdr: 17 bytes, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP; then a family.
    let mut request = [0u8; 20];
    request[0..4].copy_from_slice(&17u32.to_ne_bytes());
    request[4..6].copy_from_slice(&18u16.to_ne_bytes());
    request[6..8].copy_from_slice(&0x301u16.to_ne_bytes());
    // SAFETY: the buffer is as long and outlives the call.
    let sent = unsafe { send(fd, request.as_ptr().cast(), request.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    thread::spawn(move || {
        wait(&fifo);
        let mut answer = [0u8; 32 << 10];
        // SAFETY: the buffer is as long and outlives the call.
        while unsafe {
            recv(
                socket.as_raw_fd(),
                answer.as_mut_ptr().cast(),
                answer.len(),
                MSG_DONTWAIT,
            )
        } > 0
        {}
        loop {
            thread::park();
            let _ = &socket;
        }
    });
    Ok(())
}

/// A child that a thread traces; the thread exits after the wait.
pub(crate) fn traced(fifo: String) -> io::Result<()> {
    let child = Command::new("/proc/self/exe")
        .args(["--name", "traced"])
        .spawn()?;
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let pid = child.id() as c_long;
        let nothing: c_long = 0;
        // SAFETY: PTRACE_SEIZE takes a PID and two numbers.
        let result = match unsafe { ptrace(PTRACE_SEIZE, pid, nothing, nothing) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        };
        let _ = tell.send(result);
        wait(&fifo);
    });
    told.recv().map_err(io::Error::other)?
}

/// A vfork whose child opens the fifo before it calls exec.
pub(crate) fn vfork(fifo: String) -> io::Result<()> {
    let fifo = CString::new(fifo)?;
    thread::spawn(move || {
        let mut actions = FileActions([0; 256]);
        let program = c"/workload".as_ptr();
        // The program exits at once, since it does not know this flag.
        let arguments = [program, c"--none".as_ptr(), std::ptr::null()];
        let environment = [std::ptr::null()];
        let mut pid = 0;
        // SAFETY: all pointers are to live values; the arrays end with a null.
        unsafe {
            posix_spawn_file_actions_init(&mut actions);
            posix_spawn_file_actions_addopen(&mut actions, 0, fifo.as_ptr(), 0, 0);
            posix_spawn(
                &mut pid,
                program,
                &actions,
                std::ptr::null(),
                arguments.as_ptr(),
                environment.as_ptr(),
            );
        }
    });
    Ok(())
}
