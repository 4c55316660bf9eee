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
mod exec;
mod options;
mod process;
mod reaper;
mod rootfs;
mod runtime;
mod service;
mod spec;
mod state;
mod stdio;
mod sys;

use std::env;

use containerd_shim::Config;

/// The name that containerd knows the runtime by.
const RUNTIME_NAME: &str = "io.containerd.cedana.v2";

fn main() {
    sys::tune_allocator();
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    match containerd_shim::parse(&arguments) {
        Ok(flags) if flags.version => {
            println!(
                "containerd-shim-cedana-v2:\n  Version:  {}\n  Runtime:  {RUNTIME_NAME}",
                env!("CARGO_PKG_VERSION")
            );
            return;
        }
        // The crate's own entry point reports what is wrong.
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(containerd_shim::run::<bootstrap::Call>(
            RUNTIME_NAME,
            Some(Config {
                // Reaping is the reaper's.
                no_reaper: true,
                ..Config::default()
            }),
        )),
        Err(e) => {
            eprintln!("{RUNTIME_NAME}: cannot start: {e}");
            std::process::exit(1);
        }
    }
}
