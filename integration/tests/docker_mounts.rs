//! Containers that mount file systems themselves: they are restored with their mounts,
//! and none of these leads out.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use cedana_integration::docker::{Container, Run, no_restore_here};
use cedana_integration::eventually;

/// Mounts directories of the root, of the volume /out and of a tmpfs, and file systems;
/// then again in a mount namespace within the container's. Two processes hold files on
/// them, read them, and write to the volume.
const MOUNTS: &str = "
mkdir -p /a/deep /below /volume /new /again /debug /inner /out/sub
echo content >/a/deep/file
mount --bind /a /below
mount --bind /out/sub /volume
mount -t tmpfs own /new
mkdir /new/directory
mount --bind /new/directory /again
mount -t debugfs own /debug
unshare -m sh -c '
  mount --bind /a/deep /inner
  mount -o remount,bind,ro /inner
  mount -t tmpfs own /mnt
  exec 4</inner/file
  while read line </inner/file; do echo $line >>/out/sub/inner; sleep 0.1; done' &
exec 4</below/deep/file
while read line </below/deep/file; do echo $line >>/volume/outer; sleep 0.1; done";

fn mounting(label: &str) -> Container {
    let run = Run::new(label).flags(&["--privileged"]);
    let container = run.command(&["sh", "-c", MOUNTS]).start();
    is_running(&container);
    container
}

/// Waits until both processes have read and written through their mounts.
#[track_caller]
fn is_running(container: &Container) {
    for file in ["inner", "outer"] {
        let path = container.out().join("sub").join(file);
        let _ = fs::remove_file(&path);
        eventually(&format!("{file} is written again"), || {
            let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
            text.contains("content").then_some(()).ok_or(text)
        });
    }
}

#[test]
fn a_container_is_restored_with_the_mounts_that_it_made() {
    if no_restore_here() {
        return;
    }
    let container = mounting("own-mounts");
    let mounts = || {
        container
            .exec(&["sh", "-c", "mount | sort"])
            .ok()
            .stdout
            .clone()
    };
    let before = mounts();
    for mountpoint in ["/below", "/volume", "/new", "/again", "/debug"] {
        assert!(before.contains(&format!(" on {mountpoint} ")), "{before}");
    }
    container.checkpoint_and_exit("cp");
    container.restore_and_run("cp");
    is_running(&container);
    let after = mounts();
    let lines = |mounts: &str| mounts.lines().count();
    assert_eq!(lines(&after), lines(&before), "{before}\n{after}");
    // And once more, from the restored mounts.
    container.checkpoint_and_exit("again");
    container.restore_and_run("again");
    is_running(&container);
}

#[test]
fn a_mount_does_not_follow_a_link_that_the_container_made() {
    if no_restore_here() {
        return;
    }
    let container = mounting("linked-mount");
    container.checkpoint_and_exit("cp");
    let upper = container.inspect("{{.GraphDriver.Data.UpperDir}}");
    let (shown, moved) = (Path::new(&upper).join("a"), Path::new(&upper).join("moved"));
    fs::rename(&shown, &moved).expect("the directory that is shown");
    symlink("/proc/self/fd/3", &shown).expect("a link");
    let reason = container.restore("cp").refused();
    assert!(reason.contains("behind a symbolic link"), "{reason}");
    fs::remove_file(&shown).expect("the link");
    fs::rename(&moved, &shown).expect("the directory");
    container.restore_and_run("cp");
    is_running(&container);
}
