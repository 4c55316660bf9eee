//! Events, metrics, process lists and out-of-memory events of containers.

use cedana_integration::protos::protobuf::Message;
use cedana_integration::protos::{cgroups, cgroups_v2};
use cedana_integration::{Events, Run, ctr, ctr_ok, eventually, workload};

#[test]
fn the_events_of_a_container_come_in_order() {
    let events = Events::watch();
    let container = Run::new("events").workload(&["--term-code", "12"]).detach();
    let pid = container.pid();
    container.exec_with(&[], "errand", &["sh", "-c", "exit 3"]);
    ctr_ok(&["task", "pause", container.id()]);
    ctr_ok(&["task", "resume", container.id()]);
    let _image = container.checkpoint(&["--rw", "--image"]);
    container.kill("SIGTERM");
    container.stopped();
    ctr(&["task", "delete", container.id()]);
    events.expect(container.id(), "/tasks/delete");

    let told = eventually("all events have come", || {
        let topics = events.topics_of(container.id());
        let at = |topic: &str| topics.iter().position(|told| told == topic);
        if at("checkpointed").is_none() {
            return Err(format!("checkpointed is missing in {topics:?}"));
        }
        // ctr pauses a task for its checkpoint. The shim resumes it before the checkpoint
        // is packed, or ctr does so afterwards.
        let all = [
            "create",
            "start",
            "exec-added",
            "exec-started",
            "exit",
            "paused",
            "resumed",
            "paused",
            "resumed",
            "exit",
            "delete",
        ];
        // Some versions of containerd also publish the deletion of a process.
        let task: Vec<_> = topics.iter().map(String::as_str).collect();
        let mut wanted = all.iter().peekable();
        for topic in &task {
            wanted.next_if(|next| *next == topic);
        }
        match wanted.peek() {
            None => Ok(topics),
            Some(next) => Err(format!("{next} is missing in {task:?}")),
        }
    });
    assert_eq!(told.iter().filter(|t| *t == "exit").count(), 2, "{told:?}");

    let all = events.of(container.id());
    let exits: Vec<_> = all.iter().filter(|e| e.topic == "/tasks/exit").collect();
    assert_eq!(exits[0].body["exit_status"], 3, "{exits:?}");
    assert_eq!(exits[0].body["id"], "errand", "{exits:?}");
    assert_eq!(exits[1].body["exit_status"], 12, "{exits:?}");
    assert_eq!(exits[1].body["id"], container.id(), "{exits:?}");
    assert_eq!(exits[1].body["pid"], pid, "{exits:?}");
    let start = events.expect(container.id(), "/tasks/start");
    assert_eq!(start.body["pid"], pid);
    let create = events.expect(container.id(), "/tasks/create");
    assert!(
        create.body["bundle"]
            .as_str()
            .is_some_and(|b| b.ends_with(container.id()))
    );
}

#[test]
fn the_start_event_of_a_restore_has_the_new_pid() {
    let events = Events::watch();
    let container = Run::new("events-restore").workload(&[]).detach();
    let ended = container.pid();
    let image = container.checkpoint(&["--rw", "--image"]);
    container.end_task();
    let restored = container.restore(&image, &["--rw"]);
    let start = events.expect(restored.id(), "/tasks/start");
    assert_eq!(start.body["pid"], restored.pid());
    assert_ne!(restored.pid(), ended);
}

#[test]
fn an_oom_event_comes_before_the_exit_event() {
    let events = Events::watch();
    let limit = (32 << 20).to_string();
    let run = Run::new("oom").flags(&["--memory-limit", &limit]);
    let (container, mut ctr) = run.workload(&["--memory", "256"]).spawnable(&["-d"]);
    let started = ctr.status();
    assert!(started.as_ref().is_ok_and(|s| s.success()), "{started:?}");
    events.expect(container.id(), "/tasks/oom");
    let exit = events.expect(container.id(), "/tasks/exit");
    assert_eq!(exit.body["exit_status"], 137);
    container.stopped();
}

#[test]
fn metrics_come_from_the_hosts_cgroup_version() {
    let container = Run::new("metrics").workload(&["--memory", "32"]).detach();
    let stats = container
        .task()
        .stats()
        .unwrap_or_else(|refused| panic!("{refused}"));
    let stats = stats
        .stats
        .into_option()
        .unwrap_or_else(|| panic!("no metrics"));
    let unified = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let (memory, cpu, pids) = if unified {
        assert_eq!(stats.type_url, "io.containerd.cgroups.v2.Metrics");
        let metrics = cgroups_v2::metrics::Metrics::parse_from_bytes(&stats.value)
            .unwrap_or_else(|error| panic!("{error}"));
        (
            metrics.memory().usage(),
            metrics.cpu().usage_usec() * 1000,
            metrics.pids().current(),
        )
    } else {
        assert_eq!(stats.type_url, "io.containerd.cgroups.v1.Metrics");
        let metrics = cgroups::metrics::Metrics::parse_from_bytes(&stats.value)
            .unwrap_or_else(|error| panic!("{error}"));
        (
            metrics.memory().usage().usage(),
            metrics.cpu().usage().total(),
            metrics.pids().current(),
        )
    };
    assert!(
        (32 << 20..256 << 20).contains(&memory),
        "{memory} bytes of memory"
    );
    assert!(cpu > 0, "no CPU time");
    assert!((1..100).contains(&pids), "{pids} processes");
}

#[test]
fn ctr_prints_metrics() {
    let container = Run::new("metrics-ctr")
        .workload(&["--memory", "8"])
        .detach();
    let printed = ctr_ok(&["task", "metrics", container.id()]);
    assert!(printed.contains("memory.usage"), "{printed}");
    assert!(printed.contains(container.id()), "{printed}");
}

#[test]
fn ps_lists_every_process_and_names_the_execs() {
    let container = Run::new("ps").workload(&["--children", "1"]).detach();
    container
        .exec_with(
            &["--detach"],
            "listed",
            &[workload::PATH, "--name", "listed"],
        )
        .ok();
    container.ready("listed");
    // Init, two children, the exec.
    let printed = ctr_ok(&["task", "ps", container.id()]);
    assert_eq!(printed.lines().count(), 1 + 4, "{printed}");
    assert!(printed.contains(&container.pid().to_string()), "{printed}");
    assert!(printed.contains("listed"), "{printed}");
}
