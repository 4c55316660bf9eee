//! `inspect DIR [--json]`: what is in a checkpoint.
//!
//! The engine reads the images; this module shows what it found, as JSON (an
//! interface, documented in docs/inspect.md) or as text for people, which may
//! change at any time.

mod table;
mod text;

use std::io::{self, Write};
use std::process::ExitCode;

use cedana_checkpoint::inspect::inspect;

use crate::cli::Inspect;
use crate::error::Error;

/// Shows a checkpoint.
pub(crate) fn run(request: &Inspect) -> Result<ExitCode, Error> {
    let found = inspect(&request.dir).map_err(Error::Inspect)?;
    let shown = if request.json {
        let mut json =
            serde_json::to_string_pretty(&found).map_err(|error| Error::Output(error.into()))?;
        json.push('\n');
        json
    } else {
        text::render(&request.dir, &found)
    };
    match io::stdout().lock().write_all(shown.as_bytes()) {
        // Piped into something that has read enough: `| head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        written => written.map(|()| ExitCode::SUCCESS).map_err(Error::Output),
    }
}
