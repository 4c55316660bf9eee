//! Kills programs during a checkpoint, and verifies the answers and what stays.
//!
//! The runtime waits at a gate, so the checkpoint lasts until the story opens it.

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
        .unwrap_or_else(|_| panic!("the checkpoint's thread"));
    assert!(answer.is_err(), "a killed checkpoint succeeded");
    // The runtime at the gate was killed with the wrapper.
    eventually("no process of the checkpoint runs", || {
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
    // The files of a killed wrapper stay until the next checkpoint, under a name that
    // no checkpoint has.
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
fn a_task_can_be_resumed_after_containerd_was_killed_during_its_checkpoint() {
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
    assert_ne!(
        client.code, 0,
        "ctr succeeded although containerd was killed: {client}"
    );

    // ctr had paused the task and has exited without a resume.
    let task = container.task();
    eventually("the checkpoint is complete", || {
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
fn the_shim_prints_its_version_and_the_runtimes_features() {
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
