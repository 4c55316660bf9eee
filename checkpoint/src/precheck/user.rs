//! What a checkpoint of plain processes gives to an unprivileged user.
//!
//! The checkpoint is signed, so it says what CRIU found, and nothing else. But CRIU
//! restores anybody's processes, and it opens recorded files with root's rights. So
//!
//! - every thread has the user's IDs and groups and no capability, and every process the
//!   machine's root directory;
//! - files by path are listed ([`OpenFile`]): the caller opens those that the user could
//!   have replaced meanwhile with the user's rights, and hands them to CRIU;
//! - descriptors of other kinds are those that CRIU makes without a path. Deleted files,
//!   pipes and sockets with a name would be made anew in directories that are the user's.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::capabilities::CapabilitySet;
use super::granted::User;
use super::messages::{File, Fs, Remap};
use super::process::{Process, Processes};
use super::refusal::{Refusal, Refusals};
use crate::images::dir::Dir;
use crate::images::{Error, Images};

/// Kinds of descriptors (`fd_types` of CRIU's fdinfo.proto) that need no path: pipes,
/// sockets without a name, events, timers, terminals that are given anew, memfds.
const PATHLESS: [u32; 9] = [2, 4, 6, 7, 8, 9, 11, 17, 18];
const REG: u32 = 1;
const UNIX: u32 = 5;
/// inotify's watches are on paths.
const INOTIFY: u32 = 8;

/// A file that the processes have open or mapped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpenFile {
    /// Its path.
    pub path: PathBuf,
    /// The flags of open(2).
    pub flags: u32,
    /// The position.
    pub position: u64,
    /// Its size at the checkpoint, if CRIU recorded it.
    pub size: Option<u64>,
}

/// What a user's restore needs.
#[derive(Debug, Default)]
pub struct UserFiles {
    /// The first few reasons against it.
    pub refusals: Vec<Refusal>,
    /// The files by path, each once.
    pub files: BTreeSet<OpenFile>,
}

/// Compares a checkpoint with what `user` may have.
///
/// # Errors
/// An image is damaged, or has a record that this version does not understand.
pub fn check_user<I: Images + ?Sized>(images: &I, user: &User) -> Result<UserFiles, Error> {
    let dir = Dir(images);
    let mut refusals = Refusals::default();
    let processes = Processes::read(&dir)?;
    super::files::check_numbers(&processes, &mut refusals);
    for process in &processes.living {
        credentials(process, user, &mut refusals);
    }
    let mut roots = BTreeSet::new();
    for entry in &processes.tree {
        let fs: Option<Fs> = dir.first(&format!("fs-{}.img", entry.pid))?;
        roots.extend(fs.map(|fs| fs.root_id));
    }
    let remaps: Vec<Remap> = dir.all("remap-fpath.img")?;
    if !remaps.is_empty() {
        refusals.checkpoint(
            "has deleted files open",
            "CRIU would make them again as root; close them, or restore it as root",
        );
    }
    let mut files = BTreeSet::new();
    dir.each("files.img", |file: File| {
        match (file.kind, &file.reg) {
            (REG, Some(reg)) => {
                let path = String::from_utf8_lossy(&reg.name).into_owned();
                if roots.contains(&file.id) && path != "/" {
                    refusals.file(&path, "is a process's root", "the machine's is its root");
                }
                files.insert(OpenFile {
                    path: PathBuf::from(path),
                    flags: reg.flags,
                    position: reg.pos.unwrap_or_default(),
                    size: reg.size,
                });
            }
            (UNIX, _)
                if file
                    .usk
                    .as_ref()
                    .is_some_and(|socket| socket.name.is_empty()) => {}
            (INOTIFY, _) => kind(file.kind, &mut refusals),
            (pathless, _) if PATHLESS.contains(&pathless) => {}
            (other, _) => kind(other, &mut refusals),
        }
        Ok(())
    })?;
    Ok(UserFiles {
        refusals: refusals.0,
        files,
    })
}

fn kind(kind: u32, refusals: &mut Refusals) {
    refusals.checkpoint(
        &format!("has a descriptor of CRIU's kind {kind} open"),
        "CRIU would find or make it by a path, as root; restore it as root",
    );
}

/// Refuses threads that have another user's rights.
pub(super) fn credentials(process: &Process, user: &User, refusals: &mut Refusals) {
    for thread in &process.threads {
        let Some(creds) = &thread.creds else {
            refusals.process(
                process,
                "has a thread without credentials",
                "every thread has some",
            );
            continue;
        };
        let uids = [creds.uid, creds.euid, creds.suid, creds.fsuid];
        if let Some(uid) = uids.into_iter().find(|uid| *uid != user.uid) {
            refusals.process(
                process,
                &format!("is of user {uid}"),
                &format!("the checkpoint is for user {}", user.uid),
            );
        }
        let gids = [creds.gid, creds.egid, creds.sgid, creds.fsgid];
        let is_given = |gid: &&u32| **gid == user.gid || user.groups.contains(gid);
        let mut all = gids.iter().chain(&creds.groups);
        if let Some(gid) = all.find(|gid| !is_given(gid)) {
            refusals.process(
                process,
                &format!("is in group {gid}"),
                &format!("user {} is not", user.uid),
            );
        }
        for words in [
            &creds.cap_inh,
            &creds.cap_prm,
            &creds.cap_eff,
            &creds.cap_amb,
        ] {
            let more = CapabilitySet::of_words(words);
            if !more.is_empty() {
                refusals.process(
                    process,
                    &format!("has {more}"),
                    &format!("user {} has no capability", user.uid),
                );
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precheck::messages::{Creds, ThreadCore};

    fn process(edit: impl FnOnce(&mut Creds)) -> Process {
        let mut creds = Creds {
            uid: 7,
            euid: 7,
            suid: 7,
            fsuid: 7,
            gid: 8,
            egid: 8,
            sgid: 8,
            fsgid: 8,
            groups: vec![9],
            ..Creds::default()
        };
        edit(&mut creds);
        Process {
            threads: vec![ThreadCore {
                creds: Some(creds),
                ..ThreadCore::default()
            }],
            ..Process::default()
        }
    }

    fn refused(edit: impl FnOnce(&mut Creds)) -> usize {
        let user = User {
            uid: 7,
            gid: 8,
            groups: vec![9],
        };
        let mut refusals = Refusals::default();
        credentials(&process(edit), &user, &mut refusals);
        refusals.0.len()
    }

    #[test]
    fn only_the_user_s_own_credentials_are_accepted() {
        assert_eq!(refused(|_| ()), 0);
        assert_eq!(refused(|creds| creds.suid = 0), 1);
        assert_eq!(refused(|creds| creds.fsgid = 0), 1);
        assert_eq!(refused(|creds| creds.groups.push(0)), 1);
        assert_eq!(refused(|creds| creds.cap_amb = vec![1]), 1);
        // A user's bounding set is full.
        assert_eq!(refused(|creds| creds.cap_bnd = vec![u32::MAX]), 0);
    }
}
