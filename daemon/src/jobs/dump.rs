//! Dumping a job, by its supervisor.
//!
//! The supervisor's worker records the checkpoint in the job's directory before the program
//! ends. The daemon copies the record into the catalogue; if it is killed before, the next
//! one does.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{JobError, Jobs, detached, link};
use crate::checkpoints::{DumpOptions, Dumped, Failure, Kind, Tell, Told};
use crate::job::bytes::Bytes;
use crate::store::{JobKey, JobRow, JobState, StoreError};
use crate::supervisor::protocol::{Answer, Frame, Request};
use crate::worker::{self, Engine, Owner, Stored};

impl Jobs {
    /// Dumps a job. `directory` is `None` for the daemon's own.
    ///
    /// # Errors
    /// The job does not run, or can't be dumped: it runs on.
    pub(crate) async fn dump(
        self: &Arc<Self>,
        job: &JobRow,
        directory: Option<PathBuf>,
        options: &DumpOptions,
        tell: &Tell,
    ) -> Result<Dumped, Failure> {
        if !job.state.is_live() {
            return Err(JobError::not_running(&job.key.id, job.state).into());
        }
        if let JobState::Managed { pid } = job.state {
            let options = DumpOptions {
                directory: match directory {
                    Some(directory) => directory,
                    None => self.own_directory(&job.key).await?,
                },
                ..options.clone()
            };
            return self.dump_managed(job, pid, &options, tell).await;
        }
        let user = self.owner(&job.key).await?;
        let (directory, owner) = match directory {
            Some(directory) => (directory, user.clone()),
            None => (self.own_directory(&job.key).await?, Owner::root()),
        };
        let name = match options.name.is_empty() {
            true => job.key.id.to_string(),
            false => options.name.clone(),
        };
        let task = worker::Dump {
            directory: Bytes::of_path(&directory),
            owner,
            user,
            name,
            leave_running: options.leave_running,
            shell_job: false,
            engine: Engine::of(&options.config),
            // The supervisor fills these in.
            pid: 0,
            output: None,
            terminal: false,
            record: None,
        };
        let ends = !options.leave_running;
        let (jobs, key, tell) = (Arc::clone(self), job.key.clone(), tell.clone());
        // A client that goes away must not keep the checkpoint out of the catalogue.
        detached(|gone| async move {
            let result = tokio::select! {
                biased;
                result = jobs.dump_by_supervisor(&key, task, &tell) => result,
                _ = gone => Err(Failure::new(Kind::Cancelled, "cancelled")),
            };
            match &result {
                Ok(dumped) => {
                    let path = dumped.path.display();
                    log::info!("job {} of user {} was dumped to {path}", key.id, key.uid);
                }
                Err(failure) => {
                    log::warn!(
                        "job {} of user {} was not dumped: {failure}",
                        key.id,
                        key.uid
                    );
                }
            }
            jobs.catalogue(&key).await?;
            if result.is_ok() && ends {
                // The client may restore it at once.
                jobs.wait(&key).await?;
            }
            result
        })
        .await
    }

    async fn dump_by_supervisor(
        self: &Arc<Self>,
        key: &JobKey,
        task: worker::Dump,
        tell: &Tell,
    ) -> Result<Dumped, Failure> {
        let _turn = self.dump_turn(key.uid).await;
        let gone = |error: io::Error| {
            let text = format!("the supervisor of job {} does not answer: {error}", key.id);
            Failure::new(Kind::State, text)
        };
        let link = link::connect(&self.files(key).socket()).await;
        let (mut reader, mut writer) = link.map_err(gone)?;
        let request = Request::Dump(Box::new(task));
        writer.send(&request).await.map_err(gone)?;
        loop {
            let told = match reader.next().await.map_err(gone)? {
                Some(Frame::Message(Answer::Told(told))) => told,
                Some(Frame::Message(Answer::Failed(why))) => {
                    return Err(Failure::new(Kind::State, why));
                }
                Some(_) => continue,
                None => return Err(gone(io::ErrorKind::UnexpectedEof.into())),
            };
            match told {
                worker::Told::Progress(now) => drop(tell.try_send(Told::Progress(now))),
                worker::Told::Dumped(dumped) => return Ok(dumped.into()),
                worker::Told::Failed(failure) => return Err(failure),
                worker::Told::Stored(_)
                | worker::Told::Restored(_)
                | worker::Told::Transferred(_) => {}
            }
        }
    }

    /// Waits until another dump of a user may begin.
    pub(crate) async fn dump_turn(&self, uid: u32) -> impl Sized + '_ {
        self.dumps.turn(uid).await
    }

    /// The user that a job belongs to, with the groups that it has.
    pub(super) async fn owner(self: &Arc<Self>, key: &JobKey) -> Result<Owner, Failure> {
        let files = self.files(key);
        let spec = self.off_loop(move |_| files.spec()).await?;
        let spec = spec.map_err(JobError::system("read spec.json of the job"))?;
        Ok(Owner::of(&spec.credentials))
    }

    /// The daemon's own directory for the checkpoints of a user's jobs.
    pub(super) async fn own_directory(self: &Arc<Self>, key: &JobKey) -> Result<PathBuf, Failure> {
        let directory = self.checkpoints_dir().join(key.uid.to_string());
        let made = directory.clone();
        let made =
            self.off_loop(move |_| DirBuilder::new().recursive(true).mode(0o700).create(made));
        made.await?
            .map_err(JobError::system("create the directory of checkpoints"))?;
        Ok(directory)
    }

    /// The directory of checkpoints that were given none.
    pub(crate) fn checkpoints_dir(&self) -> PathBuf {
        self.state_dir.join("checkpoints")
    }

    /// Whether a checkpoint is in the daemon's own directory, which root alone can enter. A
    /// path with `..` is not.
    pub(super) fn is_own(&self, key: &JobKey, path: &Path) -> bool {
        let own = self.checkpoints_dir().join(key.uid.to_string());
        path.parent() == Some(&own) && path.file_name().is_some()
    }

    /// Copies the record of a job's checkpoints into the catalogue. If that can't be written,
    /// the job is not disturbed: they are copied when its state changes or it is asked for.
    pub(super) async fn catalogue(self: &Arc<Self>, key: &JobKey) -> Result<(), JobError> {
        let (files, key) = (self.files(key), key.clone());
        self.off_loop(move |jobs| {
            // A job that is managed has none.
            let Ok(_lock) = files.lock() else {
                return Ok(());
            };
            for Stored {
                path, at, bytes, ..
            } in files.recorded()
            {
                match jobs.store.add_checkpoint(&key, &path.0, at, bytes) {
                    Err(StoreError::Query(error)) if error.sqlite_error().is_some() => {
                        let (path, JobKey { uid, id }) = (path.as_path().display(), &key);
                        log::warn!(
                            "checkpoint {path} of job {id} of user {uid} is not listed yet: {error}"
                        );
                    }
                    added => added?,
                }
            }
            Ok::<_, JobError>(())
        })
        .await??;
        self.changed();
        Ok(())
    }
}

impl From<worker::Dumped> for Dumped {
    fn from(dumped: worker::Dumped) -> Self {
        Self {
            path: dumped.path.as_path().to_owned(),
            image: String::new(),
            raw_bytes: dumped.raw_bytes,
            stored_bytes: dumped.stored_bytes,
            frozen_us: dumped.frozen_us,
            total_us: dumped.total_us,
        }
    }
}
