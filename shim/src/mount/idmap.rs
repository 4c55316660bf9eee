//! Id-mapped mounts: the files of user 0 on disk appear as those of user 100000,
//! so that containers in user namespaces share an image's layers
//! (mount_setattr(2), "ID-mapped mounts").
//!
//! An overlay itself can't be id-mapped. Instead the shim clones and id-maps the
//! mount of each lower layer; the upper layer already belongs to the mapped users.
//! The kernel accepts layers only from attached mounts, so the clones are attached to
//! a tmpfs in a mount namespace that only one thread of the shim is in:
//!
//! ```text
//!  thread in its own mount namespace                      calling thread
//!    lower layer ── open_tree, mount_setattr ──▶ TARGET/0
//!    lower layer ── open_tree, mount_setattr ──▶ TARGET/1
//!    overlay of 0:1 on TARGET/merged ── open_tree ──▶ descriptor ──▶ move_mount
//! ```
//!
//! The overlay keeps its layers. The kernel removes the other mounts when the thread
//! exits, even if the shim is killed. They never appear in the host's mount
//! namespace.

use std::{
    fs::{DirBuilder, File},
    io::{self, Write},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::Path,
};

use nix::{
    errno::Errno,
    mount::MsFlags,
    sched::{CloneFlags, unshare},
    unistd::chdir,
};

use super::{
    NOTHING, OVERLAY, Plain,
    options::{IdMaps, Layers, unescaped},
    sys::{self, NamespaceHolder},
};
use crate::error::{Context, Error, Result, at};
use crate::procfs;

/// Mounts `plain` with `maps`, detached. The mount exists as long as the descriptor.
///
/// # Errors
/// A kernel or a file system without id-mapped mounts, which the text names; the
/// kernel's other errors.
pub(super) fn detached(plain: &Plain<'_>, maps: &IdMaps, target: &Path) -> Result<OwnedFd> {
    let users = user_namespace(maps)?;
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("idmap".into())
            .spawn_scoped(scope, || {
                leave_mount_namespace()?;
                match plain.kind {
                    OVERLAY => overlay(plain, &users, target),
                    _ => mapped_mount(plain, &users, target),
                }
            })
            .context(|| "start a thread")?
            .join()
            .unwrap_or_else(|_| {
                Err(Error::Runtime(
                    "the id-map thread exited without a result".into(),
                ))
            })
    })
}

/// Creates a user namespace with `maps` and no process. The descriptor keeps the
/// namespace open.
fn user_namespace(maps: &IdMaps) -> Result<OwnedFd> {
    let holder = NamespaceHolder::start().context(
        || "make a user namespace for an id-mapped mount (is user.max_user_namespaces 0?)",
    )?;
    let of = |name: &str| procfs::of(holder.pid()).join(name);
    for (name, lines) in [("uid_map", &maps.users), ("gid_map", &maps.groups)] {
        let path = of(name);
        File::options()
            .write(true)
            .open(&path)
            // The kernel accepts a map only in one write.
            .and_then(|mut file| file.write_all(lines.as_bytes()))
            .context(|| format!("write {:?} as {name}", lines.trim()))?;
    }
    let path = of("ns/user");
    let namespace = File::open(&path).context(|| at("open", &path))?;
    Ok(namespace.into())
}

/// Moves the calling thread into a copy of its mount namespace. Mounts in the copy
/// don't propagate to the host. Unmounts on the host propagate to the copy, so the
/// copy keeps no mount busy.
fn leave_mount_namespace() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context(|| "make a mount namespace")?;
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    nix::mount::mount(NOTHING, "/", NOTHING, slave, NOTHING)
        .context(|| "separate a mount namespace")
}

fn overlay(plain: &Plain<'_>, users: &OwnedFd, target: &Path) -> Result<OwnedFd> {
    let data = &plain.options.data;
    let layers = Layers::find(data).ok_or_else(|| {
        Error::InvalidArgument("an overlay with uidmap= and gidmap= has no lowerdir=".into())
    })?;
    let clones: Vec<_> = layers
        .paths
        .iter()
        .map(|path| match path.is_empty() {
            true => Ok(None),
            false => mapped(&unescaped(path), 0, sys::READ_ONLY, users).map(Some),
        })
        .collect::<Result<_>>()?;
    nix::mount::mount(
        Some("tmpfs"),
        target,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=0700"),
    )
    .context(|| at("mount a tmpfs on", target))?;
    // A thread with its own mount namespace also has its own working directory.
    chdir(target).context(|| at("change to", target))?;
    let mut names = Vec::with_capacity(clones.len());
    for (number, clone) in clones.into_iter().enumerate() {
        let Some(clone) = clone else {
            names.push(String::new());
            continue;
        };
        let name = number.to_string();
        make_directory(&name)?;
        sys::move_mount(&clone, Path::new(&name))
            .context(|| format!("attach layer {number} of an overlay"))?;
        names.push(name);
    }
    make_directory("merged")?;
    let merged = Path::new("merged");
    plain
        .mount_with(&layers.replace(data, &names).join(","), merged)
        .map_err(|e| {
            Error::Runtime(format!(
                "{e}; its lower layers are id-mapped, which overlay supports from Linux 5.19 on"
            ))
        })?;
    sys::clone_tree(merged, 0).context(|| "clone an overlay")
}

fn make_directory(name: &str) -> Result<()> {
    DirBuilder::new()
        .mode(0o700)
        .create(name)
        .context(|| at("create", Path::new(name)))
}

/// Id-maps a file system other than overlay, including the mounts below a recursive
/// bind.
fn mapped_mount(plain: &Plain<'_>, users: &OwnedFd, target: &Path) -> Result<OwnedFd> {
    plain.mount(target)?;
    mapped(target, sys::RECURSIVE, 0, users)
}

/// A clone of the mount at `path` with mapped owners.
fn mapped(path: &Path, recursive: u32, attributes: u64, users: &OwnedFd) -> Result<OwnedFd> {
    let tree = sys::clone_tree(path, recursive).map_err(|e| refused(path, e))?;
    sys::map_owners(&tree, recursive, attributes, users).map_err(|e| refused(path, e))?;
    Ok(tree)
}

fn refused(path: &Path, e: io::Error) -> Error {
    let hint = match e.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSYS) => "; the kernel has id-mapped mounts from Linux 5.12 on",
        Some(Errno::EINVAL) => "; its file system may not support id-mapped mounts",
        _ => "",
    };
    Error::Runtime(format!("id-map {}: {e}{hint}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_what_is_missing() {
        let message = |errno: Errno| refused(Path::new("/layer"), errno.into()).to_string();
        assert!(message(Errno::ENOSYS).contains("Linux 5.12"));
        assert!(message(Errno::EINVAL).contains("file system"));
        assert!(message(Errno::ENOENT).starts_with("id-map /layer: "));
    }
}
