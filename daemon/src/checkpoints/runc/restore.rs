//! A new container, from a bundle and a checkpoint.
//!
//! ```text
//! turn taken ─► checkpoint found ─► bundle ready ─► cedana-runc restore --detach ─► PID
//!                                                        │ failed or cancelled
//!                    turn ended ◄─ bundle removed ◄─ its container deleted
//! ```

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cedana_checkpoint::format::publish::Scratch;
use cedana_checkpoint::opened::OpenedDir;
use cedana_config::Config;

use super::roots::RUNC;
use super::turn::Turn;
use super::wrapper::{self, Running, Said, Terminal, Undo, flag};
use super::{Container, Failure, Kind, RestoreOptions, Tell, blocking, state};
use crate::checkpoints::bundle::{self, Bundle, archive};
use crate::checkpoints::{Told, cancel};

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

/// A bundle that is ready, and the turn of its container.
///
/// Dropped, it removes a directory of the daemon's, and then ends the turn. That is done
/// on a thread for calls that block, because the directory may have a whole root.
struct Ready {
    path: PathBuf,
    has_terminal: bool,
    /// The file that gets the container's output.
    output: File,
    held: Option<(Bundle, Turn)>,
}

impl Ready {
    fn new(bundle: Bundle, turn: Turn) -> Result<Self, Failure> {
        Ok(Self {
            path: bundle.path().to_owned(),
            has_terminal: bundle.has_terminal,
            output: bundle.output()?,
            held: Some((bundle, turn)),
        })
    }

    /// Leaves the directory to its container.
    fn keep(mut self) {
        if let Some((bundle, _turn)) = self.held.take() {
            bundle.keep();
        }
    }

    async fn remove(mut self) {
        let held = self.held.take();
        // It has no result, and does not panic.
        let _ = tokio::task::spawn_blocking(move || drop(held)).await;
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            tokio::task::spawn_blocking(move || drop(held));
        }
    }
}

/// What is prepared for a restore.
struct Prepared {
    root: PathBuf,
    id: String,
    bundle: Ready,
    /// The holder of its terminal, if it has one.
    terminal: Option<Terminal>,
    /// For cedana-runc's log, the new PID, and a socket.
    work: Scratch,
    config: Config,
    /// The daemon does not end before this has been undone.
    _call: cancel::Running,
}

impl Prepared {
    fn log(&self) -> PathBuf {
        self.work.path().join("log.json")
    }

    /// The file to which the runtime writes the PID of the container that it has made.
    fn pid_file(&self) -> PathBuf {
        self.work.path().join("pid")
    }
}

/// Returns the process ID of the container's first process.
pub(crate) async fn restore(
    restore: &Restore,
    options: &RestoreOptions,
    tell: &Tell,
) -> Result<i32, Failure> {
    cancel::until_stopped(restore_until_dropped(restore, options, tell)).await
}

async fn restore_until_dropped(
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
    let found = prepare_bundle(restore, &root).await?;
    for warning in found.warnings {
        // A receiver that is gone is no error.
        let _ = tell.send(Told::Warning(warning)).await;
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
        bundle: found.bundle,
        terminal: None,
        work,
        config: options.config.clone(),
        _call: cancel::Running::begin(),
    };
    run(prepared, &found.checkpoint, options.tcp_close, tell).await
}

/// Refuses an ID that a container of the runtime has.
fn check_free(root: &Path, id: &str) -> Result<(), Failure> {
    match root.join(id).exists() {
        false => Ok(()),
        true => Err(Failure::new(
            Kind::Exists,
            format!(
                "there is a container {id} in {} already; delete it, or take another ID",
                root.display()
            ),
        )),
    }
}

/// Sets its flag when it is dropped.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a restore is made from.
struct Found {
    bundle: Ready,
    checkpoint: PathBuf,
    warnings: Vec<String>,
}

/// Takes the container's turn and prepares its bundle, on a thread that ends soon after
/// this call is dropped.
async fn prepare_bundle(restore: &Restore, root: &Path) -> Result<Found, Failure> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let guard = CancelOnDrop(Arc::clone(&cancelled));
    let (restore, root) = (restore.clone(), root.to_owned());
    let found = blocking(move || {
        let id = &restore.container.id;
        let turn = Turn::take(&root, id)?;
        check_free(&root, id)?;
        let checkpoint = match restore.checkpoint {
            From::Path(path) => path,
            From::Newest(dir) => archive::newest(&dir)?,
        };
        let new = bundle::New {
            id,
            root: &root,
            checkpoint: &checkpoint,
            cancelled: &cancelled,
        };
        let mut bundle = Bundle::prepare(&restore.bundle, &new)?;
        Ok(Found {
            warnings: std::mem::take(&mut bundle.warnings),
            bundle: Ready::new(bundle, turn)?,
            checkpoint,
        })
    });
    let found = found.await;
    drop(guard);
    found
}

fn work() -> std::io::Result<Scratch> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(WORK)?;
    Scratch::create(OpenedDir::open(Path::new(WORK))?).map_err(std::io::Error::other)
}

async fn run(
    mut prepared: Prepared,
    checkpoint: &Path,
    tcp_close: bool,
    tell: &Tell,
) -> Result<i32, Failure> {
    let output = prepared.bundle.output.try_clone().map_err(copied)?;
    let mut command = wrapper::command(&prepared.config);
    flag(&mut command, "root", &prepared.root);
    flag(&mut command, "log", prepared.log());
    command.args(["--log-format=json", "restore", "--detach"]);
    flag(&mut command, "bundle", &prepared.bundle.path);
    flag(&mut command, "image-path", checkpoint);
    flag(&mut command, "pid-file", prepared.pid_file());
    if tcp_close {
        command.arg("--tcp-close");
    }
    if prepared.bundle.has_terminal {
        let terminal = Terminal::hold(&prepared.work.path(), output)?;
        flag(&mut command, "console-socket", terminal.path());
        prepared.terminal = Some(terminal);
    } else {
        // cedana-runc passes its stdio on to the container.
        let output = wrapper::copy_output(output)?;
        command.stdout(output.try_clone().map_err(copied)?);
        command.stderr(output);
    }
    command.args(["--", &prepared.id]);
    // A container that was made while the bundle was prepared is not this call's.
    check_free(&prepared.root, &prepared.id)?;
    let running = Running::start(&mut command, prepared)?;
    let (status, prepared) = running.wait().await?;
    let said = fs::read(prepared.log()).unwrap_or_default();
    let pid = match status.success() {
        true => state::init(&prepared.root, &prepared.id),
        false => Err(Failure::new(Kind::State, "the restore has failed")),
    };
    // Not cancelled from here on: the container runs with its bundle, or has neither.
    match &pid {
        Ok(_) => prepared.bundle.keep(),
        Err(_) => {
            let _ = tokio::spawn(prepared.clean_up(status.code().is_none())).await;
        }
    }
    let said = Said::in_log(&String::from_utf8_lossy(&said));
    said.judge(status, tell).await?;
    pid
}

fn copied(error: std::io::Error) -> Failure {
    Failure::new(Kind::System, format!("cannot copy a descriptor: {error}"))
}

/// What a restore says that another one has forestalled: runc (twice), crun, cedana-runc.
const FORESTALLED: [&str; 3] = ["already exists", "file exists", "another restore is using"];

impl Prepared {
    /// Whether the container of the ID is the one that this call's runtime has made.
    /// There was none when the runtime was started. `killed`: the runtime could not clean
    /// up.
    fn has_made_it(&self, killed: bool) -> bool {
        let said = fs::read(self.log()).unwrap_or_default();
        let said = Said::in_log(&String::from_utf8_lossy(&said)).error;
        let says = |text: &str| said.as_ref().is_some_and(|said| said.contains(text));
        if FORESTALLED.into_iter().any(says) {
            return false;
        }
        let pid = fs::read_to_string(self.pid_file()).unwrap_or_default();
        let pid = pid.trim().parse().ok();
        match state::bundle(&self.root, &self.id) {
            Some(bundle) => {
                let recorded = state::recorded_pid(&self.root, &self.id);
                bundle == self.bundle.path && (pid.is_none() || pid == recorded)
            }
            // A runtime that fails removes its directory, and one that is killed leaves it
            // without a record.
            None => killed && self.root.join(&self.id).exists(),
        }
    }

    /// Deletes what the runtime has made, then removes the bundle, then ends the turn.
    async fn clean_up(self, killed: bool) {
        if self.has_made_it(killed) {
            let mut command = wrapper::command(&self.config);
            flag(&mut command, "root", &self.root);
            command.args(["delete", "--force", &self.id]);
            // What can't be deleted is seen by the next restore of this ID.
            let _ = command.status().await;
        }
        self.bundle.remove().await;
    }
}

impl Undo for Prepared {
    async fn undo(self) {
        self.clean_up(true).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "cedana-test-undo";

    /// A restore of a container with a record in `root`, into the bundle /b.
    fn prepared(root: &Path) -> Prepared {
        let work = OpenedDir::open(root).expect("opened");
        Prepared {
            root: root.to_owned(),
            id: ID.to_owned(),
            bundle: Ready {
                path: "/b".into(),
                has_terminal: false,
                output: File::open("/dev/null").expect("a file"),
                held: None,
            },
            terminal: None,
            work: Scratch::create(work).expect("a directory"),
            config: Config::default(),
            _call: cancel::Running::begin(),
        }
    }

    #[test]
    fn only_what_the_runtime_has_made_is_deleted() {
        let root = tempfile::tempdir().expect("tempdir");
        let prepared = prepared(root.path());
        let record = root.path().join(ID).join("state.json");
        assert!(!prepared.has_made_it(true), "there is none");
        fs::create_dir(root.path().join(ID)).expect("mkdir");
        assert!(prepared.has_made_it(true), "a killed runtime's");
        assert!(!prepared.has_made_it(false), "being made by another");
        let write = |bundle: &str| {
            let label = format!("bundle={bundle}");
            let text = serde_json::json!({"init_process_pid": 7, "config": {"labels": [label]}});
            fs::write(&record, text.to_string()).expect("written");
        };
        write("/other");
        assert!(!prepared.has_made_it(true), "of another bundle");
        write("/b");
        assert!(prepared.has_made_it(false), "of this bundle");
        fs::write(prepared.pid_file(), "8").expect("written");
        assert!(!prepared.has_made_it(true), "another process");
        fs::write(prepared.pid_file(), "7").expect("written");
        assert!(prepared.has_made_it(false), "its process");
        let said = r#"{"level":"error","msg":"container with given ID already exists"}"#;
        fs::write(prepared.log(), said).expect("written");
        assert!(!prepared.has_made_it(true), "the ID was taken");
    }
}
