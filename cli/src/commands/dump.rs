//! `cedana dump`.
//!
//! The daemon streams its progress, and ends the dump if this program goes away: ^C leaves
//! nothing behind.

use std::path::PathBuf;

use cedana_api::v1;
use cedana_api::v1::dump_response::Message;
use cedana_api::v1::subject::What;

use super::subject::{self, Settings};
use super::{Context, job_ref};
use crate::args::{Dump, DumpPlace};
use crate::error::{Error, Result};
use crate::output::progress::Progress;
use crate::output::{to_stderr, to_stdout, units};

/// Dumps something, and prints the checkpoint's path as the last word.
///
/// # Errors
/// There is no checkpoint, and it runs on.
pub(crate) async fn run(context: &Context, dump: Dump) -> Result<()> {
    let request = request(dump)?;
    let daemon = context.daemon().await?;
    let mut answers = daemon.checkpoints().dump(request).await?.into_inner();
    let progress = Progress::new();
    while let Some(answer) = answers.message().await? {
        match answer.message {
            Some(Message::Progress(now)) => progress.show(&now),
            Some(Message::Warning(text)) => {
                progress.clear();
                to_stderr(&format!("cedana: warning: {text}\n"));
            }
            Some(Message::Done(done)) => {
                progress.clear();
                to_stdout(format!("{}\n", said(&done)));
                return Ok(());
            }
            None => {}
        }
    }
    Err(Error::Refused(
        "the daemon has ended the dump without a result; see its log".to_owned(),
    ))
}

fn request(dump: Dump) -> Result<v1::DumpRequest> {
    let settings = Settings::load()?;
    let is_job = matches!(dump, Dump::Job { .. });
    let mut request = v1::DumpRequest::default();
    let (subject, place, options) = match dump {
        Dump::Job {
            job,
            place,
            options,
        } => (
            subject::of_what(What::Job(job_ref(&job)?)),
            Some(place),
            options,
        ),
        Dump::Process {
            process,
            place,
            shell_job,
            options,
        } => {
            request.shell_job = shell_job;
            let subject = subject::of_what(What::Process(process.pid));
            (subject, Some(place), options)
        }
        Dump::Runc {
            container,
            place,
            options,
        } => (subject::runc(container)?, Some(place), options),
        Dump::Containerd {
            image,
            container,
            options,
        } => {
            request.image = image;
            (subject::containerd(container), None, options)
        }
    };
    request.subject = Some(subject);
    if let Some(DumpPlace { dir, name }) = place {
        let dir: Option<PathBuf> = dir.or_else(|| settings.directory.clone());
        if dir.is_none() && !is_job {
            return Err(Error::Other(
                "there is no directory for the checkpoint; give one with -d, or set shared_storage.dump_storage_dir in ~/.cedana/cedana_config.json".to_owned(),
            ));
        }
        request.directory = subject::optional(dir.as_deref())?;
        request.name = name.unwrap_or_default();
    }
    request.leave_running = options.leave_running || settings.leave_running;
    request.settings = settings.with(options).sent;
    Ok(request)
}

/// The result. The last word is the path, or the image.
fn said(done: &v1::Dumped) -> String {
    let stood = match done.frozen_us {
        0 => String::new(),
        us => format!(", stood still for {}", units::duration(us)),
    };
    let place = match done.image.is_empty() {
        true => subject::shown(&done.path),
        false => done.image.clone(),
    };
    format!(
        "{} of memory in {}{stood}, {} stored: {place}",
        units::size(done.raw_bytes),
        units::duration(done.total_us),
        units::size(done.stored_bytes),
    )
}
