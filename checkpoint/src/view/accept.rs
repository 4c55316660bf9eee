//! The checkpoints that the node accepts (`restore.accept`).

use std::path::Path;

use crate::format::manifest::{Key, KeyError, Manifest};
use cedana_contract::files;

/// Where a checkpoint may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accept {
    /// Anywhere, from a stock runtime too.
    Any,
    /// This project's programs: it has a manifest.
    Ours,
    /// A node with this node's key.
    Signed,
}

/// Why a checkpoint is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error(
        "it has no manifest, so its files can't be verified, and the setting restore.accept is {0:?}; restore a checkpoint of cedana-runc, or set restore.accept to \"any\""
    )]
    NoManifest(&'static str),
    #[error(
        "its manifest has no signature of the key {key}, which the setting restore.accept asks for; restore a checkpoint of this node, copy the key of the node that took it, or set restore.accept to \"ours\"", key = files::KEY
    )]
    NotSigned,
    #[error(
        "part of its memory is in an earlier pre-dump, which no signature covers; take a checkpoint without --parent-path, or set restore.accept to \"ours\""
    )]
    Parent,
    #[error(
        "the setting restore.accept asks for a signature, and this node has no key {key}; make one with `make install`", key = files::KEY
    )]
    NoKey,
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Checks the origin of a checkpoint by its manifest; `None` if a stock runtime took it.
pub(super) fn check(accept: Accept, manifest: Option<&Manifest>) -> Result<(), Refused> {
    check_with(accept, manifest, || Key::read(Path::new(files::KEY)))
}

fn check_with(
    accept: Accept,
    manifest: Option<&Manifest>,
    key: impl FnOnce() -> Result<Option<Key>, KeyError>,
) -> Result<(), Refused> {
    match (accept, manifest) {
        (Accept::Any, _) | (Accept::Ours, Some(_)) => Ok(()),
        (Accept::Ours, None) => Err(Refused::NoManifest("ours")),
        (Accept::Signed, None) => Err(Refused::NoManifest("signed")),
        (Accept::Signed, Some(manifest)) => {
            let key = key()?.ok_or(Refused::NoKey)?;
            if !manifest.is_signed_by(&key) {
                return Err(Refused::NotSigned);
            }
            match &manifest.parent {
                Some(_) => Err(Refused::Parent),
                None => Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_without_a_manifest_has_no_origin() {
        let no_key = || Ok(None);
        assert!(check_with(Accept::Any, None, no_key).is_ok());
        for accept in [Accept::Ours, Accept::Signed] {
            let refused = check_with(accept, None, no_key);
            assert!(matches!(refused, Err(Refused::NoManifest(_))), "{accept:?}");
        }
    }
}
