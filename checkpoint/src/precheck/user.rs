//! What a checkpoint of plain processes gives to an unprivileged user.
//!
//! The checkpoint is signed, so it says what CRIU found, and nothing else. But CRIU
//! restores anybody's processes, and it opens recorded files with root's rights. So
//!
//! - every thread has the user's IDs and groups and no capability, and every process the
//!   machine's root directory and CRIU's namespaces, so that CRIU mounts nothing;
//! - files by path are listed ([`OpenFiles`]): the caller opens those that the user could
//!   have replaced meanwhile with the user's rights, and hands them to CRIU. A file of
//!   proc that is named by a process ID could be another process's;
//! - descriptors of other kinds are those that CRIU makes without a path. Deleted files,
//!   pipes and sockets with a name would be made anew in directories that are the user's.
//!   Of terminals, only that which is given anew and `/dev/tty` are accepted.

use std::collections::BTreeSet;

use super::capabilities::CapabilitySet;
use super::granted::User;
use super::messages::{File, RegFile, Remap};
use super::open_files::{OpenFile, OpenFiles, is_in_process, plain_path, without_description};
use super::process::{Process, Processes};
use super::refusal::{Refusal, Refusals};
use crate::images::dir::Dir;
use crate::images::proto::{Fs, Ids};
use crate::images::{Error, Images};

/// Kinds of descriptors (`fd_types` of CRIU's fdinfo.proto) that need no path: pipes,
/// internet sockets, events, signals, timers and memfds.
const PATHLESS: [u32; 7] = [2, 4, 6, 7, 9, 17, 18];
const REG: u32 = 1;
const UNIX: u32 = 5;
const TERMINAL: u32 = 11;

/// What a user's restore needs.
#[derive(Debug, Default)]
pub struct UserFiles {
    /// The first few reasons against it.
    pub refusals: Vec<Refusal>,
    /// The files by path.
    pub files: OpenFiles,
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
    let criu = processes.inventory.root_ids.as_ref();
    for process in &processes.living {
        credentials(process, user, &mut refusals);
        namespaces(process, criu, &mut refusals);
    }
    for process in processes.dead.iter().filter(|dead| dead.ids.is_some()) {
        namespaces(process, criu, &mut refusals);
    }
    let remaps: Vec<Remap> = dir.all("remap-fpath.img")?;
    if !remaps.is_empty() {
        refusals.checkpoint(
            "has deleted files open",
            "CRIU would make them again as root; close them, or restore it as root",
        );
    }
    let files = files(&dir, &processes, &mut refusals)?;
    Ok(UserFiles {
        refusals: refusals.0,
        files,
    })
}

/// Lists the files, and refuses descriptors that CRIU opens or makes by other paths.
fn files<I: Images + ?Sized>(
    dir: &Dir<'_, I>,
    processes: &Processes,
    refusals: &mut Refusals,
) -> Result<OpenFiles, Error> {
    let mut roots = BTreeSet::new();
    for entry in &processes.tree {
        let fs: Option<Fs> = dir.first(&format!("fs-{}.img", entry.pid))?;
        roots.extend(fs.map(|fs| fs.root_id));
    }
    let undescribed = without_description(dir, processes)?;
    let mut files = OpenFiles::new();
    let (mut terminals, mut ttys) = (BTreeSet::new(), BTreeSet::new());
    dir.each("files.img", |file: File| {
        match (file.kind, &file.reg) {
            (REG, Some(reg)) => {
                let Some(path) = path(reg, refusals) else {
                    return Ok(());
                };
                if roots.contains(&file.id) && path != "/" {
                    refusals.file(&path, "is a process's root", "the machine's is its root");
                }
                if path == "/dev/tty" {
                    ttys.insert(file.id);
                }
                let is_description = !undescribed.contains(&file.id);
                let record = OpenFile::new(reg, is_description);
                files.entry(path).or_default().push(record);
            }
            (UNIX, _) if is_nameless(&file) => {}
            (TERMINAL, _) => {
                let terminal = file.tty.as_ref();
                terminals.extend(terminal.and_then(|terminal| terminal.regf_id));
            }
            (pathless, _) if PATHLESS.contains(&pathless) => {}
            (other, _) => kind(other, refusals),
        }
        Ok(())
    })?;
    if !terminals.is_subset(&ttys) {
        refusals.checkpoint(
            "has a terminal of its own open",
            "CRIU would open it by its number, as root; close it, or restore it as root",
        );
    }
    Ok(files)
}

/// The path of a file that the user could have open.
fn path(file: &RegFile, refusals: &mut Refusals) -> Option<String> {
    let path = plain_path(&file.name, refusals)?;
    if is_in_process(&path) {
        refusals.file(
            &path,
            "is named by the ID of a process",
            "another process may have the ID; close it, or restore it as root",
        );
    }
    Some(path)
}

fn is_nameless(file: &File) -> bool {
    let socket = file.usk.as_ref();
    socket.is_some_and(|socket| socket.name.is_empty() && socket.name_dir.is_none())
}

/// Refuses a process in namespaces that are not CRIU's: CRIU makes them, and what is
/// mounted there, as root.
fn namespaces(process: &Process, criu: Option<&Ids>, refusals: &mut Refusals) {
    let kinds = |ids: &Ids| {
        [
            ids.pid_ns_id,
            ids.mnt_ns_id,
            ids.user_ns_id,
            ids.net_ns_id,
            ids.ipc_ns_id,
            ids.uts_ns_id,
        ]
    };
    let (own, criu) = (process.ids.as_ref().map(kinds), criu.map(kinds));
    if own.is_none() || own != criu {
        refusals.process(
            process,
            "has namespaces of its own",
            "CRIU would make them as root; restore it as root",
        );
    }
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
