//! The catalogue of checkpoints.

use std::fs;
use std::io;
use std::sync::Arc;

use super::{JobError, Jobs, Wanted};
use crate::caller::Caller;
use crate::checkpoints::{Failure, Kind};
use crate::store::{CheckpointRow, JobKey};
use crate::worker::Owner;

impl Jobs {
    /// The checkpoints that a caller may see, oldest first, and whether their files exist.
    ///
    /// # Errors
    /// There is no such job.
    pub(crate) async fn checkpoints(
        self: &Arc<Self>,
        caller: &Caller,
        job: Option<Wanted>,
    ) -> Result<Vec<(CheckpointRow, bool)>, JobError> {
        let key = match job {
            Some(job) => Some(self.find(caller, job).await?.key),
            None => None,
        };
        let owner = match &key {
            Some(key) => Some(key.uid),
            None => (!caller.is_root()).then_some(caller.uid()),
        };
        if let Some(key) = &key {
            // What was recorded when a client had gone.
            self.catalogue(key).await?;
        }
        let looker = match caller.is_root() {
            true => Owner::root(),
            false => Owner::of(caller.credentials()),
        };
        let found = self.off_loop(move |jobs| {
            let id = key.as_ref().map(|key| &*key.id);
            let found = jobs.store.checkpoints(owner, id)?;
            let is_there = |row: &CheckpointRow| {
                let path = row.path.as_path();
                let looker = match jobs.is_own(&row.key, path) {
                    true => Owner::root(),
                    false => looker.clone(),
                };
                // An image of containerd is not looked for.
                !path.is_absolute() || looker.of_engine().act(|| path.symlink_metadata()).is_ok()
            };
            Ok::<_, JobError>(
                found
                    .into_iter()
                    .map(|row| {
                        let is_there = is_there(&row);
                        (row, is_there)
                    })
                    .collect(),
            )
        });
        found.await?
    }

    /// A checkpoint of the caller's.
    ///
    /// # Errors
    /// There is none.
    pub(super) async fn numbered(
        self: &Arc<Self>,
        caller: &Caller,
        number: u64,
    ) -> Result<CheckpointRow, Failure> {
        let found = self.checkpoints(caller, None).await?;
        let is_it = |row: &CheckpointRow| u64::try_from(row.number) == Ok(number);
        let found = found.into_iter().find(|(row, _)| is_it(row));
        found.map(|(row, _)| row).ok_or_else(|| {
            Failure::new(
                Kind::NotFound,
                format!("there is no checkpoint {number}; `cedana checkpoint list` lists yours"),
            )
        })
    }

    /// Removes a checkpoint with its file, with the rights of the job's owner unless it is
    /// in the daemon's own directory.
    ///
    /// # Errors
    /// There is no such checkpoint of the caller's, or the file can't be removed.
    pub(crate) async fn delete_checkpoint(
        self: &Arc<Self>,
        caller: &Caller,
        number: u64,
    ) -> Result<(), Failure> {
        let row = self.numbered(caller, number).await?;
        let owner = match caller.is_root() || self.is_own(&row.key, row.path.as_path()) {
            true => Owner::root(),
            false => Owner::of(caller.credentials()),
        };
        self.off_loop(move |jobs| {
            let path = row.path.as_path();
            if !path.is_absolute() {
                let image = path.display();
                let text = format!("{image} is an image of containerd; remove it with `ctr image rm {image}`, and the entry with its job");
                return Err(Failure::new(Kind::State, text));
            }
            match owner.of_engine().act(|| fs::remove_file(path)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let text = format!("cannot remove {}: {error}", path.display());
                    return Err(Failure::new(Kind::State, text));
                }
                _ => {}
            }
            jobs.forget(&row)
        })
        .await??;
        self.changed();
        Ok(())
    }

    /// Removes a checkpoint from the catalogue, and from the record in the job's directory,
    /// which a job that is managed doesn't have.
    fn forget(&self, row: &CheckpointRow) -> Result<(), Failure> {
        let files = self.files(&row.key);
        let lock = files.lock();
        if lock.is_ok() {
            let mut recorded = files.recorded();
            recorded.retain(|stored| stored.path != row.path);
            files
                .rewrite_record(&recorded)
                .map_err(JobError::system("rewrite the record of checkpoints"))?;
        }
        let removed = self.store.remove_checkpoint(row.number);
        Ok(removed.map_err(JobError::from)?)
    }

    /// Removes the files of a job's checkpoints that are in the daemon's own directory.
    pub(super) fn remove_own_checkpoints(&self, key: &JobKey) -> Result<(), JobError> {
        for row in self.store.checkpoints(Some(key.uid), Some(&key.id))? {
            let path = row.path.as_path();
            if self.is_own(key, path)
                && let Err(error) = fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(JobError::system("remove the job's checkpoints")(error));
            }
        }
        Ok(())
    }
}

impl From<JobError> for Failure {
    fn from(error: JobError) -> Self {
        let kind = match &error {
            JobError::NotFound(_) => Kind::NotFound,
            JobError::Exists(_) => Kind::Exists,
            JobError::InvalidId(_) | JobError::Invalid(_) | JobError::Ambiguous { .. } => {
                Kind::Invalid
            }
            JobError::NotStarted { .. } | JobError::State { .. } | JobError::Refused { .. } => {
                Kind::State
            }
            JobError::Store(_) | JobError::System { .. } => Kind::System,
        };
        Self::new(kind, error.to_string())
    }
}
