//! The start of the daemon: every job that was live is found again.
//!
//! A supervisor that the last daemon had just started may not have opened its socket
//! yet. Its directory is moved away before the job is given up, so that it either was
//! there in time or fails to open the socket and exits without starting the program.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::link::{self, Reader, Writer};
use super::{JobError, Jobs};
use crate::job::files::JobFiles;
use crate::job::id::JobId;
use crate::store::{JobKey, JobRow, JobState, Store, StoreError};

impl Jobs {
    /// Connects to the supervisors of all live jobs, and records the end of those that
    /// have ended meanwhile.
    ///
    /// # Errors
    /// The database's.
    pub async fn recover(self: &Arc<Self>) -> Result<(), JobError> {
        self.adopt_unknown().await?;
        self.record_again().await?;
        let live = self.query(|store| store.live()).await??;
        for job in live {
            if let JobState::Managed { .. } = job.state {
                self.recover_managed(job).await?;
                continue;
            }
            let key = job.key;
            let link = self.connect_or_forbid(&key).await;
            let alive = link.is_ok();
            let following = Arc::clone(self).follow_link(key.clone(), link);
            match alive {
                true => drop(tokio::spawn(following)),
                // Settled before clients see it.
                false => following.await,
            }
        }
        Ok(())
    }

    /// Adds the checkpoints of all jobs to a catalogue that has none, because it was lost.
    async fn record_again(self: &Arc<Self>) -> Result<(), JobError> {
        let is_empty = |store: &Store| Ok(store.checkpoints(None, None)?.is_empty());
        let is_empty: Result<bool, StoreError> = self.query(is_empty).await?;
        if !is_empty? {
            return Ok(());
        }
        for job in self.query(|store| store.list(None, true)).await?? {
            if let Err(error) = self.catalogue(&job.key).await {
                let JobKey { uid, id } = job.key;
                log::warn!("the checkpoints of job {id} of user {uid} are not listed: {error}");
            }
        }
        Ok(())
    }

    async fn connect_or_forbid(&self, key: &JobKey) -> io::Result<(Reader, Writer)> {
        let files = self.files(key);
        if let Ok(link) = link::connect(&files.socket()).await {
            return Ok(link);
        }
        // No ID begins with a dot.
        let aside = files.run.with_file_name(format!(".gone-{}", key.id));
        fs::rename(&files.run, &aside)?;
        let late = link::connect(&aside.join("socket")).await;
        match late {
            Ok(link) => fs::rename(&aside, &files.run).map(|()| link),
            Err(error) => {
                // Leftovers in /run are harmless.
                let _ = fs::remove_dir_all(&aside);
                Err(error)
            }
        }
    }

    /// Adds running jobs that the database doesn't know, because it was moved away.
    async fn adopt_unknown(self: &Arc<Self>) -> Result<(), JobError> {
        let found = self
            .off_loop(|jobs| known_to_the_system(&jobs.run_dir))
            .await?;
        for key in found {
            let files = self.files(&key);
            if link::connect(&files.socket()).await.is_err() {
                continue;
            }
            match self.off_loop(move |_| files.spec()).await? {
                Ok(spec) if spec.id == key.id && spec.credentials.uid == key.uid => {
                    let inserted = self
                        .query(move |store| store.insert(&JobRow::new(&spec)))
                        .await?;
                    match inserted {
                        Ok(()) => {
                            log::warn!("job {} of user {} was not in the database", key.id, key.uid)
                        }
                        Err(StoreError::Exists) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Ok(_) => log::error!(
                    "spec.json of job {} of user {} is another job's",
                    key.id,
                    key.uid
                ),
                Err(error) => {
                    log::error!("spec.json of job {} of user {}: {error}", key.id, key.uid)
                }
            }
        }
        Ok(())
    }
}

/// The jobs with a directory in /run.
fn known_to_the_system(run_dir: &Path) -> Vec<JobKey> {
    let entries = |directory: PathBuf| {
        let entries = fs::read_dir(directory).into_iter().flatten();
        entries
            .filter_map(Result::ok)
            .filter_map(|entry| entry.file_name().into_string().ok())
    };
    let mut found = Vec::new();
    for user in entries(run_dir.join("jobs")) {
        let Ok(uid) = user.parse() else { continue };
        for name in entries(run_dir.join("jobs").join(&user)) {
            if let Ok(id) = JobId::parse(&name)
                && JobFiles::new(run_dir, run_dir, uid, &id).socket().exists()
            {
                found.push(JobKey { uid, id });
            }
        }
    }
    found
}
