//! The command line, parsed only as far as needed.
//!
//! runc (urfave/cli) and crun (argp) both take global flags, a verb, and the
//! verb's flags around a container ID. Other verbs' arguments reach the wrapped
//! runtime unchanged. `checkpoint` and `restore` are parsed, and a flag of theirs
//! that is unknown here is refused: it may take a value, so the container's ID would
//! be uncertain.
//!
//! ```text
//! globals       the flags before the verb
//! request       checkpoint, restore
//! inspect       inspect
//! unpack        unpack
//! paths         a checkpoint's and a bundle's directory
//! argument      one argument: a flag, its value, or neither
//! error         command lines that are refused
//! ```

mod argument;
mod error;
mod globals;
mod inspect;
mod paths;
mod request;
mod unpack;

use std::ffi::OsString;
use std::path::PathBuf;

pub(crate) use cedana_contract::id::ContainerId;
pub(crate) use error::Error;
pub(crate) use globals::Globals;
pub(crate) use inspect::{Inspect, Subject};
pub(crate) use paths::BundlePath;
pub(crate) use request::Request;
pub(crate) use unpack::Unpack;

use cedana_contract::flags::{COPY_OUTPUT, HOLD_NETNS, OWN_VERSION, PAGE_SOURCE};

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Invocation {
    /// Print our own version.
    OwnVersion,
    /// Make a network namespace and hold it, for this checkpoint.
    HoldNetns(Option<PathBuf>),
    /// Copy the output of a container from a pipe to a file.
    CopyOutput,
    /// Serve the memory of a container that is being restored.
    ServePages,
    /// Exec the wrapped runtime with the same arguments.
    PassThrough,
    Checkpoint(Request),
    Restore(Request),
    Inspect(Inspect),
    Unpack(Unpack),
}

impl Invocation {
    /// Whether memory of containers passes through this process.
    pub(crate) fn handles_memory(&self) -> bool {
        match self {
            Self::ServePages
            | Self::Checkpoint(_)
            | Self::Restore(_)
            | Self::Inspect(_)
            | Self::Unpack(_)
            | Self::HoldNetns(_) => true,
            Self::OwnVersion | Self::PassThrough | Self::CopyOutput => false,
        }
    }
}

/// Parses the arguments after the program's name.
pub(crate) fn parse(args: &[OsString]) -> Result<Invocation, Error> {
    match args {
        [only] if only == OWN_VERSION => return Ok(Invocation::OwnVersion),
        [only] if only == COPY_OUTPUT => return Ok(Invocation::CopyOutput),
        [only] if only == PAGE_SOURCE => return Ok(Invocation::ServePages),
        [hold] if hold == HOLD_NETNS => return Ok(Invocation::HoldNetns(None)),
        [hold, images] if hold == HOLD_NETNS => {
            return Ok(Invocation::HoldNetns(Some(images.into())));
        }
        _ => {}
    }
    let globals = Globals::parse(args);
    let (before, rest) = args.split_at(globals.before_verb);
    let Some((verb, after)) = rest.split_first() else {
        return Ok(Invocation::PassThrough);
    };
    let invocation = match verb.to_str() {
        Some("checkpoint") => {
            Request::parse(globals, before, "checkpoint", after)?.map(Invocation::Checkpoint)
        }
        Some("restore") => {
            Request::parse(globals, before, "restore", after)?.map(Invocation::Restore)
        }
        // Verbs of no OCI runtime.
        Some("inspect") => Some(Invocation::Inspect(Inspect::parse(after)?)),
        Some("unpack") => Some(Invocation::Unpack(Unpack::parse(after)?)),
        _ => None,
    };
    Ok(invocation.unwrap_or(Invocation::PassThrough))
}

#[cfg(test)]
mod tests;
