//! `cedana job inspect`.

use cedana_api::time::to_micros;
use cedana_api::v1::{GetJobRequest, GetJobResponse};
use serde_json::Value;

use super::{Context, job_of, job_ref};
use crate::args::Inspect;
use crate::error::Result;
use crate::output::table::Table;
use crate::output::{json, status, to_stdout, units};

/// Shows everything about a job.
///
/// # Errors
/// There is no such job.
pub(crate) async fn run(context: &Context, inspect: Inspect) -> Result<()> {
    let request = GetJobRequest {
        job: Some(job_ref(&inspect.job)?),
    };
    let daemon = context.daemon().await?;
    let answer = daemon.jobs().get_job(request).await?.into_inner();
    let GetJobResponse {
        job,
        supervisor_pid,
        arguments,
    } = answer;
    let job = job_of(job)?;
    let supervisor = (supervisor_pid != 0).then_some(supervisor_pid);
    let mut described = json::job(&job);
    let arguments: Vec<_> = arguments
        .iter()
        .map(|a| String::from_utf8_lossy(a).into_owned())
        .collect();
    described["arguments"] = Value::from(arguments);
    described["supervisor"] = Value::from(supervisor);
    if inspect.json {
        to_stdout(format!("{described:#}\n"));
        return Ok(());
    }
    let time = |time: &Option<_>| {
        time.as_ref()
            .map(|time| units::rfc3339(to_micros(time)))
            .unwrap_or_default()
    };
    let mut table = Table::new(&["ID", &job.id]);
    let text = |key: &str| match &described[key] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let checkpoints = job.checkpoints.unwrap_or_default();
    for (name, value) in [
        ("User", format!("{} ({})", job.user, job.uid)),
        ("Type", text("type")),
        ("Status", status::status(&job)),
        ("Since", time(&job.since)),
        ("Created", time(&job.created)),
        ("PID", text("pid")),
        ("Supervisor", text("supervisor")),
        (
            "Restarts",
            format!("{} (policy: {})", job.restarts, text("restart")),
        ),
        ("Command", job.command.clone()),
        ("Directory", text("working_directory")),
        ("Terminal", text("terminal")),
        ("Log file", text("log_file")),
        (
            "Checkpoints",
            format!(
                "{} local, {} remote, {}",
                checkpoints.local,
                checkpoints.remote,
                units::size(checkpoints.bytes)
            ),
        ),
    ] {
        table.push(vec![name.to_owned(), value]);
    }
    to_stdout(table.text());
    Ok(())
}
