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

mod control;
mod criu;
mod death;
mod door;
mod finish;
mod guard;
mod ledger;
mod process;
mod record;
mod session;
mod touched;

use std::path::{Path, PathBuf};

use cedana_checkpoint::criu::lazy;
use cedana_checkpoint::image::manifest::Manifest;
use cedana_config::{Config, Mode};

use crate::runtime::Runtime;

pub(crate) use finish::{Error as Incomplete, finish};
pub(crate) use process::serve;
pub(crate) use record::show;
pub(crate) use session::{Session, Settings};

/// How this program is asked to be a page source. Not an option for people.
pub(crate) const FLAG: &str = "--cedana-page-source";

/// Less than this is restored before a page source has started.
const SMALL: u64 = 8 << 20;

/// Whether a checkpoint of ours is to be restored lazily; if it can't be, the
/// reason, unless nobody would want to hear it.
pub(crate) fn wanted(
    config: &Config,
    runtime: &Runtime,
    manifest: &Manifest,
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
    match lazy::available() {
        Ok(()) => Ok(true),
        Err(error) => Err(format!("userfaultfd can't be used here: {error}")),
    }
}

/// Where containers that lack memory are known by.
const KNOWN: &str = "/run/cedana/lazy";

/// The socket at which a container's page source can be asked to finish.
fn known(init: i32) -> Option<PathBuf> {
    let started = crate::process::started(init)?;
    Some(Path::new(KNOWN).join(format!("{init}-{started}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cedana_checkpoint::image::manifest::{Container, Cost, Entry, FORMAT, Kind, Machine};
    use cedana_checkpoint::image::manifest::{Pages, Versions};
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
}
