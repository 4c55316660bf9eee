//! `inspect DIR [--json]`: what is in a checkpoint; `inspect --restores [--json]`:
//! what the last lazy restores took.
//!
//! The engine reads the images; this module shows what it found, as JSON (an
//! interface, documented in docs/inspect.md) or as text for people, which may
//! change at any time.

mod table;
mod text;

use std::io::{self, Write};
use std::process::ExitCode;

use cedana_checkpoint::inspect::inspect;
use serde::Serialize;

use crate::cli::Inspect;
use crate::commands::error::Error;
use crate::lazy::history;

/// Shows a checkpoint.
pub(crate) fn run(request: &Inspect) -> Result<ExitCode, Error> {
    let found = inspect(&request.dir).map_err(Error::Inspect)?;
    let shown = if request.json {
        to_json(&found)?
    } else {
        text::render(&request.dir, &found)
    };
    write(&shown)
}

/// Shows the last lazy restores.
pub(crate) fn restores(as_json: bool) -> Result<ExitCode, Error> {
    let records = history::all().map_err(Error::Restores)?;
    let shown = match as_json {
        true => to_json(&records)?,
        false => records.iter().map(history::line).collect(),
    };
    write(&shown)
}

fn to_json(value: &impl Serialize) -> Result<String, Error> {
    let json = serde_json::to_string_pretty(value);
    json.map(|json| json + "\n")
        .map_err(|error| Error::Output(error.into()))
}

fn write(shown: &str) -> Result<ExitCode, Error> {
    match io::stdout().lock().write_all(shown.as_bytes()) {
        // Piped into something that has read enough: `| head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        written => written.map(|()| ExitCode::SUCCESS).map_err(Error::Output),
    }
}
