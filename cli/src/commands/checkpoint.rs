//! `cedana checkpoint`. Jobs' checkpoints come from the daemon, containers' from the store.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use cedana_api::time::to_micros;
use cedana_api::v1::{Checkpoint, DeleteCheckpointRequest, JobRef, ListCheckpointsRequest};
use cedana_contract::flags::WRAPPER;
use cedana_store::catalogue::CheckpointRow;
use serde_json::json;

use super::subject::shown;
use super::{Context, containers, job_ref};
use crate::args::{JobName, ListCheckpoints};
use crate::connection::Daemon;
use crate::error::{Error, Result};
use crate::output::table::Table;
use crate::output::{to_stdout, units};

/// Lists the checkpoints of a job, or all, with those of containers.
///
/// # Errors
/// There is no such job, or the daemon does not answer: then those of containers are listed.
pub(crate) async fn list(context: &Context, list: ListCheckpoints) -> Result<()> {
    let user = list.user;
    let job = list
        .job
        .map(|id| job_ref(&JobName { id, user }))
        .transpose()?;
    let is_all = job.is_none();
    let listed = of_jobs(context, job, list.json).await;
    if is_all {
        containers::list(list.json, listed.is_ok() && !list.json);
    }
    listed
}

async fn of_jobs(context: &Context, job: Option<JobRef>, as_json: bool) -> Result<()> {
    let found = of(&context.daemon().await?, job).await?;
    if as_json {
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
pub(crate) async fn delete(context: &Context, names: Vec<String>, force: bool) -> Result<()> {
    for name in names {
        let numbers = match stored(context, &name).await? {
            Some(row) if row.job.is_none() => {
                containers::delete(&row, force).await?;
                continue;
            }
            Some(row) => vec![row.number.cast_unsigned()],
            None => of_name(context, &name).await?,
        };
        let daemon = context.daemon().await?;
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

/// The number that a name is, or those of the job's checkpoints.
async fn of_name(context: &Context, name: &str) -> Result<Vec<u64>> {
    if let Ok(number) = name.parse() {
        return Ok(vec![number]);
    }
    let job = JobRef {
        id: name.to_owned(),
        uid: None,
    };
    let found = of(&context.daemon().await?, Some(job)).await?;
    Ok(found.into_iter().map(|found| found.number).collect())
}

/// The checkpoint of the store that a name means. A job may have a name like the beginning
/// of an ID, and a number looks like one.
pub(super) async fn stored(context: &Context, name: &str) -> Result<Option<CheckpointRow>> {
    if !containers::is_id(name) {
        return Ok(None);
    }
    let Some(row) = containers::find(name)? else {
        return Ok(None);
    };
    let is_whole = row.id.as_ref().is_some_and(|id| id.as_str() == name);
    if is_whole {
        return Ok(Some(row));
    }
    // Without a daemon no job is meant.
    let Ok(daemon) = context.daemon().await else {
        return Ok(Some(row));
    };
    let number = name.parse::<u64>().ok();
    let job = JobRef {
        id: name.to_owned(),
        uid: None,
    };
    let is_job = of(&daemon, Some(job)).await.is_ok();
    let all = match number {
        Some(_) => of(&daemon, None).await?,
        None => Vec::new(),
    };
    let is_number = all.iter().any(|found| Some(found.number) == number);
    match is_job || is_number {
        false => Ok(Some(row)),
        true => Err(Error::Other(format!(
            "{name} is a job or the number of a checkpoint, and the beginning of an ID; give all 32 digits of the ID, which `cedana checkpoint list --json` shows"
        ))),
    }
}

/// Shows what is in a checkpoint.
///
/// # Errors
/// There is no such checkpoint, or this user may not read it.
pub(crate) async fn inspect(context: &Context, name: &str, as_json: bool) -> Result<()> {
    let stored = match name.contains('/') {
        true => None,
        false => stored(context, name).await?,
    };
    let path = match (name.contains('/'), stored) {
        (true, _) => name.to_owned(),
        (false, Some(row)) => match containers::inspect(&row, as_json)? {
            Some(path) => path,
            None => return Ok(()),
        },
        (false, None) => shown(&named(&context.daemon().await?, name).await?.path),
    };
    // The program that shows any checkpoint, a container's too.
    let mut inspect = Command::new(WRAPPER);
    inspect.args(["inspect", &path]);
    if as_json {
        inspect.arg("--json");
    }
    Err(Error::file("run", Path::new(WRAPPER))(inspect.exec()))
}
