//! Processes that are no jobs, by a worker of the daemon.

use std::path::PathBuf;

use cedana_config::Config;
use tokio::sync::oneshot;

use super::work::work;
use super::{Checked, DumpOptions, Dumped, Failure, Kind, Tell};
use crate::job::bytes::Bytes;
use crate::worker::{self, Engine, Owner, Task};

/// Dumps a process for root. It is cancelled when `gone` is closed; then the result is that
/// of a dump that could not be undone any more.
pub(crate) async fn dump(
    pid: i32,
    shell_job: bool,
    options: &DumpOptions,
    tell: &Tell,
    gone: oneshot::Receiver<()>,
) -> Result<Dumped, Failure> {
    let directory: PathBuf = options.directory.clone();
    let task = Task::Dump(worker::Dump {
        pid,
        directory: Bytes::of_path(&directory),
        owner: Owner::root(),
        user: Owner::root(),
        name: options.name.clone(),
        leave_running: options.leave_running,
        shell_job,
        output: None,
        terminal: false,
        record: None,
        engine: Engine::of(&options.config),
    });
    let killed = format!("the worker was killed; process {pid} runs on");
    match work(&task, tell, gone, &killed).await? {
        worker::Told::Dumped(dumped) => Ok(dumped.into()),
        _ => Err(Failure::new(Kind::System, killed)),
    }
}

/// The engine's options of a dump that is only asked about.
pub(crate) fn options(
    config: &Config,
    output: Option<PathBuf>,
    terminal: bool,
    shell_job: bool,
) -> cedana_process::DumpOptions {
    cedana_process::DumpOptions {
        shell_job,
        held: worker::held(terminal),
        output,
        ..Engine::of(config).dump_options()
    }
}

/// Says what would stop a dump of a process. Nothing is frozen.
pub(crate) fn check(
    pid: i32,
    options: &cedana_process::DumpOptions,
    owner: &Owner,
) -> Result<Checked, Failure> {
    let pid = pid
        .try_into()
        .map_err(|_| Failure::new(Kind::Invalid, format!("{pid} is not a process ID")))?;
    let found = cedana_process::examine(pid, options, &owner.of_engine());
    Ok(Checked {
        obstacles: found.obstacles.iter().map(ToString::to_string).collect(),
        warnings: found.warnings,
        processes: u32::try_from(found.processes).unwrap_or(u32::MAX),
        memory: found.memory,
    })
}
