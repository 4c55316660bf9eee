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
//! stays and reaps. When the root ends, it kills what that leaves behind, and ends with its
//! status, and so does the keeper. If the keeper is killed, so is init, and the kernel
//! kills the namespace. A dump of the processes enters it ([`crate::enter`]).

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use cedana_checkpoint::host::procfs::Stat;
use cedana_checkpoint::host::sys;
use cedana_contract::process::die_with_parent;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use crate::criu::criu;
use crate::{enter, relay, reopen};

/// The first argument of the keeper. The second is CRIU's program.
pub(crate) const FLAG: &str = "--cedana-process-init";

/// The name of keeper and init.
pub(crate) const NAME: &CStr = c"cedana-init";

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
    sys::rename(NAME);
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
            drop(null);
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
pub(crate) fn code(status: WaitStatus) -> u8 {
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
    reopen::inherited();
    let mut command = criu(program);
    die_with_parent(&mut command);
    let root = relay::run(command)?;
    // Everything that was passed for CRIU is closed, the caller's socket too.
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    drop(null);
    sys::close_all_but_standard()?;
    let Some(root) = root else { return Ok(1) };
    let mut result = 1;
    loop {
        match waitpid(None, None) {
            Ok(status) if status.pid() == Some(root) => {
                result = code(status);
                // What the root leaves behind ends with it, but a CRIU that dumps it.
                wait_for_dumps();
                // Fails if nothing is left.
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), Signal::SIGKILL);
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => {
                wait_for_dumps();
                return Ok(result);
            }
        }
    }
}

/// Waits until no CRIU dumps the processes from within the namespace
/// ([`crate::enter`]): the kernel would kill it with this process, before it has answered.
/// Its parent is outside of the namespace, so `waitpid` does not know it.
fn wait_for_dumps() {
    loop {
        let dumps = entered();
        if dumps.is_empty() {
            return;
        }
        for dump in dumps {
            let mut ended = [PollFd::new(dump.as_fd(), PollFlags::POLLIN)];
            while poll(&mut ended, PollTimeout::NONE) == Err(Errno::EINTR) {}
        }
    }
}

/// The processes that entered the namespace to dump it.
fn entered() -> Vec<OwnedFd> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_dump = |pid: &cedana_contract::pid::Pid| {
        Stat::read(*pid).is_some_and(|stat| {
            let is_ours = stat.name.as_bytes() == enter::NAME.to_bytes();
            is_ours && stat.parent.is_none() && !stat.is_dead()
        })
    };
    let dumps = pids.filter(is_dump);
    dumps.filter_map(|pid| sys::pidfd_open(pid).ok()).collect()
}
