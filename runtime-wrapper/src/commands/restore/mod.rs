//! `restore`: the wrapped runtime's, prepared and judged.
//!
//! ```text
//! Prepared  settings and bundle read, checkpoint verified, network chosen.
//!    │      Owns what is mounted, locked and changed for the runtime's restore
//!    ▼
//! Running   one attempt: the page source and the runtime, which runs CRIU
//!    │ ▲    └─ failed lazily before the container ran: once more, eagerly
//!    │ └─────── connections without their address: once more, closing them
//!    ▼
//! Restored  the container runs: is init still there shortly after?
//! ```
//!
//! `Prepared` ends when the container runs, also in the foreground, where the
//! runtime stays until the container exits. The checkpoint is only read, so a
//! restore that failed can be repeated.

mod afterwards;
mod granted;
mod invocation;
mod network;
mod precheck;
mod prepared;
mod restored;
mod running;

use std::process::ExitCode;
use std::time::Instant;

use cedana_checkpoint::session;
use cedana_config::Config;

use super::error::Error;
use crate::cli::Request;
use crate::host::child::Signals;
use crate::network::tcp::Connections;
use crate::oci::runtime::Runtime;
use crate::oci::state::Container;
use crate::output::report::Reporter;

pub(crate) use network::lock_network;
use prepared::Prepared;
use restored::Restored;
use running::{Ended, Running};

/// Restores a container from a checkpoint.
///
/// # Errors
/// The container does not run, and the checkpoint is as before.
pub(crate) fn run(request: &Request, reporter: &Reporter) -> Result<ExitCode, Error> {
    let context = Context::new(request, reporter)?;
    attempts(Prepared::new(&context)?)?.confirm()
}

/// Attempts the restore until the container runs, or has run.
fn attempts<'a>(mut prepared: Prepared<'a>) -> Result<Restored<'a>, Error> {
    loop {
        let ended = Running::start(&mut prepared)?.wait(&mut prepared)?;
        if ended.container_ran(prepared.context) {
            return Ok(Restored {
                context: prepared.context,
                config: prepared.config,
                session: ended.session,
                status: ended.outcome.status,
                replaces_netns: prepared.replaces_netns,
                after: prepared.after,
            });
        }
        change_for_another(&mut prepared, ended)?;
    }
}

/// Changes what another attempt may do better, or returns why there is none.
fn change_for_another(prepared: &mut Prepared<'_>, mut ended: Ended) -> Result<(), Error> {
    let is_final = ended.is_final();
    // The runtime has removed the container already, and the hooks that set its
    // network up may run again: Docker's moves the network to whichever
    // namespace it is given (libnetwork, `Sandbox.SetKey`).
    if !is_final && prepared.connections == Connections::Try && ended.misses_an_address() {
        prepared.connections = Connections::Close;
        ended.end_session();
        return Ok(());
    }
    let failure = ended.failure(prepared);
    ended.clean_up_if_stalled(prepared.context);
    if is_final || !ended.may_succeed_eagerly(prepared) {
        return Err(failure);
    }
    // What CRIU, the kernel or the page source could not do lazily, an eager
    // restore may do. If it can't either, its reason is the better one.
    ended.end_session();
    prepared
        .context
        .reporter
        .quiet_warning(&format!("restoring eagerly, because {failure}"));
    prepared.see_all_memory()
}

/// The input of every phase of a restore.
struct Context<'a> {
    request: &'a Request,
    reporter: &'a Reporter,
    /// When the command began.
    begun: Instant,
    signals: Signals,
    /// The node's settings. The bundle's annotations are added in [`Prepared`].
    config: Config,
    runtime: Runtime,
}

impl<'a> Context<'a> {
    fn new(request: &'a Request, reporter: &'a Reporter) -> Result<Self, Error> {
        let begun = Instant::now();
        // Before the first thread starts.
        let signals = Signals::block().map_err(Error::Signals)?;
        let config = Config::load()?;
        let runtime = Runtime::find(&config.runtime)?;
        Ok(Self {
            request,
            reporter,
            begun,
            signals,
            config,
            runtime,
        })
    }

    /// Refuses to go on if the caller has ended the command. Each step of the
    /// preparation takes time: verified bytes, and thousands of connections.
    fn check_interrupted(&self) -> Result<(), Error> {
        match self.signals.is_pending() {
            true => Err(Error::Interrupted {
                verb: self.request.verb,
                id: self.request.id.clone(),
            }),
            false => Ok(()),
        }
    }

    /// Whether the runtime returns when the container runs. In the foreground it
    /// returns when the container exits, with its exit code.
    fn is_detached(&self) -> bool {
        self.request.has("detach")
    }

    /// The container as its page source knows it.
    fn served(&self) -> Option<session::Container> {
        let container = self.container()?;
        Some(session::Container::new(container.init, container.cgroup))
    }

    fn container(&self) -> Option<Container> {
        Container::find(self.request, &self.runtime).ok()
    }
}
