//! Debian's Podman and conmon, with `cedana-runc` as the runtime.
//!
//! Podman packs checkpoints itself: the runtime writes a directory, Podman adds its own
//! files and reads them before a restore. It calls some of the runtime's commands with
//! `XDG_RUNTIME_DIR` as the only variable.

use std::fs;
use std::path::Path;

use cedana_integration::folder::{Folder, json, read};
use cedana_integration::podman::{Container, RUNTIME, podman, podman_ok};
use cedana_integration::{Report, command, eventually, unique, workload};

#[test]
fn podman_run_exec_pause_stop_and_rm_work() {
    let container = Container::run("life", &[], &["--memory", "4", "--term-code", "7"]);
    container.is("running");
    let before = container.report();
    let entered = podman(&["exec", &container.name, "/bin/echo", "hello"]).ok();
    assert_eq!(entered.stdout, "hello\n");

    podman(&["pause", &container.name]).ok();
    container.is("paused");
    podman(&["unpause", &container.name]).ok();
    container.report().continues(&before);

    // The exit code of its handler of SIGTERM, not of a later SIGKILL.
    podman(&["stop", "--time", "60", &container.name]).ok();
    container.is("exited");
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "7");

    podman(&["start", &container.name]).ok();
    podman(&["kill", &container.name]).ok();
    assert_eq!(podman_ok(&["wait", &container.name]), "137");
    container.remove();
    let left = podman(&["container", "exists", &container.name]);
    assert_eq!(left.code, 1, "{left}");
}

#[test]
fn a_checkpoint_in_place_is_restored_and_statistics_are_printed() {
    let container = Container::run("place", &[], &["--memory", "16", "--children", "1"]);
    let before = container.report();
    let taken = container.checkpoint(&["--print-stats"]).ok();
    let figures = json(&taken.stdout);
    let written = &figures["container_statistics"][0]["criu_statistics"]["pages_written"];
    assert!(written.as_u64().is_some_and(|pages| pages > 0), "{taken}");
    container.is("exited");
    assert_eq!(container.inspect("{{.State.Checkpointed}}"), "true");

    let restored = podman(&["container", "restore", "--print-stats", &container.name]).ok();
    let figures = json(&restored.stdout);
    let took = &figures["container_statistics"][0]["criu_statistics"]["restore_time"];
    assert!(took.as_u64().is_some_and(|took| took > 0), "{restored}");
    container.report().continues(&before);

    // Podman has removed the checkpoint's directory, and a second checkpoint needs all
    // of the memory.
    container.checkpoint(&["--keep"]).ok();
    let log = container.inspect("{{.State.CheckpointLog}}");
    assert!(read(log.as_ref()).contains("Dumping finished successfully"));
    podman(&["container", "restore", "--keep", &container.name]).ok();
    container.report().continues(&before);
    let log = container.inspect("{{.State.RestoreLog}}");
    assert!(read(log.as_ref()).contains("Restore finished successfully"));
}

/// Asserts that an export begins as a file of this compression does.
#[track_caller]
fn is_compressed(file: &Path, compression: &str) {
    let bytes = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let found = match bytes.as_slice() {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0x1f, 0x8b, ..] => "gzip",
        // The magic of a tar file is at 257.
        tar if tar.get(257..262) == Some(b"ustar") => "none",
        _ => "unknown",
    };
    assert_eq!(found, compression);
}

#[test]
fn an_exported_checkpoint_is_imported_after_the_container_is_removed() {
    let exports = Folder::new("exports");
    for compression in ["zstd", "gzip", "none"] {
        let volume = unique("volume");
        let container = Container::run(
            "export",
            &["--volume", &format!("{volume}:/data")],
            &["--memory", "16", "--file", "/held"],
        );
        let before = container.report();
        for (path, text) in [("/data/kept", "in the volume"), ("/new", "in the layer")] {
            let script = format!("echo {text} >{path}");
            podman(&["exec", &container.name, "/bin/sh", "-c", &script]).ok();
        }
        let file = exports.file(compression).display().to_string();
        container
            .checkpoint(&["--export", &file, "--compress", compression])
            .ok();
        is_compressed(file.as_ref(), compression);
        container.remove();
        podman(&["volume", "rm", &volume]).ok();

        let shown = command("checkpointctl", &["show", &file]).ok();
        assert!(shown.stdout.contains(RUNTIME), "{shown}");

        podman(&["container", "restore", "--import", &file]).ok();
        container.report().continues(&before);
        let kept = podman_ok(&["exec", &container.name, "/bin/cat", "/data/kept", "/new"]);
        assert_eq!(kept, "in the volume\nin the layer", "{compression}");
        container.remove();
        podman(&["volume", "rm", &volume]).ok();
    }
}

#[test]
fn a_checkpoint_with_leave_running_is_restored_under_other_names() {
    let container = Container::run("copies", &[], &["--memory", "16"]);
    let before = container.report();
    let exports = Folder::new("exports");
    let file = exports.file("checkpoint").display().to_string();
    container
        .checkpoint(&["--leave-running", "--export", &file])
        .ok();
    container.is("running");
    container.report().continues(&before);
    container.remove();
    for copy in [unique("copy"), unique("copy")] {
        let copy = Container {
            name: copy,
            out: Folder::new("unused"),
        };
        let restore = ["container", "restore", "--import", &file, "--name"];
        podman(&[&restore[..], &[&copy.name]].concat()).ok();
        copy.is("running");
        container.report_of(&copy.name).continues(&before);
    }
}

/// Without `PATH`, the wrapper finds runc and CRIU in the usual directories.
#[test]
fn every_command_works_in_an_empty_environment() {
    let bundle = Folder::new("bare");
    let id = unique("bare");
    let _deleted = Deleted(&id);
    for directory in ["proc", "dev", "sys", "tmp", "out"] {
        fs::create_dir_all(bundle.file("rootfs").join(directory)).expect("a folder");
    }
    fs::copy(workload::installed(), bundle.file("rootfs/workload")).expect("a copy");
    let script = |line: &str| command("sh", &["-c", &format!("cd {} && {line}", bundle.text())]);
    let bare = format!("env --ignore-environment /usr/local/bin/{RUNTIME}");
    script(&format!("{bare} spec")).ok();
    let mut spec = json(&read(&bundle.file("config.json")));
    spec["process"]["args"] = [workload::PATH, "--memory", "4"].into();
    spec["process"]["terminal"] = false.into();
    spec["root"]["readonly"] = false.into();
    fs::write(bundle.file("config.json"), spec.to_string()).expect("a specification");

    // The container keeps its streams open, so a pipe to this process would not end.
    let start = |verb: &str| {
        let line = format!(
            "{{ : | {{ {bare} {verb} --detach {id}; : >ended; }} 2>&1 | cat >said; }} \
             </dev/null >/dev/null 2>&1 &"
        );
        script(&format!("rm -f said ended; {line}")).ok();
        // A restore watches init for a while before it exits.
        eventually(&format!("the {verb} has exited"), || {
            fs::metadata(bundle.file("ended")).map_err(|error| error.to_string())
        });
    };
    let verb = |words: &str| script(&format!("{bare} {words}"));
    let status = |wanted: &str| {
        eventually(&format!("the container is {wanted}"), || {
            let state = verb(&format!("state {id}"));
            let said = fs::read_to_string(bundle.file("said"));
            match state.code == 0 && json(&state.stdout)["status"] == wanted {
                true => Ok(()),
                false => Err(format!("{state}; {said:?}")),
            }
        });
    };
    let report = || {
        let path = bundle.file("rootfs/out/workload.report");
        let _ = fs::remove_file(&path);
        verb(&format!("kill {id} USR1")).ok();
        Report::parse(&eventually("the workload reports", || {
            fs::read_to_string(&path).map_err(|error| error.to_string())
        }))
    };

    start("run");
    status("running");
    eventually("the workload is ready", || {
        fs::metadata(bundle.file("rootfs/out/workload.ready")).map_err(|error| error.to_string())
    });
    let before = report();
    assert!(verb("list --quiet").ok().stdout.contains(&id));
    verb(&format!("ps {id}")).ok();
    verb(&format!("exec {id} /workload --name")).refused();
    verb(&format!("pause {id}")).ok();
    status("paused");
    verb(&format!("resume {id}")).ok();
    verb(&format!("checkpoint --leave-running {id}")).ok();
    report().continues(&before);
    verb(&format!("checkpoint {id}")).ok();
    start("restore");
    status("running");
    report().continues(&before);
    verb(&format!("kill {id} KILL")).ok();
    status("stopped");
    verb(&format!("delete {id}")).ok();
    verb(&format!("state {id}")).refused();
}

/// A container without an engine, deleted when dropped.
struct Deleted<'a>(&'a str);

impl Drop for Deleted<'_> {
    fn drop(&mut self) {
        command("runc", &["delete", "--force", self.0]);
    }
}

#[test]
fn a_refused_checkpoint_gives_the_reason_and_the_container_continues() {
    let container = Container::run(
        "refused",
        &["--annotation", "io.cedana.checkpoint.tcp_established=false"],
        &["--tcp"],
    );
    let before = container.report();
    let why = container.checkpoint(&[]).refused();
    assert!(why.contains("tcp_established"), "{why}");
    container.is("running");
    container.report().continues(&before);
}

#[test]
fn connections_are_closed_with_tcp_close() {
    if !podman_ok(&["container", "restore", "--help"]).contains("--tcp-close") {
        println!("skipped: this Podman has no restore --tcp-close");
        return;
    }
    let container = Container::run("close", &[], &["--memory", "4", "--tcp"]);
    let before = container.report();
    container.checkpoint(&["--tcp-established"]).ok();
    // runc has no such flag, so Podman can't do this with runc alone.
    podman(&["container", "restore", "--tcp-close", &container.name]).ok();
    let after = container.report();
    assert_eq!(after.nonce(), before.nonce());
    assert_eq!(after.get("memory"), "ok");
    assert_ne!(after.get("tcp"), "ok");
}

#[test]
fn a_pre_checkpoint_is_the_parent_of_the_checkpoint() {
    let tracked = command("criu", &["check", "--feature", "mem_dirty_track"]);
    if tracked.code != 0 {
        println!("skipped: this kernel does not track which pages are written to (soft-dirty)");
        return;
    }
    let container = Container::run("pre", &[], &["--memory", "16"]);
    let before = container.report();
    let exports = Folder::new("exports");
    let [first, second] = ["first", "second"].map(|name| exports.file(name).display().to_string());
    container
        .checkpoint(&["--pre-checkpoint", "--export", &first])
        .ok();
    container.is("running");
    container
        .checkpoint(&["--with-previous", "--export", &second])
        .ok();
    container.remove();
    let restore = ["container", "restore", "--import-previous"];
    podman(&[&restore[..], &[&first, "--import", &second]].concat()).ok();
    container.report().continues(&before);
}
