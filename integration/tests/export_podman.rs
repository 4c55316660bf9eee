//! Podman's archives: imported, exported again, and restored by a stock Podman with runc.

use std::path::Path;

use cedana_integration::daemon::Daemon;
use cedana_integration::folder::{Folder, json};
use cedana_integration::podman::{Container, RUNTIME, podman, podman_ok};
use cedana_integration::{BUSYBOX, NAMESPACE, Run, command, unique};

/// Options of the workload.
const WORKLOAD: [&str; 4] = ["--memory", "16", "--file", "/held"];

#[track_caller]
fn write(container: &Container, path: &str, text: &str) {
    let script = format!("echo {text} >{path}");
    podman(&["exec", &container.name, "/bin/sh", "-c", &script]).ok();
}

#[test]
fn an_archive_of_podman_s_is_imported_and_exported_again() {
    let daemon = Daemon::start("podman");
    let folder = Folder::new("podman");
    for (runtime, compress) in [("runc", "zstd"), ("runc", "gzip"), (RUNTIME, "none")] {
        let volume = unique("volume");
        let data = format!("{volume}:/data");
        let flags = ["--network", "host", "--volume", &data];
        let container = Container::run_with(runtime, "import", &flags, &WORKLOAD);
        let before = container.report();
        write(&container, "/data/kept", "in the volume");
        write(&container, "/new", "in the layer");
        let name = unique("archive");
        let file = folder.file(&format!("{name}.tar")).display().to_string();
        container
            .checkpoint(&["--export", &file, "--compress", compress])
            .ok();
        let id = container.inspect("{{.Id}}");
        container.remove();
        podman(&["volume", "rm", &volume]).ok();

        let imported = json(&daemon.ok(&["checkpoint", "import", "--json", &file]));
        assert_eq!(imported["job"], name);
        assert_eq!(imported["type"], "runc");
        let path = imported["path"].as_str().unwrap_or_default();
        let shown = command("cedana-runc", &["inspect", path]).ok().stdout;
        assert!(shown.contains(&id), "{shown}");
        let again = folder.file(&format!("{name}-again")).display().to_string();
        let export = ["checkpoint", "export", &name, &again, "--format", "podman"];
        let flags = ["--compress", compress, "--runtime", "runc"];
        daemon.ok(&[&export[..], &flags].concat());
        daemon.ok(&["job", "delete", &name]);
        let shown = command("checkpointctl", &["show", &again]).ok();
        assert!(shown.stdout.contains("runc"), "{shown}");

        podman(&["container", "restore", "--import", &again]).ok();
        container.report().continues(&before);
        let kept = podman_ok(&["exec", &container.name, "/bin/cat", "/data/kept", "/new"]);
        assert_eq!(kept, "in the volume\nin the layer", "{runtime}");
        container.remove();
        podman(&["volume", "rm", &volume]).ok();
    }
}

#[test]
fn a_checkpoint_in_a_directory_is_exported_for_podman() {
    let daemon = Daemon::start("podman");
    let folder = Folder::new("podman");
    let container = Container::run_with(
        RUNTIME,
        "place",
        &["--network", "host"],
        &["--memory", "16"],
    );
    let before = container.report();
    container.checkpoint(&[]).ok();
    let directory = container.inspect("{{.State.CheckpointPath}}");
    assert!(Path::new(&directory).join("cedana-manifest.json").exists());
    let file = folder.file("web.tar.zst").display().to_string();
    let export = [
        "checkpoint",
        "export",
        &directory,
        &file,
        "--format",
        "podman",
    ];
    let unknown = daemon.cedana(&export).refused();
    assert!(unknown.contains("--image NAME"), "{unknown}");
    let id = podman_ok(&["image", "inspect", "--format", "{{.Id}}", BUSYBOX]);
    let image = ["--image", BUSYBOX, "--image-id", &id];
    let name = ["--name", &container.name];
    daemon.ok(&[&export[..], &image, &name].concat());
    container.remove();
    podman(&["container", "restore", "--import", &file]).ok();
    container.is("running");
    assert_eq!(container.inspect("{{.OCIRuntime}}"), "runc");
    container.report().continues(&before);
}

#[test]
fn a_checkpoint_of_containerd_s_is_exported_for_podman() {
    let daemon = Daemon::start("podman");
    let folder = Folder::new("podman");
    // A network namespace of its own, the mounts of containerd, and its file system.
    let container = Run::new("moved").workload(&["--memory", "16"]).detach();
    container.ready("workload");
    let before = container.report();
    let (id, place) = (container.id().to_owned(), folder.text());
    let root = format!("/run/containerd/runc/{NAMESPACE}");
    let dump = ["dump", "runc", &id, "--root", &root, "-d", &place];
    let said = daemon.ok(&dump);
    let archive = said.split_whitespace().last().unwrap_or_default();
    let file = folder.file("web.tar").display().to_string();
    let image = podman_ok(&["image", "inspect", "--format", "{{.Id}}", BUSYBOX]);
    let export = ["checkpoint", "export", archive, &file, "--format", "podman"];
    let image = [
        "--compress",
        "none",
        "--image",
        BUSYBOX,
        "--image-id",
        &image,
    ];
    daemon.ok(&[&export[..], &image].concat());
    let shown = command("checkpointctl", &["show", &file]).ok().stdout;
    assert!(
        shown.contains("Podman") && shown.contains("runc"),
        "{shown}"
    );
    let _removed = Removed(&id);
    podman(&["container", "restore", "--import", &file]).ok();
    let ask = || drop(podman(&["kill", "--signal", "USR1", &id]).ok());
    container.report_after("workload", ask).continues(&before);
}

/// A container of Podman's, removed when dropped.
struct Removed<'a>(&'a str);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        command("podman", &["rm", "--force", "--time", "0", self.0]);
    }
}
