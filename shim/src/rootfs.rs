//! Mounting and unmounting a container's root, which containerd describes and
//! the shim performs.
//!
//! The work is done on a thread of its own: mounting an overlay with many
//! layers changes the working directory of the thread that does it, and a slow
//! or hung file system must not hold up the other containers of the pod.

use std::path::{Path, PathBuf};

use containerd_shim::{
    mount::{mount_rootfs, umount_recursive},
    protos::types::mount::Mount,
};
use tokio::sync::oneshot;

use crate::error::{Context, Error, Result, at};

/// Mounts `mounts` in order below `rootfs`, which is made if need be. When one
/// fails, those before it are undone.
///
/// # Errors
/// Names the mount that failed.
pub(crate) async fn mount(mounts: Vec<Mount>, rootfs: PathBuf) -> Result<()> {
    on_own_thread(move || {
        make_directory(&rootfs)?;
        for mount in &mounts {
            let mounted = target(&rootfs, &mount.target).and_then(|target| {
                mount_rootfs(
                    Some(mount.type_.as_str()).filter(|t| !t.is_empty()),
                    Some(mount.source.as_str()).filter(|s| !s.is_empty()),
                    &mount.options,
                    target,
                )
                .map_err(|e| Error::Runtime(format!("failed to mount rootfs component: {e}")))
            });
            if let Err(e) = mounted {
                // The first failure is the one to tell.
                let _ = unmount_now(&rootfs);
                return Err(e);
            }
        }
        Ok(())
    })
    .await
}

/// Undoes [`mount`], and whatever else was mounted below.
///
/// # Errors
/// When something below is still in use.
pub(crate) async fn unmount(rootfs: PathBuf) -> Result<()> {
    on_own_thread(move || unmount_now(&rootfs)).await
}

/// [`unmount`] for callers that have nothing else to do meanwhile.
///
/// # Errors
/// As [`unmount`].
pub(crate) fn unmount_now(rootfs: &Path) -> Result<()> {
    umount_recursive(rootfs.to_str(), 0)
        .map_err(|e| Error::Runtime(format!("failed rootfs umount: {}: {e}", rootfs.display())))
}

fn make_directory(rootfs: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        // Others may pass through, as with containerd's own shim: a user
        // namespace's root is one of them.
        .mode(0o711)
        .create(rootfs)
        .context(|| at("create", rootfs))
}

/// A mount's place: the root itself or a folder in it.
fn target(rootfs: &Path, below: &str) -> Result<PathBuf> {
    let below = Path::new(below.trim_start_matches('/'));
    if below.components().any(|c| c.as_os_str() == "..") {
        return Err(Error::InvalidArgument(format!(
            "mount target {} leaves the container's root",
            below.display()
        )));
    }
    Ok(rootfs.join(below))
}

async fn on_own_thread(work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let (done, result) = oneshot::channel();
    std::thread::Builder::new()
        .name("mount".into())
        .spawn(move || drop(done.send(work())))
        .context(|| "start a thread")?;
    result
        .await
        .map_err(|_| Error::Runtime("mounting ended without a result".into()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_stay_below_the_root() {
        let root = Path::new("/b/rootfs");
        assert_eq!(target(root, "").unwrap(), Path::new("/b/rootfs/"));
        assert_eq!(target(root, "/etc").unwrap(), Path::new("/b/rootfs/etc"));
        assert!(target(root, "../../etc").is_err());
    }
}
