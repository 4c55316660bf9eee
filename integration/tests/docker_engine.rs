//! Engines and shims that end at the wrong moment, and nothing stays.
//!
//! Between Create and Start of a restore a process holds the container's network
//! namespace. Whatever happens then, it must go.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use cedana_integration::docker::{
    BUSYBOX, Container, Dockerd, Network, Run, by_path, docker, docker_ok, holders,
    no_holder_is_left, no_restore_here,
};
use cedana_integration::protos::shim::oci::CheckpointOptions;
use cedana_integration::{BareShim, Gate, eventually, unique};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

const HELD: [&str; 6] = ["--memory", "4", "--children", "1", "--journal", "/journal"];

/// Settings of the machine's, while it is held.
struct Settings;

impl Settings {
    const PATH: &'static str = "/etc/cedana/config.toml";

    #[track_caller]
    fn write(text: &str) -> Self {
        let written = fs::create_dir_all("/etc/cedana").and_then(|()| fs::write(Self::PATH, text));
        written.unwrap_or_else(|e| panic!("{}: {e}", Self::PATH));
        Self
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        let _ = fs::remove_file(Self::PATH);
    }
}

/// `docker start --checkpoint` in the background.
#[track_caller]
fn restore_meanwhile(container: &Container, checkpoint: &str) -> std::process::Child {
    Command::new("docker")
        .args(["start", "--checkpoint", checkpoint, container.name()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("docker is there")
}

/// Waits for the container to be down, in whatever way Docker got there.
#[track_caller]
fn is_down(container: &Container) {
    eventually("the container is down", || {
        match container.inspect("{{.State.Running}}").as_str() {
            "false" => Ok(()),
            _ => Err(container.state()),
        }
    });
}

#[test]
fn a_restore_leaves_no_holder() {
    let _alone = Dockerd::alone();
    if no_restore_here() {
        return;
    }
    let container = Run::new("start").workload(&HELD).start();
    let before = container.report();
    container.freeze("cp");
    container.thaw("cp");
    no_holder_is_left();
    container.report().continues(&before);
}

#[test]
fn a_restore_that_fails_leaves_no_holder() {
    let _alone = Dockerd::alone();
    if no_restore_here() {
        return;
    }
    let container = Run::new("fails").workload(&HELD).start();
    container.freeze("cp");
    let inventory = container.checkpoint_path("cp").join("inventory.img");
    fs::write(inventory, "").expect("the checkpoint is there");
    container.restore("cp").refused();
    no_holder_is_left();
}

#[test]
fn a_start_that_fails_before_the_restore_leaves_no_holder() {
    let _alone = Dockerd::alone();
    if no_restore_here() {
        return;
    }
    let container = Run::new("port")
        .flags(&["--publish", "38080:80"])
        .workload(&HELD)
        .start();
    let before = container.report();
    container.freeze("cp");
    // Docker 28 finds it taken after Create, 26 before.
    let taken = std::net::TcpListener::bind("0.0.0.0:38080").expect("the port is free");
    let reason = container.restore("cp").refused();
    assert!(reason.contains("38080"), "{reason}");
    no_holder_is_left();
    drop(taken);
    container.thaw("cp");
    container.report().continues(&before);
    no_holder_is_left();
}

/// A checkpoint and a task made from it that has not been started.
fn created_from_a_checkpoint() -> (BareShim, BareShim, PathBuf) {
    let first = BareShim::start("held", &["--memory", "2"]);
    first.run();
    let images = PathBuf::from("/var/tmp/cedana-tests").join(unique("held-images"));
    fs::create_dir_all(&images).expect("a directory");
    let exit = CheckpointOptions {
        exit: true,
        ..Default::default()
    };
    let done = first.task().checkpoint(&images, Some(exit));
    done.unwrap_or_else(|refused| panic!("{refused}"));
    let next = first.successor("held-next");
    let mut request = next.request();
    request.checkpoint = images.display().to_string();
    let created = next.task().create(&request);
    let pid = created.unwrap_or_else(|refused| panic!("{refused}")).pid;
    // What an engine does between Create and Start.
    let namespace = fs::read_link(format!("/proc/{pid}/ns/net")).expect("a process with the PID");
    let own = fs::read_link("/proc/self/ns/net").expect("ours");
    assert_ne!(namespace, own, "a network namespace of its own");
    assert_eq!(holders().len(), 1);
    (first, next, images)
}

#[test]
fn a_killed_shim_takes_its_holder_along() {
    let _alone = Dockerd::alone();
    let (_first, next, images) = created_from_a_checkpoint();
    kill(Pid::from_raw(next.pid().cast_signed()), Signal::SIGKILL).expect("it is alive");
    no_holder_is_left();
    let _ = fs::remove_dir_all(images);
}

#[test]
fn a_task_that_is_deleted_before_its_start_takes_its_holder_along() {
    let _alone = Dockerd::alone();
    let (_first, next, images) = created_from_a_checkpoint();
    let task = next.task();
    task.kill("", 9, true)
        .unwrap_or_else(|refused| panic!("{refused}"));
    no_holder_is_left();
    task.wait("").unwrap_or_else(|refused| panic!("{refused}"));
    task.delete("")
        .unwrap_or_else(|refused| panic!("{refused}"));
    let _ = fs::remove_dir_all(images);
}

#[test]
fn a_killed_shim_ends_the_container_and_it_can_be_restored_again() {
    let _alone = Dockerd::alone();
    if no_restore_here() {
        return;
    }
    let container = Run::new("shim").workload(&HELD).start();
    let before = container.report();
    container.freeze("cp");
    container.thaw("cp");
    let pid = container.pid();
    kill(Pid::from_raw(container.shim_pid()), Signal::SIGKILL).expect("it is alive");
    is_down(&container);
    eventually(
        "the application is gone with its shim",
        || match fs::exists(format!("/proc/{pid}")) {
            Ok(false) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
    no_holder_is_left();
    container.thaw("cp");
    container.report().continues(&before);
}

/// dockerd dies while a restore is under way: the OCI runtime stands before a
/// gate, and passes it when dockerd is back.
#[test]
fn a_dockerd_that_is_killed_during_a_restore_leaves_nothing() {
    let dockerd = Dockerd::alone();
    if no_restore_here() {
        return;
    }
    let container = Run::new("in-restore").workload(&HELD).start();
    let before = container.report();
    container.freeze("cp");

    let gate = Gate::before("restore");
    let settings = Settings::write(&format!(
        "runtime = {:?}\n",
        gate.program().display().to_string()
    ));
    let mut client = restore_meanwhile(&container, "cp");
    gate.arrived();
    dockerd.end("kill", "dockerd");
    let _ = client.wait();
    drop(settings);
    dockerd.start("dockerd");
    is_down(&container);
    gate.open();
    // Docker 28 deletes what it takes for a task that was never started, and is
    // refused if that runs by then. It finds a running one the next time.
    eventually("the container is restored", || {
        match container.restore("cp") {
            done if done.code == 0 => Ok(()),
            refused => Err(refused.to_string()),
        }
    });
    container.running();
    no_holder_is_left();
    container.report().continues(&before);
    // Docker hears of the end, although it was there when the first task ended.
    container.kill();
    container.thaw("cp");
    container.report().continues(&before);
}

/// dockerd dies between Create and Start, as near as can be: when a holder appears.
#[test]
fn a_dockerd_that_is_killed_before_a_restore_leaves_nothing() {
    let dockerd = Dockerd::alone();
    if by_path() {
        println!("skipped: by path there is no holder");
        return;
    }
    let network = Network::create("before-restore");
    let container = Run::new("before-restore")
        .flags(&["--network", network.name(), "--publish", "38081:80"])
        .workload(&HELD)
        .start();
    let before = container.report();
    container.freeze("cp");
    let mut client = restore_meanwhile(&container, "cp");
    eventually("a holder appears, or the restore is over", || {
        match holders().is_empty() && container.is("running").is_err() {
            true => Err("neither"),
            false => Ok(()),
        }
        .map_err(str::to_owned)
    });
    dockerd.end("kill", "dockerd");
    let _ = client.wait();
    dockerd.start("dockerd");
    is_down(&container);
    no_holder_is_left();
    container.thaw("cp");
    container.report().continues(&before);
    container.kill();
}

#[test]
fn a_restored_container_survives_a_restart_of_containerd() {
    let engines = Dockerd::alone();
    if no_restore_here() {
        return;
    }
    for how in ["stop", "kill"] {
        let container = Run::new("containerd").workload(&HELD).start();
        let before = container.report();
        container.freeze("cp");
        container.thaw("cp");
        engines.end(how, "containerd");
        engines.start("containerd");
        // Docker connects again in its own time.
        eventually("Docker reaches the container", || {
            match container.exec(&["true"]) {
                done if done.code == 0 => Ok(()),
                refused => Err(refused.to_string()),
            }
        });
        container.report().continues(&before);
        container.freeze("cp2");
        container.thaw("cp2");
        container.report().continues(&before);
        no_holder_is_left();
    }
}

#[test]
fn containers_live_through_a_restart_of_dockerd_and_can_be_checkpointed_after_it() {
    let dockerd = Dockerd::alone();
    if no_restore_here() {
        return;
    }
    dockerd.with(json!({ "live-restore": true }));
    let fresh = Run::new("live").workload(&HELD).start();
    let restored = Run::new("live-restored").workload(&HELD).start();
    let (of_fresh, of_restored) = (fresh.report(), restored.report());
    restored.freeze("cp");
    restored.thaw("cp");
    for how in ["stop", "kill"] {
        let pids = [fresh.pid(), restored.pid()];
        dockerd.end(how, "dockerd");
        dockerd.start("dockerd");
        assert_eq!([fresh.pid(), restored.pid()], pids, "after {how}");
        for (container, before) in [(&fresh, &of_fresh), (&restored, &of_restored)] {
            container.report().continues(before);
            container.freeze(how);
            container.thaw(how);
            container.report().continues(before);
        }
    }
    no_holder_is_left();
}

#[test]
fn restored_containers_end_with_dockerd_and_come_back_after_it() {
    let dockerd = Dockerd::alone();
    if no_restore_here() {
        return;
    }
    let container = Run::new("shutdown").workload(&HELD).start();
    let before = container.report();
    container.freeze("cp");
    container.thaw("cp");
    dockerd.end("stop", "dockerd");
    dockerd.start("dockerd");
    is_down(&container);
    container.thaw("cp");
    container.report().continues(&before);
}

#[test]
fn our_runtime_can_be_the_default() {
    let dockerd = Dockerd::alone();
    if no_restore_here() {
        return;
    }
    dockerd.with(json!({ "default-runtime": cedana_integration::docker::runtime() }));
    let container = Run::new("default")
        .default_runtime()
        .workload(&HELD)
        .start();
    assert_eq!(
        container.inspect("{{.HostConfig.Runtime}}"),
        cedana_integration::docker::runtime()
    );
    let before = container.report();
    container.freeze("cp");
    container.thaw("cp");
    container.report().continues(&before);
    // And one that is never checkpointed.
    let said = docker_ok(&["run", "--rm", BUSYBOX, "echo", "hello"]);
    assert_eq!(said, "hello");
}

/// By type Docker doesn't say whether a container is to run on: it can be said
/// for the whole machine.
#[test]
fn the_machines_settings_say_whether_containers_run_on() {
    let _alone = Dockerd::alone();
    if by_path() || cedana_integration::named_as_stock() {
        println!("skipped: here Docker says it");
        return;
    }
    let container = Run::new("setting").workload(&HELD).start();
    let before = container.report();
    let settings = Settings::write("[checkpoint]\nleave_running = true\n");
    container.checkpoint("on").ok();
    container.running();
    container.report().continues(&before);
    drop(settings);
    container.checkpoint_running("end").ok();
    container.exited();
    container.thaw("on");
    container.report().continues(&before);
}

/// Docker drops what containerd keeps of a checkpoint, and containerd collects it
/// later: the next checkpoint must not come in between.
#[test]
fn checkpoints_may_follow_one_another_at_once() {
    let engines = Dockerd::alone();
    if no_restore_here() {
        return;
    }
    // Collections are 5 ms / pause_threshold apart.
    engines.with_containerds(
        "version = 2\n[plugins.'io.containerd.gc.v1.scheduler']\npause_threshold = 0.002\n",
    );
    let container = Run::new("series").workload(&HELD).start();
    let before = container.report();
    let settings = Settings::write("[checkpoint]\nleave_running = true\n");
    container.checkpoint_running("one").ok();
    container.checkpoint_running("two").ok();
    drop(settings);
    container.freeze("three");
    container.thaw("three");
    container.report().continues(&before);
}

#[test]
fn a_restore_can_be_interrupted_and_repeated_many_times() {
    let _alone = Dockerd::alone();
    if no_restore_here() {
        return;
    }
    let container = Run::new("interrupted").workload(&HELD).start();
    let before = container.report();
    container.freeze("cp");
    for _ in 0..5 {
        let mut client = restore_meanwhile(&container, "cp");
        // The client goes; dockerd carries on or gives up, both are well.
        let _ = client.kill();
        let _ = client.wait();
        eventually("Docker is done with it", || {
            docker(&["kill", container.name()]);
            match container.inspect("{{.State.Running}}").as_str() {
                "false" if holders().is_empty() => Ok(()),
                _ => Err(container.state()),
            }
        });
    }
    container.thaw("cp");
    container.report().continues(&before);
}
