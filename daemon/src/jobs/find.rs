//! Finding jobs, with the rule that a user sees only jobs of their own.

use std::sync::Arc;

use super::{JobError, Jobs};
use crate::caller::Caller;
use crate::job::id::JobId;
use crate::store::{JobKey, JobRow};

/// The job that a caller names.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The ID as sent.
    pub id: String,
    /// The owner, if the caller names one.
    pub uid: Option<u32>,
}

impl Jobs {
    /// The job that a caller names. Another user's job is unknown to all but root.
    ///
    /// # Errors
    /// [`JobError::NotFound`]; [`JobError::Ambiguous`] for root alone.
    pub async fn find(
        self: &Arc<Self>,
        caller: &Caller,
        wanted: Wanted,
    ) -> Result<JobRow, JobError> {
        let id = JobId::parse(&wanted.id)?;
        let own = caller.uid();
        let uid = match wanted.uid {
            _ if !caller.is_root() => own,
            Some(uid) => uid,
            None => self.owner_for_root(&id).await?,
        };
        if wanted.uid.is_some_and(|wanted| wanted != uid) {
            return Err(JobError::NotFound(id));
        }
        self.get(&JobKey { uid, id }).await
    }

    /// Root's own job of that ID, else the only one.
    async fn owner_for_root(self: &Arc<Self>, id: &JobId) -> Result<u32, JobError> {
        let asked = id.clone();
        let owners = self.query(move |store| store.owners(&asked)).await??;
        match owners[..] {
            [] => Err(JobError::NotFound(id.clone())),
            [uid] | [uid @ 0, ..] => Ok(uid),
            _ => Err(JobError::Ambiguous {
                id: id.clone(),
                owners: owners
                    .iter()
                    .map(u32::to_string)
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
        }
    }

    /// A job.
    ///
    /// # Errors
    /// [`JobError::NotFound`].
    pub async fn get(self: &Arc<Self>, key: &JobKey) -> Result<JobRow, JobError> {
        let asked = key.clone();
        let found = self.query(move |store| store.get(&asked)).await??;
        found.ok_or_else(|| JobError::NotFound(key.id.clone()))
    }

    /// The jobs that a caller may see.
    ///
    /// # Errors
    /// The database's.
    pub async fn list(
        self: &Arc<Self>,
        caller: &Caller,
        all: bool,
    ) -> Result<Vec<JobRow>, JobError> {
        let owner = (!caller.is_root()).then_some(caller.uid());
        Ok(self.query(move |store| store.list(owner, all)).await??)
    }
}
