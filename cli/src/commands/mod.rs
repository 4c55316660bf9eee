//! The commands, one module for each or for each group.

pub(crate) mod attach;
pub(crate) mod check;
pub(crate) mod checkpoint;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod containers;
pub(crate) mod daemon;
pub(crate) mod dump;
pub(crate) mod env_file;
pub(crate) mod exec;
pub(crate) mod freeze;
pub(crate) mod inspect;
pub(crate) mod job;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod man;
pub(crate) mod restore;
pub(crate) mod store;
mod subject;
mod terminal;
pub(crate) mod transfer;

use std::future::Future;

use cedana_api::v1;
use nix::unistd::User;

use crate::args::{Globals, JobName};
use crate::connection::{Address, Daemon};
use crate::error::{Error, Result};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Success.
    Done,
    /// With this exit code: that of a job's program, or 1 of a check that found something.
    Exit(u8),
}

/// What every command needs.
#[derive(Debug)]
pub(crate) struct Context {
    globals: Globals,
}

impl Context {
    pub(crate) fn new(globals: Globals) -> Self {
        Self { globals }
    }

    /// Whether the daemon is surely on this machine.
    pub(crate) fn is_local(&self) -> bool {
        let address = self.globals.daemon.as_deref();
        address.is_none_or(|text| matches!(Address::parse(text), Ok(Address::Socket(_))))
    }

    /// Connects to the daemon.
    ///
    /// # Errors
    /// It does not answer; a mistake in the settings.
    pub(crate) async fn daemon(&self) -> Result<Daemon> {
        let address = match &self.globals.daemon {
            Some(address) => Address::parse(address)?,
            None => Address::Socket(cedana_config::Config::load()?.daemon.socket),
        };
        Daemon::connect(&address).await
    }

    /// Runs a command that waits for the daemon.
    ///
    /// # Errors
    /// The command's.
    pub(crate) fn block_on<T>(&self, command: impl Future<Output = Result<T>>) -> Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::other("start the runtime", error))?;
        let result = runtime.block_on(command);
        // A thread may still wait for stdin, which may never come.
        runtime.shutdown_background();
        result
    }
}

/// The job's name as the daemon takes it.
///
/// # Errors
/// An unknown user.
pub(crate) fn job_ref(job: &JobName) -> Result<v1::JobRef> {
    let uid = job.user.as_deref().map(uid_of).transpose()?;
    Ok(v1::JobRef {
        id: job.id.clone(),
        uid,
    })
}

fn uid_of(user: &str) -> Result<u32> {
    if let Ok(uid) = user.parse() {
        return Ok(uid);
    }
    match User::from_name(user) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        _ => Err(Error::Other(format!(
            "--user {user}: there is no such user; give a name or a number"
        ))),
    }
}

/// The job in an answer.
///
/// # Errors
/// There is none, which no daemon sends.
pub(crate) fn job_of(job: Option<v1::Job>) -> Result<v1::Job> {
    job.ok_or_else(|| {
        Error::Other("the daemon's answer has no job; is it newer than this command?".to_owned())
    })
}
