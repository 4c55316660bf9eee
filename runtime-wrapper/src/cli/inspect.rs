//! `inspect [--json] DIR` and `inspect --restores [--json]`.

use std::ffi::OsString;
use std::path::PathBuf;

use super::argument::Argument;
use super::error::Error;

/// Asks for the records of lazy restores instead of a checkpoint.
const RESTORES: &str = "--restores";

/// A parsed `inspect`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inspect {
    pub(crate) subject: Subject,
    /// JSON for a program instead of text.
    pub(crate) json: bool,
}

/// What is shown.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Checkpoint(PathBuf),
    /// The records of earlier lazy restores.
    Restores,
}

impl Inspect {
    pub(super) fn parse(args: &[OsString]) -> Result<Self, Error> {
        if args.iter().any(|arg| arg == RESTORES) {
            return Self::parse_restores(args);
        }
        let mut dir = None;
        let mut json = false;
        let mut only_plain = false;
        for arg in args {
            match Argument::of(arg) {
                Argument::Flag(name, None) if !only_plain && name == "json" => json = true,
                Argument::EndOfFlags if !only_plain => only_plain = true,
                Argument::Flag(..) if !only_plain => return Err(Error::InspectUsage),
                _ if dir.is_some() => return Err(Error::InspectUsage),
                _ => dir = Some(PathBuf::from(arg)),
            }
        }
        let subject = Subject::Checkpoint(dir.ok_or(Error::InspectUsage)?);
        Ok(Self { subject, json })
    }

    fn parse_restores(args: &[OsString]) -> Result<Self, Error> {
        let mut json = false;
        for arg in args {
            match arg.to_str() {
                Some(RESTORES) => {}
                Some("--json") => json = true,
                _ => return Err(Error::InspectUsage),
            }
        }
        Ok(Self {
            subject: Subject::Restores,
            json,
        })
    }
}
