//! `cedana-runc`: an OCI runtime command line that wraps runc or crun.
//!
//! ```text
//!                        ┌ checkpoint, restore ─ prepare ─ runc|crun ─ CRIU
//! caller ─ cedana-runc ──┤                                    │
//!                        └ every other verb ─ exec ─► runc|crun (same process,
//!                                             same arguments, output, exit code)
//! ```
//!
//! Around a checkpoint or restore it adds what the wrapped runtime leaves
//! undone: CRIU options that real programs need ([`checkpoint`]), a network
//! namespace for the restored container ([`netns`], [`bundle`]), a look at init
//! before success is reported ([`settle`]), and, when CRIU fails, a sentence
//! that names the cause and the remedy ([`report`]).
//!
//! It is a process that ends: nothing of it stays in a running container's way.

mod bundle;
mod cgroup;
mod checkpoint;
mod child;
mod cli;
mod collected;
mod console;
mod criu;
mod docker;
mod doubtful;
mod error;
mod gate;
mod inspect;
mod kept_log;
mod lazy;
mod nested_mounts;
mod netns;
mod network_lock;
mod obstacle;
mod packed;
mod process;
mod progress;
mod prune;
mod report;
mod restore;
mod runtime;
mod settle;
mod shown;
mod spec;
mod state;
mod sys;
mod units;
mod unpack;

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use cli::Invocation;
use report::Reporter;

fn main() -> ExitCode {
    sys::provide_path();
    if let Some(end) = gate::asked_by_criu() {
        return end;
    }
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    let reporter = Reporter::from_globals(&cli::globals(&args));
    let result = match cli::parse(&args) {
        Ok(Invocation::OwnVersion) => {
            println!("cedana-runc {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Ok(Invocation::HoldNetns(images)) => {
            netns::hold(|netns| images.map(|images| restore::lock_network(&images, netns)))
                .map_err(Into::into)
        }
        Ok(Invocation::ServePages) => return lazy::serve(),
        Ok(Invocation::Restores { json }) => lazy::show(json),
        Ok(Invocation::PassThrough) => runtime::exec(&args)
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
