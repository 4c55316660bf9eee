//! A new container, from a bundle and a checkpoint.
//!
//! ```text
//! checkpoint found ─► bundle ready ─► cedana-runc restore --detach ─► PID
//!                                          │ failed or cancelled
//!                                          └─► its container deleted, the bundle removed
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cedana_checkpoint::format::publish::Scratch;
use cedana_checkpoint::opened::OpenedDir;
use cedana_config::Config;

use super::roots::RUNC;
use super::wrapper::{self, Running, Said, Undo, flag};
use super::{Container, Failure, Kind, RestoreOptions, Tell, state};
use crate::checkpoints::Told;
use crate::checkpoints::bundle::{self, Bundle, archive};

/// Where cedana-runc's messages are while it runs.
const WORK: &str = "/run/cedana/runc";

/// The checkpoint and the bundle of a new container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Restore {
    pub(crate) container: Container,
    /// A directory, or an archive by `docker export`.
    pub(crate) bundle: PathBuf,
    pub(crate) checkpoint: From,
}

/// Which checkpoint is restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum From {
    /// An archive or a directory.
    Path(PathBuf),
    /// The newest archive in a directory.
    Newest(PathBuf),
}

/// What is prepared for a restore.
struct Prepared {
    root: PathBuf,
    id: String,
    bundle: Bundle,
    /// For cedana-runc's log and PID file.
    work: Scratch,
    config: Config,
}

/// Returns the process ID of the container's first process.
pub(crate) async fn restore(
    restore: &Restore,
    options: &RestoreOptions,
    tell: &Tell,
) -> Result<i32, Failure> {
    if options.leave_stopped {
        return Err(Failure::new(
            Kind::Invalid,
            "a container can't be left stopped; restore it, then stop it with `cedana freeze runc`",
        ));
    }
    let Container { id, root } = restore.container.clone();
    let root = root.unwrap_or_else(|| RUNC.into());
    if root.join(&id).exists() {
        return Err(Failure::new(
            Kind::Exists,
            format!(
                "there is a container {id} in {} already; delete it, or take another ID",
                root.display()
            ),
        ));
    }
    let (bundle, checkpoint) = prepare_bundle(restore, &root).await?;
    for warning in &bundle.warnings {
        // A receiver that is gone is no error.
        let _ = tell.send(Told::Warning(warning.clone())).await;
    }
    let work = work().map_err(|error| {
        Failure::new(
            Kind::System,
            format!("cannot make a directory in {WORK}: {error}"),
        )
    })?;
    let prepared = Prepared {
        root,
        id,
        bundle,
        work,
        config: options.config.clone(),
    };
    run(prepared, &checkpoint, options.tcp_close, tell).await
}

/// Sets its flag when it is dropped.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Prepares the bundle on a thread that ends soon after this call is dropped.
async fn prepare_bundle(restore: &Restore, root: &Path) -> Result<(Bundle, PathBuf), Failure> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let guard = CancelOnDrop(Arc::clone(&cancelled));
    let (restore, root) = (restore.clone(), root.to_owned());
    let prepared = tokio::task::spawn_blocking(move || {
        let checkpoint = match restore.checkpoint {
            From::Path(path) => path,
            From::Newest(dir) => archive::newest(&dir)?,
        };
        let new = bundle::New {
            id: &restore.container.id,
            root: &root,
            checkpoint: &checkpoint,
            cancelled: &cancelled,
        };
        let bundle = Bundle::prepare(&restore.bundle, &new)?;
        Ok((bundle, checkpoint))
    });
    let prepared = prepared.await.map_err(|error| {
        Failure::new(Kind::System, format!("cannot prepare the bundle: {error}"))
    })?;
    drop(guard);
    prepared
}

fn work() -> std::io::Result<Scratch> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(WORK)?;
    Scratch::create(OpenedDir::open(Path::new(WORK))?).map_err(std::io::Error::other)
}

async fn run(
    prepared: Prepared,
    checkpoint: &Path,
    tcp_close: bool,
    tell: &Tell,
) -> Result<i32, Failure> {
    let log = prepared.work.path().join("log.json");
    let output = wrapper::copy_output(prepared.bundle.output()?)?;
    let mut command = wrapper::command(&prepared.config);
    flag(&mut command, "root", &prepared.root);
    flag(&mut command, "log", &log);
    command.args(["--log-format=json", "restore", "--detach"]);
    flag(&mut command, "bundle", prepared.bundle.path());
    flag(&mut command, "image-path", checkpoint);
    if tcp_close {
        command.arg("--tcp-close");
    }
    command.args(["--", &prepared.id]);
    // cedana-runc passes its stdio on to the container.
    let again = output.try_clone().map_err(|error| {
        Failure::new(Kind::System, format!("cannot copy a descriptor: {error}"))
    })?;
    command.stdout(output).stderr(again);
    let running = Running::start(&mut command, prepared)?;
    let (status, prepared) = running.wait().await?;
    let said = fs::read(&log).unwrap_or_default();
    let judged = Said::in_log(&String::from_utf8_lossy(&said)).judge(status, tell);
    let judged = judged.await;
    let pid = judged.and_then(|()| state::init(&prepared.root, &prepared.id));
    match pid {
        Ok(pid) => {
            prepared.bundle.keep();
            Ok(pid)
        }
        Err(failure) => {
            prepared.undo().await;
            Err(failure)
        }
    }
}

impl Undo for Prepared {
    /// Deletes what the runtime has left, then removes the bundle.
    async fn undo(self) {
        // Another caller may have made a container of this ID meanwhile.
        let bundle = state::bundle(&self.root, &self.id);
        let is_ours = bundle.is_none_or(|bundle| bundle == self.bundle.path());
        if is_ours && self.root.join(&self.id).exists() {
            let mut command = wrapper::command(&self.config);
            flag(&mut command, "root", &self.root);
            command.args(["delete", "--force", &self.id]);
            // What can't be deleted is seen by the next restore of this ID.
            let _ = command.status().await;
        }
        drop(self.bundle);
    }
}
