//! A job as JSON. The keys are documented in docs/cedana.md; they are only added.

use cedana_api::time::to_micros;
use cedana_api::v1::exit_status::How;
use cedana_api::v1::{Job, RestartPolicy};
use serde_json::{Value, json};

use super::status::{state_name, type_name};
use super::units::rfc3339;

/// One job.
pub(crate) fn job(job: &Job) -> Value {
    let time = |time: &Option<_>| time.as_ref().map(|time| rfc3339(to_micros(time)));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (code, signal) = match job.exit.and_then(|exit| exit.how) {
        Some(How::Code(code)) => (Some(code), None),
        Some(How::Signal(signal)) => (None, Some(signal)),
        None => (None, None),
    };
    let restart = match job.restart_policy() {
        RestartPolicy::Unspecified | RestartPolicy::Never => "never",
        RestartPolicy::OnFailure => "on-failure",
        RestartPolicy::Always => "always",
    };
    let checkpoints = job.checkpoints.unwrap_or_default();
    json!({
        "id": job.id,
        "uid": job.uid,
        "user": job.user,
        "type": type_name(job),
        "state": state_name(job),
        "since": time(&job.since),
        "created": time(&job.created),
        "pid": (job.pid != 0).then_some(job.pid),
        "exit_code": code,
        "exit_signal": signal,
        "restarts": job.restarts,
        "restart": restart,
        "command": job.command,
        "working_directory": text(&job.working_directory),
        "terminal": job.terminal,
        "log_file": (!job.log_file.is_empty()).then(|| text(&job.log_file)),
        "checkpoints": {
            "newest": time(&checkpoints.newest),
            "local": checkpoints.local,
            "remote": checkpoints.remote,
            "bytes": checkpoints.bytes,
        },
    })
}
