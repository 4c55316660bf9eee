//! `cedana checkpoint`.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use cedana_api::time::to_micros;
use cedana_api::v1::{Checkpoint, DeleteCheckpointRequest, JobRef, ListCheckpointsRequest};
use cedana_contract::flags::WRAPPER;
use serde_json::json;

use super::subject::shown;
use super::{Context, job_ref};
use crate::args::{JobName, ListCheckpoints};
use crate::connection::Daemon;
use crate::error::{Error, Result};
use crate::output::table::Table;
use crate::output::{to_stdout, units};

/// Lists the checkpoints of a job, or all.
///
/// # Errors
/// There is no such job.
pub(crate) async fn list(context: &Context, list: ListCheckpoints) -> Result<()> {
    let user = list.user;
    let job = list
        .job
        .map(|id| job_ref(&JobName { id, user }))
        .transpose()?;
    let found = of(&context.daemon().await?, job).await?;
    if list.json {
        let lines: String = found.iter().map(|c| format!("{}\n", json(c))).collect();
        to_stdout(lines);
        return Ok(());
    }
    let foreign = nix::unistd::geteuid().is_root();
    let mut head = vec!["NUMBER", "JOB", "AGE", "SIZE", "PATH"];
    if foreign {
        head.insert(2, "USER");
    }
    let mut table = Table::new(&head);
    for checkpoint in found {
        let age = checkpoint
            .created
            .as_ref()
            .map_or_else(|| "-".to_owned(), |created| units::ago(to_micros(created)));
        let path = shown(&checkpoint.path);
        let mut line = vec![
            checkpoint.number.to_string(),
            checkpoint.job,
            age,
            units::size(checkpoint.bytes),
            match checkpoint.present {
                true => path,
                false => format!("{path} (missing)"),
            },
        ];
        if foreign {
            line.insert(2, checkpoint.user);
        }
        table.push(line);
    }
    to_stdout(table.text());
    Ok(())
}

async fn of(daemon: &Daemon, job: Option<JobRef>) -> Result<Vec<Checkpoint>> {
    let request = ListCheckpointsRequest { job };
    let listed = daemon.checkpoints().list_checkpoints(request).await?;
    Ok(listed.into_inner().checkpoints)
}

/// A checkpoint as JSON. The keys are documented in docs/cedana.md.
fn json(checkpoint: &Checkpoint) -> serde_json::Value {
    json!({
        "number": checkpoint.number,
        "job": checkpoint.job,
        "uid": checkpoint.uid,
        "user": checkpoint.user,
        "created": checkpoint.created.as_ref().map(|time| units::rfc3339(to_micros(time))),
        "path": shown(&checkpoint.path),
        "bytes": checkpoint.bytes,
        "present": checkpoint.present,
    })
}

/// Removes checkpoints.
///
/// # Errors
/// There is no such checkpoint or job.
pub(crate) async fn delete(context: &Context, names: Vec<String>) -> Result<()> {
    let daemon = context.daemon().await?;
    for name in names {
        let numbers = match name.parse() {
            Ok(number) => vec![number],
            Err(_) => {
                let job = JobRef {
                    id: name,
                    uid: None,
                };
                let found = of(&daemon, Some(job)).await?;
                found.into_iter().map(|found| found.number).collect()
            }
        };
        for number in numbers {
            let request = DeleteCheckpointRequest { number };
            daemon.checkpoints().delete_checkpoint(request).await?;
        }
    }
    Ok(())
}

/// The checkpoint of this number, or the newest of this job.
///
/// # Errors
/// There is none.
pub(super) async fn named(daemon: &Daemon, name: &str) -> Result<Checkpoint> {
    let number = name.parse::<u64>().ok();
    let job = number.is_none().then(|| JobRef {
        id: name.to_owned(),
        uid: None,
    });
    let found = of(daemon, job).await?;
    let mut found = found
        .into_iter()
        .filter(|found| number.is_none_or(|number| found.number == number));
    found.next_back().ok_or_else(|| {
        Error::Other(format!(
            "there is no checkpoint {name}; `cedana checkpoint list` lists yours"
        ))
    })
}

/// Shows what is in a checkpoint.
///
/// # Errors
/// There is no such checkpoint, or this user may not read it.
pub(crate) async fn inspect(context: &Context, name: &str, as_json: bool) -> Result<()> {
    let path = match name.contains('/') {
        true => name.to_owned(),
        false => shown(&named(&context.daemon().await?, name).await?.path),
    };
    // The program that shows any checkpoint, a container's too.
    let mut inspect = Command::new(WRAPPER);
    inspect.args(["inspect", &path]);
    if as_json {
        inspect.arg("--json");
    }
    Err(Error::file("run", Path::new(WRAPPER))(inspect.exec()))
}
