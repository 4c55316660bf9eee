//! `unpack DIR [--to DIR2]`.

use std::ffi::OsString;
use std::path::PathBuf;

use super::argument::Argument;
use super::error::Error;

/// A parsed `unpack`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unpack {
    /// The checkpoint.
    pub(crate) dir: PathBuf,
    /// The directory for the stock checkpoint; `None` replaces `dir`.
    pub(crate) to: Option<PathBuf>,
}

impl Unpack {
    pub(super) fn parse(args: &[OsString]) -> Result<Self, Error> {
        let mut dir = None;
        let mut to = None;
        let mut only_plain = false;
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            match Argument::of(arg) {
                Argument::Flag(name, value) if !only_plain && name == "to" && to.is_none() => {
                    let value = value.or_else(|| rest.next().cloned());
                    to = Some(PathBuf::from(value.ok_or(Error::UnpackUsage)?));
                }
                Argument::EndOfFlags if !only_plain => only_plain = true,
                Argument::Flag(..) if !only_plain => return Err(Error::UnpackUsage),
                _ if dir.is_some() => return Err(Error::UnpackUsage),
                _ => dir = Some(PathBuf::from(arg)),
            }
        }
        let dir = dir.ok_or(Error::UnpackUsage)?;
        Ok(Self { dir, to })
    }
}
