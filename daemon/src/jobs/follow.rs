//! Following a supervisor: its state goes into the database as it changes.

use std::io;
use std::sync::Arc;

use cedana_api::time::now_micros;

use super::link::{self, Reader, Writer};
use super::{JobError, Jobs, orphans};
use crate::store::{JobKey, JobState};
use crate::supervisor::protocol::{Answer, Frame, Phase, Request, Status};

impl Jobs {
    /// Follows a job's supervisor until the job has ended.
    pub(super) async fn follow(self: Arc<Self>, key: JobKey) {
        let link = link::connect(&self.files(&key).socket()).await;
        self.follow_link(key, link).await;
    }

    /// The same, with a connection or the reason that there is none.
    pub(super) async fn follow_link(
        self: Arc<Self>,
        key: JobKey,
        link: io::Result<(Reader, Writer)>,
    ) {
        let ended = match link {
            Ok((reader, writer)) => self.watch(&key, reader, writer).await,
            Err(_) => false,
        };
        if !ended && let Err(error) = self.settle(&key).await {
            log::error!("job {} of user {}: {error}", key.id, key.uid);
        }
    }

    /// Returns whether the supervisor has told the end.
    async fn watch(self: &Arc<Self>, key: &JobKey, mut reader: Reader, mut writer: Writer) -> bool {
        if writer.send(&Request::Watch).await.is_err() {
            return false;
        }
        loop {
            match reader.next().await {
                Ok(Some(Frame::Message(Answer::Status(status)))) => {
                    if let Err(error) = self.enter(key, &status).await {
                        log::error!("job {} of user {}: {error}", key.id, key.uid);
                    }
                    if let Phase::Ended(_) | Phase::Checkpointed = status.phase {
                        return true;
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(error) => {
                    log::warn!(
                        "the supervisor of job {} of user {}: {error}",
                        key.id,
                        key.uid
                    );
                    return false;
                }
            }
        }
    }

    /// Records a state that the supervisor has told.
    pub(super) async fn enter(
        self: &Arc<Self>,
        key: &JobKey,
        status: &Status,
    ) -> Result<(), JobError> {
        let supervisor = status.supervisor;
        self.catalogue(key).await?;
        let state = match status.phase {
            Phase::Running(pid) => JobState::Running { pid, supervisor },
            Phase::Restarting(exit) => JobState::Restarting { exit, supervisor },
            Phase::Ended(exit) => JobState::Ended(exit),
            Phase::Checkpointed => JobState::Checkpointed,
        };
        self.set_state(key, state, status.since, status.restarts)
            .await
    }

    /// Records the end of a job whose supervisor is not there: what `exit.json` says, or
    /// that the job is lost. What is left of a lost job is killed.
    pub(super) async fn settle(self: &Arc<Self>, key: &JobKey) -> Result<(), JobError> {
        self.catalogue(key).await?;
        let files = self.files(key);
        let ended = self
            .off_loop(move |_| files.ended())
            .await?
            .unwrap_or_else(|error| {
                log::error!("exit.json of job {} of user {}: {error}", key.id, key.uid);
                None
            });
        if let Some(ended) = ended {
            let state = match ended.checkpointed {
                true => JobState::Checkpointed,
                false => JobState::Ended(ended.exit),
            };
            if let JobState::Starting = self.get(key).await?.state {
                // Its supervisor was killed when the restore was all but complete.
                let files = self.files(key);
                self.off_loop(move |_| {
                    files
                        .spec()
                        .map_or(0, |spec| orphans::kill(&orphans::mark(&spec), None))
                })
                .await?;
            }
            // Of a supervisor that could not restore it, or was killed at its end.
            let run = self.files(key).run;
            self.off_loop(move |_| std::fs::remove_dir_all(run))
                .await?
                .ok();
            return self.set_state(key, state, ended.at, ended.restarts).await;
        }
        let job = self.get(key).await?;
        let first = match job.state {
            JobState::Running { pid, .. } => Some((pid, job.since)),
            _ => None,
        };
        let files = self.files(key);
        let killed = self
            .off_loop(move |_| {
                let killed = files
                    .spec()
                    .map_or(0, |spec| orphans::kill(&orphans::mark(&spec), first));
                // A socket without a supervisor.
                let _ = std::fs::remove_dir_all(&files.run);
                killed
            })
            .await?;
        log::warn!(
            "job {} of user {} is lost: its supervisor is not running and left no exit status; processes killed: {killed}",
            key.id,
            key.uid
        );
        // The supervisor may have been killed after the checkpoint and before the end.
        let files = self.files(key);
        let last = self.off_loop(move |_| files.recorded().pop()).await?;
        let state = match last.is_some_and(|last| last.ends && last.at >= job.since) {
            true => JobState::Checkpointed,
            false => JobState::Lost,
        };
        self.set_state(key, state, now_micros(), job.restarts).await
    }

    async fn set_state(
        self: &Arc<Self>,
        key: &JobKey,
        state: JobState,
        since: i64,
        restarts: u32,
    ) -> Result<(), JobError> {
        let changed = key.clone();
        self.query(move |store| store.set_state(&changed, state, since, restarts))
            .await??;
        self.changed();
        Ok(())
    }
}
