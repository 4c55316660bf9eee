//! Docker's commands on checkpointed and restored containers.

use std::fs;
use std::path::Path;
use std::thread;

use cedana_integration::docker::{
    BUSYBOX, Container, Run, by_path, cannot_restore, docker, docker_ok, no_restore_here, version,
};
use cedana_integration::lazy::FailsOnce;
use cedana_integration::{cgroup_of, command, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const HELD: [&str; 6] = ["--memory", "4", "--threads", "2", "--journal", "/journal"];

/// Starts a container, ends it with a checkpoint, and restores it.
#[track_caller]
fn restored(run: Run) -> Container {
    let container = run.start();
    let before = container.report();
    container.checkpoint_and_exit("cp");
    container.restore_and_run("cp");
    container.report().continues(&before);
    container
}

#[test]
fn a_failed_lazy_restore_is_tried_again_on_the_same_network() {
    if no_restore_here() {
        return;
    }
    let step = FailsOnce::at("post-restore");
    let flags = ["--annotation", &step.annotation()];
    let container = restored(Run::new("twice").flags(&flags).workload(&HELD));
    step.has_failed();
    let address = container.address();
    let interfaces = container.exec(&["ip", "addr"]).ok();
    assert!(interfaces.stdout.contains(&address), "{interfaces}");
    container
        .exec(&["ping", "-c", "1", "-W", "5", &container.gateway()])
        .ok();
}

#[test]
fn a_file_may_grow_during_a_checkpoint_with_leave_running() {
    let run = Run::new("growing").leaves_running();
    let container = run
        .workload(&["--memory", "16", "--long-journal", "/journal"])
        .start();
    let before = container.report();
    for round in 0..5 {
        container.checkpoint_running(&format!("cp{round}")).ok();
        container.is("running").expect("--leave-running");
    }
    container.report().continues(&before);
}

#[test]
fn a_restored_container_takes_dockers_commands_like_any_other() {
    if no_restore_here() {
        return;
    }
    let container = restored(Run::new("like-any").workload(&HELD));
    let before = container.report();

    let pid = container.pid();
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("Docker's PID is alive");
    assert!(line.starts_with("/workload"), "{line}");
    let top = docker_ok(&["top", container.name()]);
    assert!(top.contains("/workload --ballast"), "{top}");

    let template = "{{.MemUsage}} {{.PIDs}}";
    let stats = docker_ok(&[
        "stats",
        "--no-stream",
        "--format",
        template,
        container.name(),
    ]);
    let pids = stats.split_whitespace().last().and_then(|n| n.parse().ok());
    assert!(pids.is_some_and(|n: u32| n >= 4), "{stats}");
    assert!(!stats.starts_with("0B"), "{stats}");

    assert_eq!(container.exec(&["sh", "-c", "exit 3"]).code, 3);
    let seen = container.exec(&["cat", "/proc/1/cmdline"]).ok().stdout;
    assert!(seen.starts_with("/workload"), "{seen}");

    container.report_after("workload", || {
        docker_ok(&["kill", "--signal", "USR1", container.name()]);
    });

    docker_ok(&["pause", container.name()]);
    container.is("paused").expect("it is paused");
    docker_ok(&["unpause", container.name()]);
    container.report().continues(&before);

    let limit = ["--memory", "64m", "--memory-swap", "64m"];
    docker_ok(&[&["update"], &limit[..], &[container.name()]].concat());
    let cgroup = cgroup_of(container.pid(), "memory");
    let limit = ["memory.limit_in_bytes", "memory.max"]
        .iter()
        .find_map(|file| fs::read_to_string(cgroup.join(file)).ok());
    assert_eq!(limit.as_deref().map(str::trim), Some("67108864"));

    let other = format!("{}-renamed", container.name());
    docker_ok(&["rename", container.name(), &other]);
    docker_ok(&["exec", &other, "true"]);
    docker_ok(&["rename", &other, container.name()]);
    container.report().continues(&before);
}

#[test]
fn docker_wait_reports_the_exit_code_of_a_restored_container() {
    if no_restore_here() {
        return;
    }
    let container = restored(Run::new("code").workload(&["--term-code", "11"]));
    let name = container.name().to_owned();
    let waiting = thread::spawn(move || docker_ok(&["wait", &name]));
    docker_ok(&["stop", container.name()]);
    let code = waiting.join().expect("the waiting thread");
    assert_eq!(code, "11");
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "11");
}

#[test]
fn a_restored_container_can_be_restarted() {
    if no_restore_here() {
        return;
    }
    let container = restored(Run::new("afresh").workload(&HELD));
    let before = container.report();
    container.not_ready();
    docker_ok(&["restart", container.name()]);
    container.ready("workload");
    let after = container.report();
    assert_ne!(after.nonce(), before.nonce(), "it was started again");
    after.intact();
}

#[test]
fn the_restart_policy_applies_to_a_restored_container() {
    if no_restore_here() {
        return;
    }
    let container = Run::new("policy")
        .flags(&["--restart", "on-failure:5"])
        .leaves_running()
        .workload(&["--memory", "1"])
        .start();
    let before = container.report();
    container.checkpoint_running("cp").ok();
    container.kill();
    container.restore_and_run("cp");
    container.report().continues(&before);

    container.not_ready();
    let pid = Pid::from_raw(container.pid().cast_signed());
    kill(pid, Signal::SIGKILL).expect("Docker's PID is alive");
    container.ready("workload");
    let after = container.report();
    assert_ne!(after.nonce(), before.nonce(), "it was started again");
    assert_eq!(container.inspect("{{.RestartCount}}"), "1");
}

#[test]
fn logs_continue_without_loss_or_repetition() {
    if no_restore_here() {
        return;
    }
    let container = Run::new("logs").workload(&["--ticks"]).start();
    let beyond = |ticks: usize| {
        eventually("the log grows", || match container.logs().lines().count() {
            enough if enough > ticks => Ok(enough),
            few => Err(format!("{few} lines; {}", container.state())),
        })
    };
    let mut ticks = beyond(20);
    for round in ["one", "two"] {
        container.checkpoint_and_exit(round);
        container.restore_and_run(round);
        ticks = beyond(ticks + 20);
    }
    docker_ok(&["stop", container.name()]);
    for (n, line) in (1..).zip(container.logs().lines()) {
        assert_eq!(line, format!("tick {n}"));
    }
}

#[test]
fn docker_attach_reaches_the_restored_process() {
    if no_restore_here() {
        return;
    }
    let container = Run::new("attach")
        .flags(&["-it"])
        .workload(&["--lines"])
        .start();
    let mut terminal = container.attach();
    terminal.type_line("before");
    terminal.expect("line 1: before");
    container.checkpoint_and_exit("cp");
    terminal.exit_code();
    container.restore_and_run("cp");
    let mut terminal = container.attach();
    terminal.type_line("after");
    // The count continues, so the same process reads.
    terminal.expect("line 2: after");
    terminal.resize(33, 101);
    eventually("the terminal has its new size", || {
        let size = container.exec(&["stty", "-F", "/proc/1/fd/0", "size"]);
        match size.stdout.trim() == "33 101" {
            true => Ok(()),
            false => Err(size.to_string()),
        }
    });
}

#[test]
fn a_checkpoint_can_be_restored_many_times() {
    if no_restore_here() {
        return;
    }
    let container = Run::new("often").leaves_running().workload(&HELD).start();
    let before = container.report();
    container.checkpoint_running("cp").ok();
    for _ in 0..5 {
        container.kill();
        container.restore_and_run("cp");
        container.report().continues(&before);
    }
    // A restored container can be checkpointed.
    let between = container.report();
    container.checkpoint_running("cp2").ok();
    container.kill();
    container.restore_and_run("cp2");
    container.report().continues(&between);
}

#[test]
fn checkpoints_are_listed_and_removed() {
    let container = Run::new("list").leaves_running().workload(&[]).start();
    for name in ["one", "two"] {
        container.checkpoint_running(name).ok();
    }
    assert_eq!(container.checkpoints(), ["one", "two"]);
    let again = container.checkpoint_running("one").refused();
    assert!(again.contains("already exists"), "{again}");
    docker_ok(&["checkpoint", "rm", container.name(), "one"]);
    assert_eq!(container.checkpoints(), ["two"]);
    container.running();
}

#[test]
fn a_checkpoint_from_a_checkpoint_dir_is_restored_once_copied_to_dockers_directory() {
    if no_restore_here() {
        return;
    }
    let container = Run::new("directory").workload(&HELD).start();
    let before = container.report();
    let home = container.out().join("checkpoints");
    let directory = home.display().to_string();
    let with_directory = |verb: &str, more: &[&str]| {
        let flags = ["checkpoint", verb, "--checkpoint-dir", &directory];
        docker(&[&flags[..], &[container.name()], more].concat()).ok()
    };
    with_directory("create", &["mine"]);
    container.exited();
    assert!(with_directory("ls", &[]).stdout.contains("mine"));
    let mode = fs::metadata(home.join("mine/inventory.img")).map(|m| {
        use std::os::unix::fs::PermissionsExt;
        m.permissions().mode() & 0o077
    });
    assert_eq!(
        mode.ok(),
        Some(0),
        "the checkpoint is readable by other users"
    );

    // `docker start` refuses `--checkpoint-dir` with any runtime.
    let to = container.checkpoint_path("mine");
    let parent = to.parent().expect("a parent").display().to_string();
    command("mkdir", &["-p", &parent]).ok();
    let from = home.join("mine").display().to_string();
    command("cp", &["-a", &from, &to.display().to_string()]).ok();
    container.restore_and_run("mine");
    container.report().continues(&before);
    with_directory("rm", &["mine"]);
    assert!(!home.join("mine").exists());
}

#[test]
fn a_paused_container_is_checkpointed_and_runs_when_it_is_restored() {
    if no_restore_here() {
        return;
    }
    let container = Run::new("paused").workload(&HELD).start();
    let before = container.report();
    docker_ok(&["pause", container.name()]);
    container.checkpoint_and_exit("cp");
    container.restore_and_run("cp");
    container.report().continues(&before);
}

/// Truncates the image of the first process.
fn damage(checkpoint: &Path) {
    let entries = fs::read_dir(checkpoint).expect("the checkpoint's directory");
    let core = entries
        .filter_map(Result::ok)
        .find(|e| e.file_name().to_string_lossy().starts_with("core-"))
        .expect("the image of a process");
    let file = fs::File::options().write(true).open(core.path());
    file.and_then(|f| f.set_len(10)).expect("truncate");
}

#[test]
fn a_damaged_checkpoint_is_refused_with_a_reason_and_others_still_work() {
    if no_restore_here() {
        return;
    }
    let container = Run::new("damaged").leaves_running().workload(&HELD).start();
    let before = container.report();
    container.checkpoint_running("good").ok();
    container.checkpoint_running("bad").ok();
    container.kill();
    damage(&container.checkpoint_path("bad"));
    for _ in 0..2 {
        let reason = container.restore("bad").refused();
        assert!(reason.contains("core-"), "{reason}");
        assert_eq!(container.inspect("{{.State.Running}}"), "false");
    }
    container.restore_and_run("good");
    container.report().continues(&before);
}

#[test]
fn a_restore_from_a_missing_checkpoint_is_refused() {
    let container = Run::new("nowhere").workload(&[]).start();
    docker_ok(&["kill", container.name()]);
    container.exited();
    let reason = container.restore("nowhere").refused();
    // Docker refuses it before it calls containerd.
    assert!(
        reason.contains("checkpoint nowhere does not exist for container"),
        "{reason}"
    );
    docker_ok(&["start", container.name()]);
    container.running();
}

#[test]
fn a_container_that_criu_cannot_dump_continues_and_the_reason_is_given() {
    // A nested PID namespace.
    let container = Run::new("nested")
        .leaves_running()
        .flags(&["--privileged"])
        .command(&[
            "unshare",
            "--pid",
            "--fork",
            "sh",
            "-c",
            "echo up; while :; do sleep 1; done",
        ])
        .start();
    eventually("the nested namespace exists", || match container.logs() {
        up if up.contains("up") => Ok(()),
        other => Err(other),
    });
    let reason = container.checkpoint_running("cp").refused();
    assert!(reason.to_lowercase().contains("namespace"), "{reason}");
    container.running();
    container.exec(&["true"]).ok();
    assert!(container.checkpoints().is_empty());
}

#[test]
fn a_checkpoint_waits_until_a_connection_is_accepted() {
    if by_path() {
        println!("skipped: by path cedana-runc cannot tell that the pause is Docker's own");
        return;
    }
    let run = Run::new("accepted").leaves_running();
    let fifo = run.out().join("go");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)
        .unwrap_or_else(|error| panic!("{}: {error}", fifo.display()));
    let container = run
        .workload(&["--memory", "4", "--backlog", "/out/go"])
        .start();
    let before = container.report();
    let log = Path::new("/run/containerd/io.containerd.runtime.v2.task/moby")
        .join(container.inspect("{{.Id}}"))
        .join("log.json");
    thread::scope(|scope| {
        let taken = scope.spawn(|| container.checkpoint_running("cp"));
        eventually("the log says that the checkpoint is tried again", || {
            let text = fs::read_to_string(&log).map_err(|error| error.to_string())?;
            text.contains("trying again").then_some(()).ok_or(text)
        });
        // The workload accepts the connection when the fifo is opened.
        command(
            "timeout",
            &["60", "sh", "-c", &format!(": >{}", fifo.display())],
        )
        .ok();
        let taken = taken.join().unwrap_or_else(|_| panic!("the checkpoint"));
        taken.ok();
    });
    container.running();
    container.report().continues(&before);
}

#[test]
fn docker_28_by_path_refuses_a_checkpoint_that_it_could_not_restore() {
    if !(by_path() && cannot_restore()) {
        println!(
            "skipped: Docker {} restores with {}",
            version(),
            cedana_integration::docker::runtime()
        );
        return;
    }
    let container = Run::new("by-path").workload(&HELD).start();
    let before = container.report();
    let reason = container.checkpoint("ends").refused();
    assert!(reason.contains("runtimeType"), "{reason}");
    container.report().continues(&before);

    container.checkpoint_running("on").ok();
    container.kill();
    container.restore("on").refused();
    assert_eq!(container.inspect("{{.State.Running}}"), "false");
    assert!(
        container
            .checkpoint_path("on")
            .join("inventory.img")
            .exists()
    );
}

#[test]
fn a_container_of_runc_runs_beside_ours() {
    let container = Run::new("other")
        .runtime("runc")
        .image(BUSYBOX)
        .workload(&["--term-code", "5"])
        .start();
    docker_ok(&["stop", container.name()]);
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "5");
}
