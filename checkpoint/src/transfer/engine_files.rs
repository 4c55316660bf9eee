//! The names of an engine's own files in an archive of ours, whose names are flat.
//!
//! ```text
//! checkpoint/core-1.img   core-1.img             CRIU's images keep their names
//! config.dump             engine.config.dump
//! volumes/data.tar        engine.volumes%2Fdata.tar
//! ```
//!
//! They are the container's configuration, the changes of its file system, its volumes. A
//! restore ignores them; an export in the engine's format puts them back.

/// What their names begin with.
const PREFIX: &str = "engine.";

/// The directory of CRIU's images in an engine's archive.
pub(super) const IMAGES: &str = "checkpoint";

/// The engine's configuration of the container (checkpointctl's `ConfigDumpFile`).
pub(super) const CONFIG: &str = "config.dump";

/// The container's OCI configuration (`SpecDumpFile`).
pub(super) const SPEC: &str = "spec.dump";

/// The container's addresses (`NetworkStatusFile`).
pub(super) const NETWORK: &str = "network.status";

/// CRIU's statistics, which are beside the images in a checkpoint of ours.
pub(super) const STATS: &str = "stats-dump";

/// The flat name of an engine's file.
pub(super) fn stored_name(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('%', "%25").replace('/', "%2F"))
}

/// The path of an engine's file; `None` for another file's name.
pub(super) fn path_of(name: &str) -> Option<String> {
    let path = name.strip_prefix(PREFIX)?;
    let path = path.replace("%2F", "/").replace("%25", "%");
    // A name from elsewhere must not lead out of an archive that is made.
    let is_plain = path.split('/').all(crate::opened::is_plain);
    (is_plain && path.split('/').next() != Some(IMAGES)).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn other_names_are_no_engine_s() {
        for name in [
            "core-1.img",
            "engine.",
            "engine...",
            "engine.%2Fa",
            "engine.a%2F..%2Fb",
            "engine.checkpoint%2Fa",
        ] {
            assert_eq!(path_of(name), None, "{name}");
        }
        assert_eq!(stored_name("volumes/data.tar"), "engine.volumes%2Fdata.tar");
    }

    proptest! {
        #[test]
        fn any_path_comes_back(path in "[a-c%2F.]{1,5}(/[a-c%25F]{1,5}){0,2}") {
            prop_assume!(path.split('/').all(crate::opened::is_plain));
            let name = stored_name(&path);
            prop_assert!(crate::opened::is_plain(&name));
            prop_assert_eq!(path_of(&name), Some(path));
        }
    }
}
