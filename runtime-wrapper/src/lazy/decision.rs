//! Decides whether a restore is lazy.

use std::fs;

use cedana_checkpoint::format::manifest::Manifest;
use cedana_checkpoint::images::Images;
use cedana_checkpoint::lazy;
use cedana_checkpoint::lazy::layout::Layout;
use cedana_config::{Config, Mode};

use crate::host::sys;
use crate::oci::runtime::Runtime;
use crate::output::units;

/// The least memory worth a page source: less is restored before one has started.
const SMALL: u64 = 8 << 20;

/// Whether a checkpoint is restored lazily. `limit` is the container's memory limit.
///
/// Processes share memory since their fork. userfaultfd gives each of them a copy,
/// while an eager restore forks them and shares equal pages (CRIU's mem.c,
/// `restore_priv_vma_content`). So a restore is eager where copies could take more
/// than a tenth more memory, or more than the limit.
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
    let pages = manifest.files.iter().filter_map(|entry| entry.pages);
    let bytes: u64 = pages.map(|pages| pages.raw_size).sum();
    if config.restore.mode == Mode::Eager || bytes < SMALL {
        return Ok(false);
    }
    if manifest.parent.is_some() {
        return Err("part of its memory is in an earlier checkpoint".to_owned());
    }
    if runtime.is_crun() {
        return Err("crun has no lazy restore".to_owned());
    }
    if let Err(error) = lazy::available() {
        return Err(format!("userfaultfd can't be used here: {error}"));
    }
    let layout = Layout::read(images, sys::page_size()).map_err(|error| error.to_string())?;
    match copies_cost_too_much(layout.inherited, bytes, limit) {
        true => Err(format!(
            "its processes may share up to {} of {} since their fork, which a lazy restore would give to each anew",
            units::bytes(layout.inherited),
            units::bytes(bytes)
        )),
        false => Ok(true),
    }
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

/// Whether a lazy restore of `bytes`, of which an eager one may share `inherited`,
/// needs more than 1.1 times the memory of the eager one, or may exceed a limit
/// that the eager one keeps. An eighth of the limit is left for page tables,
/// sockets and what else the kernel counts.
fn copies_cost_too_much(inherited: u64, bytes: u64, limit: Option<u64>) -> bool {
    let shared = bytes.saturating_sub(inherited);
    let exceeds = limit.is_some_and(|limit| bytes > limit - limit / 8);
    bytes > shared.saturating_add(shared / 10) || (inherited > 0 && exceeds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cedana_checkpoint::format::manifest::{Container, Cost, Entry, FORMAT, Kind, Machine};
    use cedana_checkpoint::format::manifest::{Pages, Versions};
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    fn manifest(bytes: u64) -> Manifest {
        let pages = Pages {
            raw_size: bytes,
            frame_size: 4096,
            frames: 1,
        };
        Manifest {
            format: FORMAT,
            created: 0,
            files: vec![Entry {
                name: "pages-1.img.zst".to_owned(),
                kind: Kind::Pages,
                size: 1,
                digest: String::new(),
                pages: Some(pages),
            }],
            parent: None,
            machine: Machine::default(),
            versions: Versions::default(),
            container: Container::default(),
            options: BTreeMap::new(),
            cost: Cost::default(),
            signature: None,
        }
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

    #[test]
    fn forked_processes_are_restored_eagerly_where_copies_cost_memory() {
        const MIB: u64 = 1 << 20;
        // Nothing shared, a little, a tenth of what an eager restore takes, more.
        assert!(!copies_cost_too_much(0, 100 * MIB, None));
        assert!(!copies_cost_too_much(5 * MIB, 100 * MIB, None));
        assert!(!copies_cost_too_much(10 * MIB, 110 * MIB, None));
        assert!(copies_cost_too_much(11 * MIB, 110 * MIB, None));
        assert!(copies_cost_too_much(800 * MIB, 900 * MIB, None));
        assert!(copies_cost_too_much(u64::MAX, u64::MAX, None));
        // Within a limit, near it, and alone with it.
        assert!(!copies_cost_too_much(MIB, 100 * MIB, Some(200 * MIB)));
        assert!(copies_cost_too_much(MIB, 100 * MIB, Some(110 * MIB)));
        assert!(!copies_cost_too_much(0, 100 * MIB, Some(100 * MIB)));
    }
}
