//! Checkpoint and restore of plain processes.
//!
//! The same engine as for containers, with CRIU run directly: `criu swrk`, whose requests
//! and notifications go over a socket. A configuration file and an action script, as for
//! a runtime, would do as well, but the script starts a program at each step while the
//! process is frozen, and descriptors would have to be found by path.
//!
//! ```text
//! dump      look ─► destination ─► CRIU ──► images ──► capture ──► archive, or directory
//!                                   │  post-dump: may they go?  ▲
//!                                   └──── yes, when it is on disk┘
//! restore   archive ─► index, digests ─► view ─► CRIU ─► the processes
//!                           └──────────► page source ───── pages ──┘
//! ```
//!
//! ```text
//! dump, restore   the two commands
//! look            a process and its children, before anything is frozen
//! destination     where a checkpoint goes: whole, or not at all
//! swrk            CRIU as a child
//! criu            CRIU's command
//! init            the first process of a PID namespace
//! enter           CRIU in the namespace of restored processes
//! relay           the messages of a CRIU in a namespace
//! reopen          files that were passed into a namespace
//! owner           a user on whose behalf files are opened and made
//! cancel          the end of a command by its caller
//! work            CRIU's working directory
//! ```
//!
//! | what is killed | what happens |
//! |---|---|
//! | the caller, while CRIU dumps | CRIU's question has no reader, so CRIU resumes the processes |
//! | CRIU, while it dumps | the kernel resumes the processes, and CRIU's code in them ends itself; a process into which CRIU was just putting its code gets SIGTRAP (seen with stock CRIU, 2 of 97 times) |
//! | the helper or the relay of a dump in a namespace | CRIU's question has no reader, so CRIU resumes the processes |
//! | the keeper of a namespace | the kernel ends the processes and a dump of them |
//! | the caller or CRIU, while CRIU restores | what was restored ends |
//! | the page source | its watchdog kills the processes, whose memory is not complete |
//!
//! What the caller leaves behind is in a hidden directory beside the checkpoint; the next
//! dump to that place removes it.

mod cancel;
mod criu;
mod destination;
mod dump;
mod enter;
mod error;
mod init;
mod look;
mod obstacle;
mod options;
mod owner;
mod relay;
mod reopen;
mod restore;
mod swrk;
mod work;

use std::path::Path;
use std::process::ExitCode;

pub use cancel::Cancel;
pub use cedana_checkpoint::format::pages::Compression;
pub use cedana_checkpoint::progress::{Observer, Phase, Progress};
pub use cedana_checkpoint::view::Accept;
pub use cedana_contract::pid::Pid;
pub use destination::Target;
pub use dump::{Report, dump};
pub use error::Error;
pub use look::{Examined, examine, traced, untouchable};
pub use obstacle::Obstacle;
pub use options::{DumpOptions, Hook, MemoryStore, Published};
pub use owner::Owner;
pub use restore::{Placement, RestoreOptions, Restored, Source, Tcp, restore};

/// Runs a helper process of a dump or a restore, if this process was started as one: the
/// page source, the first process of a PID namespace, or one that enters such a namespace. A
/// program that calls [`dump`] or [`restore`] calls this first, before it starts a thread
/// or reads its arguments.
#[must_use]
pub fn run_as_helper() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next()?;
    let others: Vec<_> = arguments.take(4).collect();
    match &others[..] {
        [] if first == cedana_contract::flags::PAGE_SOURCE => {
            Some(cedana_checkpoint::session::serve())
        }
        [program] if first == init::FLAG => Some(init::run(Path::new(program))),
        [program, pid, mount] if first == enter::FLAG => {
            Some(enter::run(Path::new(program), pid, mount))
        }
        _ => None,
    }
}
