//! Removes chunks, packs and drafts that are not used.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::libc;

use super::{Report, compact, exclusive, rows};
use crate::catalogue::{Catalogue, CheckpointRow};
use crate::clock::Moment;
use crate::error::file;
use crate::pack::PackId;
use crate::{Error, Store};

/// How long the lock is held at a time, and then left to others: a restore waits for it.
const SLICE: Duration = Duration::from_millis(200);
const BREAK: Duration = Duration::from_millis(20);

/// The chunks of a transaction: a few milliseconds, in which no session can publish.
const BATCH: usize = 500;

/// Removes what is not used. Returns whether it came to the end: false if the store was in
/// use.
pub(super) fn sweep(
    store: &Store,
    catalogue: &mut Catalogue,
    grace: Duration,
    now: &Moment,
    report: &mut Report,
) -> Result<bool, Error> {
    let mut known = None;
    let mut dead = Vec::new();
    loop {
        let Some(_alone) = exclusive::wait(store)? else {
            report.is_busy = true;
            return Ok(false);
        };
        // Others may have published meanwhile, with chunks that were dead before.
        let version = catalogue.version()?;
        if known != Some(version) {
            let live = catalogue.live(&HashSet::new())?;
            dead = catalogue.dead(&live)?;
            catalogue.forget_lost(&live)?;
            // The last ones are removed first.
            dead.reverse();
            known = Some(version);
        }
        let end = Instant::now() + SLICE;
        while !dead.is_empty() && Instant::now() < end {
            let batch: Vec<i64> = dead
                .drain(dead.len().saturating_sub(BATCH)..)
                .rev()
                .collect();
            catalogue.forget(&batch)?;
            report.chunks += batch.len() as u64;
        }
        if dead.is_empty() {
            empty_packs(store, catalogue, report)?;
            unknown_packs(store, catalogue, grace, now, report)?;
            drafts(store, grace, now, report)?;
            return Ok(true);
        }
        drop(_alone);
        thread::sleep(BREAK);
    }
}

/// What a sweep would remove if these checkpoints were removed.
pub(super) fn estimate(
    store: &Store,
    catalogue: &mut Catalogue,
    gone: &[CheckpointRow],
    grace: Duration,
    now: &Moment,
    report: &mut Report,
) -> Result<(), Error> {
    let live = catalogue.live(&rows::numbers(gone))?;
    report.chunks = catalogue.dead(&live)?.len() as u64;
    let bytes = catalogue.live_bytes(&live)?;
    for pack in catalogue.packs()? {
        if !bytes.contains_key(&pack.number) {
            report.packs += 1;
            report.freed_bytes += pack.bytes;
        }
    }
    compact::estimate(catalogue, &live, report)?;
    unknown_packs(store, catalogue, grace, now, report)?;
    drafts(store, grace, now, report)
}

/// Removes the packs that no chunk is in: first from the catalogue, so that it never
/// refers to a pack that is removed.
pub(super) fn empty_packs(
    store: &Store,
    catalogue: &mut Catalogue,
    report: &mut Report,
) -> Result<(), Error> {
    let packs = catalogue.empty_packs()?;
    catalogue.forget_packs(&packs)?;
    for pack in &packs {
        delete(store, pack.id)?;
        report.packs += 1;
        report.freed_bytes += pack.bytes;
    }
    Ok(())
}

/// Removes the packs that the catalogue doesn't know: of a session that was killed after
/// it moved them, or of a collection that was killed before it removed them. No session
/// is between the two, because it would hold the lock.
fn unknown_packs(
    store: &Store,
    catalogue: &mut Catalogue,
    grace: Duration,
    now: &Moment,
    report: &mut Report,
) -> Result<(), Error> {
    let packs = catalogue.packs()?.into_iter().map(|pack| pack.id);
    let known: HashSet<PackId> = packs.collect();
    let made = catalogue.made()?;
    let listed = store.place().list();
    for found in listed.map_err(file("list the packs of", store.path()))? {
        let Some(id) = PackId::of_file(&found.name) else {
            continue;
        };
        if known.contains(&id) {
            continue;
        }
        if found.since < made {
            report.unknown_packs += 1;
        } else if age(found.since, now) > grace {
            if !report.is_dry_run {
                delete(store, id)?;
            }
            report.leftovers += 1;
            report.freed_bytes += found.bytes;
        }
    }
    Ok(())
}

/// Removes the drafts of writers that were killed. A draft is locked by its writer from
/// just after it was made.
fn drafts(store: &Store, grace: Duration, now: &Moment, report: &mut Report) -> Result<(), Error> {
    let dir = store.incoming();
    let started = now.seconds - now.since_boot;
    for entry in fs::read_dir(&dir).map_err(file("list", &dir))? {
        let entry = entry.map_err(file("list", &dir))?;
        let name = entry.file_name();
        if name.to_str().and_then(PackId::of_file).is_none() {
            continue;
        }
        let path = entry.path();
        let mut options = OpenOptions::new();
        let options = options
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        // One that its writer removed or moved meanwhile.
        let Ok(draft) = options.open(&path) else {
            continue;
        };
        let metadata = draft.metadata().map_err(file("read", &path))?;
        let since = metadata.mtime();
        // A clock that was set back makes a draft newer than now.
        let is_old = Duration::from_secs(since.abs_diff(now.seconds)) > grace / 10;
        if !(is_old || since < started) {
            continue;
        }
        let Ok(_dead) = Flock::lock(draft, FlockArg::LockExclusiveNonblock) else {
            continue;
        };
        if !report.is_dry_run {
            remove(&path)?;
        }
        report.leftovers += 1;
        report.freed_bytes += metadata.blocks() * 512;
    }
    Ok(())
}

fn remove(path: &std::path::Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(file("remove", path)(error)),
        _ => Ok(()),
    }
}

pub(super) fn delete(store: &Store, pack: PackId) -> Result<(), Error> {
    let name = pack.file_name();
    let deleted = store.place().delete(&name);
    deleted.map_err(|error| file("remove", &store.path().join("packs").join(&name))(error))
}

fn age(since: i64, now: &Moment) -> Duration {
    Duration::from_secs(u64::try_from(now.seconds.saturating_sub(since)).unwrap_or(0))
}
