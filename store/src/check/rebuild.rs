//! Makes the catalogue again.
//!
//! The new one is made in a directory of its own and then takes the old one's place by one
//! rename. Killed before that, the store is as it was; the next repair begins anew.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::packs::digest;
use super::{Finding, Outcome};
use crate::catalogue::{Catalogue, CheckpointId, FILE, NewCheckpoint, Salvaged};
use crate::chunk::Name;
use crate::collect::exclusive;
use crate::error::file;
use crate::list::List;
use crate::pack::{Entry, Index, PackId};
use crate::{Error, Store};

const REBUILD: &str = "rebuild";

/// A checkpoint that was found in a directory, an archive or an image.
#[derive(Debug, Clone)]
pub struct FoundCheckpoint {
    /// What the catalogue has about it.
    pub checkpoint: NewCheckpoint,
    /// The lists of its page files.
    pub lists: Vec<List>,
}

/// Makes the catalogue again. The caller has kept out other collections and checks.
pub(super) fn rebuild(
    store: &Store,
    found: &[FoundCheckpoint],
    salvaged: &Salvaged,
    outcome: &mut Outcome,
) -> Result<(), Error> {
    let Some(_alone) = exclusive::wait(store)? else {
        return Err(Error::InUse {
            path: store.path().to_owned(),
        });
    };
    let dir = store.path().join(REBUILD);
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(file("remove", &dir)(error));
        }
        _ => {}
    }
    let made = DirBuilder::new().mode(0o700).create(&dir);
    made.map_err(file("make", &dir))?;
    let mut catalogue = Catalogue::open(&dir)?;
    let (packs, unreadable) = add_packs(store, &mut catalogue, outcome)?;
    let mut seen = HashSet::new();
    for found in found {
        // The same one may have been found in two places.
        if seen.insert(&found.checkpoint.id) {
            catalogue.add_found(&found.checkpoint, &names(&found.lists))?;
        }
    }
    let jobs = catalogue.add_jobs(salvaged)?;
    let rest = catalogue.keep_the_rest(&recovered(store)?)?;
    catalogue.close()?;
    let new = dir.join(FILE);
    let aside = put_aside(store.path()).map_err(file("put aside", &store.path().join(FILE)))?;
    let placed = File::open(&new)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(&new, store.path().join(FILE)))
        .and_then(|()| File::open(store.path())?.sync_all());
    placed.map_err(file("place", &new))?;
    fs::remove_dir_all(&dir).map_err(file("remove", &dir))?;
    for pack in unreadable {
        let path = store.path().join("packs").join(pack.file_name());
        let aside = path.with_extension("pack.damaged");
        fs::rename(&path, &aside).map_err(file("put aside", &path))?;
        outcome.repaired.push(format!(
            "{} holds no chunks that can be told; when you don't need it, remove it",
            aside.display()
        ));
    }
    let aside = aside.map_or_else(String::new, |aside| {
        format!("; the old one is {}", aside.display())
    });
    outcome.repaired.push(format!(
        "the catalogue was made again from {packs} packs and {} checkpoints{aside}",
        seen.len()
    ));
    if jobs > 0 {
        outcome.repaired.push(format!(
            "{jobs} checkpoints of jobs were read from the old one"
        ));
    }
    if rest > 0 {
        outcome.repaired.push(format!(
            "{rest} chunks are kept for checkpoints that were not found; when all checkpoints \
             that you need can be restored, `cedana store gc --recovered` removes them"
        ));
    }
    Ok(())
}

/// Adds all packs: first what is stored whole, then the patches on it. Returns the number
/// of packs, and those whose ends can't be read.
fn add_packs(
    store: &Store,
    catalogue: &mut Catalogue,
    outcome: &mut Outcome,
) -> Result<(usize, Vec<PackId>), Error> {
    let listed = store.place().list();
    let listed = listed.map_err(file("list the packs of", store.path()))?;
    let mut patches: Vec<(i64, Vec<Entry>)> = Vec::new();
    let mut unreadable = Vec::new();
    for pack in listed {
        let Some(id) = PackId::of_file(&pack.name) else {
            continue;
        };
        let read = || -> io::Result<_> {
            let object = store.place().open(&pack.name)?;
            let index = Index::read(&*object)?;
            let digest = digest(&*object, &index)?;
            Ok((index, digest))
        };
        match read() {
            Ok((index, digest)) => {
                let number = catalogue.add_pack(id, pack.bytes, digest, &index.entries)?;
                let of_pack = index
                    .entries
                    .into_iter()
                    .filter(|entry| entry.base.is_some());
                patches.push((number, of_pack.collect()));
            }
            Err(error) => {
                unreadable.push(id);
                outcome.findings.push(Finding::Pack {
                    pack: id,
                    why: format!("its end can't be read, so its chunks are lost: {error}"),
                });
            }
        }
    }
    for (pack, patches) in &patches {
        catalogue.add_patches(*pack, patches)?;
    }
    Ok((patches.len(), unreadable))
}

/// The names of the chunks that are memory.
fn names(lists: &[List]) -> Vec<Name> {
    let chunks = lists.iter().flat_map(|list| {
        let chunks = list.runs.iter().filter_map(|run| run.chunk);
        chunks.filter_map(|chunk| list.chunks.get(chunk as usize))
    });
    let names: HashSet<Name> = chunks.map(|chunk| chunk.name).collect();
    names.into_iter().collect()
}

/// What keeps the chunks whose checkpoints were not found.
fn recovered(store: &Store) -> Result<NewCheckpoint, Error> {
    let id = CheckpointId::random().map_err(file("read", Path::new("/dev/urandom")))?;
    Ok(NewCheckpoint {
        id,
        name: Some("recovered".to_owned()),
        path: store.path().to_owned(),
        raw_bytes: 0,
        bytes: 0,
        subject: serde_json::Value::Null,
        details: serde_json::json!({}),
    })
}

/// Gives the old catalogue another name, too, and takes away its log, which SQLite would
/// apply to the new one. Returns the name; `None` if there is no old one.
fn put_aside(store: &Path) -> io::Result<Option<PathBuf>> {
    let old = store.join(FILE);
    if !old.exists() {
        return remove_log(store).map(|()| None);
    }
    for number in 1.. {
        let aside = store.join(format!("{FILE}.damaged-{number}"));
        match fs::hard_link(&old, &aside) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
            linked => linked?,
        }
        for suffix in ["-wal", "-shm"] {
            let from = store.join(format!("{FILE}{suffix}"));
            let to = store.join(format!("{FILE}.damaged-{number}{suffix}"));
            match fs::rename(from, to) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        return Ok(Some(aside));
    }
    Ok(None)
}

/// Removes the log of a catalogue that is gone.
fn remove_log(store: &Path) -> io::Result<()> {
    for suffix in ["-wal", "-shm"] {
        match fs::remove_file(store.join(format!("{FILE}{suffix}"))) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
