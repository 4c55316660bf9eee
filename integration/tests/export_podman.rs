//! Podman's archives: imported, exported again, and restored by a stock Podman with runc.

use std::path::Path;

use cedana_integration::daemon::Daemon;
use cedana_integration::folder::{Folder, json};
use cedana_integration::podman::{Container, RUNTIME, podman, podman_ok};
use cedana_integration::{BUSYBOX, command, unique};

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
