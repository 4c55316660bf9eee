//! The cgroups that CRIU makes, and their properties (criu/cgroup.c).
//!
//! CRIU joins a recorded name to the path of a cgroup hierarchy and writes there as
//! root, `..` included: it makes directories, changes their owners and modes, writes
//! properties, and moves processes. So every name is a plain one, all processes are in
//! the container's cgroup or below, and owners are the container's root.
//!
//! Where the configuration gives the container a cgroup namespace, init's cgroup must
//! be recorded as its root (`cgns_prefix`), or CRIU makes none and the container sees
//! the host's.

use super::granted::Granted;
use super::granted::Namespace;
use super::messages::{CgroupDir, CgroupSet, Cgroups, Controller, Member, Perms};
use super::refusal::Refusals;
use crate::images::Error;
use crate::images::dir::Dir;
use crate::images::proto::wire::Message;

/// The most levels of cgroups below the container's. systemd makes four.
const MAX_DEPTH: usize = 32;

/// Bits of a directory's mode by which others than its owner could change it.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Checks the image of cgroups. Without one CRIU leaves all processes in the cgroup
/// that the runtime gives it.
///
/// # Errors
/// The image is damaged.
pub(super) fn check(
    dir: &Dir<'_>,
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
    if granted.namespaces.contains(&Namespace::Cgroup)
        && !cgroups.sets.is_empty()
        && !cgroups.sets.iter().any(has_root)
    {
        refusals.checkpoint(
            "has no root of the container's cgroup namespace",
            "the configuration gives the container such a namespace",
        );
    }
    Ok(())
}

/// Whether a process's cgroup is the container's or below, which CRIU moves to the new
/// container's (`rewrite_cgsets`), and whether the root of its cgroup namespace is
/// within its path.
fn is_below_its_root(member: &Member, controllers: &[Controller]) -> bool {
    let length = usize::try_from(member.cgns_prefix.unwrap_or(0)).unwrap_or(usize::MAX);
    let is_root_within = length <= member.path.len();
    let roots = controllers
        .iter()
        .filter(|controller| controller.cnames.contains(&member.name))
        .flat_map(|controller| &controller.dirs);
    let is_below = |root: &CgroupDir| {
        let root = format!("/{}", root.dir_name.trim_start_matches('/'));
        let rest = member.path.strip_prefix(&root);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    is_root_within && roots.into_iter().any(is_below)
}

/// Whether processes in this set have a root of their cgroup namespace.
fn has_root(set: &CgroupSet) -> bool {
    set.ctls
        .iter()
        .any(|member| member.cgns_prefix.is_some_and(|length| length > 0))
}

fn below(directory: &CgroupDir, depth: usize, granted: &Granted, refusals: &mut Refusals) {
    if let Some(perms) = &directory.dir_perms {
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
