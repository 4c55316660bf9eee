//! Removing a job: first its files, then its row, so that a kill of the daemon between
//! the two leaves a row, which can be removed again.

use std::sync::Arc;

use super::{JobError, Jobs};
use crate::store::{JobRow, JobState};

impl Jobs {
    /// Removes a job. With `force` one that runs is killed first.
    ///
    /// # Errors
    /// The job runs.
    pub async fn remove(self: &Arc<Self>, job: &JobRow, force: bool) -> Result<(), JobError> {
        // What is managed runs on without a job.
        let is_managed = matches!(job.state, JobState::Managed { .. });
        if job.state.is_live() && !is_managed {
            if !force {
                return Err(JobError::State {
                    id: job.key.id.clone(),
                    state: format!(
                        "is running; end it with `cedana kill {0}` first, or kill and remove it with `cedana job delete --force {0}`",
                        job.key.id
                    ),
                });
            }
            match self.signal(job, libc::SIGKILL).await {
                // It ended by itself.
                Ok(()) | Err(JobError::State { .. } | JobError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
            self.wait(&job.key).await?;
        }
        let _turn = self.transitions.lock().await;
        let key = job.key.clone();
        let now = self.get(&key).await?.state;
        if now.is_live() && !is_managed {
            // It was restored meanwhile.
            let state = "is running or being started".to_owned();
            return Err(JobError::State { id: key.id, state });
        }
        self.off_loop(move |jobs| {
            jobs.remove_own_checkpoints(&key)?;
            jobs.files(&key)
                .remove()
                .map_err(JobError::system("remove the job's directory"))?;
            jobs.store.remove(&key).map_err(JobError::from)
        })
        .await??;
        self.changed();
        Ok(())
    }
}
