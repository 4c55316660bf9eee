//! All jobs: starting, finding, signalling and removing them.
//!
//! ```text
//! service ──► Jobs ──► store (what ps shows)
//!               ├────► files (spec, output, exit status)
//!               └────► supervisors, one connection each, on which their state arrives
//! ```
//!
//! The order of writes makes every step safe against a kill of the daemon: a job is in
//! the database before its supervisor exists, and its files are removed before its row.
//! [`recover`](Jobs::recover) finishes at the next start what was begun.

mod checkpoints;
mod dump;
mod environment;
mod error;
mod export;
mod find;
mod follow;
mod import;
pub(crate) mod link;
mod manage;
mod names;
mod orphans;
mod recover;
mod remove;
mod restore;
mod signal;
mod start;

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedMutexGuard, Semaphore, oneshot, watch};

pub use error::JobError;
pub(crate) use export::{WantedExport, What as WhatIsExported};
pub use find::Wanted;
pub(crate) use import::WantedImport;
pub(crate) use manage::{Managed, Target};
pub(crate) use restore::WantedRestore;
pub use start::NewJob;

use crate::checkpoints::{Failure, Kind};
use crate::job::files::JobFiles;
use crate::store::{JobKey, JobRow, Store};

/// All jobs.
#[derive(Debug)]
pub struct Jobs {
    store: Store,
    state_dir: PathBuf,
    run_dir: PathBuf,
    /// Counts the changes of jobs, for requests that wait for one.
    changes: watch::Sender<u64>,
    dumps: Limit,
    restores: Limit,
    /// One call of a user at a time that looks at or stops many processes.
    looks: Turns,
    /// Held while a job that has ended begins anew or is removed.
    transitions: tokio::sync::Mutex<()>,
}

/// Carries out a call in a task of its own: a client that goes away must not leave half of
/// it. Then the channel is closed.
async fn detached<T, F>(call: impl FnOnce(oneshot::Receiver<()>) -> F) -> Result<T, Failure>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Failure>> + Send + 'static,
{
    let (_here, gone) = oneshot::channel();
    let stopping = |error| Failure::new(Kind::System, format!("the daemon is stopping: {error}"));
    tokio::spawn(call(gone)).await.map_err(stopping)?
}

/// How many calls are carried out at a time: more would only take memory. Of each user it is
/// one, and other users can't keep root waiting.
#[derive(Debug)]
struct Limit {
    of_root: Semaphore,
    of_users: Semaphore,
    own: Turns,
}

impl Limit {
    fn new(calls: usize) -> Self {
        Self {
            of_root: Semaphore::new(calls),
            of_users: Semaphore::new(calls),
            own: Turns::default(),
        }
    }

    /// Waits until another call of a user may begin. It has begun until the result is
    /// dropped.
    async fn turn(&self, uid: u32) -> impl Sized + '_ {
        let own = self.own.of(uid).await;
        let all = match uid {
            0 => &self.of_root,
            _ => &self.of_users,
        };
        // Never closed.
        (own, all.acquire().await.ok())
    }
}

/// Turns by user. Root has as many as it likes.
#[derive(Debug, Default)]
struct Turns(Mutex<HashMap<u32, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    async fn of(&self, uid: u32) -> Option<OwnedMutexGuard<()>> {
        if uid == 0 {
            return None;
        }
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(uid).or_default())
        };
        Some(turn.lock_owned().await)
    }
}

impl Jobs {
    /// The jobs in this database and these directories.
    #[must_use]
    pub fn new(store: Store, state_dir: PathBuf, run_dir: PathBuf) -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Arc::new(Self {
            store,
            state_dir,
            run_dir,
            changes: watch::Sender::new(0),
            dumps: Limit::new(cores),
            restores: Limit::new(4 * cores),
            looks: Turns::default(),
            transitions: tokio::sync::Mutex::default(),
        })
    }

    /// A job's files.
    #[must_use]
    pub fn files(&self, key: &JobKey) -> JobFiles {
        JobFiles::new(&self.state_dir, &self.run_dir, key.uid, &key.id)
    }

    /// A receiver that is told of each change of a job.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits until a user may look at or stop many processes.
    pub(crate) async fn look_turn(&self, uid: u32) -> Option<OwnedMutexGuard<()>> {
        self.looks.of(uid).await
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Runs a query off the event loop.
    async fn query<T: Send + 'static>(
        self: &Arc<Self>,
        query: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> Result<T, JobError> {
        self.off_loop(move |jobs| query(&jobs.store)).await
    }

    /// Runs something that may block off the event loop.
    async fn off_loop<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, JobError> {
        let jobs = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&jobs))
            .await
            .map_err(|error| JobError::Invalid(format!("the daemon is stopping: {error}")))
    }

    /// Waits until a job has ended, and returns it.
    ///
    /// # Errors
    /// It was removed meanwhile.
    pub async fn wait(self: &Arc<Self>, key: &JobKey) -> Result<JobRow, JobError> {
        let mut changes = self.changes();
        loop {
            let job = self.get(key).await?;
            if !job.state.is_live() {
                return Ok(job);
            }
            // Fails only if the daemon stops, and then this task ends, too.
            let _ = changes.changed().await;
        }
    }
}
