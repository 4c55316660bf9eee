//! `containerd-shim-cedana-v2`: containerd's supervisor of the containers of
//! runtime `io.containerd.cedana.v2`.
//!
//! ```text
//!  containerd ──ttrpc──▶ service ──▶ container ──exec──▶ runc | crun        lifecycle
//!      ▲                                │
//!      │                                └──────exec──▶ cedana-runc ──▶ runc ──▶ CRIU
//!    events ◀── exits, OOM kills ◀── reaper, cgroup      checkpoint, restore
//! ```
//!
//! One process per container, or per pod, that lives as long as they do: its
//! memory is paid a thousand times on a node. Hence one thread, one allocator
//! arena, and nothing of the checkpoint engine inside: that runs in
//! `cedana-runc`, which ends and gives its memory back.

mod bootstrap;
mod cgroup;
mod container;
mod error;
mod events;
mod mount;
mod options;
mod reaper;
mod rootfs;
mod runtime;
mod service;
mod spec;
mod stdio;
mod sys;

use std::{env, io, process::ExitCode};

use error::{Context, Error};

fn main() -> ExitCode {
    sys::limit_allocator_memory();
    // SAFETY: the event loop starts later, so there is one thread.
    unsafe { cedana_contract::search_path::provide() };
    match call() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // containerd reads both streams of `start`, and a shim that can't
            // serve tells `start` through its stdout.
            println!("{}: {e}", bootstrap::RUNTIME_NAME);
            ExitCode::FAILURE
        }
    }
}

fn call() -> Result<(), Error> {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let flags =
        containerd_shim::parse(&arguments).map_err(|e| Error::InvalidArgument(e.to_string()))?;
    if flags.version {
        println!(
            "containerd-shim-cedana-v2:\n  Version:  {}\n  Runtime:  {}",
            env!("CARGO_PKG_VERSION"),
            bootstrap::RUNTIME_NAME
        );
        return Ok(());
    }
    become_subreaper().context(|| "become a child subreaper")?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context(|| "start the event loop")?
        .block_on(bootstrap::run(flags))
}

/// The init of every container, once the runtime that made it has ended,
/// becomes our child (prctl(2), PR_SET_CHILD_SUBREAPER).
fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}
