//! Mounts and unmounts a container's root as containerd describes it.
//!
//! The work is done on a thread of its own: a slow or hung file system must not delay
//! the other containers of the pod, and mounting an overlay with many layers changes
//! the thread's working directory.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use containerd_shim::protos::types::mount::Mount;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::procfs;
use crate::{
    error::{Context, Error, Result, at},
    mount,
    own_thread::on_new_thread,
    reaper::Reaper,
};

/// Mounts `mounts` in order below `rootfs`, which is created if missing. If a mount
/// fails, the earlier ones are unmounted.
///
/// # Errors
/// The error of the failed mount.
pub(crate) async fn mount(mounts: Vec<Mount>, rootfs: PathBuf, reaper: Reaper) -> Result<()> {
    on_new_thread(move || {
        make_directory(&rootfs)?;
        for mount in &mounts {
            let mounted = target(&rootfs, &mount.target)
                .and_then(|target| mount::mount(mount, &target, &reaper));
            if let Err(e) = mounted {
                // Only the mount's error is reported.
                let _ = unmount_now(&rootfs);
                return Err(Error::Runtime(format!(
                    "failed to mount rootfs component: {e}"
                )));
            }
        }
        Ok(())
    })
    .await
}

/// Unmounts everything at and below `rootfs`.
///
/// # Errors
/// A mount that is still in use.
pub(crate) async fn unmount(rootfs: PathBuf) -> Result<()> {
    on_new_thread(move || unmount_now(&rootfs)).await
}

/// Unmounts like [`unmount`], but on the calling thread.
///
/// # Errors
/// Those of [`unmount`].
pub(crate) fn unmount_now(rootfs: &Path) -> Result<()> {
    mount::unmount(rootfs).map_err(|e| Error::Runtime(format!("failed rootfs umount: {e}")))
}

fn make_directory(rootfs: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        // Other users may search the directory, as with containerd's own shim: the
        // root of a user namespace is another user.
        .mode(0o711)
        .create(rootfs)
        .context(|| at("create", rootfs))
}

/// The path of a mount target: the root itself or a directory in it. Links and `..`
/// in the image don't lead out of the root.
fn target(rootfs: &Path, below: &str) -> Result<PathBuf> {
    let below = below.trim_start_matches('/');
    if below.is_empty() {
        return Ok(rootfs.to_owned());
    }
    let root = File::open(rootfs).context(|| at("open", rootfs))?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    let place = openat2(&root, below, how)
        .context(|| format!("find mount target {below:?} in {}", rootfs.display()))?;
    let link = procfs::descriptor(&place);
    fs::read_link(&link).context(|| at("read", &link))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_stay_below_the_root() {
        let bundle = tempfile::tempdir().unwrap();
        let bundle = bundle.path().canonicalize().unwrap();
        let root = bundle.join("rootfs");
        fs::create_dir_all(root.join("etc/deep")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("link")).unwrap();
        assert_eq!(target(&root, "").unwrap(), root);
        assert_eq!(target(&root, "/").unwrap(), root);
        assert_eq!(target(&root, "/etc/deep").unwrap(), root.join("etc/deep"));
        assert_eq!(target(&root, "../../etc").unwrap(), root.join("etc"));
        assert_eq!(target(&root, "link/deep").unwrap(), root.join("etc/deep"));
        let missing = target(&root, "none").unwrap_err().to_string();
        assert!(missing.contains("none"), "{missing}");
    }
}
