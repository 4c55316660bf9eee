//! Containers of runc, by `cedana-runc`.
//!
//! ```text
//! roots     the directory in which a runtime has the container
//! wrapper   cedana-runc as a child, its progress and its messages
//! restore   a new container, from a bundle and a checkpoint
//! turn      one restore at a time for each container
//! state     what the runtime's record says
//! ```
//!
//! Docker's and containerd's containers are runc's, too: their engines see a dump that
//! ends the container as its exit.

mod restore;
mod roots;
mod state;
mod turn;
mod wrapper;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use cedana_checkpoint::format::manifest::Manifest;
use cedana_checkpoint::opened::OpenedDir;
use cedana_config::Config;
use cedana_contract::flags::{ARCHIVE_DIR, ARCHIVE_NAME, CHECK};
use tokio::process::Command;

use super::{Checked, DumpOptions, Dumped, Failure, Kind, RestoreOptions, Tell, cancel};
pub(crate) use restore::{From, Restore, restore};
use wrapper::{Running, Said, flag};

/// A container of runc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) id: String,
    /// runc's directory of containers, if the caller names one.
    pub(crate) root: Option<PathBuf>,
}

/// Dumps a container into an archive.
pub(crate) async fn dump(
    container: &Container,
    options: &DumpOptions,
    tell: &Tell,
) -> Result<Dumped, Failure> {
    cancel::until_stopped(dump_until_dropped(container, options, tell)).await
}

async fn dump_until_dropped(
    container: &Container,
    options: &DumpOptions,
    tell: &Tell,
) -> Result<Dumped, Failure> {
    let root = find(container).await?;
    let mut command = wrapper::command(&options.config);
    flag(&mut command, "root", &root);
    command.arg("checkpoint");
    flag(&mut command, ARCHIVE_DIR, &options.directory);
    if !options.name.is_empty() {
        flag(&mut command, ARCHIVE_NAME, &options.name);
    }
    if options.leave_running {
        command.arg("--leave-running");
    }
    let pipe = wrapper::progress_pipe(&mut command);
    let (progress, writer) =
        pipe.map_err(|error| Failure::new(Kind::System, format!("cannot make a pipe: {error}")))?;
    command.args(["--", &container.id]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running::start(&mut command, cancel::Running::begin())?;
    drop(writer);
    let (stdout, stderr) = running.output();
    let (path, said, ()) = tokio::join!(
        wrapper::read(stdout),
        wrapper::read(stderr),
        wrapper::tell_progress(progress, tell)
    );
    let (status, _) = running.wait().await?;
    Said::on_stderr(&said).judge(status, tell).await?;
    let directory = options.directory.clone();
    blocking(move || dumped(&directory, &path)).await
}

/// Runs what reads a disk or /proc on a thread for such calls: the thread that answers
/// requests must not wait for it.
async fn blocking<R: Send + 'static>(
    call: impl FnOnce() -> Result<R, Failure> + Send + 'static,
) -> Result<R, Failure> {
    let ended = |error| Failure::new(Kind::System, format!("the call ended early: {error}"));
    tokio::task::spawn_blocking(call).await.map_err(ended)?
}

/// The directory in which a runtime has the container.
async fn find(container: &Container) -> Result<PathBuf, Failure> {
    let container = container.clone();
    blocking(move || roots::find(&container)).await
}

/// The same, and the process ID of the container's first process, which runs.
async fn find_running(container: &Container) -> Result<(PathBuf, i32), Failure> {
    let container = container.clone();
    blocking(move || {
        let root = roots::find(&container)?;
        let init = state::init(&root, &container.id)?;
        Ok((root, init))
    })
    .await
}

/// What is known of a new archive, whose path was printed.
fn dumped(directory: &Path, printed: &str) -> Result<Dumped, Failure> {
    let failed = |why: String| {
        Failure::new(
            Kind::System,
            format!(
                "the checkpoint in {} is complete, but cannot be read: {why}",
                directory.display()
            ),
        )
    };
    let printed = Path::new(printed.trim_end_matches('\n'));
    let name = printed.file_name();
    let path = directory.join(name.ok_or_else(|| failed("its name is unknown".to_owned()))?);
    let opened = OpenedDir::open_any(&path).map_err(|error| failed(error.to_string()))?;
    let manifest = Manifest::read(&opened).map_err(|error| failed(error.to_string()))?;
    let cost = manifest.map(|manifest| manifest.cost).unwrap_or_default();
    Ok(Dumped {
        path,
        image: String::new(),
        raw_bytes: cost.raw_bytes,
        stored_bytes: cost.stored_bytes,
        frozen_us: cost.frozen_us.unwrap_or_default(),
        total_us: cost.total_us,
    })
}

/// Stops all processes of a container.
pub(crate) async fn freeze(container: &Container) -> Result<(), Failure> {
    let root = find(container).await?;
    if state::is_frozen(&root, &container.id) {
        return Err(Failure::new(
            Kind::State,
            format!("container {} is frozen already", container.id),
        ));
    }
    call(&root, &["pause"], &container.id).await
}

/// Lets the processes of a frozen container run.
pub(crate) async fn unfreeze(container: &Container) -> Result<(), Failure> {
    let root = find(container).await?;
    if !state::is_frozen(&root, &container.id) {
        return Err(Failure::new(
            Kind::State,
            format!("container {} is not frozen", container.id),
        ));
    }
    call(&root, &["resume"], &container.id).await
}

/// Runs a short command of the runtime.
async fn call(root: &Path, verb: &[&str], id: &str) -> Result<(), Failure> {
    let config = Config::load();
    let config = config.map_err(|error| Failure::new(Kind::State, error.to_string()))?;
    let mut command = wrapper::command(&config);
    flag(&mut command, "root", root);
    command.args(verb).arg(id).stderr(Stdio::piped());
    finish(&mut command).await
}

async fn finish(command: &mut Command) -> Result<(), Failure> {
    let mut running = Running::start(command, ())?;
    let (_, stderr) = running.output();
    let text = wrapper::read(stderr).await;
    let (status, ()) = running.wait().await?;
    match status.success() {
        true => Ok(()),
        false => {
            let said = Said::on_stderr(&text);
            let text = said.error.unwrap_or_else(|| status.to_string());
            Err(Failure::new(Kind::State, text))
        }
    }
}

/// Looks at a container, without freezing it, for a dump with these settings.
pub(crate) async fn check(container: &Container, config: &Config) -> Result<Checked, Failure> {
    let (root, init) = find_running(container).await?;
    let mut command = wrapper::command(config);
    flag(&mut command, "root", &root);
    command.args(["checkpoint", &format!("--{CHECK}")]);
    // Not looked at, but a dump makes an archive.
    flag(&mut command, ARCHIVE_DIR, "/");
    command.args(["--", &container.id]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running::start(&mut command, ())?;
    let (stdout, stderr) = running.output();
    let (found, said) = tokio::join!(wrapper::read(stdout), wrapper::read(stderr));
    let (status, ()) = running.wait().await?;
    let said = Said::on_stderr(&said);
    let mut obstacles: Vec<String> = found.lines().map(str::to_owned).collect();
    if !status.success() {
        // It would stop a checkpoint, too.
        obstacles.push(said.error.unwrap_or_else(|| status.to_string()));
    }
    let seen = blocking(move || Ok(state::look(init))).await?;
    Ok(Checked {
        obstacles,
        warnings: said.warnings,
        ..seen
    })
}

/// Returns the process ID of a running container's first process.
pub(crate) async fn pid(container: &Container) -> Result<i32, Failure> {
    find_running(container).await.map(|(_, init)| init)
}
