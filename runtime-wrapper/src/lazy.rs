//! Decides whether a restore is lazy.

use std::fs;

use cedana_checkpoint::format::manifest::Manifest;
use cedana_checkpoint::images::Images;
use cedana_checkpoint::session;
use cedana_config::{Config, Mode};

use crate::oci::runtime::Runtime;

/// Whether a checkpoint is restored lazily. `limit` is the container's memory limit.
///
/// # Errors
/// The reason why it can't be lazy, unless the settings say eager or the memory is
/// small.
pub(crate) fn wanted(
    config: &Config,
    runtime: &Runtime,
    manifest: &Manifest,
    images: &(impl Images + ?Sized),
    limit: Option<u64>,
) -> Result<bool, String> {
    if config.restore.mode == Mode::Eager || session::is_small(manifest) {
        return Ok(false);
    }
    if runtime.is_crun() {
        return Err("crun has no lazy restore".to_owned());
    }
    session::possible(manifest, images, limit).map(|()| true)
}

/// Whether a container in its own user namespace can be restored lazily: it has no
/// capability on the machine, but userfaultfd needs one (kernel doc:
/// admin-guide/mm/userfaultfd.rst, "unprivileged_userfaultfd").
pub(crate) fn in_user_namespace() -> Result<bool, String> {
    let allowed = fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd");
    match allowed.is_ok_and(|text| text.trim() == "1") {
        true => Ok(true),
        false => Err(
            "it is in a user namespace, and the sysctl vm.unprivileged_userfaultfd is 0".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least memory worth a page source.
    const SMALL: u64 = 8 << 20;

    use cedana_checkpoint::format::manifest::{Entry, Frames, Kind, Pages};
    use std::path::PathBuf;

    fn manifest(bytes: u64) -> Manifest {
        let pages = Pages {
            raw_size: bytes,
            frames: Some(Frames {
                frame_size: 4096,
                count: 1,
            }),
        };
        Manifest::of(vec![Entry {
            name: "pages-1.img.zst".to_owned(),
            kind: Kind::Pages,
            size: 1,
            digest: String::new(),
            pages: Some(pages),
        }])
    }

    #[test]
    fn a_restore_that_cannot_be_lazy_is_eager_for_a_reason() {
        let config = Config::default();
        let runtime = |name: &str| Runtime {
            program: PathBuf::from(name),
        };
        let (runc, crun) = (runtime("/usr/bin/runc"), runtime("/usr/bin/crun"));
        let images = tempfile::tempdir().expect("tempdir");
        let wanted = |config: &Config, runtime: &Runtime, manifest: &Manifest| {
            super::wanted(config, runtime, manifest, images.path(), None)
        };
        assert_eq!(wanted(&config, &runc, &manifest(SMALL - 1)), Ok(false));
        assert_eq!(wanted(&config, &crun, &manifest(SMALL - 1)), Ok(false));
        let why = wanted(&config, &crun, &manifest(SMALL)).expect_err("crun");
        assert!(why.contains("crun"), "{why}");
        let mut parts = manifest(SMALL);
        parts.parent = Some("../before".to_owned());
        let why = wanted(&config, &runc, &parts).expect_err("a parent");
        assert!(why.contains("earlier checkpoint"), "{why}");
        let eager = config
            .with_annotations([("io.cedana.restore.mode", "eager")], |_| {})
            .expect("a setting");
        assert_eq!(wanted(&eager, &crun, &manifest(1 << 40)), Ok(false));
    }
}
