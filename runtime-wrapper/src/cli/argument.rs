//! One argument as runc and crun read it: one dash or two, the value after `=` or
//! in the next argument.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// An argument of the command line.
pub(super) enum Argument {
    /// The name without dashes, and the value after `=`.
    Flag(String, Option<OsString>),
    /// `--`: no flags follow.
    EndOfFlags,
    Plain,
}

impl Argument {
    pub(super) fn of(arg: &OsStr) -> Self {
        let body = match arg.as_bytes() {
            b"--" => return Self::EndOfFlags,
            [b'-', b'-', rest @ ..] | [b'-', rest @ ..] if !rest.is_empty() => rest,
            _ => return Self::Plain,
        };
        let equals = body.iter().position(|byte| *byte == b'=');
        let (name, value) = match equals {
            Some(at) => (
                &body[..at],
                Some(OsString::from_vec(body[at + 1..].to_vec())),
            ),
            None => (body, None),
        };
        Self::Flag(String::from_utf8_lossy(name).into_owned(), value)
    }
}
