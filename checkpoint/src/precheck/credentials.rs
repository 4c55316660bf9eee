//! A thread's user, groups, capabilities, filters and label.
//!
//! CRIU restores each thread with the credentials that its image says, with root's
//! privilege (criu/pie/restorer.c, `restore_creds` and `restore_seccomp`). They must be
//! what the configuration's program could have:
//!
//! - the configuration's user and group, unless its program may change them with
//!   CAP_SETUID or CAP_SETGID. A program that has become another user only by a
//!   set-user-ID file is refused, since the checkpoint alone says so;
//! - no capability outside of the bounding set;
//! - `no_new_privs`, a seccomp filter and the security module's label where the
//!   configuration has them. Their contents come from the checkpoint: a filter may have
//!   been added by the application, and CRIU stores no profile.

use super::capabilities::CapabilitySet;
use super::granted::Granted;
use super::messages::{Creds, Seccomp, ThreadCore};
use super::process::Process;
use super::refusal::Refusals;

/// `SECCOMP_MODE_DISABLED` of seccomp(2).
const DISABLED: u32 = 0;
/// `SECCOMP_MODE_FILTER`.
const FILTER: u32 = 2;
/// `SECCOMP_FILTER_FLAG_TSYNC`: CRIU stores a filter that all threads share with the
/// leader only (criu/seccomp.c, `try_use_tsync`).
const TSYNC: u32 = 1;

/// Checks the threads of a process.
pub(super) fn check(
    process: &Process,
    filters: &Seccomp,
    granted: &Granted,
    refusals: &mut Refusals,
) {
    if process.leader.old_seccomp() {
        refusals.process(
            process,
            "has a seccomp filter in the form of CRIU before 3.10",
            "take the checkpoint again with a current CRIU",
        );
    }
    for thread in &process.threads {
        let Some(creds) = &thread.creds else {
            refusals.process(
                process,
                "has a thread without credentials",
                "every thread has some",
            );
            continue;
        };
        users(process, creds, granted, refusals);
        capabilities(process, creds, granted, refusals);
        if granted.no_new_privileges && creds.no_new_privs.unwrap_or(0) == 0 {
            refusals.process(
                process,
                "may gain privileges",
                "the configuration sets noNewPrivileges",
            );
        }
        if let Some(label) = &granted.label {
            self::label(process, creds, label, refusals);
        }
    }
    if granted.seccomp {
        seccomp(process, filters, refusals);
    }
}

fn users(process: &Process, creds: &Creds, granted: &Granted, refusals: &mut Refusals) {
    let has = |capability| granted.permitted.contains(capability);
    let user = &granted.user;
    if !has(CapabilitySet::SETUID) {
        let uids = [creds.uid, creds.euid, creds.suid, creds.fsuid];
        if let Some(uid) = uids.into_iter().find(|uid| *uid != user.uid) {
            refusals.process(
                process,
                &format!("is of user {uid}"),
                &format!(
                    "the configuration gives user {} without CAP_SETUID",
                    user.uid
                ),
            );
        }
    }
    if !has(CapabilitySet::SETGID) {
        let gids = [creds.gid, creds.egid, creds.sgid, creds.fsgid];
        let is_given = |gid: &u32| *gid == user.gid || user.groups.contains(gid);
        let other = gids
            .iter()
            .find(|gid| **gid != user.gid)
            .or_else(|| creds.groups.iter().find(|gid| !is_given(gid)));
        if let Some(gid) = other {
            refusals.process(
                process,
                &format!("is in group {gid}"),
                &format!(
                    "the configuration gives group {} without CAP_SETGID",
                    user.gid
                ),
            );
        }
    }
}

fn capabilities(process: &Process, creds: &Creds, granted: &Granted, refusals: &mut Refusals) {
    let sets = [
        &creds.cap_inh,
        &creds.cap_prm,
        &creds.cap_eff,
        &creds.cap_bnd,
        &creds.cap_amb,
    ];
    for words in sets {
        let more = CapabilitySet::of_words(words).without(granted.bounding);
        if !more.is_empty() {
            refusals.process(
                process,
                &format!("has {more}"),
                "the configuration's bounding set lacks it",
            );
            return;
        }
    }
}

/// A program may have changed to a profile below its own (aa_change_hat(2)).
fn label(process: &Process, creds: &Creds, label: &str, refusals: &mut Refusals) {
    let is_label = |own: &str| own == label || own.starts_with(&format!("{label}//"));
    if !creds.lsm_profile.as_deref().is_some_and(is_label) {
        let own = creds.lsm_profile.as_deref().unwrap_or("no label");
        refusals.process(
            process,
            &format!("has {own}"),
            &format!("the configuration's label is {label}"),
        );
    }
}

fn seccomp(process: &Process, filters: &Seccomp, refusals: &mut Refusals) {
    let Some((leader, others)) = process.threads.split_first() else {
        return;
    };
    let is_shared = || chain(leader, filters).is_some_and(|flags| flags & TSYNC != 0);
    let is_filtered = |thread: &ThreadCore| match thread.mode() {
        DISABLED => false,
        FILTER => chain(thread, filters).is_some(),
        // The strict mode allows less than any filter.
        _ => true,
    };
    if !is_filtered(leader) || !(others.iter().all(is_filtered) || is_shared()) {
        refusals.process(
            process,
            "has no seccomp filter",
            "the configuration has one",
        );
    }
}

/// The flags that all filters of a thread have; `None` if it has none, or if they are
/// no chain: CRIU follows it without an end.
fn chain(thread: &ThreadCore, filters: &Seccomp) -> Option<u32> {
    let filters = &filters.seccomp_filters;
    let mut next = Some(thread.seccomp_filter?);
    let mut flags = u32::MAX;
    let mut left = filters.len();
    while let Some(index) = next {
        left = left.checked_sub(1)?;
        let filter = filters.get(usize::try_from(index).ok()?)?;
        flags &= filter.flags.unwrap_or(0);
        next = filter.prev;
    }
    Some(flags)
}

impl ThreadCore {
    fn mode(&self) -> u32 {
        self.seccomp_mode.unwrap_or(DISABLED)
    }
}
