//! `checkpoint`: the wrapped runtime's, prepared and judged.
//!
//! ```text
//! Prepared  settings and container read; a lazy restore's memory complete; what
//!    │      could never be restored refused
//!    │  ┌── processes that CRIU can't stop: waited for ([`unseizable`])
//!    ▼  ▼
//! Running   one attempt: the runtime, which runs CRIU, and beside it the capture,
//!    │ ▲    which stores what CRIU writes ([`storage`])
//!    │ └──── failed for a cause that passes by itself: once more ([`attempts`])
//!    ├─► Failed    partial images removed, container thawed, CRIU's log explained
//!    ▼
//! Captured  CRIU is done: the rest is stored, synced and renamed into place
//! ```
//!
//! The container keeps running unless its checkpoint is complete and the caller
//! asked for its end. For that CRIU waits in its post-dump script until the images
//! are on disk ([`crate::criu::post_dump`]). Without an end the container runs on
//! as soon as CRIU is done, and the rest is stored meanwhile.

mod attempts;
mod captured;
mod check;
mod compression;
pub(crate) mod doubt;
mod dump_options;
mod prechecks;
mod preparation;
mod prepared;
mod proc_details;
mod running;
mod storage;
mod unrestorable;
pub(crate) mod unseizable;

use std::process::ExitCode;

use super::error::Error;
use crate::cli::Request;
use crate::host::child::Signals;
use crate::output::printable::to_stdout;
use crate::output::progress::Progress;
use crate::output::report::Reporter;
use attempts::Attempts;
use captured::Ended;
use prepared::Prepared;
use running::Running;

/// Takes a checkpoint.
///
/// # Errors
/// There is no checkpoint, and the container runs as before, unless the error says
/// that it was stopped.
pub(crate) fn run(request: &Request, reporter: &Reporter) -> Result<ExitCode, Error> {
    // Before the first thread starts.
    let signals = Signals::block().map_err(Error::Signals)?;
    if request.checks {
        return check::run(request, reporter, &signals);
    }
    let progress = Progress::new(request.progress_fd)?;
    let prepared = Prepared::prepare(request, reporter, &signals)?;
    let mut attempts = Attempts::of(&prepared);
    loop {
        prepared.wait_for_obstacles(&mut attempts)?;
        let observer = progress.observer();
        match Running::start(&prepared, &attempts, observer)?.wait()? {
            Ended::Captured(captured) => {
                let archive = match captured.finish() {
                    // The container runs: it has not ended with the checkpoint.
                    Err(error) if prepared.may_succeed_without_store(&error) => continue,
                    archive => archive?,
                };
                progress.done();
                if let Some(path) = archive {
                    to_stdout(&format!("{}\n", path.display()));
                }
                return Ok(ExitCode::SUCCESS);
            }
            Ended::Failed(failed) => failed.clean_up(&mut attempts)?,
        }
        if !attempts.let_run(reporter) {
            return Err(prepared.interrupted());
        }
        // CRIU would say that there is no such container.
        if !attempts.init_is_alive() {
            return Err(prepared.ended());
        }
    }
}
