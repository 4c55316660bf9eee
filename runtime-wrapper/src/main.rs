//! `cedana-runc`: an OCI runtime command line that wraps runc or crun.
//!
//! ```text
//!                        ┌ checkpoint, restore ─ prepare ─ runc|crun ─ CRIU
//! caller ─ cedana-runc ──┤                                    │
//!                        └ every other verb ─ exec ─► runc|crun (same process,
//!                                             same arguments, output, exit code)
//! ```
//!
//! To a checkpoint or restore it adds what the wrapped runtime lacks: CRIU options
//! that real programs need, compression while CRIU writes, a network namespace for
//! the restored container, memory that is loaded while the container runs, and, when
//! CRIU fails, an error message with the cause and the remedy.
//!
//! ```text
//! commands   one module for each verb; error: why a command failed
//! lazy       whether a restore is lazy
//! criu       CRIU's configuration, its log, the directory that it restores from
//! network    network namespaces, TCP connections
//! engine     what Docker and containerd do around a checkpoint
//! oci        the wrapped runtime, its state, the bundle
//! host       processes, cgroups, mounts, PATH, system calls
//! output     stderr, the log, progress
//! cli        the command line
//! ```
//!
//! Each uses only those below it.
//!
//! The process ends with its command; only the page source of a lazy restore runs on
//! beside the container, until all memory is loaded.

// They end the program when the stream is closed; see `output::printable`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod cli;
mod commands;
mod criu;
mod engine;
mod host;
mod lazy;
mod network;
mod oci;
mod output;

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use cedana_checkpoint::session;
use cli::Invocation;
use commands::{checkpoint, copy_output, inspect, passthrough, restore, unpack};
use criu::{post_dump, post_resume};
use host::sys;
use network::netns;
use output::printable::to_stdout;
use output::report::Reporter;

fn main() -> ExitCode {
    // SAFETY: this is the only thread.
    unsafe { cedana_contract::search_path::provide() };
    if let Some(code) = post_dump::run_as_script().or_else(post_resume::run_as_script) {
        return code;
    }
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    let reporter = {
        let globals = cli::Globals::parse(&args);
        Reporter::new("cedana-runc", globals.log, globals.log_json)
    };
    let invocation = cli::parse(&args);
    if invocation.as_ref().is_ok_and(Invocation::handles_memory) {
        sys::forbid_core_dumps();
    }
    let result = match invocation {
        Ok(Invocation::OwnVersion) => {
            to_stdout(concat!("cedana-runc ", env!("CARGO_PKG_VERSION"), "\n"));
            return ExitCode::SUCCESS;
        }
        Ok(Invocation::HoldNetns(images)) => {
            netns::hold(|netns| images.map(|images| restore::lock_network(&images, netns)))
                .map_err(Into::into)
        }
        Ok(Invocation::CopyOutput) => return copy_output::run(),
        Ok(Invocation::ServePages) => return session::serve(),
        Ok(Invocation::PassThrough) => passthrough::exec(&args, &reporter)
            .map(|never| match never {})
            .map_err(Into::into),
        Ok(Invocation::Checkpoint(request)) => checkpoint::run(&request, &reporter),
        Ok(Invocation::Restore(request)) => restore::run(&request, &reporter),
        Ok(Invocation::Inspect(request)) => inspect::run(&request),
        Ok(Invocation::Unpack(request)) => unpack::run(&request),
        Err(error) => Err(error.into()),
    };
    result.unwrap_or_else(|error| {
        reporter.error(&error);
        ExitCode::FAILURE
    })
}
