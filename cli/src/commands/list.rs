//! `cedana ps`.

use cedana_api::time::to_micros;
use cedana_api::v1::{Job, ListJobsRequest};

use super::Context;
use crate::args::List;
use crate::error::Result;
use crate::output::table::Table;
use crate::output::{json, status, to_stdout, units};

/// Lists jobs, once or after each change.
///
/// # Errors
/// The daemon's.
pub(crate) async fn run(context: &Context, list: List) -> Result<()> {
    let daemon = context.daemon().await?;
    let request = ListJobsRequest {
        all: list.all,
        watch: list.watch,
    };
    let mut parts = daemon.jobs().list_jobs(request).await?.into_inner();
    let mut jobs = Vec::new();
    while let Some(part) = parts.message().await? {
        jobs.extend(part.jobs);
        if part.last {
            print(&jobs, &list);
            jobs.clear();
        }
    }
    Ok(())
}

fn print(jobs: &[Job], list: &List) {
    if list.json {
        let lines: String = jobs
            .iter()
            .map(|job| format!("{}\n", json::job(job)))
            .collect();
        return to_stdout(lines);
    }
    if list.watch {
        // Clears the screen, as watch(1) does.
        to_stdout("\x1b[H\x1b[2J");
    }
    to_stdout(table(jobs).text());
}

fn table(jobs: &[Job]) -> Table {
    let foreign = nix::unistd::geteuid().is_root();
    let mut head = vec![
        "ID",
        "TYPE",
        "PID",
        "STATUS",
        "SINCE",
        "CHECKPOINT",
        "LOCAL",
        "REMOTE",
        "SIZE",
    ];
    if foreign {
        head.insert(1, "USER");
    }
    let mut table = Table::new(&head);
    for job in jobs {
        let ago = |time: &Option<_>| {
            time.as_ref()
                .map_or_else(|| "-".to_owned(), |time| units::ago(to_micros(time)))
        };
        let checkpoints = job.checkpoints.unwrap_or_default();
        let pid = match job.pid {
            0 => "-".to_owned(),
            pid => pid.to_string(),
        };
        let mut line = vec![
            job.id.clone(),
            status::type_name(job).to_owned(),
            pid,
            status::status(job),
            ago(&job.since),
            ago(&checkpoints.newest),
            checkpoints.local.to_string(),
            checkpoints.remote.to_string(),
            units::size(checkpoints.bytes),
        ];
        if foreign {
            line.insert(1, job.user.clone());
        }
        table.push(line);
    }
    table
}
