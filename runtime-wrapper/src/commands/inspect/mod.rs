//! `inspect DIR [--json]`: shows a checkpoint; `inspect --restores [--json]`: shows
//! the records of the last lazy restores.
//!
//! The engine reads the images; this module prints them as JSON (an interface,
//! documented in docs/inspect.md) or as text for people, which may change at any time.
//!
//! ```text
//! text   a checkpoint as text
//! table  aligned columns
//! ```

mod table;
mod text;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use cedana_checkpoint::inspect::inspect;
use serde::Serialize;

use crate::cli::{Inspect, Subject};
use crate::commands::error::Error;
use crate::output::printable::{printable_json, printable_lines};
use cedana_checkpoint::session::history;

/// Prints a checkpoint, or the records of the last lazy restores.
pub(crate) fn run(request: &Inspect) -> Result<ExitCode, Error> {
    let output = match &request.subject {
        Subject::Checkpoint(dir) => checkpoint(dir, request.json)?,
        Subject::Restores => restores(request.json)?,
    };
    write(&output)
}

fn checkpoint(dir: &Path, as_json: bool) -> Result<String, Error> {
    let found = inspect(dir).map_err(Error::Inspect)?;
    match as_json {
        true => to_json(&found),
        false => Ok(text::render(dir, &found)),
    }
}

fn restores(as_json: bool) -> Result<String, Error> {
    let records = history::all().map_err(Error::Restores)?;
    match as_json {
        true => to_json(&records),
        false => Ok(records
            .iter()
            .map(|record| printable_lines(&history::line(record)))
            .collect()),
    }
}

fn to_json(value: &impl Serialize) -> Result<String, Error> {
    let json = serde_json::to_string_pretty(value);
    json.map(|json| printable_json(&json) + "\n")
        .map_err(|error| Error::Output(error.into()))
}

fn write(output: &str) -> Result<ExitCode, Error> {
    match io::stdout().lock().write_all(output.as_bytes()) {
        // A reader that stops early, such as `| head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        written => written.map(|()| ExitCode::SUCCESS).map_err(Error::Output),
    }
}
