//! A container that runs: watched for a moment before success is reported.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus, Stdio};

use cedana_checkpoint::session::Session;
use cedana_config::Config;

use super::Context;
use super::afterwards::Afterwards;
use crate::commands::error::Error;
use crate::criu::Failure;
use crate::host::{liveness, sys};
use crate::oci::runtime::unmount_leftover_root;
use crate::oci::state::Container;

/// A container whose processes CRIU has resumed.
pub(super) struct Restored<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) config: Config,
    pub(super) session: Option<Session>,
    /// The runtime's.
    pub(super) status: ExitStatus,
    /// Whether the runtime was given a network namespace that the bundle lacks.
    pub(super) replaces_netns: bool,
    /// What is set when the container runs.
    pub(super) after: Afterwards,
}

impl Restored<'_> {
    /// Reports success if the container still runs. If the caller can't be told, the
    /// container is removed: no caller would know of it.
    pub(super) fn confirm(mut self) -> Result<ExitCode, Error> {
        // In the foreground the container has exited, too.
        if self.context.is_detached()
            && let Err(error) = self.page_source_serves().and_then(|()| self.settles())
        {
            remove(self.context);
            return Err(error);
        }
        Ok(exit_code(self.status))
    }

    fn page_source_serves(&mut self) -> Result<(), Error> {
        let context = self.context;
        let session = self.session.as_mut();
        match session.and_then(|session| session.confirm(|| context.served())) {
            Some(why) => Err(self.failed(why)),
            None => Ok(()),
        }
    }

    fn settles(&mut self) -> Result<(), Error> {
        self.set_up_and_watch().map_err(|error| {
            match self.session.as_mut().and_then(Session::failure) {
                Some(why) => self.failed(why),
                None => error,
            }
        })
    }

    fn failed(&self, why: String) -> Error {
        Error::failed(self.context.request, Failure::without_log(why))
    }

    /// Sets up what a restore by the runtime leaves out, then watches init.
    fn set_up_and_watch(&self) -> Result<(), Error> {
        let Context {
            request, runtime, ..
        } = self.context;
        let container = Container::find(request, runtime)?;
        if self.replaces_netns {
            container.remove_netns_path()?;
        }
        self.after.set(self.context, &container);
        let from_file = request
            .value("pid-file")
            .map(Path::new)
            .and_then(liveness::pid_of);
        let pid = from_file.unwrap_or(container.init);
        match liveness::watch(pid, self.config.restore.settle) {
            Some(how) => Err(Error::Died {
                id: request.id.clone(),
                pid,
                how,
            }),
            None => Ok(()),
        }
    }
}

/// Removes a container that was restored in vain, as the runtime does with one
/// whose restore fails, so that its ID can be used again.
pub(super) fn remove(context: &Context<'_>) {
    let Context {
        request, runtime, ..
    } = context;
    let root = request.globals.root.as_deref();
    unmount_leftover_root(root, &request.id);
    let mut args: Vec<OsString> = request.before.clone();
    args.extend(["delete", "--force", &request.id].map(Into::into));
    let mut command = runtime.command(&args);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    sys::tie_to_parent(&mut command);
    // The caller learns of the failure and cleans up what can't be deleted here.
    let _ = command.status();
}

/// The runtime's exit code, or a shell's for a runtime that was killed.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
