//! `containerd-shim-cedana-v2`: the containerd shim of runtime
//! `io.containerd.cedana.v2`.
//!
//! ```text
//!  containerd ──ttrpc──▶ service ──▶ container ──exec──▶ runc | crun        lifecycle
//!      ▲                                │
//!      │                                └──────exec──▶ cedana-runc ──▶ runc ──▶ CRIU
//!    events ◀── exits, OOM kills ◀── reaper, cgroup      checkpoint, restore
//! ```
//!
//! One shim process serves one container, or one pod, for its whole lifetime. A node
//! may run a thousand shims, so the shim has one thread and one allocator arena. The
//! checkpoint engine runs in `cedana-runc`, which exits and frees its memory.

// They end the program when the stream is closed.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod bootstrap;
mod cgroup;
mod container;
mod error;
mod events;
mod mount;
mod options;
mod own_thread;
mod procfs;
mod reaper;
mod rootfs;
mod runtime;
mod service;
mod spec;
mod stderr;
mod stdio;
mod sys;

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
};

use error::{Context, Error};

fn main() -> ExitCode {
    sys::limit_allocator_memory();
    // SAFETY: the event loop starts later, so there is one thread.
    unsafe { cedana_contract::search_path::provide() };
    match call() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // containerd reads both output streams of `start`, and `start` reads the
            // stdout of a shim that can't serve.
            let _ = writeln!(io::stdout(), "{}: {e}", bootstrap::RUNTIME_NAME);
            ExitCode::FAILURE
        }
    }
}

fn call() -> Result<(), Error> {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let flags =
        containerd_shim::parse(&arguments).map_err(|e| Error::InvalidArgument(e.to_string()))?;
    if flags.version {
        return writeln!(
            io::stdout(),
            "containerd-shim-cedana-v2:\n  Version:  {}\n  Runtime:  {}",
            env!("CARGO_PKG_VERSION"),
            bootstrap::RUNTIME_NAME
        )
        .context(|| "write the version");
    }
    become_subreaper().context(|| "become a child subreaper")?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context(|| "start the event loop")?
        .block_on(bootstrap::run(flags))
}

/// Makes the shim the parent of every container's init after the exit of the OCI
/// runtime (prctl(2), PR_SET_CHILD_SUBREAPER).
fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}
