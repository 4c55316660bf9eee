//! Restoring a job.
//!
//! ```text
//! row "starting" ── restore.json ── supervisor ── worker ── its first line ── row "running"
//!      │                                │
//!      └── what exit.json says, if it can't be restored; a new job is removed
//! ```
//!
//! `exit.json` stays until the program runs, so that a daemon that is killed in between
//! leaves the job as it was.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use cedana_api::time::now_micros;
use cedana_process::Source;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::{JobError, Jobs, detached, environment, orphans};
use crate::caller::Caller;
use crate::checkpoints::{Failure, Kind, RestoreOptions};
use crate::job::bytes::Bytes;
use crate::job::id::JobId;
use crate::job::spec::{RestartPolicy, Spec, TerminalSize};
use crate::store::{Container, JobKey, JobRow, StoreError};
use crate::supervisor;
use crate::supervisor::protocol::{Started, Status};
use crate::worker::{Engine, Owner, Restore, Restored};

use super::Wanted;

/// The most jobs of one name.
const SAME_NAME: u32 = 10_000;

/// What a caller asks to restore.
#[derive(Debug, Clone)]
pub(crate) struct WantedRestore {
    /// The job; one that does not exist is made. An empty ID means that of the checkpoint.
    pub(crate) job: Wanted,
    /// The checkpoint; `None` for the job's newest.
    pub(crate) path: Option<PathBuf>,
    /// The size of a terminal.
    pub(crate) terminal: TerminalSize,
}

/// What is restored, from where.
struct Plan {
    key: JobKey,
    restore: Restore,
    /// Whether the job did not exist.
    is_new: bool,
}

impl Jobs {
    /// Restores a job. Returns when it runs.
    ///
    /// # Errors
    /// It runs, or can't be restored. A job that existed is as it was.
    pub(crate) async fn restore(
        self: &Arc<Self>,
        caller: &Caller,
        wanted: WantedRestore,
        options: RestoreOptions,
    ) -> Result<(JobRow, Restored), Failure> {
        let (jobs, caller) = (Arc::clone(self), caller.clone());
        detached(|mut gone| async move {
            let _turn = jobs.restores.turn(caller.uid()).await;
            if let Err(TryRecvError::Closed) = gone.try_recv() {
                return Err(Failure::new(Kind::Cancelled, "cancelled"));
            }
            let plan = jobs.plan(&caller, wanted, options).await?;
            let key = plan.key.clone();
            match jobs.run_restore(&plan, gone).await {
                Ok((status, restored)) => {
                    let pid = restored.pid;
                    log::info!(
                        "job {} of user {} was restored as process {pid}",
                        key.id,
                        key.uid
                    );
                    jobs.enter(&key, &status).await?;
                    tokio::spawn(Arc::clone(&jobs).follow(key.clone()));
                    Ok((jobs.get(&key).await?, restored))
                }
                Err(failure) => {
                    log::warn!(
                        "job {} of user {} was not restored: {failure}",
                        key.id,
                        key.uid
                    );
                    jobs.undo(&plan).await?;
                    Err(failure)
                }
            }
        })
        .await
    }

    async fn plan(
        self: &Arc<Self>,
        caller: &Caller,
        wanted: WantedRestore,
        options: RestoreOptions,
    ) -> Result<Plan, Failure> {
        let found = match wanted.job.id.is_empty() {
            true => None,
            false => match self.find(caller, wanted.job.clone()).await {
                Ok(job) => Some(job),
                Err(JobError::NotFound(_)) if wanted.path.is_some() => None,
                Err(error) => return Err(error.into()),
            },
        };
        let is_new = found.is_none();
        // What this daemon has recorded, and not what the caller says.
        let is_recorded = wanted.path.is_none();
        let (key, path) = match found {
            Some(job) => {
                refuse_managed(&job)?;
                if job.state.is_live() {
                    return Err(JobError::State {
                        id: job.key.id.clone(),
                        state: "is running; dump or end it first".to_owned(),
                    }
                    .into());
                }
                let path = match wanted.path {
                    Some(path) => path,
                    None => self.newest(&job.key).await?,
                };
                (job.key, path)
            }
            None => {
                let path = wanted
                    .path
                    .ok_or_else(|| Failure::new(Kind::Invalid, "the request has no checkpoint"))?;
                let reader = Owner::of(caller.credentials());
                let size = wanted.terminal;
                let id = &wanted.job.id;
                let key = self.new_job(caller, id, &path, &reader, size).await?;
                (key, path)
            }
        };
        let files = self.files(&key);
        let spec = self.off_loop(move |_| files.spec()).await?;
        let spec = spec.map_err(JobError::system("read spec.json of the job"))?;
        if !is_new {
            let _turn = self.transitions.lock().await;
            let begun = key.clone();
            let begun = self.query(move |store| store.begin_restore(&begun)).await?;
            if !begun.map_err(JobError::from)? {
                let id = key.id.clone();
                let state = "is running or being started".to_owned();
                return Err(JobError::State { id, state }.into());
            }
            self.changed();
        }
        // A group that the caller has lost since opens nothing any more.
        let owner = match caller.uid() == key.uid {
            true => Owner::of(caller.credentials()),
            false => Owner::of(&spec.credentials),
        };
        let restore = Restore {
            reader: match caller.is_root() || is_recorded && self.is_own(&key, &path) {
                true => Owner::root(),
                false => owner.clone(),
            },
            owner,
            path: Bytes::of_path(&path),
            name: key.id.to_string(),
            tcp_close: options.tcp_close,
            leave_stopped: options.leave_stopped,
            terminal: None,
            output: None,
            report: Bytes(self.files(&key).state.into_os_string().into_encoded_bytes()),
            engine: Engine::of(&options.config),
        };
        Ok(Plan {
            key,
            restore,
            is_new,
        })
    }

    /// The newest checkpoint of a job.
    async fn newest(self: &Arc<Self>, key: &JobKey) -> Result<PathBuf, Failure> {
        let asked = key.clone();
        let found = self.query(move |store| store.checkpoints(Some(asked.uid), Some(&asked.id)));
        let newest = found.await?.map_err(JobError::from)?.pop();
        let newest = newest.ok_or_else(|| {
            Failure::new(
                Kind::State,
                format!("job {0} has no checkpoint; `cedana dump job {0}` makes one of a running job, and -p names one elsewhere", key.id),
            )
        })?;
        Ok(newest.path.as_path().to_owned())
    }

    /// Makes a job of a checkpoint, whose files and row exist then. `reader` may read the
    /// checkpoint.
    pub(super) async fn new_job(
        self: &Arc<Self>,
        caller: &Caller,
        id: &str,
        path: &Path,
        reader: &Owner,
        size: TerminalSize,
    ) -> Result<JobKey, Failure> {
        let reader = reader.of_engine();
        let opened = path.to_owned();
        let source = self
            .off_loop(move |_| Source::open(&opened, &reader)?.process())
            .await?;
        let process = source.map_err(|error| Failure::new(Kind::State, error.to_string()))?;
        let uid = caller.uid();
        let environment = self
            .off_loop(move |_| environment::of_job(uid, Vec::new()))
            .await??;
        let named = match id.is_empty() {
            true => as_id(&process.name),
            false => id.to_owned(),
        };
        let mut spec = Spec {
            id: JobId::parse(&named).map_err(JobError::from)?,
            credentials: caller.credentials().clone(),
            arguments: process
                .command
                .iter()
                .map(|word| Bytes::from(&**word))
                .collect(),
            working_directory: Bytes::from("/"),
            environment,
            log_file: None,
            terminal: process.terminal.is_some().then_some(size),
            restart: RestartPolicy::Never,
            created: now_micros(),
        };
        for number in 2.. {
            let row = JobRow::new(&spec);
            match self.query(move |store| store.insert(&row)).await? {
                Ok(()) => break,
                Err(StoreError::Exists) if id.is_empty() && number < SAME_NAME => {
                    let next: String = named.chars().take(58).collect();
                    spec.id = JobId::parse(&format!("{next}-{number}")).map_err(JobError::from)?;
                }
                Err(StoreError::Exists) => return Err(JobError::Exists(spec.id).into()),
                Err(error) => return Err(JobError::from(error).into()),
            }
        }
        spec.environment
            .push((Bytes::from(orphans::MARK), orphans::mark(&spec)));
        let key = JobKey {
            uid,
            id: spec.id.clone(),
        };
        let files = self.files(&key);
        let created = self.off_loop(move |_| files.create(&spec)).await?;
        if let Err(error) = created {
            self.discard(&key).await?;
            return Err(JobError::system("create the job's directory")(error).into());
        }
        Ok(key)
    }

    /// Starts the supervisor, and waits for its first line. The restore is cancelled when
    /// `gone` is closed.
    async fn run_restore(
        self: &Arc<Self>,
        plan: &Plan,
        gone: oneshot::Receiver<()>,
    ) -> Result<(Status, Restored), Failure> {
        let files = self.files(&plan.key);
        let (prepared, restore) = (files.clone(), plan.restore.clone());
        self.off_loop(move |_| prepared.prepare_restore(&restore))
            .await?
            .map_err(JobError::system("write restore.json of the job"))?;
        let mut supervisor = self
            .spawn_supervisor(&files, Stdio::piped())
            .map_err(JobError::system("start the job's supervisor"))?;
        let line = first_line(&mut supervisor, gone).await;
        // Reaps it, whenever it ends.
        tokio::spawn(async move { supervisor.wait().await });
        match serde_json::from_str(&line) {
            Ok(Started::Restored(status, restored)) => Ok((status, restored)),
            Ok(Started::NotRestored(failure)) => Err(failure),
            Ok(Started::Failed(why)) => Err(Failure::new(Kind::System, why)),
            Ok(Started::Running(_)) | Err(_) => Err(Failure::new(
                Kind::System,
                "the job's supervisor was killed",
            )),
        }
    }

    /// Leaves a job as it was before a restore.
    async fn undo(self: &Arc<Self>, plan: &Plan) -> Result<(), Failure> {
        if !plan.is_new {
            return Ok(self.settle(&plan.key).await?);
        }
        Ok(self.discard(&plan.key).await?)
    }

    /// Removes a job that never ran.
    pub(super) async fn discard(self: &Arc<Self>, key: &JobKey) -> Result<(), JobError> {
        let key = key.clone();
        self.off_loop(move |jobs| {
            jobs.files(&key)
                .remove()
                .map_err(JobError::system("remove the job's directory"))?;
            jobs.store.remove(&key).map_err(JobError::from)
        })
        .await??;
        self.changed();
        Ok(())
    }

    /// Starts a supervisor.
    pub(super) fn spawn_supervisor(
        &self,
        files: &crate::job::files::JobFiles,
        stdin: Stdio,
    ) -> std::io::Result<Child> {
        // The running program, even if the file was replaced by another version.
        let mut command = Command::new("/proc/self/exe");
        command
            .arg(supervisor::FLAG)
            .args([&files.state, &files.run])
            .env_clear();
        // A worker of it looks for CRIU there.
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command
            .current_dir("/")
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
    }
}

async fn first_line(supervisor: &mut Child, gone: oneshot::Receiver<()>) -> String {
    let stdin = supervisor.stdin.take();
    let stdout = supervisor.stdout.take();
    let mut line = String::new();
    let Some(stdout) = stdout else { return line };
    let mut stdout = BufReader::new(stdout);
    {
        let read = stdout.read_line(&mut line);
        tokio::pin!(read);
        tokio::select! {
            // An error is as good as an empty line.
            _ = &mut read => {}
            // Its end cancels the restore, and the line says so.
            _ = gone => {
                drop(stdin);
                let _ = read.await;
            }
        }
    }
    line
}

/// Refuses what the daemon has not started, and says how it is restored.
fn refuse_managed(job: &JobRow) -> Result<(), Failure> {
    if job.kind.started.is_none() {
        return Ok(());
    }
    let id = &job.key.id;
    let how = match &job.kind.container {
        None => "cedana restore process -p PATH",
        Some(Container::Runc { .. }) => "cedana restore runc -b BUNDLE -i NEW -p PATH",
        Some(Container::Containerd { .. }) => "cedana restore containerd -i IMAGE NEW",
    };
    Err(Failure::new(
        Kind::State,
        format!(
            "job {id} was not started by the daemon; restore it with `{how}`, where `cedana checkpoints {id}` says what from"
        ),
    ))
}

/// A name as a job's ID.
pub(super) fn as_id(name: &str) -> String {
    let usable = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-' => c,
        _ => '_',
    };
    let id: String = name.chars().map(usable).take(64).collect();
    let id = id.trim_start_matches(['.', '_', '-']);
    match id.is_empty() {
        true => "restored".to_owned(),
        false => id.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_becomes_an_id() {
        for (name, id) in [
            ("python3", "python3"),
            ("/usr/bin/x y", "usr_bin_x_y"),
            ("..", "restored"),
            ("", "restored"),
            ("ö", "restored"),
        ] {
            assert_eq!(as_id(name), id);
            assert!(JobId::parse(id).is_ok());
        }
        assert!(JobId::parse(&as_id(&"x".repeat(100))).is_ok());
    }
}
