//! Lazy restore, as far as processes are concerned.
//!
//! ```text
//! cedana-runc restore ── runc ── CRIU ──► the container
//!    │   ▲  control         │  lazy-pages.socket   ▲ ▲
//!    │   └─────────┐        ▼                      │ │ pages
//!    └── starts ── page source (`cedana-pages`) ───┘ │
//!                     ╎ same descriptors             │ SIGKILL
//!                     guard (`cedana-guard`) ────────┘
//! ```
//!
//! The page source outlives the restore: it ends when nothing is missing, or
//! nobody is there to miss it. The *guard* is for its untimely end. When the
//! last descriptor of a userfaultfd closes, the kernel lets all who wait for
//! pages go on, with zeros. So the guard shares the source's descriptor table,
//! and whatever the source has open or opens stays open until the guard has
//! ended, too.
//!
//! | who dies | what happens |
//! |---|---|
//! | the source, while CRIU is at work | the guard hangs up on CRIU, which fails |
//! | the source, later | the guard kills the container and says why |
//! | the guard | the source kills the container: another death would be silent damage |
//! | `cedana-runc restore` | the runtime goes with it; whoever cleans up kills the container, and the source follows |
//! | the container | the source is told by the kernel, and ends |
//!
//! Why the container died stands in the runtime's log and, for the shim, in a
//! file of the bundle ([`death`]). A checkpoint taken before memory is complete
//! would be one of a container with holes: it waits ([`finish`]).

mod complete_memory;
mod completion_socket;
mod control;
mod criu_process;
pub(crate) mod history;
mod kill;
mod ledger;
mod page_source;
mod session;
mod touch_cache;
mod watchdog;

use std::fs;
use std::path::{Path, PathBuf};

use cedana_checkpoint::format::manifest::Manifest;
use cedana_checkpoint::lazy;
use cedana_checkpoint::lazy::layout::Layout;
use cedana_config::{Config, Mode};

use crate::host::sys;
use crate::oci::runtime::Runtime;
use crate::output::units;

pub(crate) use complete_memory::{Error as Incomplete, finish};
pub(crate) use page_source::serve;
pub(crate) use session::{Session, Settings};

/// Less than this is restored before a page source has started.
const SMALL: u64 = 8 << 20;

/// Whether a checkpoint of ours is to be restored lazily; if it can't be, the
/// reason, unless it is what the settings say or what the size suggests. `limit`
/// is the memory limit of the container.
///
/// Memory that processes of one family share since their fork is given to each of
/// them anew by userfaultfd, while an eager restore forks them and so shares what
/// is equal (CRIU's mem.c, `restore_priv_vma_content`). So a family is restored
/// eagerly where copies could take more than a tenth more memory, or more than
/// the limit.
pub(crate) fn wanted(
    config: &Config,
    runtime: &Runtime,
    manifest: &Manifest,
    images: &Path,
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

/// Whether a container in a user namespace of its own can be restored lazily: it
/// has no capability on the machine, where userfaultfd wants one (kernel doc:
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
/// that the eager one keeps. An eighth of the limit is for page tables, sockets
/// and whatever else the kernel counts.
fn copies_cost_too_much(inherited: u64, bytes: u64, limit: Option<u64>) -> bool {
    let shared = bytes.saturating_sub(inherited);
    let exceeds = limit.is_some_and(|limit| bytes > limit - limit / 8);
    bytes > shared.saturating_add(shared / 10) || (inherited > 0 && exceeds)
}

/// Where containers that lack memory are known by.
const KNOWN: &str = "/run/cedana/lazy";

/// The socket at which a container's page source can be asked to finish.
fn known(init: i32) -> Option<PathBuf> {
    let started = crate::host::procfs::started(init)?;
    Some(Path::new(KNOWN).join(format!("{init}-{started}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cedana_checkpoint::format::manifest::{Container, Cost, Entry, FORMAT, Kind, Machine};
    use cedana_checkpoint::format::manifest::{Pages, Versions};
    use std::collections::BTreeMap;

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
        }
    }

    #[test]
    fn what_cannot_be_lazy_is_eager_and_says_why() {
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
            .with_annotations([("io.cedana.restore.mode", "eager")])
            .expect("a setting");
        assert_eq!(wanted(&eager, &crun, &manifest(1 << 40)), Ok(false));
    }

    #[test]
    fn a_family_is_eager_where_copies_would_cost_memory() {
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
