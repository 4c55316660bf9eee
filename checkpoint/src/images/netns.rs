//! Finds out whether a checkpoint has its network namespace or a restore must supply it.
//!
//! The netns image of a namespace that was dumped as external has a key, under which a
//! restore must supply the namespace. A checkpoint without the key has its own, and a
//! supplied one would stay unused. runc has CRIU leave such a namespace empty, and then
//! there is no image at all: init's namespace differs from CRIU's, unlike the host's.

use serde::Serialize;

use super::dir::{Dir, number};
use super::proto::{Ids, Inventory, Netns, PstreeEntry};
use super::source::Images;

/// The network namespace of a checkpoint's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// A namespace that must be supplied to the restore.
    External,
    /// A namespace that the restore creates.
    Own,
    /// The namespace that the restore runs in: the host's.
    Host,
}

/// Reads the netns images in `dir`. Files that can't be read count as absent, since
/// [`super::verify()`] reports damage.
#[must_use]
pub fn network<I: Images + ?Sized>(dir: &I) -> Network {
    let dir = Dir(dir);
    let mut network = Network::Host;
    for name in dir.names().unwrap_or_default() {
        if number::<u32>(&name, "netns-").is_none() {
            continue;
        }
        match dir.first::<Netns>(&name) {
            Ok(Some(Netns { ext_key: Some(_) })) => return Network::External,
            _ => network = Network::Own,
        }
    }
    match network {
        Network::Host if is_apart(&dir).unwrap_or_default() => Network::Own,
        network => network,
    }
}

/// Whether init was in another network namespace than CRIU.
fn is_apart<I: Images + ?Sized>(dir: &Dir<'_, I>) -> Option<bool> {
    let inventory: Inventory = dir.first("inventory.img").ok()??;
    let init: PstreeEntry = dir.first("pstree.img").ok()??;
    let ids: Ids = dir.first(&format!("ids-{}.img", init.pid)).ok()??;
    Some(ids.net_ns_id? != inventory.root_ids?.net_ns_id?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn with_netns(message: &[u8]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut image = 0x5456_4319u32.to_le_bytes().to_vec();
        image.extend(0x5593_3752u32.to_le_bytes());
        image.extend((message.len() as u32).to_le_bytes());
        image.extend(message);
        fs::write(dir.path().join("netns-10.img"), image).expect("write");
        dir
    }

    #[test]
    fn the_three_kinds() {
        let mut external = vec![(1 << 3), 7, (8 << 3) | 2, 12];
        external.extend(b"extRootNetNS");
        assert_eq!(network(with_netns(&external).path()), Network::External);
        assert_eq!(network(with_netns(&[(1 << 3), 7]).path()), Network::Own);
        assert_eq!(network(with_netns(&[]).path()), Network::Own);
        let empty = tempfile::tempdir().expect("tempdir");
        assert_eq!(network(empty.path()), Network::Host);
    }

    #[test]
    fn an_empty_namespace_has_no_image() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/inspect/data");
        let dir = tempfile::tempdir().expect("tempdir");
        let copy = |from: &str, to: &str| {
            fs::copy(data.join(from), dir.path().join(to)).expect("copy");
        };
        for name in ["inventory.img", "pstree.img", "ids-1.img"] {
            copy(name, name);
        }
        assert_eq!(network(dir.path()), Network::Own);
        fs::remove_file(dir.path().join("inventory.img")).expect("remove");
        assert_eq!(network(dir.path()), Network::Host);
    }
}
