//! A container that runs before it has its memory.
//!
//! Prefetching waits before a gate, so that a story can look at a container that
//! lacks memory, and do with it what it likes, for as long as it likes.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use cedana_integration::frozen::{Folder, Frozen, ROOT, flip, json, read};
use cedana_integration::protos::shim::oci::CheckpointOptions;
use cedana_integration::{BareShim, command, eventually, unique};
use serde_json::Value;

/// How a page source is told of its gate.
const GATE: &str = "CEDANA_TEST_PREFETCH_GATE";

/// The fifo before which page sources that are started meanwhile wait.
struct Gate(PathBuf);

impl Gate {
    fn closed() -> Self {
        let path = Path::new("/var/tmp/cedana-tests").join(unique("prefetch"));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }

    /// A program that restores before this gate.
    fn program(&self) -> String {
        format!("{GATE}={} cedana-runc", self.0.display())
    }

    /// Lets them go on.
    #[track_caller]
    fn open(&self) {
        eventually("somebody stands before the gate", || {
            let mut options = fs::File::options();
            let gate = options
                .write(true)
                .custom_flags(nix::libc::O_NONBLOCK)
                .open(&self.0);
            gate.and_then(|mut gate| gate.write_all(b"go"))
                .map_err(|error| error.to_string())
        });
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A restored container, its page source, and what is known of both.
struct Lazy {
    frozen: Frozen,
    gate: Gate,
}

impl Lazy {
    /// A container that runs, and has none of its memory but what it has asked
    /// for.
    #[track_caller]
    fn new(label: &str, workload: &[&str]) -> Self {
        let lazy = Self {
            frozen: Frozen::of(label, &[], workload),
            gate: Gate::closed(),
        };
        lazy.restore();
        lazy
    }

    #[track_caller]
    fn restore(&self) {
        self.frozen
            .restore(&self.gate.program(), &self.frozen.images)
            .ok();
        assert!(self.lacks_memory(), "nothing is missing");
    }

    fn lacks_memory(&self) -> bool {
        let prefix = format!("{}-", self.frozen.pid());
        let known = fs::read_dir("/run/cedana/lazy").into_iter().flatten();
        known
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .any(|name| name.to_string_lossy().starts_with(&prefix))
    }

    /// Waits until the page source has gone, with its guard.
    #[track_caller]
    fn is_complete(&self) {
        eventually("memory is complete", || match self.lacks_memory() {
            true => Err("it is not".to_owned()),
            false => Ok(()),
        });
        self.nothing_runs();
    }

    #[track_caller]
    fn nothing_runs(&self) {
        eventually("page source and guard have ended", || {
            let left = [self.process("cedana-pages"), self.process("cedana-guard")];
            match left.iter().all(Option::is_none) {
                true => Ok(()),
                false => Err(format!("{left:?}")),
            }
        });
    }

    /// The PID of one of both; other stories have their own.
    fn process(&self, name: &str) -> Option<String> {
        process(name, &self.gate.0.display().to_string())
    }

    #[track_caller]
    fn kill(&self, name: &str) {
        let pid = self.process(name).unwrap_or_else(|| panic!("no {name}"));
        command("kill", &["-KILL", &pid]).ok();
    }

    /// The container was killed, the log says why, and it can come back.
    #[track_caller]
    fn was_killed(&self, words: &[&str]) {
        self.frozen.has_ended();
        self.nothing_runs();
        let log = read(&self.frozen.bundle.file("log.json"));
        let why = read(&self.frozen.bundle.file("cedana-killed"));
        for word in words {
            assert!(log.contains(word), "{word:?} is not in {log}");
            assert!(why.contains(word), "{word:?} is not in {why}");
        }
        self.frozen.end();
    }

    /// The record of its last restore.
    #[track_caller]
    fn record(&self) -> Value {
        let said = command("cedana-runc", &["inspect", "--restores", "--json"]).ok();
        let all = json(&said.stdout);
        let mut ours = all.as_array().into_iter().flatten();
        let last = ours.rfind(|record| record["id"] == self.frozen.id.as_str());
        last.cloned().unwrap_or_else(|| panic!("no record: {all}"))
    }

    /// Its cgroup, where that can forbid the kernel to kill for memory (cgroup v1).
    fn oom_killer(&self) -> Option<PathBuf> {
        let cgroups = read(&PathBuf::from(format!(
            "/proc/{}/cgroup",
            self.frozen.pid()
        )));
        let path = cgroups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let memory = controllers.split(',').any(|name| name == "memory");
            memory.then_some(path)
        })?;
        let dir = Path::new("/sys/fs/cgroup/memory").join(path.trim_start_matches('/'));
        dir.join("memory.oom_control").exists().then_some(dir)
    }

    fn runc(&self, verb: &[&str]) {
        let mut all = vec!["--root", ROOT];
        all.extend(verb);
        all.push(&self.frozen.id);
        command("runc", &all).ok();
    }
}

/// The PID of a living process by its name and its gate.
fn process(name: &str, gate: &str) -> Option<String> {
    fs::read_dir("/proc").ok()?.find_map(|entry| {
        let path = entry.ok()?.path();
        let comm = fs::read_to_string(path.join("comm")).ok()?;
        let environment = fs::read(path.join("environ")).ok()?;
        let ours = String::from_utf8_lossy(&environment).contains(gate);
        let zombie = fs::read_to_string(path.join("stat")).is_ok_and(|s| s.contains(") Z "));
        (comm.trim() == name && ours && !zombie).then(|| {
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into()
        })
    })
}

const FAMILY: [&str; 6] = ["--memory", "64", "--children", "2", "--threads", "4"];

#[test]
fn every_process_gets_its_own_memory() {
    let lazy = Lazy::new("family", &FAMILY);
    // By faults alone.
    lazy.frozen.is_intact();
    lazy.frozen.goes_on();
    lazy.is_complete();
    assert_eq!(lazy.record()["prefetched_bytes"], 0);
}

#[test]
fn memory_that_nobody_asks_for_comes_too() {
    let lazy = Lazy::new("asleep", &FAMILY);
    lazy.gate.open();
    lazy.is_complete();
    let record = lazy.record();
    for key in ["running_us", "complete_us", "faults", "prefetched_bytes"] {
        assert!(record[key].as_u64() > Some(0), "{key}: {record}");
    }
    let said = command("cedana-runc", &["inspect", "--restores"]).ok();
    assert!(said.stdout.contains(&lazy.frozen.id), "{said}");
    lazy.frozen.goes_on();
}

#[test]
fn what_was_asked_for_comes_first_the_next_time() {
    let lazy = Lazy::new("again-and-again", &FAMILY);
    // By faults alone.
    lazy.frozen.is_intact();
    lazy.is_complete();
    assert_eq!(lazy.record()["expected_bytes"], 0);
    lazy.frozen.end();
    lazy.restore();
    lazy.gate.open();
    lazy.is_complete();
    // Nobody asks this time, or hardly: nearly all of it is expected.
    let record = lazy.record();
    let number = |key: &str| record[key].as_u64().unwrap_or_default();
    assert!(
        number("expected_bytes") > number("lazy_bytes") / 2,
        "{record}"
    );
    lazy.frozen.goes_on();
}

#[test]
fn programs_do_with_their_memory_what_they_like() {
    let games = ["--memory", "16", "--games", "--threads", "2"];
    let lazy = Lazy::new("games", &games);
    lazy.frozen
        .says_after("-USR2")
        .continues(&lazy.frozen.before);
    lazy.gate.open();
    lazy.is_complete();
    lazy.frozen.goes_on();
    // And in the midst of it.
    for _ in 0..3 {
        lazy.restore();
        lazy.gate.open();
        lazy.frozen
            .says_after("-USR2")
            .continues(&lazy.frozen.before);
        lazy.is_complete();
        lazy.frozen.goes_on();
    }
}

#[test]
fn a_checkpoint_waits_for_what_is_missing() {
    let lazy = Lazy::new("again", &FAMILY);
    let images = Folder::new("second");
    // Paused, as containerd does it.
    for paused in [true, false] {
        if paused {
            lazy.runc(&["pause"]);
        }
        let (to, work) = (images.text(), lazy.frozen.bundle.text());
        let flags = ["--leave-running", "--image-path", &to, "--work-path", &work];
        let all = [
            &["--root", ROOT, "checkpoint"],
            flags.as_slice(),
            &[&lazy.frozen.id],
        ]
        .concat();
        command("cedana-runc", &all).ok();
        if paused {
            lazy.runc(&["resume"]);
        }
        lazy.is_complete();
        lazy.frozen.is_intact();
        lazy.frozen.end();
        lazy.frozen.has_ended();
        lazy.frozen.restore("cedana-runc", &images).ok();
        lazy.frozen.goes_on();
        lazy.restore();
    }
}

#[test]
fn a_paused_container_gets_its_memory_too() {
    let lazy = Lazy::new("paused", &FAMILY);
    lazy.runc(&["pause"]);
    lazy.gate.open();
    lazy.is_complete();
    lazy.runc(&["resume"]);
    lazy.frozen.goes_on();
}

#[test]
fn a_container_that_ends_early_takes_its_page_source_along() {
    let lazy = Lazy::new("early", &FAMILY);
    command("kill", &["-KILL", &lazy.frozen.pid()]).ok();
    lazy.is_complete();
    lazy.frozen.end();
    lazy.restore();
    lazy.frozen.end();
    lazy.is_complete();
}

#[test]
fn without_its_page_source_it_is_killed_and_told_why() {
    let lazy = Lazy::new("orphan", &FAMILY);
    lazy.kill("cedana-pages");
    lazy.was_killed(&["page source was killed"]);
    lazy.restore();
    lazy.kill("cedana-guard");
    lazy.was_killed(&["guard of its page source was killed"]);
    // Paused, it can't die at once.
    lazy.restore();
    lazy.runc(&["pause"]);
    lazy.kill("cedana-pages");
    lazy.was_killed(&["page source was killed"]);
    // The checkpoint has not suffered.
    lazy.restore();
    lazy.gate.open();
    lazy.is_complete();
    lazy.frozen.goes_on();
}

#[test]
fn a_limit_that_leaves_no_room_is_a_reason_to_be_killed() {
    let lazy = Lazy::new("tight", &FAMILY);
    let Some(cgroup) = lazy.oom_killer() else {
        println!("skipped: cgroup v2 has no way to forbid the kernel to kill for memory first");
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
    // Where it gets more room in time it goes on.
    eventually("there is no room", || {
        match read(&cgroup.join("memory.failcnt")).trim() {
            "0" => Err("there is".to_owned()),
            _ => Ok(()),
        }
    });
    limit("1G");
    lazy.is_complete();
    lazy.frozen.goes_on();

    lazy.restore();
    limit("40M");
    lazy.gate.open();
    lazy.was_killed(&["memory limit leaves no room"]);
}

#[test]
fn a_page_source_that_dies_before_the_container_runs_fails_the_restore() {
    let lazy = Lazy {
        frozen: Frozen::of("unborn", &[], &FAMILY),
        gate: Gate::closed(),
    };
    let runtime = cedana_integration::Gate::before("restore");
    let program = format!(
        "CEDANA_RUNTIME={} {}",
        runtime.program().display(),
        lazy.gate.program()
    );
    let output = std::thread::scope(|scope| {
        let restoring = scope.spawn(|| lazy.frozen.restore(&program, &lazy.frozen.images));
        runtime.arrived();
        lazy.kill("cedana-pages");
        runtime.open();
        restoring.join().unwrap_or_else(|_| panic!("the restore"))
    });
    let why = output.refused();
    assert!(why.contains("page source was killed"), "{why}");
    lazy.nothing_runs();
    lazy.restore();
    lazy.gate.open();
    lazy.is_complete();
    lazy.frozen.goes_on();
}

#[test]
fn a_page_source_that_dies_while_criu_restores_fails_the_restore() {
    for step in ["setup-namespaces", "post-restore"] {
        let lazy = Lazy {
            frozen: Frozen::of("midway", &[], &FAMILY),
            gate: Gate::closed(),
        };
        lazy.frozen.script(&format!(
            "[ \"$CRTOOLS_SCRIPT_ACTION\" = {step} ] || exit 0
             for process in /proc/[0-9]*; do
               [ \"$(cat $process/comm)\" = cedana-pages ] || continue
               grep -q {gate} $process/environ && kill -KILL ${{process#/proc/}}
             done
             touch {seen}
             exit 0",
            gate = lazy.gate.0.display(),
            seen = lazy.frozen.bundle.file("seen").display(),
        ));
        let output = lazy
            .frozen
            .restore(&lazy.gate.program(), &lazy.frozen.images);
        assert!(lazy.frozen.bundle.file("seen").exists(), "{step} not seen");
        let why = output.refused();
        assert!(why.contains("page source was killed"), "{step}: {why}");
        lazy.nothing_runs();
        lazy.frozen.script("");
        lazy.restore();
        lazy.gate.open();
        lazy.is_complete();
        lazy.frozen.goes_on();
    }
}

#[test]
fn a_flipped_bit_kills_it_before_it_is_seen() {
    let lazy = Lazy::new("flipped", &FAMILY);
    lazy.frozen.end();
    lazy.is_complete();
    let damaged = lazy.frozen.images.copy("damaged");
    let pages = damaged.largest_pages();
    flip(&pages);
    let name = pages.file_name().unwrap_or_default().to_string_lossy();
    for asked in [true, false] {
        lazy.frozen.restore(&lazy.gate.program(), &damaged).ok();
        if asked {
            command("kill", &["-USR1", &lazy.frozen.pid()]).ok();
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
    lazy.restore();
    lazy.gate.open();
    lazy.frozen.goes_on();
}

#[test]
fn it_can_be_turned_off() {
    let frozen = Frozen::of(
        "eager",
        &["--annotation", "io.cedana.restore.mode=eager"],
        &FAMILY,
    );
    let gate = Gate::closed();
    let lazy = Lazy { frozen, gate };
    let program = lazy.gate.program();
    lazy.frozen.restore(&program, &lazy.frozen.images).ok();
    assert!(!lazy.lacks_memory() && lazy.process("cedana-pages").is_none());
    lazy.frozen.goes_on();
}

#[test]
fn a_client_learns_of_the_end_and_the_shims_log_says_why() {
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

    let gate = Gate::closed();
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
fn in_the_foreground_it_is_no_different() {
    let lazy = Lazy {
        frozen: Frozen::of("foreground", &[], &FAMILY),
        gate: Gate::closed(),
    };
    for killed in [true, false] {
        let restoring = lazy.frozen.restore_in_foreground(&lazy.gate.program());
        eventually("it runs", || {
            let known = fs::metadata(lazy.frozen.bundle.file("pid")).is_ok();
            match known && lazy.lacks_memory() {
                true => Ok(()),
                false => {
                    Err(fs::read_to_string(lazy.frozen.bundle.file("said")).unwrap_or_default())
                }
            }
        });
        match killed {
            true => {
                lazy.kill("cedana-pages");
                restoring.has_code(137);
                lazy.was_killed(&["page source was killed"]);
            }
            false => {
                lazy.gate.open();
                lazy.is_complete();
                lazy.frozen.is_intact();
                command("kill", &[&lazy.frozen.pid()]).ok();
                restoring.has_code(0);
            }
        }
    }
}
