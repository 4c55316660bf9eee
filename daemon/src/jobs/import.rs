//! Importing a checkpoint from a file, as a job that a checkpoint has ended.
//!
//! ```text
//! file ─► worker ─► an archive ─► a job, with the archive as its checkpoint
//!                       └───────── removed, if there can be no job
//! ```
//!
//! A daemon that is killed in between leaves a whole archive without a job, which can be
//! imported again.
//!
//! A job of a process is restored as every other. A container is root's, and is restored by
//! the archive's path: its job is one that was managed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cedana_api::time::now_micros;
use cedana_config::Config;
use tokio::sync::oneshot;

use super::restore::as_id;
use super::{JobError, Jobs, detached};
use crate::caller::Caller;
use crate::checkpoints::{Failure, Kind, Tell, transfer};
use crate::job::bytes::Bytes;
use crate::job::files::append_record;
use crate::job::id::JobId;
use crate::job::spec::{RestartPolicy, TerminalSize};
use crate::store::{Checkpoints, Container, JobKey, JobKind, JobRow, JobState, StoreError};
use crate::worker::{Engine, Import, Owner, Stored, Transferred};

/// What a caller asks to import.
#[derive(Debug, Clone)]
pub(crate) struct WantedImport {
    /// The file.
    pub(crate) file: PathBuf,
    /// The job's ID; empty for the file's name.
    pub(crate) name: String,
    /// The directory of the archive; `None` for the daemon's own.
    pub(crate) directory: Option<PathBuf>,
    pub(crate) config: Config,
}

impl Jobs {
    /// Imports a checkpoint. A client that goes away cancels it, unless the archive is
    /// complete.
    ///
    /// # Errors
    /// The caller has a job of that name, the file can't be read or is no checkpoint, or
    /// there is too little room. Nothing is left then.
    pub(crate) async fn import(
        self: &Arc<Self>,
        caller: &Caller,
        wanted: WantedImport,
        tell: &Tell,
    ) -> Result<(JobRow, Transferred), Failure> {
        let (jobs, caller, tell) = (Arc::clone(self), caller.clone(), tell.clone());
        detached(|gone| async move { jobs.run_import(&caller, wanted, &tell, gone).await }).await
    }

    async fn run_import(
        self: &Arc<Self>,
        caller: &Caller,
        wanted: WantedImport,
        tell: &Tell,
        gone: oneshot::Receiver<()>,
    ) -> Result<(JobRow, Transferred), Failure> {
        let _turn = self.dump_turn(caller.uid()).await;
        let name = match wanted.name.is_empty() {
            true => as_id(&stem(&wanted.file)),
            false => wanted.name,
        };
        let key = JobKey {
            uid: caller.uid(),
            id: JobId::parse(&name).map_err(JobError::from)?,
        };
        // Before gigabytes are read; the row is what counts.
        match self.get(&key).await {
            Ok(_) => return Err(taken(&key.id)),
            Err(JobError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let user = Owner::of(caller.credentials());
        let (directory, owner) = match wanted.directory {
            Some(directory) => (directory, user.clone()),
            None => (self.own_directory(&key).await?, Owner::root()),
        };
        let task = Import {
            file: Bytes::of_path(&wanted.file),
            reader: user,
            directory: Bytes::of_path(&directory),
            owner: owner.clone(),
            name,
            engine: Engine::of(&wanted.config),
        };
        let done = transfer::import(task, tell, gone).await?;
        match self.add_imported(caller, &key, &done, &owner).await {
            Ok(()) => {}
            Err(failure) => {
                let path = done.path.as_path().to_owned();
                let removed = self
                    .off_loop(move |_| owner.of_engine().act(|| fs::remove_file(path)))
                    .await?;
                removed.map_err(JobError::system("remove the archive"))?;
                return Err(failure);
            }
        }
        let path = done.path.as_path().display();
        log::info!("{path} was imported as job {} of user {}", key.id, key.uid);
        self.changed();
        Ok((self.get(&key).await?, done))
    }

    /// Makes the job of an imported checkpoint.
    async fn add_imported(
        self: &Arc<Self>,
        caller: &Caller,
        key: &JobKey,
        done: &Transferred,
        reader: &Owner,
    ) -> Result<(), Failure> {
        let stored = Stored {
            path: done.path.clone(),
            at: now_micros(),
            bytes: done.bytes,
            ends: true,
        };
        if let Some(container) = &done.container {
            let row = of_container(key, container);
            match self.query(move |store| store.insert(&row)).await? {
                Ok(()) => {}
                Err(StoreError::Exists) => return Err(taken(&key.id)),
                Err(error) => return Err(JobError::from(error).into()),
            }
        } else {
            // A terminal gets its size from the client that restores the job.
            let size = TerminalSize {
                rows: 24,
                columns: 80,
            };
            let path = done.path.as_path();
            let made = self.new_job(caller, &key.id, path, reader, size).await;
            made.map_err(|failure| match failure.kind {
                Kind::Exists => taken(&key.id),
                _ => failure,
            })?;
        }
        let (recorded, is_process) = (key.clone(), done.container.is_none());
        let recorded = self.off_loop(move |jobs| {
            let key = &recorded;
            if is_process {
                append_record(&jobs.files(key).checkpoints(), &stored)
                    .map_err(JobError::system("record the checkpoint"))?;
            }
            let path = &stored.path.0;
            jobs.store
                .add_checkpoint(key, path, stored.at, stored.bytes)?;
            let state = JobState::Checkpointed;
            jobs.store.set_state(key, state, stored.at, 0)?;
            Ok::<_, JobError>(())
        });
        if let Err(error) = recorded.await? {
            self.discard(key).await?;
            return Err(error.into());
        }
        Ok(())
    }
}

/// The job of a container, which this daemon has never run.
fn of_container(key: &JobKey, container: &str) -> JobRow {
    let now = now_micros();
    JobRow {
        key: key.clone(),
        state: JobState::Checkpointed,
        since: now,
        created: now,
        restarts: 0,
        restart_policy: RestartPolicy::Never,
        command: String::new(),
        working_directory: Bytes::from("/"),
        terminal: false,
        log_file: None,
        kind: JobKind {
            container: Some(Container::Runc {
                id: container.to_owned(),
                root: None,
            }),
            // No process was started then.
            started: Some(0),
        },
        checkpoints: Checkpoints::default(),
    }
}

fn taken(id: &JobId) -> Failure {
    Failure::new(
        Kind::Exists,
        format!(
            "there is a job {id} already; give the import another name with --name, or remove the job with `cedana job delete {id}`"
        ),
    )
}

/// The name of a file without the endings of archives.
fn stem(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let mut stem = &*name;
    for ending in [".zst", ".zstd", ".gz", ".tgz", ".tar"] {
        stem = stem.strip_suffix(ending).unwrap_or(stem);
    }
    stem.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_names_its_job() {
        for (file, name) in [
            ("/backup/db.tar", "db"),
            ("/backup/db.tar.zst", "db"),
            ("/backup/db.tar.gz", "db"),
            ("/backup/my db.tar", "my_db"),
            ("/backup/db", "db"),
            ("/backup/.tar", "restored"),
        ] {
            assert_eq!(as_id(&stem(Path::new(file))), name, "{file}");
        }
    }
}
