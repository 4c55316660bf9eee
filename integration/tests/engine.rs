//! Stops containerd, kills shims and removes CRIU while containers run.
//!
//! Each story holds [`Containerd`], so they run one after the other.

use std::fs;
use std::thread;

use cedana_integration::{Containerd, Events, Image, Leftovers, Run, ctr, ctr_ok, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn a_container_survives_a_restart_of_containerd() {
    let containerd = Containerd::alone();
    let container = Run::new("restart")
        .workload(&["--term-code", "21"])
        .detach();
    let (before, shim) = (container.report(), container.shim_pid());
    containerd.restart(|| {});
    container
        .is("RUNNING")
        .unwrap_or_else(|status| panic!("it should run: {status}"));
    assert_eq!(container.shim_pid(), shim);
    assert_eq!(container.exec(&["sh", "-c", "exit 4"]).code, 4);
    container.report().continues(&before);
    let image = container.checkpoint(&["--rw", "--image"]);
    container.kill("SIGTERM");
    container.stopped();
    let deleted = ctr(&["task", "delete", container.id()]);
    assert!(deleted.stderr.contains("exit code 21"), "{deleted}");
    container
        .restore(&image, &["--rw"])
        .report()
        .continues(&before);
}

#[test]
fn an_exit_while_containerd_is_stopped_is_reported_after_its_start() {
    let containerd = Containerd::alone();
    let container = Run::new("away").workload(&["--term-code", "22"]).detach();
    let task = container.task();
    containerd.crash(|| {
        // The shim answers without containerd.
        task.kill("", 15, false)
            .unwrap_or_else(|refused| panic!("{refused}"));
        let exit = task.wait("").unwrap_or_else(|refused| panic!("{refused}"));
        assert_eq!(exit.exit_status, 22);
    });
    // containerd 1.7 deletes a task that exited meanwhile, 2.1 keeps it.
    let told = eventually("containerd reports the exit", || match container.status() {
        Some((_, status)) if status == "STOPPED" => Ok(true),
        None => Ok(false),
        other => Err(format!("{other:?}")),
    });
    if told {
        let deleted = ctr(&["task", "delete", container.id()]);
        assert!(deleted.stderr.contains("exit code 22"), "{deleted}");
    }
    container.not_ready();
    ctr_ok(&["task", "start", "--detach", container.id()]);
    container.ready("workload");
    container.report().intact();
}

#[test]
fn a_killed_shim_leaves_nothing_and_the_container_can_be_started_again() {
    let _alone = Containerd::alone();
    // The first container creates what stays, such as caches.
    drop(Run::new("warm-up").workload(&[]).detach());
    let before = Leftovers::now();
    let events = Events::watch();
    // Without pipes: ctr, which would remove them, has exited.
    let container = Run::new("shim-killed")
        .flags(&["--null-io"])
        .workload(&[])
        .detach();
    let init = container.pid();
    let shim = Pid::from_raw(container.shim_pid().cast_signed());
    kill(shim, Signal::SIGKILL).unwrap_or_else(|error| panic!("the shim: {error}"));

    let exit = events.expect(container.id(), "/tasks/exit");
    assert_eq!(exit.body["exit_status"], 137);
    eventually(
        "the container's process has exited",
        || match fs::metadata(format!("/proc/{init}")) {
            Ok(_) => Err("it runs".into()),
            Err(_) => Ok(()),
        },
    );
    eventually("the task is deleted", || match container.status() {
        None => Ok(()),
        Some(status) => Err(format!("{status:?}")),
    });
    // The task's id is free again.
    container.not_ready();
    ctr_ok(&["task", "start", "--detach", "--null-io", container.id()]);
    container.ready("workload");
    container.report().intact();
    drop(container);
    drop(events);
    before.unchanged();
}

#[test]
fn a_pod_has_one_shim_and_its_containers_end_separately() {
    let _alone = Containerd::alone();
    let before = Leftovers::now();
    let sandbox = Run::new("pod");
    let pod = sandbox.id().to_owned();
    let sandbox = sandbox.in_pod(&pod).workload(&[]).detach();
    let first = Run::new("first").in_pod(&pod).workload(&[]).detach();
    let second = Run::new("second")
        .in_pod(&pod)
        .workload(&["--term-code", "23"])
        .detach();
    let shim = sandbox.shim_pid();
    assert_eq!((first.shim_pid(), second.shim_pid()), (shim, shim));

    let kept = second.report();
    drop(first);
    second.report().continues(&kept);
    let task = second.task();
    let waiting = thread::spawn(move || task.wait(""));
    // The sandbox itself may be removed before the others.
    drop(sandbox);
    second.report().continues(&kept);
    second.kill("SIGTERM");
    let exit = waiting
        .join()
        .unwrap_or_else(|_| panic!("the waiting thread"));
    assert_eq!(exit.map(|e| e.exit_status).ok(), Some(23));
    drop(second);
    eventually("the pod's shim has exited", || {
        match fs::metadata(format!("/proc/{shim}")) {
            Ok(_) => Err("it runs".into()),
            Err(_) => Ok(()),
        }
    });
    before.unchanged();
}

/// Renames CRIU's binary until dropped.
struct WithoutCriu;

impl WithoutCriu {
    const PLACE: &str = "/usr/sbin/criu";
    const ASIDE: &str = "/usr/sbin/criu.aside";

    fn new() -> Self {
        fs::rename(Self::PLACE, Self::ASIDE).unwrap_or_else(|e| panic!("{}: {e}", Self::PLACE));
        Self
    }
}

impl Drop for WithoutCriu {
    fn drop(&mut self) {
        fs::rename(Self::ASIDE, Self::PLACE).unwrap_or_else(|e| panic!("{}: {e}", Self::PLACE));
    }
}

#[test]
fn without_criu_a_checkpoint_says_so_and_the_container_continues() {
    let _alone = Containerd::alone();
    let container = Run::new("no-criu").workload(&["--memory", "1"]).detach();
    let before = container.report();
    let image = container.checkpoint(&["--rw", "--image"]);
    {
        let _without = WithoutCriu::new();
        let reason = ctr(&["task", "checkpoint", container.id()]).refused();
        assert!(reason.to_lowercase().contains("criu"), "{reason}");
        assert!(reason.contains("install"), "no remedy: {reason}");
        container.report().continues(&before);
        let (_none, output) = container.try_restore(&image, &["--rw"]);
        let reason = output.refused();
        assert!(reason.to_lowercase().contains("criu"), "{reason}");
        assert!(reason.contains("install"), "no remedy: {reason}");
    }
    drop(image);
    let _image = Image::named(ctr_ok(&["task", "checkpoint", container.id()]));
    container.report().continues(&before);
}
