//! Programs that are killed during a checkpoint: what their clients are told, and
//! what stays.
//!
//! The runtime stops before a gate, so the middle lasts as long as the story
//! wants.

use std::fs;
use std::path::Path;
use std::thread;

use cedana_integration::api::Status;
use cedana_integration::protos::protobuf::Message;
use cedana_integration::protos::types::introspection::RuntimeInfo;
use cedana_integration::{
    Containerd, Gate, Leaks, Run, command, ctr, ctr_ok, eventually, named_as_stock,
};

/// The image directory of a checkpoint, empty.
fn images(out: &Path) -> std::path::PathBuf {
    let images = out.join("images");
    fs::create_dir(&images).unwrap_or_else(|error| panic!("{error}"));
    images
}

#[test]
fn a_wrapper_that_is_killed_leaves_the_container_running_and_no_checkpoint() {
    let _alone = Containerd::alone();
    let gate = Gate::before("checkpoint");
    let container = Run::new("wrapper")
        .runtime_binary(&gate.program())
        .workload(&[])
        .detach();
    let before = container.report();
    let images = images(container.out());
    let leaks = Leaks::before(&[container.id(), &gate.program().display().to_string()]);
    let (task, path) = (container.task(), images.clone());
    let asking = thread::spawn(move || task.checkpoint(&path, None));
    gate.arrived();
    let pattern = format!("cedana-runc .* checkpoint .*{}$", container.id());
    command("pkill", &["-KILL", "-f", &pattern]).ok();

    let answer = asking
        .join()
        .unwrap_or_else(|_| panic!("the asking thread"));
    assert!(answer.is_err(), "a killed checkpoint succeeded");
    // The runtime that waited for the gate went with it.
    eventually("nothing of the checkpoint runs", || {
        let processes = command("ps", &["ax", "-o", "args"]).ok().stdout;
        let runtime = format!("{} ", gate.program().display());
        match processes.lines().find(|line| line.contains(&runtime)) {
            Some(line) => Err(line.to_owned()),
            None => Ok(()),
        }
    });
    leaks.none();
    let names = || -> Vec<_> {
        let entries = fs::read_dir(&images).into_iter().flatten();
        entries
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .collect()
    };
    // What a killed wrapper was writing stays, under a name that is
    // no checkpoint's, until the next one.
    assert_eq!(names(), [".cedana-new"]);
    container.report().continues(&before);
    drop(gate);
    let retry = container.task().checkpoint(&images, None);
    assert!(retry.is_ok(), "{retry:?}");
    let names = names();
    assert!(
        names.iter().any(|name| name == "inventory.img"),
        "{names:?}"
    );
    assert!(!names.iter().any(|name| name == ".cedana-new"), "{names:?}");
    container.report().continues(&before);
}

#[test]
fn a_crash_of_containerd_during_a_checkpoint_leaves_a_task_that_can_be_used() {
    let containerd = Containerd::alone();
    let gate = Gate::before("checkpoint");
    let container = Run::new("crash")
        .runtime_binary(&gate.program())
        .workload(&["--term-code", "5"])
        .detach();
    let before = container.report();
    let id = container.id().to_owned();
    let client = thread::spawn(move || ctr(&["task", "checkpoint", &id]));
    gate.arrived();
    containerd.crash(|| gate.open());
    let client = client.join().unwrap_or_else(|_| panic!("the client"));
    assert_ne!(client.code, 0, "the client lost its containerd: {client}");

    // The client had the task paused and was not there to resume it.
    let task = container.task();
    eventually("the checkpoint is over", || {
        match task.state("").map(|state| state.status.enum_value()) {
            Ok(Ok(Status::PAUSED)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    ctr_ok(&["task", "resume", container.id()]);
    container.report().continues(&before);
    container.kill("SIGTERM");
    container.stopped();
    let deleted = ctr(&["task", "delete", container.id()]);
    assert!(deleted.stderr.contains("exit code 5"), "{deleted}");
}

#[test]
fn the_binary_says_what_it_is_and_what_its_runtime_can() {
    if named_as_stock() {
        println!("skipped: containerd's own shim is not ours to question");
        return;
    }
    let said = command("containerd-shim-cedana-v2", &["-v"]).ok();
    assert!(said.stdout.contains("Version:"), "{said}");
    let script = "containerd-shim-cedana-v2 -info >/tmp/runtime-info";
    command("sh", &["-c", script]).ok();
    let bytes = fs::read("/tmp/runtime-info").unwrap_or_else(|error| panic!("{error}"));
    let _ = fs::remove_file("/tmp/runtime-info");
    let info = RuntimeInfo::parse_from_bytes(&bytes).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(info.name, "io.containerd.cedana.v2");
    let features = String::from_utf8_lossy(&info.features.value);
    assert!(features.contains("\"mountOptions\""), "{features}");
    assert!(info.features.type_url.ends_with("/features/Features"));
}
