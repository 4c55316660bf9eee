//! Stops engines and shims during a restore, and verifies that nothing stays.
//!
//! Between Create and Start of a restore the netns holder, a process, holds the
//! container's network namespace. It must exit in any case.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use cedana_integration::docker::{
    BUSYBOX, Container, Dockerd, Network, Run, by_path, docker, docker_ok, holders,
    no_holder_is_left, no_restore_here,
};
use cedana_integration::protos::shim::oci::CheckpointOptions;
use cedana_integration::{BareShim, Gate, Settings, eventually, unique};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

const HELD: [&str; 6] = ["--memory", "4", "--children", "1", "--journal", "/journal"];

/// `docker start --checkpoint` in the background.
#[track_caller]
fn restore_meanwhile(container: &Container, checkpoint: &str) -> std::process::Child {
    Command::new("docker")
        .args(["start", "--checkpoint", checkpoint, container.name()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("docker")
}

/// Waits until Docker reports that the container does not run.
#[track_caller]
fn is_down(container: &Container) {
    eventually("the container does not run", || {
        match container.inspect("{{.State.Running}}").as_str() {
            "false" => Ok(()),
            _ => Err(container.state()),
        }
    });
}

#[test]
fn a_restore_leaves_no_netns_holder() {
    let _alone = Dockerd::alone();
    if no_restore_here() {
        return;
    }
    let container = Run::new("start").workload(&HELD).start();
    let before = container.report();
    container.checkpoint_and_exit("cp");
    container.restore_and_run("cp");
    no_holder_is_left();
    container.report().continues(&before);
}

#[test]
fn a_failed_restore_leaves_no_netns_holder() {
    let _alone = Dockerd::alone();
    if no_restore_here() {
        return;
    }
    let container = Run::new("fails").workload(&HELD).start();
    container.checkpoint_and_exit("cp");
    let inventory = container.checkpoint_path("cp").join("inventory.img");
    fs::write(inventory, "").expect("the inventory");
    container.restore("cp").refused();
    no_holder_is_left();
}

#[test]
fn a_start_that_fails_before_the_restore_leaves_no_netns_holder() {
    let _alone = Dockerd::alone();
    if no_restore_here() {
        return;
    }
    let container = Run::new("port")
        .flags(&["--publish", "28090:80"])
        .workload(&HELD)
        .start();
    let before = container.report();
    container.checkpoint_and_exit("cp");
    // Docker 28 finds the port in use after Create, Docker 26 before.
    let taken = std::net::TcpListener::bind("0.0.0.0:28090").expect("the port is free");
    let reason = container.restore("cp").refused();
    assert!(reason.contains("28090"), "{reason}");
    no_holder_is_left();
    drop(taken);
    container.restore_and_run("cp");
    container.report().continues(&before);
    no_holder_is_left();
}

/// A checkpoint, and a task that was created from it but not started.
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
    // Docker opens this namespace between Create and Start.
    let namespace =
        fs::read_link(format!("/proc/{pid}/ns/net")).expect("the netns holder's namespace");
    let own = fs::read_link("/proc/self/ns/net").expect("this process's namespace");
    assert_ne!(
        namespace, own,
        "the holder has the host's network namespace"
    );
    assert_eq!(holders().len(), 1);
    (first, next, images)
}

#[test]
fn the_netns_holder_exits_with_a_killed_shim() {
    let _alone = Dockerd::alone();
    let (_first, next, images) = created_from_a_checkpoint();
    kill(Pid::from_raw(next.pid().cast_signed()), Signal::SIGKILL).expect("it is alive");
    no_holder_is_left();
    let _ = fs::remove_dir_all(images);
}

#[test]
fn the_netns_holder_exits_with_a_task_that_is_killed_before_its_start() {
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
fn a_container_whose_shim_is_killed_ends_and_can_be_restored() {
    let _alone = Dockerd::alone();
    if no_restore_here() {
        return;
    }
    let container = Run::new("shim").workload(&HELD).start();
    let before = container.report();
    container.checkpoint_and_exit("cp");
    container.restore_and_run("cp");
    let pid = container.pid();
    kill(Pid::from_raw(container.shim_pid()), Signal::SIGKILL).expect("it is alive");
    is_down(&container);
    eventually("the application has exited", || {
        match fs::exists(format!("/proc/{pid}")) {
            Ok(false) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    no_holder_is_left();
    container.restore_and_run("cp");
    container.report().continues(&before);
}

/// dockerd is killed during a restore: the OCI runtime waits at a gate until dockerd
/// runs again.
#[test]
fn a_container_can_be_restored_after_dockerd_was_killed_during_a_restore() {
    let dockerd = Dockerd::alone();
    if no_restore_here() {
        return;
    }
    let container = Run::new("in-restore").workload(&HELD).start();
    let before = container.report();
    container.checkpoint_and_exit("cp");

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
    // Docker 28 takes the task for one that was never started and deletes it. That
    // fails if the task runs by then; the next attempt finds it running.
    eventually("the container is restored", || {
        match container.restore("cp") {
            done if done.code == 0 => Ok(()),
            refused => Err(refused.to_string()),
        }
    });
    container.running();
    no_holder_is_left();
    container.report().continues(&before);
    // Docker gets the exit event of this task as well.
    container.kill();
    container.restore_and_run("cp");
    container.report().continues(&before);
}

/// dockerd is killed between Create and Start: as soon as a netns holder runs.
#[test]
fn a_container_can_be_restored_after_dockerd_was_killed_before_a_restore() {
    let dockerd = Dockerd::alone();
    if by_path() {
        println!("skipped: by path there is no netns holder");
        return;
    }
    let network = Network::create("before-restore");
    let container = Run::new("before-restore")
        .flags(&["--network", network.name(), "--publish", "28091:80"])
        .workload(&HELD)
        .start();
    let before = container.report();
    container.checkpoint_and_exit("cp");
    let mut client = restore_meanwhile(&container, "cp");
    eventually("a netns holder runs, or the restore is complete", || {
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
    container.restore_and_run("cp");
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
        container.checkpoint_and_exit("cp");
        container.restore_and_run("cp");
        engines.end(how, "containerd");
        engines.start("containerd");
        // Docker reconnects to containerd some time later.
        eventually("Docker reaches the container", || {
            match container.exec(&["true"]) {
                done if done.code == 0 => Ok(()),
                refused => Err(refused.to_string()),
            }
        });
        container.report().continues(&before);
        container.checkpoint_and_exit("cp2");
        container.restore_and_run("cp2");
        container.report().continues(&before);
        no_holder_is_left();
    }
}

#[test]
fn with_live_restore_containers_can_be_checkpointed_after_a_restart_of_dockerd() {
    let dockerd = Dockerd::alone();
    if no_restore_here() {
        return;
    }
    dockerd.with(json!({ "live-restore": true }));
    let fresh = Run::new("live").workload(&HELD).start();
    let restored = Run::new("live-restored").workload(&HELD).start();
    let (of_fresh, of_restored) = (fresh.report(), restored.report());
    restored.checkpoint_and_exit("cp");
    restored.restore_and_run("cp");
    for how in ["stop", "kill"] {
        let pids = [fresh.pid(), restored.pid()];
        dockerd.end(how, "dockerd");
        dockerd.start("dockerd");
        assert_eq!([fresh.pid(), restored.pid()], pids, "after {how}");
        for (container, before) in [(&fresh, &of_fresh), (&restored, &of_restored)] {
            container.report().continues(before);
            container.checkpoint_and_exit(how);
            container.restore_and_run(how);
            container.report().continues(before);
        }
    }
    no_holder_is_left();
}

#[test]
fn restored_containers_end_with_dockerd_and_can_be_restored_again() {
    let dockerd = Dockerd::alone();
    if no_restore_here() {
        return;
    }
    let container = Run::new("shutdown").workload(&HELD).start();
    let before = container.report();
    container.checkpoint_and_exit("cp");
    container.restore_and_run("cp");
    dockerd.end("stop", "dockerd");
    dockerd.start("dockerd");
    is_down(&container);
    container.restore_and_run("cp");
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
    container.checkpoint_and_exit("cp");
    container.restore_and_run("cp");
    container.report().continues(&before);
    // A container that is never checkpointed.
    let said = docker_ok(&["run", "--rm", BUSYBOX, "echo", "hello"]);
    assert_eq!(said, "hello");
}

/// By type, Docker does not pass on `--leave-running`; a setting of the machine stands
/// in for it.
#[test]
fn the_machines_configuration_sets_whether_containers_continue() {
    let _alone = Dockerd::alone();
    if by_path() || cedana_integration::named_as_stock() {
        println!("skipped: with this runtime Docker passes on --leave-running");
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
    container.restore_and_run("on");
    container.report().continues(&before);
}

/// containerd before 2.0 refuses a checkpoint until its garbage collection has removed
/// the spec of the previous one, so the wrapper waits for that.
#[test]
fn checkpoints_can_follow_each_other_immediately() {
    let engines = Dockerd::alone();
    if no_restore_here() {
        return;
    }
    // containerd's garbage collections are 5 ms / pause_threshold apart.
    engines.with_containerds(
        "version = 2\n[plugins.'io.containerd.gc.v1.scheduler']\npause_threshold = 0.002\n",
    );
    let container = Run::new("series").workload(&HELD).start();
    let before = container.report();
    let settings = Settings::write("[checkpoint]\nleave_running = true\n");
    container.checkpoint_running("one").ok();
    container.checkpoint_running("two").ok();
    drop(settings);
    container.checkpoint_and_exit("three");
    container.restore_and_run("three");
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
    container.checkpoint_and_exit("cp");
    for _ in 0..5 {
        let mut client = restore_meanwhile(&container, "cp");
        // dockerd may continue or abort after its client is killed.
        let _ = client.kill();
        let _ = client.wait();
        eventually("dockerd has ended the restore", || {
            docker(&["kill", container.name()]);
            match container.inspect("{{.State.Running}}").as_str() {
                "false" if holders().is_empty() => Ok(()),
                _ => Err(container.state()),
            }
        });
    }
    container.restore_and_run("cp");
    container.report().continues(&before);
}

/// A container with `--rm` is removed as soon as its checkpoint ends it, and the
/// checkpoint with it.
#[test]
fn a_container_with_rm_may_be_ended_if_the_node_says_so() {
    let _alone = Dockerd::alone();
    if no_restore_here() {
        return;
    }
    // The container's user can't ask for it.
    let asks = ["--rm", "--annotation", "io.cedana.checkpoint.doubtful=warn"];
    let run = Run::new("lost").flags(&asks);
    let container = run.workload(&HELD).start();
    let reason = container.checkpoint("cp").refused();
    assert!(reason.contains("could never be restored"), "{reason}");
    container.running();

    let _settings = Settings::write("[checkpoint]\ndoubtful = \"warn\"\n");
    // Docker may remove the directory during the checkpoint, which then fails.
    let answer = container.checkpoint("cp");
    assert!(
        !answer.stderr.contains("could never be restored"),
        "{answer}"
    );
    eventually("Docker removes it", || {
        let answer = docker(&["inspect", container.name()]);
        // If the checkpoint gets another file meanwhile, Docker fails to remove the
        // directory, and the container stays in state dead.
        match answer.code == 0 && !answer.stdout.contains("\"Dead\": true") {
            true => Err(answer.stdout),
            false => Ok(()),
        }
    });
}

/// Docker parses the output of some commands of a runtime by path.
#[test]
fn with_a_mistake_in_the_settings_all_but_checkpoints_works() {
    let _alone = Dockerd::alone();
    let _settings = Settings::write("[checkpoint]\ntypo = true\n");
    let container = Run::new("mistake").workload(&HELD).start();
    let before = container.report();
    assert_eq!(container.exec(&["echo", "here"]).ok().stdout, "here\n");
    for verb in ["top", "pause", "unpause"] {
        docker_ok(&[verb, container.name()]);
    }
    let reason = container.checkpoint("cp").refused();
    assert!(
        reason.contains("/etc/cedana/config.toml:2: unknown setting \"checkpoint.typo\""),
        "{reason}"
    );
    container.report().continues(&before);
    docker_ok(&["restart", "--time", "1", container.name()]);
    container.running();
    docker_ok(&["rm", "--force", container.name()]);
}
