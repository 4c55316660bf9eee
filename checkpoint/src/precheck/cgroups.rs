//! The cgroups that CRIU makes, and their properties (criu/cgroup.c).
//!
//! CRIU joins a recorded name to the path of a cgroup hierarchy and writes there as
//! root, `..` included: it makes directories, changes their owners and modes, writes
//! properties, and moves processes. So every name is a plain one, all processes are in
//! the container's cgroup or below, and owners are the container's root.
//!
//! CRIU could also be told to ignore cgroups (`--manage-cgroups-mode=ignore`), because
//! runc has put it into the container's. Then CRIU makes no cgroup namespace
//! (`prepare_cgroup_namespace`), and runc knows the mode since 1.2 only. With names that
//! were checked the result is the same.
//!
//! Where the configuration gives the container a cgroup namespace, init's cgroup must
//! be recorded as its root (`cgns_prefix`), or CRIU makes none and the container sees
//! the host's.

use super::granted::Granted;
use super::granted::Namespace;
use super::messages::{CgroupDir, CgroupSet, Cgroups, Controller, Member, Perms};
use super::process::Processes;
use super::refusal::Refusals;
use crate::images::Error;
use crate::images::dir::Dir;
use crate::images::proto::wire::Message;

/// The most levels of cgroups below the container's. systemd makes four.
const MAX_DEPTH: usize = 32;

/// Bits of a directory's mode by which others than its owner could change it.
const WRITABLE_BY_OTHERS: u32 = 0o002;

/// Checks the image of cgroups. Without one CRIU leaves all processes in the cgroup
/// that the runtime gives it.
///
/// # Errors
/// The image is damaged.
pub(super) fn check(
    dir: &Dir<'_>,
    processes: &Processes,
    granted: &Granted,
    refusals: &mut Refusals,
) -> Result<(), Error> {
    let cgroups: Cgroups = dir.first("cgroup.img")?.unwrap_or_default();
    for set in &cgroups.sets {
        for member in &set.ctls {
            // The name of version 2 is empty.
            let is_named = member.name.is_empty() || is_plain(&member.name);
            if !is_plain_path(&member.path) || !is_named {
                refuse_name(&member.path, refusals);
                return Ok(());
            }
            if !is_below_its_root(member, &cgroups.controllers) {
                refusals.checkpoint(
                    &format!("puts a process into the cgroup {}", member.path),
                    "that is not below the container's",
                );
            }
        }
    }
    for directory in cgroups
        .controllers
        .iter()
        .flat_map(|controller| &controller.dirs)
    {
        if !is_plain_path(&format!("/{}", directory.dir_name.trim_start_matches('/'))) {
            refuse_name(&directory.dir_name, refusals);
        }
        below(directory, 0, granted, refusals);
    }
    for controller in &cgroups.controllers {
        roots(controller, &cgroups.sets, refusals);
    }
    if granted.namespaces.contains(&Namespace::Cgroup)
        && !cgroups.sets.is_empty()
        && !inits(processes, &cgroups.sets).is_some_and(has_root)
    {
        refusals.checkpoint(
            "has no root of the container's cgroup namespace",
            "the configuration gives the container such a namespace",
        );
    }
    Ok(())
}

/// Each hierarchy has one cgroup of the container, in which a process is: CRIU moves
/// only such a one, and makes any other where its name says.
fn roots(controller: &Controller, sets: &[CgroupSet], refusals: &mut Refusals) {
    let members = sets.iter().flat_map(|set| &set.ctls);
    let mut members = members.filter(|member| controller.cnames.contains(&member.name));
    match controller.dirs.as_slice() {
        [] => {}
        [root] if members.any(|member| is_below(&member.path, root)) => {}
        _ => refusals.checkpoint(
            "has a cgroup in which no process is, or several in a hierarchy",
            "a container has one",
        ),
    }
}

/// The cgroups of init.
fn inits<'a>(processes: &Processes, sets: &'a [CgroupSet]) -> Option<&'a CgroupSet> {
    let init = processes.living.first()?;
    let thread = init.threads.first().and_then(|thread| thread.cg_set);
    let id = thread.or(init.leader.cg_set)?;
    sets.iter().find(|set| set.id == id)
}

fn is_below(path: &str, root: &CgroupDir) -> bool {
    let root = root.dir_name.trim_start_matches('/');
    let rest = path
        .strip_prefix('/')
        .and_then(|path| path.strip_prefix(root));
    rest.is_some_and(|rest| rest.is_empty() || root.is_empty() || rest.starts_with('/'))
}

/// Whether a process's cgroup is the container's or below, which CRIU moves to the new
/// container's (`rewrite_cgsets`), and whether the root of its cgroup namespace is
/// within its path.
fn is_below_its_root(member: &Member, controllers: &[Controller]) -> bool {
    let length = usize::try_from(member.cgns_prefix.unwrap_or(0)).unwrap_or(usize::MAX);
    // CRIU cuts the path there, and the name of the hierarchy's cgroup, too.
    let ends_there = |path: &str| {
        let rest = path.get(length..);
        rest.is_some_and(|rest| length == 0 || rest.is_empty() || rest.starts_with('/'))
    };
    let roots = controllers
        .iter()
        .filter(|controller| controller.cnames.contains(&member.name))
        .flat_map(|controller| &controller.dirs);
    let is_root = |root: &CgroupDir| {
        let name = format!("/{}", root.dir_name.trim_start_matches('/'));
        is_below(&member.path, root) && ends_there(&name)
    };
    ends_there(&member.path) && roots.into_iter().any(is_root)
}

/// Whether processes in this set have a root of their cgroup namespace.
fn has_root(set: &CgroupSet) -> bool {
    set.ctls
        .iter()
        .any(|member| member.cgns_prefix.is_some_and(|length| length > 0))
}

fn below(directory: &CgroupDir, depth: usize, granted: &Granted, refusals: &mut Refusals) {
    // Below its own cgroup a container gives them to users of its own.
    if let Some(perms) = directory.dir_perms.as_ref().filter(|_| depth == 0) {
        self::perms(perms, &directory.dir_name, granted, refusals);
    }
    for property in &directory.properties {
        if !is_plain(&property.name) {
            refuse_name(&property.name, refusals);
        }
    }
    for child in &directory.children {
        match CgroupDir::decode(child) {
            Ok(child) if is_plain(&child.dir_name) && depth < MAX_DEPTH => {
                below(&child, depth + 1, granted, refusals);
            }
            Ok(child) => refuse_name(&child.dir_name, refusals),
            Err(_) => refuse_name("?", refusals),
        }
    }
}

fn perms(perms: &Perms, name: &str, granted: &Granted, refusals: &mut Refusals) {
    let mapped = |mappings: &[super::granted::Mapping], id: u32| {
        let is_mapped = |mapping: &super::granted::Mapping| {
            id.checked_sub(mapping.outside)
                .is_some_and(|offset| offset < mapping.count)
        };
        id == 0 || mappings.iter().any(is_mapped)
    };
    let is_owned =
        mapped(&granted.mappings.users, perms.uid) && mapped(&granted.mappings.groups, perms.gid);
    if !is_owned || perms.mode & WRITABLE_BY_OTHERS != 0 {
        refusals.checkpoint(
            &format!(
                "gives the cgroup's {name} to user {}, group {} with mode {:o}",
                perms.uid, perms.gid, perms.mode
            ),
            "cgroups belong to root",
        );
    }
}

fn refuse_name(name: &str, refusals: &mut Refusals) {
    refusals.checkpoint(
        &format!("has a cgroup or a property named {name:?}"),
        "that is no plain name",
    );
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0'])
}

/// Whether a path begins at the root and has plain components only.
fn is_plain_path(path: &str) -> bool {
    match path.strip_prefix('/') {
        Some("") => true,
        Some(rest) => rest.split('/').all(is_plain),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_cgroups_have_no_way_up() {
        for path in ["/", "/docker/0123", "/system.slice/a b"] {
            assert!(is_plain_path(path), "{path}");
        }
        for path in ["", "a", "//", "/a/", "/../etc", "/a/../b", "/a/./b"] {
            assert!(!is_plain_path(path), "{path}");
        }
    }
}
