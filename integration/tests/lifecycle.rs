//! Containers without checkpoints: run, exec, kill, pause, update, remove.

use std::fs;
use std::thread;

use cedana_integration::{
    Run, cgroup_of, command, ctr, ctr_fails, ctr_ok, eventually, prints, unique, workload,
};

#[test]
fn ctr_run_shows_the_output_and_the_exit_code() {
    prints(7, "to out\n", "to err\n", || {
        Run::new("run")
            .command(&["sh", "-c", "echo to out; echo to err >&2; exit 7"])
            .foreground()
    });
}

#[test]
fn a_large_output_arrives_whole() {
    // Far more than a pipe holds; the program exits right after writing it.
    let lines: String = (1..=200_000).map(|line| format!("{line}\n")).collect();
    prints(0, &lines, "", || {
        Run::new("large")
            .command(&["seq", "1", "200000"])
            .foreground()
    });
}

#[test]
fn a_missing_program_is_named() {
    let reason = Run::new("missing").command(&["/no/such/program"]).fails();
    assert!(reason.contains("/no/such/program"), "{reason}");
}

#[test]
fn an_ended_task_keeps_its_exit_code_until_it_is_deleted() {
    let container = Run::new("ended").workload(&["--term-code", "5"]).detach();
    container.kill("SIGTERM");
    container.stopped();
    assert_eq!(
        container.task().state("").map(|s| s.exit_status).ok(),
        Some(5)
    );
    let deleted = ctr(&["task", "delete", container.id()]);
    assert!(deleted.stderr.contains("exit code 5"), "{deleted}");
    assert_eq!(container.status(), None);
}

#[test]
fn a_container_runs_again_after_its_task_was_deleted() {
    let container = Run::new("again").workload(&[]).detach();
    let first = container.report();
    container.end_task();
    container.not_ready();
    ctr_ok(&["task", "start", "--detach", container.id()]);
    container.ready("workload");
    assert_ne!(container.report().nonce(), first.nonce());
}

#[test]
fn runc_lists_the_container_under_its_namespace() {
    let container = Run::new("listed").workload(&[]).detach();
    let listed = command("runc", &["--root", "/run/containerd/runc/default", "list"]).ok();
    assert!(listed.stdout.contains(container.id()), "{listed}");
}

#[test]
fn an_exec_has_its_own_exit_code_and_streams() {
    let container = Run::new("exec").workload(&[]).detach();
    prints(9, "out\n", "err\n", || {
        container.exec(&["sh", "-c", "echo out; echo err >&2; exit 9"])
    });
    container.report().intact();
}

#[test]
fn execs_run_at_the_same_time() {
    let container = Run::new("execs").workload(&[]).detach();
    // Each waits for the next one's file, so they exit only if all run at once.
    thread::scope(|scope| {
        let all: Vec<_> = (0..8)
            .map(|i| {
                let container = &container;
                scope.spawn(move || {
                    let next = (i + 1) % 8;
                    let script = format!(
                        "touch /tmp/{i}; while ! test -e /tmp/{next}; do :; done; exit {i}"
                    );
                    container.exec(&["sh", "-c", &script])
                })
            })
            .collect();
        for (i, exec) in (0..).zip(all) {
            let output = exec.join().unwrap_or_else(|_| panic!("exec {i}"));
            assert_eq!(output.code, i, "{output}");
        }
    });
}

#[test]
fn a_container_continues_after_an_exec_is_killed() {
    let container = Run::new("exec-kill").workload(&[]).detach();
    let before = container.report();
    let exec_id = unique("victim");
    container
        .exec_with(
            &["--detach"],
            &exec_id,
            &[workload::PATH, "--name", "victim"],
        )
        .ok();
    container.ready("victim");
    ctr_ok(&[
        "task",
        "kill",
        "--signal",
        "SIGKILL",
        "--exec-id",
        &exec_id,
        container.id(),
    ]);
    let exit = container.task().wait(&exec_id);
    assert_eq!(exit.map(|e| e.exit_status).ok(), Some(137));
    container.report().continues(&before);
    let deleted = container.task().delete(&exec_id).map(|d| d.exit_status);
    assert_eq!(deleted.ok(), Some(137));
}

#[test]
fn an_exec_of_a_missing_program_fails_and_the_container_continues() {
    let container = Run::new("exec-missing").workload(&[]).detach();
    let output = container.exec(&["/no/such/program"]);
    assert_ne!(output.code, 0);
    assert!(output.stderr.contains("/no/such/program"), "{output}");
    container.report().intact();
    container.exec(&["true"]).ok();
}

#[test]
fn an_exec_name_is_taken_until_it_is_deleted() {
    let container = Run::new("exec-twice").workload(&[]).detach();
    container
        .exec_with(&["--detach"], "same", &[workload::PATH, "--name", "same"])
        .ok();
    container.ready("same");
    let reason = container.exec_with(&[], "same", &["true"]).refused();
    assert!(reason.contains("already exists"), "{reason}");
}

#[test]
fn an_exec_in_a_stopped_container_is_refused() {
    let container = Run::new("exec-late").workload(&[]).detach();
    container.kill("SIGKILL");
    container.stopped();
    let reason = container.exec(&["true"]).refused();
    assert!(
        reason.contains("cannot exec in a stopped state"),
        "{reason}"
    );
}

#[test]
fn a_signal_reaches_init() {
    let container = Run::new("signal").workload(&["--term-code", "3"]).detach();
    let task = container.task();
    let waiting = thread::spawn(move || task.wait(""));
    container.kill("SIGTERM");
    let exit = waiting
        .join()
        .unwrap_or_else(|_| panic!("the waiting thread"));
    assert_eq!(exit.map(|e| e.exit_status).ok(), Some(3));
}

#[test]
fn kill_all_ends_processes_that_init_did_not_start() {
    let container = Run::new("kill-all").workload(&[]).detach();
    container
        .exec_with(&["--detach"], "other", &[workload::PATH, "--name", "other"])
        .ok();
    container.ready("other");
    ctr_ok(&[
        "task",
        "kill",
        "--signal",
        "SIGKILL",
        "--all",
        container.id(),
    ]);
    container.stopped();
    assert_eq!(
        container.task().wait("other").map(|e| e.exit_status).ok(),
        Some(137)
    );
}

#[test]
fn a_signal_to_a_stopped_task_is_refused() {
    let container = Run::new("kill-late").workload(&[]).detach();
    container.kill("SIGKILL");
    container.stopped();
    let reason = ctr_fails(&["task", "kill", "--signal", "SIGTERM", container.id()]);
    assert!(reason.contains("process already finished"), "{reason}");
}

#[test]
fn a_paused_container_stops_until_it_is_resumed() {
    let container = Run::new("pause").workload(&["--threads", "2"]).detach();
    let before = container.report();
    ctr_ok(&["task", "pause", container.id()]);
    container
        .is("PAUSED")
        .unwrap_or_else(|s| panic!("paused, yet {s}"));
    // It answers a signal only after a resume.
    container.report_after("workload", || {
        container.kill("SIGUSR1");
        assert!(!container.out().join("workload.report").exists());
        ctr_ok(&["task", "resume", container.id()]);
    });
    container
        .is("RUNNING")
        .unwrap_or_else(|s| panic!("resumed, yet {s}"));
    container.report().continues(&before);
}

#[test]
fn a_paused_container_can_be_removed() {
    let container = Run::new("pause-rm").workload(&[]).detach();
    ctr_ok(&["task", "pause", container.id()]);
    ctr(&["task", "delete", "--force", container.id()]);
    eventually("the task is deleted", || match container.status() {
        None => Ok(()),
        Some(status) => {
            // The kill takes effect only after the cgroup is thawed, and ctr may have timed out.
            ctr(&["task", "resume", container.id()]);
            ctr(&["task", "delete", "--force", container.id()]);
            Err(format!("{status:?}"))
        }
    });
}

#[test]
fn an_update_changes_the_cgroup() {
    let container = Run::new("update").workload(&[]).detach();
    let limit = 96 << 20;
    let resources = format!(r#"{{"memory":{{"limit":{limit}}}}}"#);
    container
        .task()
        .update(&resources)
        .unwrap_or_else(|refused| panic!("{refused}"));
    let cgroup = cgroup_of(container.pid(), "memory");
    let found = ["memory.limit_in_bytes", "memory.max"]
        .iter()
        .find_map(|name| fs::read_to_string(cgroup.join(name)).ok())
        .unwrap_or_else(|| panic!("no memory limit in {}", cgroup.display()));
    assert_eq!(found.trim(), limit.to_string());
}

#[test]
fn an_update_that_is_no_json_is_refused() {
    let container = Run::new("update-bad").workload(&[]).detach();
    assert!(container.task().update("not JSON").is_err());
    container.report().intact();
}

#[test]
fn state_reports_every_status_of_a_task() {
    use cedana_integration::api::Status;

    let container = Run::new("state").workload(&["--term-code", "4"]).detach();
    let task = container.task();
    let state = || task.state("").unwrap_or_else(|refused| panic!("{refused}"));
    assert_eq!(state().status.enum_value(), Ok(Status::RUNNING));
    assert_eq!(state().pid, container.pid());
    assert!(
        state().bundle.ends_with(container.id()),
        "{}",
        state().bundle
    );
    task.pause().unwrap_or_else(|refused| panic!("{refused}"));
    assert_eq!(state().status.enum_value(), Ok(Status::PAUSED));
    task.resume().unwrap_or_else(|refused| panic!("{refused}"));
    assert_eq!(state().status.enum_value(), Ok(Status::RUNNING));
    container.kill("SIGTERM");
    task.wait("").unwrap_or_else(|refused| panic!("{refused}"));
    assert_eq!(state().status.enum_value(), Ok(Status::STOPPED));
    assert_eq!(state().exit_status, 4);
    assert!(state().exited_at.is_some());
}

#[test]
fn connect_returns_the_pids_of_shim_and_task() {
    let container = Run::new("connect").workload(&[]).detach();
    let answer = container
        .task()
        .connect()
        .unwrap_or_else(|refused| panic!("{refused}"));
    assert_eq!(answer.task_pid, container.pid());
    let name = fs::read_to_string(format!("/proc/{}/cmdline", answer.shim_pid));
    assert!(
        name.is_ok_and(|n| n.contains("containerd-shim")),
        "{answer:?}"
    );
}

#[test]
fn a_shim_with_a_task_does_not_shut_down() {
    let container = Run::new("shutdown").workload(&[]).detach();
    let before = container.report();
    // The shim may refuse or not; the container must continue.
    let _ = container.task().shutdown(false);
    container.report().continues(&before);
}

#[test]
fn a_container_of_another_user_has_that_user() {
    prints(0, "1000\n", "", || {
        Run::new("user")
            .flags(&["--user", "1000:1000"])
            .command(&["id", "-u"])
            .foreground()
    });
}
