//! The harness of the stories in `tests/`, which act as a user with stock clients.
//!
//! The tests run as root inside an instance of the testbed (`scripts/testbed`),
//! beside a real containerd, runc and CRIU. A story starts a container with
//! [`Run`], gets a [`Container`] that is removed when dropped, and acts on it
//! through `ctr` ([`ctr()`]). Requests that `ctr` cannot send go to the shim's own
//! socket ([`Task`]), or to a shim that the story started itself, without containerd
//! ([`BareShim`]). Docker's commands are in [`docker`].
//!
//! The [`workload`], a program that verifies its own memory, files and connections,
//! tells whether a container is the same after a restore ([`Report`]).
//!
//! The harness does not sleep to let something happen: [`eventually`] polls a
//! condition up to a deadline, and panics with the last value when that passes.
//!
//! | variable | meaning |
//! |---|---|
//! | `CEDANA_TESTBED` | the suite; set in an instance, required |
//! | `CEDANA_TEST_RUNTIME` | the runtime under test, `io.containerd.cedana.v2` if unset |
//! | `CEDANA_TEST_DOCKER_RUNTIME` | the runtime under test, as Docker's daemon.json names it, `cedana` if unset |
//! | `CEDANA_TEST_PATIENCE` | a factor for all timeouts, 1 if unset |
//! | `CEDANA_CYCLES` | rounds of the leftovers story (20 if unset) and of Docker's matrix (1) |
//! | `CEDANA_ROUNDS` | rounds of each program's story in `tests/apps.rs`, 10 if unset |
//! | `CEDANA_RESTORE_MODE` | `eager` or `lazy`, for those programs' containers; the default settings if unset |

pub mod answering;
pub mod asked;
mod bare;
pub mod checkpointed;
mod container;
mod ctr;
pub mod daemon;
pub mod docker;
mod engine;
mod events;
pub mod folder;
mod gate;
mod host;
pub mod images;
pub mod job;
pub mod lazy;
mod leaks;
mod netfilter;
pub mod nginx;
pub mod podman;
mod pty;
pub mod runc;
mod settings;
mod task;
mod wait;
pub mod workload;

pub use bare::BareShim;
pub use container::{Container, Image, Run};
pub use ctr::{BUSYBOX, NAMESPACE, Output, WORK, command, ctr, ctr_fails, ctr_ok, prints};
pub use engine::{Containerd, SecondContainerd};
pub use events::{Event, Events};
pub use gate::Gate;
pub use host::{Leftovers, cgroup_of, descriptors_of, private_memory};
pub use leaks::Leaks;
pub use netfilter::nftables;
pub use pty::Pty;
pub use settings::Settings;
pub use task::{Refused, Task};
pub use wait::{eventually, eventually_within};
pub use workload::Report;

/// The messages of metrics, runc's options and others.
pub use containerd_shim_protos as protos;
/// The task API's messages, as the shim's socket takes them.
pub use containerd_shim_protos::api;

use std::sync::atomic::{AtomicU64, Ordering};

/// The runtime under test, as `ctr run --runtime` takes it.
pub fn runtime() -> String {
    testbed();
    std::env::var("CEDANA_TEST_RUNTIME").unwrap_or_else(|_| "io.containerd.cedana.v2".into())
}

/// Whether the runtime under test has the name of containerd's own.
///
/// Clients send some options only to a runtime of that name.
pub fn named_as_stock() -> bool {
    runtime() == STOCK
}

/// Whether `ctr task checkpoint` passes its flags on to the runtime under test.
///
/// containerd 1.7's does so for containerd's own runtime only.
pub fn ctr_sends_flags() -> bool {
    named_as_stock() || testbed() != "trixie"
}

/// The name of containerd's own runtime.
pub const STOCK: &str = "io.containerd.runc.v2";

/// The suite of the instance; panics outside of one.
pub fn testbed() -> String {
    std::env::var("CEDANA_TESTBED").unwrap_or_else(|_| {
        panic!("not in a testbed: these tests need a real containerd of their own; run `make test`")
    })
}

/// A name that no other test of this run uses, and that no other begins with: processes
/// and files are found by the names in their text.
pub fn unique(label: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!(
        "{label}-{}-{:04}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}
