//! Restores containers lazily: they run before they have all of their memory.

use std::fs;

use cedana_integration::checkpointed::Checkpointed;
use cedana_integration::folder::{Folder, flip, json, read};
use cedana_integration::lazy::{FailsOnce, GATE, Lazy, PrefetchGate, process};
use cedana_integration::protos::shim::oci::CheckpointOptions;
use cedana_integration::{BareShim, Run, command, eventually};

/// A number of a restore's record.
#[track_caller]
fn figure(record: &serde_json::Value, key: &str) -> u64 {
    let figure = record[key].as_u64();
    figure.unwrap_or_else(|| panic!("no {key} in {record}"))
}

const FAMILY: [&str; 6] = ["--memory", "64", "--children", "2", "--threads", "4"];

#[test]
fn every_process_gets_its_own_memory() {
    let lazy = Lazy::new("family", &FAMILY);
    // Faults bring all of it, without prefetching.
    lazy.checkpointed.is_intact();
    lazy.checkpointed.is_restored_intact();
    lazy.is_complete();
    assert_eq!(lazy.record()["prefetched_bytes"], 0);
}

#[test]
fn memory_that_no_process_touches_is_prefetched() {
    let lazy = Lazy::new("asleep", &FAMILY);
    lazy.gate.open();
    lazy.is_complete();
    let record = lazy.record();
    for key in ["running_us", "complete_us", "faults", "prefetched_bytes"] {
        assert!(record[key].as_u64() > Some(0), "{key}: {record}");
    }
    let said = command("cedana-runc", &["inspect", "--restores"]).ok();
    assert!(said.stdout.contains(&lazy.checkpointed.id), "{said}");
    lazy.checkpointed.is_restored_intact();
}

#[test]
fn pages_that_faulted_are_prefetched_first_at_the_next_restore() {
    let lazy = Lazy::new("again-and-again", &FAMILY);
    // Faults bring all of it, without prefetching.
    lazy.checkpointed.is_intact();
    lazy.is_complete();
    assert_eq!(lazy.record()["expected_bytes"], 0);
    lazy.checkpointed.end();
    lazy.restore();
    lazy.gate.open();
    lazy.is_complete();
    // Nearly all of it is expected now, since the processes touch little.
    let record = lazy.record();
    let (expected, lazy_bytes) = (
        figure(&record, "expected_bytes"),
        figure(&record, "lazy_bytes"),
    );
    assert!(lazy_bytes > 0 && expected > lazy_bytes / 2, "{record}");
    lazy.checkpointed.is_restored_intact();
}

#[test]
fn programs_may_move_drop_and_fork_missing_memory() {
    let games = ["--memory", "16", "--games", "--threads", "2"];
    let lazy = Lazy::new("games", &games);
    lazy.checkpointed
        .report_after_signal("-USR2")
        .continues(&lazy.checkpointed.before);
    lazy.completes();
    lazy.checkpointed.is_restored_intact();
    // During prefetching.
    for _ in 0..3 {
        lazy.restore();
        lazy.gate.open();
        lazy.checkpointed
            .report_after_signal("-USR2")
            .continues(&lazy.checkpointed.before);
        lazy.is_complete();
        lazy.checkpointed.is_restored_intact();
    }
}

#[test]
fn a_checkpoint_waits_for_missing_memory() {
    let lazy = Lazy::new("again", &FAMILY);
    let images = Folder::new("second");
    // containerd pauses a task for its checkpoint.
    for paused in [true, false] {
        if paused {
            lazy.runc(&["pause"]);
        }
        lazy.checkpoint(&images);
        if paused {
            lazy.runc(&["resume"]);
        }
        lazy.is_complete();
        lazy.checkpointed.is_intact();
        lazy.checkpointed.end();
        lazy.checkpointed.has_exited();
        lazy.checkpointed.restore("cedana-runc", &images).ok();
        lazy.checkpointed.is_restored_intact();
        lazy.restore();
    }
}

#[test]
fn a_paused_container_gets_its_memory() {
    let lazy = Lazy::new("paused", &FAMILY);
    lazy.runc(&["pause"]);
    lazy.gate.open();
    lazy.is_complete();
    lazy.runc(&["resume"]);
    lazy.checkpointed.is_restored_intact();
}

#[test]
fn the_page_source_exits_with_a_container_that_lacks_memory() {
    let lazy = Lazy::new("early", &FAMILY);
    command("kill", &["-KILL", &lazy.checkpointed.pid()]).ok();
    lazy.is_complete();
    lazy.checkpointed.end();
    lazy.restore();
    lazy.checkpointed.end();
    lazy.is_complete();
}

#[test]
fn a_container_that_loses_its_page_source_is_killed_and_the_log_says_why() {
    let lazy = Lazy::new("orphan", &FAMILY);
    lazy.kill("cedana-pages");
    lazy.was_killed(&["page source was killed"]);
    lazy.restore();
    lazy.kill("cedana-watchdog");
    lazy.was_killed(&["watchdog of its page source was killed"]);
    // A paused container is killed when it is resumed.
    lazy.restore();
    lazy.runc(&["pause"]);
    lazy.kill("cedana-pages");
    lazy.was_killed(&["page source was killed"]);
    // The checkpoint is intact.
    lazy.restores_completely();
}

#[test]
fn a_container_whose_memory_limit_leaves_no_room_is_killed_and_the_log_says_why() {
    let lazy = Lazy::new("tight", &FAMILY);
    let Some(cgroup) = lazy.oom_killer() else {
        println!("skipped: on cgroup v2 the OOM killer cannot be turned off");
        return;
    };
    let limit = |bytes: &str| {
        for (file, text) in [
            ("memory.oom_control", "1"),
            ("memory.limit_in_bytes", bytes),
        ] {
            fs::write(cgroup.join(file), text).unwrap_or_else(|e| panic!("{file}: {e}"));
        }
    };
    limit("40M");
    lazy.gate.open();
    // It continues if the limit is raised in time.
    eventually("the cgroup is at its limit", || {
        match read(&cgroup.join("memory.failcnt")).trim() {
            "0" => Err("it is not".to_owned()),
            _ => Ok(()),
        }
    });
    limit("1G");
    lazy.is_complete();
    lazy.checkpointed.is_restored_intact();

    lazy.restore();
    limit("40M");
    lazy.gate.open();
    lazy.was_killed(&["memory limit leaves no room"]);
}

/// Asserts that its restore became eager and the log says `why`.
#[track_caller]
fn was_restored_eagerly(lazy: &Lazy, why: &str) {
    let log = read(&lazy.checkpointed.bundle.file("log.json"));
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("restoring eagerly, because"))
        .collect();
    assert!(
        matches!(lines.as_slice(), [line] if line.contains(why)),
        "one line with {why:?} in: {log}"
    );
    assert!(!lazy.lacks_memory());
    lazy.page_source_has_exited();
}

#[test]
fn a_page_source_that_is_killed_before_the_restore_makes_it_eager() {
    let lazy = Lazy {
        checkpointed: Checkpointed::of("no-source", &[], &FAMILY),
        gate: PrefetchGate::closed(),
    };
    let runtime = cedana_integration::Gate::before("restore");
    let program = format!(
        "CEDANA_RUNTIME={} {}",
        runtime.program().display(),
        lazy.gate.program()
    );
    let output = std::thread::scope(|scope| {
        let restoring = scope.spawn(|| {
            lazy.checkpointed
                .restore(&program, &lazy.checkpointed.images)
        });
        runtime.arrived();
        lazy.kill("cedana-pages");
        runtime.open();
        // The second attempt, which is eager.
        runtime.arrived();
        runtime.open();
        restoring.join().unwrap_or_else(|_| panic!("the restore"))
    });
    output.ok();
    was_restored_eagerly(&lazy, "page source was killed");
    lazy.checkpointed.is_restored_intact();
    lazy.restores_completely();
}

#[test]
fn a_page_source_that_is_killed_during_the_restore_makes_it_eager() {
    for step in ["setup-namespaces", "post-restore"] {
        let lazy = Lazy {
            checkpointed: Checkpointed::of("midway", &[], &FAMILY),
            gate: PrefetchGate::closed(),
        };
        lazy.checkpointed.script(&format!(
            "[ \"$CRTOOLS_SCRIPT_ACTION\" = {step} ] && [ ! -e {seen} ] || exit 0
             named() {{
               for process in /proc/[0-9]*; do
                 [ \"$(cat $process/comm)\" = $1 ] || continue
                 ! grep -q {gate} $process/environ || echo ${{process#/proc/}}
               done 2>/dev/null
             }}
             # The source has started its watchdog by then.
             until [ \"$(named cedana-watchdog)\" ]; do :; done
             kill -KILL $(named cedana-pages)
             touch {seen}
             exit 0",
            gate = lazy.gate.0.display(),
            seen = lazy.checkpointed.bundle.file("seen").display(),
        ));
        lazy.checkpointed
            .restore(&lazy.gate.program(), &lazy.checkpointed.images)
            .ok();
        assert!(
            lazy.checkpointed.bundle.file("seen").exists(),
            "{step} not seen"
        );
        was_restored_eagerly(&lazy, "page source was killed");
        lazy.checkpointed.is_restored_intact();
    }
}

#[test]
fn a_restore_that_fails_lazily_and_eagerly_says_why_and_leaves_nothing() {
    let kept = Folder::new("kept");
    fs::write(kept.file("data"), "content").unwrap_or_else(|error| panic!("{error}"));
    let mount = format!("type=bind,src={},dst=/kept,options=rbind:rw", kept.text());
    let workload = [&FAMILY[..], &["--file", "/kept/open"]].concat();
    let lazy = Lazy {
        checkpointed: Checkpointed::of("neither", &["--mount", &mount], &workload),
        gate: PrefetchGate::closed(),
    };
    // CRIU fails when it opens the files.
    fs::rename(kept.file("open"), kept.file("away")).unwrap_or_else(|error| panic!("{error}"));
    let program = lazy.gate.program();
    let leaks = lazy.checkpointed.leaks(&lazy.checkpointed.images);
    let why = lazy
        .checkpointed
        .restore(&program, &lazy.checkpointed.images)
        .refused();
    assert!(
        why.contains("/kept/open") && why.contains("is missing"),
        "{why}"
    );
    assert!(!why.contains("page source"), "{why}");
    lazy.page_source_has_exited();
    leaks.none();
    fs::rename(kept.file("away"), kept.file("open")).unwrap_or_else(|error| panic!("{error}"));
    // CRIU fails before it connects to the page source.
    let options = lazy.checkpointed.criu.file("criu.conf");
    lazy.checkpointed.script("exit 0");
    let text = read(&options);
    fs::write(&options, "no-such-option\n").unwrap_or_else(|error| panic!("{error}"));
    let why = lazy
        .checkpointed
        .restore(&program, &lazy.checkpointed.images)
        .refused();
    assert!(why.contains("org.criu.config"), "{why}");
    lazy.page_source_has_exited();
    leaks.none();
    fs::write(&options, text).unwrap_or_else(|error| panic!("{error}"));
    lazy.restores_completely();
}

#[test]
fn after_a_second_attempt_the_terminal_is_that_of_the_restored_container() {
    // CRIU fails after the runtime has sent the terminal.
    let step = FailsOnce::at("post-restore");
    let (container, mut terminal) = Run::new("lazy-terminal")
        .flags(&["--annotation", &step.annotation()])
        .workload(&["--lines"])
        .on_terminal();
    container.ready("workload");
    terminal.type_line("before");
    terminal.expect("line 1: before");
    let before = container.report();
    let image = container.checkpoint(&["--rw", "--image"]);
    container.kill("SIGKILL");
    terminal.exit_code();
    let (restored, mut terminal) = container.restore_on_terminal(&image);
    step.has_failed();
    restored.report().continues(&before);
    terminal.type_line("after");
    terminal.expect("line 2: after");
}

#[test]
fn guard_regions_of_stacks_are_restored() {
    let lazy = Lazy::new(
        "guarded",
        &["--memory", "16", "--guarded", "--threads", "8"],
    );
    lazy.gate.open();
    lazy.is_complete();
    lazy.checkpointed.is_restored_intact();
    // `inspect` counts each page once, so the total is at most the page files' size.
    let said = command(
        "cedana-runc",
        &["inspect", "--json", &lazy.checkpointed.images.text()],
    )
    .ok();
    let said = json(&said.stdout);
    let total = said["processes"][0]["memory"]["total"]["image_bytes"].as_u64();
    let raw = said["manifest"]["cost"]["raw_bytes"].as_u64();
    assert!(
        total.is_some() && total <= raw,
        "{total:?} of {raw:?}: {said}"
    );
}

#[test]
fn reserved_address_space_needs_no_memory() {
    let lazy = Lazy::new("reserved", &["--memory", "16", "--reserved", "8"]);
    lazy.gate.open();
    lazy.is_complete();
    let log = read(&lazy.checkpointed.bundle.file("log.json"));
    assert!(!log.contains("restoring eagerly"), "{log}");
    lazy.checkpointed.is_restored_intact();
}

/// The memory of a container; shared pages count once.
fn memory_of(pids: &[String]) -> u64 {
    pids.iter()
        .map(|pid| {
            let rollup = read(format!("/proc/{pid}/smaps_rollup").as_ref());
            let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
            let kib = pss.and_then(|pss| pss.split_whitespace().next()?.parse::<u64>().ok());
            kib.unwrap_or_else(|| panic!("no Pss in {rollup}")) << 10
        })
        .sum()
}

fn family_of(pid: &str) -> Vec<String> {
    let children = command("pgrep", &["-P", pid]).ok();
    let children = children.stdout.lines().map(str::to_owned);
    std::iter::once(pid.to_owned()).chain(children).collect()
}

#[test]
fn workers_that_share_memory_are_restored_within_their_limit() {
    let limit = (400u64 << 20).to_string();
    let workload = ["--memory", "100", "--workers", "8"];
    let lazy = Lazy {
        checkpointed: Checkpointed::of("workers", &["--memory-limit", &limit], &workload),
        gate: PrefetchGate::closed(),
    };
    let measure = |environment: &str| {
        let program = format!("{environment} {}", lazy.gate.program());
        lazy.checkpointed
            .restore(&program, &lazy.checkpointed.images)
            .ok();
        assert!(!lazy.lacks_memory());
        lazy.checkpointed.is_intact();
        let memory = memory_of(&family_of(&lazy.checkpointed.pid()));
        lazy.checkpointed.is_restored_intact();
        memory
    };
    let eager = measure("CEDANA_RESTORE_MODE=eager");
    let usual = measure("");
    assert!(
        usual <= eager + eager / 10,
        "{usual} bytes, eagerly {eager}"
    );
    let log = read(&lazy.checkpointed.bundle.file("log.json"));
    assert!(log.contains("may share"), "{log}");
}

/// Waits until the page source has written the record of the parent's memory.
#[track_caller]
fn parent_is_complete(lazy: &Lazy) {
    eventually("the parent's memory is complete", || {
        match lazy.records().is_empty() {
            true => Err("no record".to_owned()),
            false => Ok(()),
        }
    });
}

/// Has the workload fork two workers that touch no memory.
#[track_caller]
fn forks(lazy: &Lazy) {
    let forked = lazy.checkpointed.container.out().join("workload.forked");
    command("kill", &["-USR2", &lazy.checkpointed.pid()]).ok();
    eventually("the workload has forked", || {
        fs::metadata(&forked).map_err(|error| error.to_string())
    });
}

#[test]
fn a_checkpoint_that_needs_more_copies_than_the_limit_allows_is_refused() {
    // Enough for the memory, but not for two workers' copies of it.
    let limit = (120u64 << 20).to_string();
    let workload = ["--memory", "64", "--late-workers"];
    let lazy = Lazy {
        checkpointed: Checkpointed::of("no-copies", &["--memory-limit", &limit], &workload),
        gate: PrefetchGate::closed(),
    };
    lazy.restore();
    forks(&lazy);
    lazy.gate.open();
    parent_is_complete(&lazy);
    let images = Folder::new("second");
    let why = lazy.try_checkpoint(&images).refused();
    assert!(
        why.contains("memory limit") && why.contains("raise the limit"),
        "{why}"
    );
    assert!(images.names().is_empty(), "{:?}", images.names());
    // It continues, and the page source exits with it.
    assert!(lazy.lacks_memory());
    lazy.checkpointed.end();
    lazy.is_complete();
}

#[test]
fn children_forked_before_memory_is_complete_get_the_pages_that_they_touch() {
    let lazy = Lazy::new("late", &["--memory", "64", "--late-workers"]);
    forks(&lazy);
    lazy.gate.open();
    parent_is_complete(&lazy);
    let record = lazy.record();
    let (lazy_bytes, given) = (
        figure(&record, "lazy_bytes"),
        figure(&record, "prefetched_bytes"),
    );
    assert!(
        given > 0 && given <= lazy_bytes,
        "{given} of {lazy_bytes} bytes prefetched"
    );
    // The children lack untouched pages until a checkpoint needs them.
    assert!(lazy.lacks_memory());
    let images = Folder::new("second");
    lazy.checkpoint(&images);
    lazy.is_complete();
    lazy.checkpointed.is_intact();
    lazy.checkpointed.end();
    lazy.checkpointed.has_exited();
    lazy.checkpointed.restore("cedana-runc", &images).ok();
    lazy.checkpointed.is_restored_intact();
}

#[test]
fn a_damaged_page_file_kills_the_container_before_it_reads_the_damage() {
    let lazy = Lazy::new("flipped", &FAMILY);
    lazy.checkpointed.end();
    lazy.is_complete();
    let damaged = lazy.checkpointed.images.copy("damaged");
    let pages = damaged.largest_pages();
    flip(&pages);
    let name = pages.file_name().unwrap_or_default().to_string_lossy();
    for asked in [true, false] {
        lazy.checkpointed
            .restore(&lazy.gate.program(), &damaged)
            .ok();
        if asked {
            command("kill", &["-USR1", &lazy.checkpointed.pid()]).ok();
        } else {
            lazy.gate.open();
        }
        lazy.was_killed(&[&name, "damaged in frame"]);
        assert!(
            lazy.record()["failed"]
                .as_str()
                .is_some_and(|why| why.contains(&*name))
        );
    }
    lazy.restores_completely();
}

#[test]
fn lazy_restore_can_be_turned_off() {
    let checkpointed = Checkpointed::of(
        "eager",
        &["--annotation", "io.cedana.restore.mode=eager"],
        &FAMILY,
    );
    let gate = PrefetchGate::closed();
    let lazy = Lazy { checkpointed, gate };
    let program = lazy.gate.program();
    lazy.checkpointed
        .restore(&program, &lazy.checkpointed.images)
        .ok();
    assert!(!lazy.lacks_memory() && lazy.process("cedana-pages").is_none());
    lazy.checkpointed.is_restored_intact();
}

#[test]
fn a_client_gets_the_exit_and_the_shims_log_says_why() {
    let first = BareShim::start("bare-lazy", &FAMILY);
    first.run();
    let before = first.report();
    let images = Folder::new("images");
    let exit = CheckpointOptions {
        exit: true,
        ..Default::default()
    };
    let done = first.task().checkpoint(&images.0, Some(exit));
    done.unwrap_or_else(|refused| panic!("{refused}"));

    let gate = PrefetchGate::closed();
    let path = gate.0.display().to_string();
    let next = first.successor_with("bare-lazy-next", &[(GATE, &path)]);
    let mut request = next.request();
    request.checkpoint = images.text();
    let started = next
        .task()
        .create(&request)
        .and_then(|_| next.task().start(""));
    started.unwrap_or_else(|refused| panic!("{refused}"));
    let source = process("cedana-pages", &path).unwrap_or_else(|| panic!("no page source"));
    command("kill", &["-KILL", &source]).ok();
    let end = next
        .task()
        .wait("")
        .unwrap_or_else(|refused| panic!("{refused}"));
    assert_eq!(end.exit_status, 137);
    eventually("the shim says why", || {
        let logged = next.logged();
        match logged.contains("its page source was killed before its memory was complete") {
            true => Ok(()),
            false => Err(logged),
        }
    });

    let again = first.successor("bare-lazy-again");
    let mut request = again.request();
    request.checkpoint = images.text();
    let started = again
        .task()
        .create(&request)
        .and_then(|_| again.task().start(""));
    started.unwrap_or_else(|refused| panic!("{refused}"));
    again.report_into(&first).continues(&before);
}

#[test]
fn a_lazy_restore_works_in_the_foreground() {
    let lazy = Lazy {
        checkpointed: Checkpointed::of("foreground", &[], &FAMILY),
        gate: PrefetchGate::closed(),
    };
    for killed in [true, false] {
        let restoring = lazy
            .checkpointed
            .restore_in_foreground(&lazy.gate.program());
        eventually("the container runs", || {
            let known = fs::metadata(lazy.checkpointed.bundle.file("pid")).is_ok();
            match known && lazy.lacks_memory() {
                true => Ok(()),
                false => {
                    Err(fs::read_to_string(lazy.checkpointed.bundle.file("said"))
                        .unwrap_or_default())
                }
            }
        });
        // The restore command exits with the container, but releases config.json and
        // /dev/fuse before.
        lazy.releases_config_and_images();
        match killed {
            true => {
                lazy.kill("cedana-pages");
                restoring.has_code(137);
                lazy.was_killed(&["page source was killed"]);
            }
            false => {
                lazy.gate.open();
                lazy.is_complete();
                lazy.checkpointed.is_intact();
                command("kill", &[&lazy.checkpointed.pid()]).ok();
                restoring.has_code(0);
            }
        }
    }
}
