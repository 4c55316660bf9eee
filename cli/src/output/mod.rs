//! stdout and stderr, tables, and text about jobs.

pub(crate) mod json;
pub(crate) mod marks;
pub(crate) mod progress;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod units;

use std::io::{self, ErrorKind, Write};
use std::process;

/// Writes to stdout. A reader that is gone (`| head`) ends the program, as it does others.
pub(crate) fn to_stdout(bytes: impl AsRef<[u8]>) {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(bytes.as_ref())
        .and_then(|()| stdout.flush());
    if let Err(error) = written {
        if error.kind() != ErrorKind::BrokenPipe {
            to_stderr(&format!("cedana: cannot write to stdout: {error}\n"));
        }
        process::exit(1);
    }
}

/// Writes to stderr.
pub(crate) fn to_stderr(text: &str) {
    // There is no other place for it.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
