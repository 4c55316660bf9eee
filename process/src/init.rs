//! The first process of a PID namespace, in which processes come back whose IDs are taken.
//!
//! ```text
//! caller ── starts ──► keeper ── forks ──► init (PID 1) ── starts ──► CRIU
//!    ▲ │ requests, answers                  ▲ │                        │ restores
//!    │ └────────────────────────────────────┘ └── relays ─────────────►│
//!    └──── the exit status of the root ◄── reaps ◄── the processes ◄───┘
//! ```
//!
//! Both are this program, dispatched by [`crate::run_as_helper`]. Init has a mount
//! namespace with its own /proc, because CRIU finds everything there. It relays what
//! caller and CRIU say to each other over a socket of its own: CRIU opens the directories
//! of its peer through /proc, and a peer outside of the namespace has no entry there.
//!
//! CRIU must not be the first process itself: the kernel kills a namespace with it. Init
//! stays, reaps, and ends when no process is left, with the status of the root. The
//! keeper ends with the same status. If the keeper is killed, so is init, and the kernel
//! kills the namespace.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use cedana_checkpoint::criu::rpc::{Answer, MAX_MESSAGE};
use cedana_checkpoint::host::sys;
use cedana_contract::process::die_with_parent;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use crate::criu::criu;

/// The first argument of the keeper. The second is CRIU's program.
pub(crate) const FLAG: &str = "--cedana-process-init";

/// The keeper's command. `socket` becomes its standard input.
pub(crate) fn command(program: &Path, socket: OwnedFd) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("cedana-init")
        .arg(FLAG)
        .arg(program)
        .current_dir("/")
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    command
}

/// Runs the keeper.
pub(crate) fn run(program: &Path) -> ExitCode {
    match keep(program) {
        Ok(code) => ExitCode::from(code),
        // The caller sees the end of the socket.
        Err(_) => ExitCode::FAILURE,
    }
}

fn keep(program: &Path) -> io::Result<u8> {
    sys::rename(c"cedana-init");
    unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS)?;
    let keeper = nix::unistd::getpid();
    // SAFETY: this process has one thread, so the child may do anything.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let code = be_init(program).unwrap_or(1);
            // Without destructors of the keeper's copy.
            std::process::exit(code.into());
        }
        ForkResult::Parent { child } => {
            // The caller reads the end when init has closed its copy.
            let null = File::open("/dev/null")?;
            nix::unistd::dup2_stdin(&null)?;
            sys::close_all_but_standard()?;
            debug_assert_ne!(keeper, child);
            loop {
                match waitpid(child, None) {
                    Ok(status) => return Ok(code(status)),
                    Err(Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

/// The exit code of a status, as a shell has it.
fn code(status: WaitStatus) -> u8 {
    let number = match status {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        _ => 1,
    };
    u8::try_from(number & 0xff).unwrap_or(1)
}

fn be_init(program: &Path) -> io::Result<u8> {
    const NONE: Option<&str> = None;
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, NONE)?;
    let root = relay(program)?;
    // Everything that was passed for CRIU is closed, the caller's socket too.
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    drop(null);
    sys::close_all_but_standard()?;
    let Some(root) = root else { return Ok(1) };
    let mut result = 1;
    loop {
        match waitpid(None, None) {
            Ok(status) if status.pid() == Some(root) => result = code(status),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return Ok(result),
        }
    }
}

/// Runs CRIU and relays its messages until its end. Returns the restored root.
fn relay(program: &Path) -> io::Result<Option<Pid>> {
    let caller = io::stdin();
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    let mut command = criu(program, theirs);
    // The descriptors that the caller passed are inherited as they are.
    die_with_parent(&mut command);
    let mut child = command.spawn()?;
    drop(command);
    let mut root = None;
    let mut buffer = vec![0; MAX_MESSAGE];
    let mut hears = true;
    loop {
        let mut ready = vec![PollFd::new(ours.as_fd(), PollFlags::POLLIN)];
        if hears {
            ready.push(PollFd::new(caller.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let is_ready = |at: usize| ready.get(at).is_some_and(|fd| fd.any() == Some(true));
        let (from_criu, from_caller) = (is_ready(0), is_ready(1));
        if from_caller {
            match recv(caller.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(0) | Err(_) => {
                    // The caller was killed: CRIU's next question has no answer.
                    hears = false;
                    nix::sys::socket::shutdown(ours.as_raw_fd(), nix::sys::socket::Shutdown::Both)?;
                }
                Ok(length) => {
                    let _ = send(ours.as_raw_fd(), &buffer[..length], MsgFlags::MSG_NOSIGNAL);
                }
            }
        }
        if from_criu {
            match recv(ours.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(0) | Err(_) => break,
                Ok(length) => {
                    let message = &buffer[..length];
                    if let Some(Answer::Done { success: true, pid }) = Answer::decode(message) {
                        root = pid.map(Pid::from_raw);
                    }
                    let _ = send(caller.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL);
                }
            }
        }
    }
    let status = child.wait()?;
    Ok(root.filter(|_| status.success()))
}
