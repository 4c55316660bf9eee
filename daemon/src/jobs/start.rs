//! Starting a job.
//!
//! ```text
//! row "starting" ── spec.json ── supervisor ── its first line ── row "running"
//!      │                              │
//!      └── removed if the program can't be started
//! ```
//!
//! The daemon is killed before the supervisor exists: the next start finds neither, and
//! marks the job as lost. After that: the next start finds the supervisor by its socket.

use std::process::Stdio;
use std::sync::Arc;

use cedana_api::time::now_micros;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{JobError, Jobs, environment, names, orphans};
use crate::caller::Caller;
use crate::job::bytes::Bytes;
use crate::job::id::JobId;
use crate::job::spec::{RestartPolicy, Spec, TerminalSize};
use crate::store::{JobKey, JobRow, StoreError};
use crate::supervisor::protocol::{Started, Status};

/// The limit of the arguments' bytes; the kernel's is usually two MiB.
const MAX_ARGUMENTS: usize = 1 << 20;

/// The kernel's limit of a path (PATH_MAX).
const MAX_PATH: usize = 4096;

/// What a caller asks to run.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// The ID; None for a random one.
    pub id: Option<String>,
    /// Program and arguments.
    pub arguments: Vec<Vec<u8>>,
    /// Working directory.
    pub working_directory: Vec<u8>,
    /// Variables.
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// File of the caller for the output.
    pub log_file: Option<Vec<u8>>,
    /// Size of the terminal, if there is one.
    pub terminal: Option<TerminalSize>,
    /// What happens when the program ends.
    pub restart: RestartPolicy,
}

impl Jobs {
    /// Starts a program as a job of the caller. Returns when it runs.
    ///
    /// # Errors
    /// The request is not valid, the ID is taken, or the program can't be started: then
    /// there is no job.
    pub async fn start(self: &Arc<Self>, caller: &Caller, new: NewJob) -> Result<JobRow, JobError> {
        check(&new)?;
        // A client that goes away must not leave half a job, so this runs on without it.
        let (jobs, caller) = (Arc::clone(self), caller.clone());
        let started = tokio::spawn(async move {
            let spec = jobs.reserve(&caller, new).await?;
            let key = JobKey {
                uid: spec.credentials.uid,
                id: spec.id.clone(),
            };
            jobs.start_reserved(key, spec).await
        });
        started
            .await
            .map_err(|error| JobError::Invalid(format!("the daemon is stopping: {error}")))?
    }

    /// Puts the job into the database, which makes its ID the caller's.
    async fn reserve(self: &Arc<Self>, caller: &Caller, new: NewJob) -> Result<Spec, JobError> {
        let uid = caller.uid();
        let given = new.environment;
        let environment = self
            .off_loop(move |_| environment::of_job(uid, given))
            .await??;
        let mut spec = Spec {
            id: JobId::parse(new.id.as_deref().unwrap_or("unnamed"))?,
            credentials: caller.credentials().clone(),
            arguments: new.arguments.into_iter().map(Bytes).collect(),
            working_directory: Bytes(new.working_directory),
            environment,
            log_file: new.log_file.map(Bytes),
            terminal: new.terminal,
            restart: new.restart,
            created: now_micros(),
        };
        for attempt in 0.. {
            if new.id.is_none() {
                spec.id = JobId::parse(&names::random(attempt))?;
            }
            let row = JobRow::new(&spec);
            match self.query(move |store| store.insert(&row)).await? {
                Ok(()) => break,
                Err(StoreError::Exists)
                    if new.id.is_none() && attempt < 4 * names::PLAIN_ATTEMPTS => {}
                Err(StoreError::Exists) => return Err(JobError::Exists(spec.id)),
                Err(error) => return Err(error.into()),
            }
        }
        spec.environment
            .push((Bytes::from(orphans::MARK), orphans::mark(&spec)));
        Ok(spec)
    }

    async fn start_reserved(self: Arc<Self>, key: JobKey, spec: Spec) -> Result<JobRow, JobError> {
        match self.start_supervisor(&key, spec).await {
            Ok(status) => {
                self.enter(&key, &status).await?;
                tokio::spawn(Arc::clone(&self).follow(key.clone()));
                self.get(&key).await
            }
            Err(error) => {
                self.discard(&key).await?;
                Err(error)
            }
        }
    }

    async fn start_supervisor(
        self: &Arc<Self>,
        key: &JobKey,
        spec: Spec,
    ) -> Result<Status, JobError> {
        let files = self.files(key);
        let created = files.clone();
        self.off_loop(move |_| created.create(&spec))
            .await?
            .map_err(JobError::system("create the job's directory"))?;
        let mut supervisor = self
            .spawn_supervisor(&files, Stdio::null())
            .map_err(JobError::system("start the job's supervisor"))?;
        let mut line = String::new();
        if let Some(stdout) = supervisor.stdout.take() {
            // An error is as good as an empty line.
            let _ = BufReader::new(stdout).read_line(&mut line).await;
        }
        // Reaps it, whenever it ends.
        tokio::spawn(async move { supervisor.wait().await });
        let reason = match serde_json::from_str(&line) {
            Ok(Started::Running(status)) => return Ok(status),
            Ok(Started::Failed(reason)) => reason,
            Ok(Started::NotRestored(failure)) => failure.text,
            Ok(Started::Restored(..)) | Err(_) => "the job's supervisor was killed".to_owned(),
        };
        Err(JobError::NotStarted {
            id: key.id.clone(),
            reason,
        })
    }
}

fn check(new: &NewJob) -> Result<(), JobError> {
    let invalid = |text: String| Err(JobError::Invalid(text));
    let bytes: usize = new.arguments.iter().map(Vec::len).sum();
    match new.arguments.first() {
        None => return invalid("there is no command; give a program and its arguments".to_owned()),
        Some(program) if program.is_empty() => {
            return invalid("the command is empty; give a program and its arguments".to_owned());
        }
        Some(_) if bytes > MAX_ARGUMENTS => {
            return invalid(format!(
                "the arguments have {bytes} bytes, and {MAX_ARGUMENTS} are allowed"
            ));
        }
        Some(_) => {}
    }
    if new.arguments.iter().any(|argument| argument.contains(&0)) {
        return invalid("an argument has a NUL byte".to_owned());
    }
    let paths = [
        ("the working directory", Some(&new.working_directory)),
        ("the log file", new.log_file.as_ref()),
    ];
    for (what, path) in paths {
        let Some(path) = path else { continue };
        if !path.starts_with(b"/") || path.contains(&0) || path.len() >= MAX_PATH {
            let path = String::from_utf8_lossy(path);
            return invalid(format!("{what} {path:?} is not an absolute path"));
        }
    }
    if new.terminal.is_some() && new.log_file.is_some() {
        return invalid(
            "a job with a terminal has no log file: its output is kept by the daemon, see `cedana logs`"
                .to_owned(),
        );
    }
    Ok(())
}
