//! Root mounts with containerd's own options: id-mapped layers, files as block devices,
//! file systems in user space.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cedana_integration::protos::types::mount::Mount;
use cedana_integration::{
    BUSYBOX, BareShim, Containerd, Run, SecondContainerd, command, descriptors_of, eventually,
    unique,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A directory on the disk itself, where an overlay can have its upper layer and the
/// kernel can id-map mounts. Removed when dropped.
struct Disk(PathBuf);

impl Disk {
    fn new() -> Self {
        let path = Path::new("/var/lib/containerd").join(unique("mounts"));
        make(&path);
        Self(path)
    }

    /// A directory in it.
    fn directory(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        make(&path);
        path
    }

    /// A layer with the mount points of a [`BareShim`]'s container.
    fn layer(&self, name: &str) -> PathBuf {
        let layer = self.directory(name);
        for directory in ["proc", "dev", "sys", "run", "tmp", "out"] {
            make(&layer.join(directory));
        }
        write(&layer.join("workload"), "");
        layer
    }

    /// The options of an overlay of `lower`, whose upper layer is `name`.
    fn overlay(&self, name: &str, lower: &[&Path]) -> Vec<String> {
        let lower: Vec<_> = lower.iter().map(|l| l.display().to_string()).collect();
        vec![
            format!(
                "workdir={}",
                self.directory(&format!("{name}-work")).display()
            ),
            format!("upperdir={}", self.directory(name).display()),
            format!("lowerdir={}", lower.join(":")),
        ]
    }

    /// `layer` as a file of the read-only file system erofs.
    fn erofs(&self, layer: &Path) -> PathBuf {
        let image = self.0.join("layer.erofs");
        let text = |path: &Path| path.display().to_string();
        command("mkfs.erofs", &["--quiet", &text(&image), &text(layer)]).ok();
        image
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn make(path: &Path) {
    fs::create_dir_all(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn mount(kind: &str, source: impl AsRef<Path>, options: &[String]) -> Mount {
    Mount {
        type_: kind.into(),
        source: source.as_ref().display().to_string(),
        options: options.to_vec(),
        ..Default::default()
    }
}

fn words(options: &[&str]) -> Vec<String> {
    options.iter().map(|&o| o.to_owned()).collect()
}

/// Lines of the mount table that mention `path`.
fn mounts_at(path: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_else(|e| panic!("{e}"));
    let path = path.display().to_string();
    let lines = table.lines().filter(|line| line.contains(&path));
    lines.map(str::to_owned).collect()
}

/// Loop devices whose file is below `path`. Other tests of this machine have others.
fn loop_devices(path: &Path) -> Vec<String> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    devices
        .filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok())
        .filter(|file| file.contains(path.to_str().unwrap_or_default()))
        .collect()
}

/// Processes whose command line mentions `path`.
fn processes(path: &Path) -> Vec<String> {
    let path = path.display().to_string();
    let all = command("ps", &["ax", "-o", "args"]).ok().stdout;
    let found = all.lines().filter(|line| line.contains(&path));
    found.map(str::to_owned).collect()
}

/// Runs a container whose root is `mounts`.
#[track_caller]
fn run(label: &str, flags: &[&str], mounts: Vec<Mount>) -> BareShim {
    let shim = BareShim::start(label, flags);
    let mut request = shim.request();
    request.rootfs = mounts;
    shim.run_as(&request);
    shim
}

/// The error of a container with this root; asserts that no mount is left.
#[track_caller]
fn refused(mounts: Vec<Mount>) -> String {
    let shim = BareShim::start("refused", &[]);
    let mut request = shim.request();
    request.rootfs = mounts;
    let reason = match shim.task().create(&request) {
        Err(refused) => refused.message,
        Ok(_) => panic!("this should have been refused"),
    };
    assert!(
        reason.contains("failed to mount rootfs component"),
        "{reason}"
    );
    assert_eq!(mounts_at(&shim.bundle()), Vec::<String>::new());
    reason
}

/// Ends and deletes the container; asserts that nothing of its root is left.
#[track_caller]
fn end(shim: &BareShim, disk: &Disk) {
    let task = shim.task();
    let ended = task
        .kill("", 9, true)
        .and_then(|()| task.wait(""))
        .and_then(|_| task.delete(""));
    ended.unwrap_or_else(|refused| panic!("{refused}"));
    assert_eq!(mounts_at(&shim.bundle()), Vec::<String>::new());
    eventually("nothing of the root is left", || {
        let left = [
            mounts_at(&disk.0),
            loop_devices(&disk.0),
            processes(&disk.0),
        ]
        .concat();
        if left.is_empty() {
            Ok(())
        } else {
            Err(left.join("\n"))
        }
    });
}

const MAPS: [&str; 2] = ["uidmap=0:100000:65536", "gidmap=0:200000:65536"];

/// Whether the kernel supports id-mapped layers of an overlay.
fn has_mapped_overlays() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split('.').map_while(|n| n.parse::<u32>().ok());
    let version = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    if version < (5, 19) {
        println!("skipped: overlay takes id-mapped layers from Linux 5.19 on, this is {release}");
    }
    version >= (5, 19)
}

#[test]
fn an_overlays_layers_are_id_mapped_and_the_disk_is_unchanged() {
    if !has_mapped_overlays() {
        return;
    }
    let disk = Disk::new();
    let (top, base) = (disk.directory("top"), disk.layer("base"));
    write(&top.join("of-top"), "");
    let mut options = disk.overlay("upper", &[&top, &base]);
    options.extend(words(&MAPS));
    let shim = run(
        "mapped",
        &["--memory", "2"],
        vec![mount("overlay", "overlay", &options)],
    );
    let before = shim.report();
    let root = shim.bundle().join("rootfs");
    for (file, on_disk) in [("of-top", &top), ("workload", &base)] {
        let owner = |path: PathBuf| {
            let meta = fs::metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            (meta.uid(), meta.gid())
        };
        assert_eq!(owner(root.join(file)), (100_000, 200_000), "{file}");
        assert_eq!(owner(on_disk.join(file)), (0, 0), "{file} on disk");
    }
    // The holder of the user namespace, a copy of the shim, has exited, and the shim
    // has closed its descriptor of that namespace.
    let shims = processes(Path::new(&format!("-id {} ", shim.id())));
    assert_eq!(shims.len(), 1, "{shims:?}");
    let open = descriptors_of(shim.pid());
    assert!(!open.iter().any(|name| name == "user"), "{open:?}");
    // One mount, since the layers' clones are detached.
    assert_eq!(mounts_at(&root).len(), 1, "{:?}", mounts_at(&root));

    let images = disk.directory("images");
    let done = shim.task().checkpoint(&images, None);
    done.unwrap_or_else(|refused| panic!("{refused}"));
    shim.report().continues(&before);
    let before = shim.report();
    let killed = shim
        .task()
        .kill("", 9, true)
        .and_then(|()| shim.task().wait(""));
    killed.unwrap_or_else(|refused| panic!("{refused}"));
    let next = shim.successor("mapped-next");
    let mut request = next.request();
    request.checkpoint = images.display().to_string();
    let restored = next
        .task()
        .create(&request)
        .and_then(|_| next.task().start(""));
    restored.unwrap_or_else(|refused| panic!("{refused}"));
    next.report_into(&shim).intact();
    assert_eq!(next.report_into(&shim).nonce(), before.nonce());
    drop(next);
    shim.task()
        .delete("")
        .unwrap_or_else(|refused| panic!("{refused}"));
    assert_eq!(mounts_at(&shim.bundle()), Vec::<String>::new());
    assert_eq!(mounts_at(&disk.0), Vec::<String>::new());
    // Owners on disk are not mapped. Otherwise the next mount would map them twice.
    assert_eq!(
        fs::metadata(base.join("workload")).map(|m| m.uid()).ok(),
        Some(0)
    );
}

#[test]
fn a_bind_mount_is_id_mapped_and_read_only() {
    if !has_mapped_overlays() {
        return;
    }
    let disk = Disk::new();
    let base = disk.layer("base");
    let mut options = words(&["rbind", "ro"]);
    options.extend(words(&MAPS));
    let shim = run("bind", &[], vec![mount("bind", &base, &options)]);
    let root = shim.bundle().join("rootfs");
    let owner = fs::metadata(root.join("workload")).map(|m| (m.uid(), m.gid()));
    assert_eq!(owner.ok(), Some((100_000, 200_000)));
    let written = fs::write(root.join("new"), "");
    assert_eq!(
        written.map_err(|e| e.kind()),
        Err(std::io::ErrorKind::ReadOnlyFilesystem)
    );
    end(&shim, &disk);
}

#[test]
fn layers_that_cannot_be_id_mapped_are_named() {
    let disk = Disk::new();
    let base = disk.layer("base");
    let mut options = disk.overlay("upper", &[&base, Path::new("/proc")]);
    options.extend(words(&MAPS));
    let reason = refused(vec![mount("overlay", "overlay", &options)]);
    assert!(reason.contains("id-map /proc"), "{reason}");
    let options = words(&["uidmap=0:1", "gidmap=0:0:1", "lowerdir=/x"]);
    let reason = refused(vec![mount("overlay", "overlay", &options)]);
    assert!(reason.contains("uidmap=0:1 is not"), "{reason}");
    assert_eq!(mounts_at(&disk.0), Vec::<String>::new());
}

#[test]
fn a_file_is_mounted_through_a_loop_device_that_is_removed_with_the_mount() {
    let disk = Disk::new();
    let image = disk.erofs(&disk.layer("base"));
    let tmp = Mount {
        target: "/tmp".into(),
        ..mount("tmpfs", "tmpfs", &words(&["nosuid", "size=1m"]))
    };
    let root = mount("erofs", &image, &words(&["ro", "loop"]));
    let shim = run("loop", &["--memory", "2"], vec![root, tmp]);
    let before = shim.report();
    assert_eq!(loop_devices(&image).len(), 1);
    let open = descriptors_of(shim.pid());
    assert!(
        !open.iter().any(|name| name.starts_with("/dev/loop")),
        "{open:?}"
    );
    let table = mounts_at(&shim.bundle());
    assert_eq!(table.len(), 2, "{table:?}");
    assert!(table[1].contains("nosuid"), "{table:?}");
    let images = disk.directory("images");
    let done = shim.task().checkpoint(&images, None);
    done.unwrap_or_else(|refused| panic!("{refused}"));
    shim.report().continues(&before);
    end(&shim, &disk);
}

#[test]
fn a_failed_mount_undoes_the_mounts_before_it() {
    let disk = Disk::new();
    let image = disk.erofs(&disk.layer("base"));
    let root = || mount("erofs", &image, &words(&["ro", "loop"]));
    let reason = refused(vec![root(), mount("no-such-type", "x", &[])]);
    assert!(reason.contains("no-such-type"), "{reason}");
    let outside = Mount {
        target: "../../nothing".into(),
        ..mount("tmpfs", "tmpfs", &[])
    };
    let reason = refused(vec![root(), outside]);
    assert!(reason.contains("../../nothing"), "{reason}");
    let missing = disk.0.join("missing.img");
    let reason = refused(vec![root(), mount("ext4", &missing, &words(&["loop"]))]);
    assert!(reason.contains("missing.img"), "{reason}");
    eventually("no loop device is left", || match loop_devices(&disk.0) {
        left if left.is_empty() => Ok(()),
        left => Err(left.join("\n")),
    });
}

#[test]
fn mounts_that_need_containerds_mount_manager_are_named() {
    let reason = refused(vec![mount("format/overlay", "overlay", &[])]);
    assert!(reason.contains("format/overlay"), "{reason}");
    let options = words(&["X-containerd.mkdir.path=/x", "lowerdir=/x"]);
    let reason = refused(vec![mount("overlay", "overlay", &options)]);
    assert!(reason.contains("X-containerd.mkdir.path=/x"), "{reason}");
    assert!(reason.contains("mount manager"), "{reason}");
}

#[test]
fn layers_whose_options_exceed_a_page_are_mounted() {
    let disk = Disk::new();
    let base = disk.layer("snapshots/0/fs");
    let mut lower: Vec<_> = (1..100)
        .map(|n| disk.directory(&format!("snapshots/{n}/fs")))
        .collect();
    write(&lower[98].join("of-99"), "");
    lower.push(base);
    let lower: Vec<_> = lower.iter().map(PathBuf::as_path).collect();
    let options = disk.overlay("upper", &lower);
    assert!(options.join(",").len() > 4096);
    let shim = run("long", &[], vec![mount("overlay", "overlay", &options)]);
    assert!(shim.bundle().join("rootfs/of-99").exists());
    end(&shim, &disk);
    if has_mapped_overlays() {
        let options = [options, words(&MAPS)].concat();
        let shim = run(
            "long-mapped",
            &[],
            vec![mount("overlay", "overlay", &options)],
        );
        let owner = fs::metadata(shim.bundle().join("rootfs/of-99")).map(|m| m.uid());
        assert_eq!(owner.ok(), Some(100_000));
        end(&shim, &disk);
    }
}

#[test]
fn a_fuse_root_is_mounted_by_its_helper_whose_server_exits_with_the_container() {
    let disk = Disk::new();
    let options = disk.overlay("upper", &[&disk.layer("base")]);
    let root = mount("fuse3.fuse-overlayfs", "overlay", &options);
    let shim = run("fuse", &[], vec![root]);
    shim.report().intact();
    let table = mounts_at(&shim.bundle());
    assert!(table.iter().any(|line| line.contains("fuse")), "{table:?}");
    assert!(
        !processes(&disk.0).is_empty(),
        "no server of the file system runs"
    );
    end(&shim, &disk);

    let nothing = mount("fuse3.no-such-program", "x", &[]);
    let reason = refused(vec![nothing]);
    assert!(reason.contains("no-such-program"), "{reason}");
}

#[test]
fn a_container_in_a_user_namespace_uses_its_images_layers() {
    let run = Run::new("user-namespace")
        .flags(&["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"])
        .flags(&["--remap-labels"])
        .workload(&["--memory", "2"]);
    let container = writing_as_mapped_root(run).detach();
    let before = container.report();
    let uid = fs::metadata(format!("/proc/{}", container.pid())).map(|m| m.uid());
    assert_eq!(uid.ok(), Some(100_000));
    // Asks by exit code: containerd's client may lose an exec's output, since it closes
    // the pipe when the process has exited.
    let holds = |script: &str| container.exec(&["sh", "-ec", script]).ok();
    holds("test $(stat -c %u:%g /bin/busybox) = 0:0");
    holds("echo kept >/made; test $(stat -c %u:%g /made) = 0:0");
    let _image = container.checkpoint(&["--rw"]);
    container.report().continues(&before);
}

/// Lets the root of a user namespace write to `/out`.
fn writing_as_mapped_root(run: Run) -> Run {
    let out = Path::new("/var/tmp/cedana-tests").join(run.id());
    let open = fs::set_permissions(&out, fs::Permissions::from_mode(0o777));
    open.unwrap_or_else(|e| panic!("{}: {e}", out.display()));
    run
}

#[test]
fn a_container_in_a_user_namespace_is_restored() {
    // On disk its files belong to the mapped users, since `ctr containers restore` does
    // not ask the snapshotter to map them.
    let run = Run::new("user-namespace-restored")
        .flags(&["--uidmap", "0:300000:65536", "--gidmap", "0:300000:65536"])
        .workload(&["--memory", "12", "--children", "1"]);
    let container = writing_as_mapped_root(run).detach();
    let image = container.checkpoint(&["--rw", "--image"]);
    let before = container.report();
    container.end_task();
    let restored = container.restore(&image, &["--rw"]);
    restored.report().intact();
    assert_eq!(restored.report().nonce(), before.nonce());
    let uid = fs::metadata(format!("/proc/{}", restored.pid())).map(|m| m.uid());
    assert_eq!(uid.ok(), Some(300_000));
    let loopback = restored.exec(&["ping", "-c", "1", "127.0.0.1"]);
    loopback.ok();
}

#[test]
fn the_id_mapped_root_of_a_killed_shim_is_unmounted() {
    let run = Run::new("user-namespace-killed")
        .flags(&["--uidmap", "0:200000:65536", "--gidmap", "0:200000:65536"])
        .flags(&["--remap-labels", "--null-io"])
        .command(&["tail", "-f", "/dev/null"]);
    let root = PathBuf::from(format!("/default/{}/rootfs", run.id()));
    let container = run.detach();
    assert_eq!(mounts_at(&root).len(), 1);
    let shim = Pid::from_raw(container.shim_pid().cast_signed());
    kill(shim, Signal::SIGKILL).unwrap_or_else(|error| panic!("the shim: {error}"));
    eventually("the root is unmounted", || match mounts_at(&root) {
        left if left.is_empty() => Ok(()),
        left => Err(left.join("\n")),
    });
}

#[test]
fn a_container_on_the_blockfile_snapshotter_is_restored_on_a_loop_device() {
    // Alone, since loop devices and a second containerd's load concern the machine.
    let _alone = Containerd::alone();
    let second = SecondContainerd::start(|home| {
        let scratch = home.join("scratch");
        let file = fs::File::create(&scratch).and_then(|file| file.set_len(64 << 20));
        file.unwrap_or_else(|e| panic!("{}: {e}", scratch.display()));
        let scratch = scratch.display().to_string();
        command("mkfs.ext4", &["-q", &scratch]).ok();
        format!(
            "[plugins.\"io.containerd.snapshotter.v1.blockfile\"]\n\
             scratch_file = {scratch:?}\nfs_type = \"ext4\"\n"
        )
    });
    let runtime = cedana_integration::runtime();
    let flags = ["--snapshotter", "blockfile", "--runtime", &runtime];
    // The program keeps its answer in memory only.
    let script = "kept=$(cat /proc/sys/kernel/random/uuid); \
                  trap 'echo $kept >/told' USR1; while :; do sleep 1; done";
    let run = [&["run", "-d", "--null-io"], &flags[..]].concat();
    let first = [&run[..], &[BUSYBOX, "first", "sh", "-c", script]].concat();
    second.ctr(&first).ok();
    assert_eq!(loop_devices(second.home()).len(), 1);
    let exec = |id: &str, script: &str| {
        let exec_id = unique("exec");
        second.ctr(&[
            "task",
            "exec",
            "--exec-id",
            &exec_id,
            id,
            "sh",
            "-c",
            script,
        ])
    };
    let tells = |id: &str| {
        eventually("the program answers", || {
            second
                .ctr(&["task", "kill", "--signal", "SIGUSR1", id])
                .ok();
            let told = exec(id, "cat /told");
            let uuid = told.stdout.trim().to_owned();
            if uuid.len() == 36 {
                Ok(uuid)
            } else {
                Err(told.to_string())
            }
        })
    };
    exec("first", "grep ' / / .*/dev/loop' /proc/self/mountinfo").ok();
    let kept = tells("first");
    // Without --rw: containerd copies the writable layer from a read-only mount, which
    // ext4 refuses while its journal is in use.
    let image = "cedana.test/blockfile:latest";
    second
        .ctr(&["containers", "checkpoint", "--task", "first", image])
        .ok();
    assert_eq!(tells("first"), kept);
    let remove = |id: &str| {
        second.ctr(&["task", "delete", "--force", id]);
        second.ctr(&["containers", "delete", id]).ok();
    };
    remove("first");
    second
        .ctr(&["containers", "restore", "--live", "second", image])
        .ok();
    assert_eq!(tells("second"), kept);
    remove("second");
    eventually("no device and no mount is left", || {
        let left = [loop_devices(second.home()), mounts_at(second.home())].concat();
        if left.is_empty() {
            Ok(())
        } else {
            Err(left.join("\n"))
        }
    });
}
