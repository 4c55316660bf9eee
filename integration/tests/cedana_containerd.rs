//! Containers of containerd, by the command `cedana`.
//!
//! Each story compares all of containerd's content, so they run one at a time.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use cedana_integration::daemon::{Daemon, send};
use cedana_integration::folder::Folder;
use cedana_integration::{
    BUSYBOX, Container, Containerd, Gate, Image, Leaks, Run, STOCK, ctr, ctr_ok, eventually,
    runtime, unique,
};
use nix::sys::signal::Signal;

/// Memory that is restored lazily, and a file in the writable layer.
const STATE: [&str; 6] = ["--memory", "16", "--threads", "3", "--file", "/f"];

/// What containerd has, and the directories that it and its clients make for a call.
#[derive(Debug, PartialEq, Eq)]
struct Stored(BTreeSet<String>);

impl Stored {
    #[track_caller]
    fn now() -> Self {
        let mut all = BTreeSet::new();
        let listed: [&[&str]; 6] = [
            &["content", "ls", "-q"],
            &["content", "active"],
            &["leases", "ls", "-q"],
            &["snapshots", "ls"],
            &["images", "ls", "-q"],
            &["containers", "ls", "-q"],
        ];
        for words in listed {
            let lines = ctr_ok(words);
            let names = lines
                .lines()
                .filter_map(|line| line.split_whitespace().next());
            all.extend(names.map(|name| format!("{} {name}", words[0])));
        }
        for place in ["/tmp", "/run/containerd/fifo"] {
            let names = fs::read_dir(place).into_iter().flatten().flatten();
            all.extend(names.map(|entry| entry.path().display().to_string()));
        }
        Self(all)
    }

    /// Waits until containerd has nothing more than then.
    #[track_caller]
    fn unchanged(&self) {
        eventually("nothing is left over", || {
            let now = Self::now();
            match now == *self {
                true => Ok(()),
                false => {
                    let differing = now.0.symmetric_difference(&self.0);
                    Err(differing.cloned().collect::<Vec<_>>().join("\n"))
                }
            }
        });
    }
}

/// A daemon, and the instance to itself.
struct Story {
    daemon: Daemon,
    _alone: Containerd,
}

impl Story {
    #[track_caller]
    fn begin() -> Self {
        let alone = Containerd::alone();
        Self {
            daemon: Daemon::start("cedana-containerd"),
            _alone: alone,
        }
    }

    #[track_caller]
    fn dump(&self, container: &Container, options: &[&str]) -> Image {
        let image = Image::named(unique("dumped"));
        let words = ["dump", "containerd", "-i", image.name(), container.id()];
        let said = self.daemon.ok(&[&words[..], options].concat());
        assert!(said.ends_with(image.name()), "{said}");
        image
    }

    #[track_caller]
    fn restore(&self, container: &Container, image: &Image) -> Container {
        let restored = container.restored_as(&unique("restored"));
        let words = ["restore", "containerd", "-i", image.name()];
        let said = self
            .daemon
            .ok(&[&words[..], &["-p", restored.id()]].concat());
        let (pid, _) = restored.status().expect("a task");
        assert!(said.contains(&pid.to_string()), "{said}");
        restored
    }

    #[track_caller]
    fn refused(&self, words: &[&str], expected: &[&str]) {
        let said = self.daemon.cedana(words).refused();
        for part in expected {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
    }

    /// Starts a command whose end is awaited later.
    #[track_caller]
    fn begun(&self, words: &[&str]) -> Child {
        let mut command = self.daemon.command(words);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("cedana")
    }
}

/// Ends a command in its middle. (SIGINT is ignored in background jobs of a shell.)
fn interrupt(mut command: Child) {
    send(command.id().cast_signed(), Signal::SIGTERM);
    command.wait().expect("ended");
}

/// A program in runc's place that fails at one command.
struct Failing(Folder);

impl Failing {
    fn at(verb: &str) -> Self {
        let folder = Folder::new("failing");
        let script = format!(
            "#!/bin/sh\nfor word in \"$@\"; do\n[ \"$word\" != {verb} ] || {{ echo broken here >&2; exit 1; }}\ndone\nexec runc \"$@\"\n"
        );
        let path = folder.file("runtime");
        fs::write(&path, script).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        Self(folder)
    }

    fn program(&self) -> PathBuf {
        self.0.file("runtime")
    }
}

/// Removes a container with its task and its snapshot.
#[track_caller]
fn delete(container: &Container) {
    ctr(&["task", "delete", "--force", container.id()]);
    ctr_ok(&["containers", "delete", container.id()]);
}

#[test]
fn the_line_of_the_original() {
    let story = Story::begin();
    let before = Stored::now();
    let counts = "i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.1; done";
    let line = ["run", "-d", "--runtime", &runtime(), BUSYBOX, "test"];
    ctr_ok(&[&line[..], &["sh", "-c", counts]].concat());
    let said = story
        .daemon
        .ok(&["dump", "containerd", "-i", "test", "-p", "test"]);
    assert!(said.ends_with(" stored: test"), "{said}");
    assert!(
        ctr_ok(&["images", "ls", "-q"])
            .lines()
            .any(|name| name == "test")
    );
    assert!(ctr_ok(&["task", "ls"]).contains("STOPPED"));
    assert_eq!(ctr_ok(&["leases", "ls", "-q"]), "");
    ctr(&["task", "delete", "test"]);
    ctr_ok(&["containers", "delete", "test"]);
    ctr_ok(&["images", "rm", "--sync", "test"]);
    before.unchanged();
}

#[test]
fn a_container_comes_back_after_it_was_deleted() {
    let story = Story::begin();
    let before = Stored::now();
    let container = Run::new("dumped").workload(&STATE).detach();
    container.exec(&["sh", "-c", "echo kept >/written"]).ok();
    let report = container.report();
    let image = story.dump(&container, &[]);
    container.stopped();
    delete(&container);
    // By cedana, twice, and by ctr.
    for _ in 0..2 {
        let restored = story.restore(&container, &image);
        restored.report().continues(&report);
        assert_eq!(restored.exec(&["cat", "/written"]).ok().stdout, "kept\n");
        delete(&restored);
    }
    let restored = container.restore(&image, &["--rw"]);
    restored.report().continues(&report);
    assert_eq!(restored.exec(&["cat", "/written"]).ok().stdout, "kept\n");
    delete(&restored);
    drop(image);
    before.unchanged();
}

#[test]
fn a_container_comes_back_without_the_name_of_its_image() {
    let story = Story::begin();
    let name = "cedana.test/gone:latest";
    ctr_ok(&["images", "tag", BUSYBOX, name]);
    let container = Run::new("unnamed").image(name).workload(&STATE).detach();
    let report = container.report();
    let image = story.dump(&container, &[]);
    delete(&container);
    ctr_ok(&["images", "rm", "--sync", name]);
    let restored = story.restore(&container, &image);
    restored.report().continues(&report);
    let words = ["dump", "containerd", "-i", "never", restored.id()];
    story.refused(&words, &[name, "no longer in containerd"]);
}

#[test]
fn a_checkpoint_by_ctr_is_restored() {
    let story = Story::begin();
    let container = Run::new("by-ctr").workload(&STATE).detach();
    let report = container.report();
    let image = container.checkpoint(&["--rw"]);
    container.end_task();
    story
        .restore(&container, &image)
        .report()
        .continues(&report);
}

#[test]
fn a_container_runs_on_and_is_dumped_again_and_again() {
    let story = Story::begin();
    let container = Run::new("runs-on").workload(&STATE).detach();
    let report = container.report();
    // The second has the same spec, which containerd 1.7 refuses to store twice.
    let _first = story.dump(&container, &["--leave-running"]);
    container.report().continues(&report);
    let second = story.dump(&container, &["--leave-running"]);
    container.report().continues(&report);
    assert!(second.index().contains("criu.checkpoint"));
    container.end_task();
    let restored = story.restore(&container, &second);
    restored.report().continues(&report);
    let third = story.dump(&restored, &[]);
    let restored = story.restore(&restored, &third);
    restored.report().continues(&report);
}

#[test]
fn a_copy_runs_beside_the_original() {
    let story = Story::begin();
    let container = Run::new("original").workload(&STATE).detach();
    let report = container.report();
    let image = story.dump(&container, &["--leave-running"]);
    let copy = story.restore(&container, &image);
    let cgroup = |container: &Container| {
        let path = format!("/proc/{}/cgroup", container.pid());
        fs::read_to_string(path).expect("its cgroups")
    };
    assert!(cgroup(&copy).contains(copy.id()), "{}", cgroup(&copy));
    copy.kill("SIGKILL");
    copy.stopped();
    container.report().continues(&report);
}

#[test]
fn the_shim_of_containerd_is_served_too() {
    let story = Story::begin();
    let run = Run::new("stock").under(STOCK);
    let container = run.workload(&STATE).detach();
    let report = container.report();
    let first = story.dump(&container, &["--leave-running"]);
    container.report().continues(&report);
    container.end_task();
    let restored = story.restore(&container, &first);
    restored.report().continues(&report);
    let second = story.dump(&restored, &[]);
    restored.stopped();
    let restored = story.restore(&restored, &second);
    restored.report().continues(&report);
    let id = unique("closed");
    let words = ["restore", "containerd", "-i", second.name(), "-p", &id];
    let words = [&words[..], &["--tcp-close"]].concat();
    story.refused(&words, &["--tcp-close needs the runtime", STOCK]);
}

#[test]
fn a_cancelled_dump_leaves_the_container_running() {
    let story = Story::begin();
    let gate = Gate::before("checkpoint");
    let run = Run::new("cancelled").runtime_binary(&gate.program());
    let container = run.workload(&STATE).detach();
    let report = container.report();
    let before = Stored::now();
    let image = Image::named(unique("never"));
    let leaks = Leaks::before(&[container.id()]);
    let words = ["dump", "containerd", "-i", image.name(), container.id()];
    let dump = story.begun(&words);
    gate.arrived();
    let id = container.id();
    story.refused(&["unfreeze", "containerd", id], &["is being dumped"]);
    interrupt(dump);
    gate.open();
    eventually("it runs on", || container.is("RUNNING"));
    container.report().continues(&report);
    before.unchanged();
    leaks.none();
}

#[test]
fn a_daemon_that_is_stopped_leaves_the_container_running() {
    let mut story = Story::begin();
    let gate = Gate::before("checkpoint");
    let run = Run::new("stopped").runtime_binary(&gate.program());
    let container = run.workload(&STATE).detach();
    let report = container.report();
    let before = Stored::now();
    let image = Image::named(unique("never"));
    let words = ["dump", "containerd", "-i", image.name(), container.id()];
    let mut dump = story.begun(&words);
    gate.arrived();
    send(story.daemon.pid().cast_signed(), Signal::SIGTERM);
    eventually("the daemon stops", || match story.daemon.log() {
        log if log.contains("stopping") => Ok(()),
        log => Err(log),
    });
    gate.open();
    story.daemon.end(Signal::SIGTERM);
    dump.wait().expect("ended");
    container.pid();
    container.report().continues(&report);
    before.unchanged();
}

#[test]
fn a_container_runs_on_after_its_daemon_was_killed() {
    let mut story = Story::begin();
    let gate = Gate::before("checkpoint");
    let run = Run::new("killed").runtime_binary(&gate.program());
    let container = run.workload(&STATE).detach();
    let report = container.report();
    let before = Stored::now();
    let image = Image::named(unique("never"));
    let words = ["dump", "containerd", "-i", image.name(), container.id()];
    let mut dump = story.begun(&words);
    gate.arrived();
    story.daemon.end(Signal::SIGKILL);
    dump.wait().expect("ended");
    gate.open();
    story.daemon.again();
    eventually("it runs on", || container.is("RUNNING"));
    container.report().continues(&report);
    before.unchanged();
}

#[test]
fn a_checkpoint_that_could_not_be_restored_is_refused() {
    let story = Story::begin();
    let run = Run::new("doubtful");
    let container = run.workload(&["--program-in-memory"]).detach();
    let report = container.report();
    let before = Stored::now();
    let words = ["dump", "containerd", "-i", "never", container.id()];
    story.refused(&words, &["could never be restored", "memfd"]);
    container.pid();
    container.report().continues(&report);
    before.unchanged();
}

#[test]
fn a_failed_dump_leaves_the_container_running() {
    let story = Story::begin();
    let failing = Failing::at("checkpoint");
    for frozen in [false, true] {
        let run = Run::new("failed").runtime_binary(&failing.program());
        let container = run.workload(&STATE).detach();
        let report = container.report();
        let before = Stored::now();
        if frozen {
            story.daemon.ok(&["freeze", "containerd", container.id()]);
        }
        let words = ["dump", "containerd", "-i", "never", container.id()];
        story.refused(&words, &["could not dump", container.id(), "broken here"]);
        if frozen {
            // The user has frozen it, so it stays frozen.
            container.is("PAUSED").expect("frozen");
            story.daemon.ok(&["unfreeze", "containerd", container.id()]);
        }
        container.pid();
        container.report().continues(&report);
        before.unchanged();
    }
}

#[test]
fn a_restore_that_fails_or_is_cancelled_leaves_nothing() {
    let story = Story::begin();
    let failing = Failing::at("restore");
    let gate = Gate::before("restore");
    for (cancel, program) in [(false, failing.program()), (true, gate.program())] {
        let run = Run::new("unrestored").runtime_binary(&program);
        let container = run.workload(&STATE).detach();
        let image = story.dump(&container, &[]);
        let index = image.index();
        delete(&container);
        let before = Stored::now();
        let id = unique("never");
        let leaks = Leaks::before(&[&id]);
        let words = ["restore", "containerd", "-i", image.name(), "-p", &id];
        if cancel {
            let restore = story.begun(&words);
            gate.arrived();
            interrupt(restore);
            gate.open();
        } else {
            story.refused(
                &words,
                &["could not restore", &id, "the wrapped runtime failed"],
            );
        }
        before.unchanged();
        leaks.none();
        assert_eq!(image.index(), index);
    }
}

#[test]
fn a_container_is_frozen_and_dumped_frozen() {
    let story = Story::begin();
    let container = Run::new("frozen").workload(&STATE).detach();
    let report = container.report();
    let id = container.id();
    story.daemon.ok(&["freeze", "containerd", id]);
    container.is("PAUSED").expect("frozen");
    story.daemon.ok(&["freeze", "containerd", id]);
    let image = story.dump(&container, &["--leave-running"]);
    container.is("PAUSED").expect("still frozen");
    story.daemon.ok(&["unfreeze", "containerd", id]);
    container.report().continues(&report);
    story.refused(&["unfreeze", "containerd", id], &["not frozen"]);
    story.daemon.ok(&["freeze", "containerd", id]);
    let last = story.dump(&container, &[]);
    container.stopped();
    for image in [image, last] {
        let restored = story.restore(&container, &image);
        restored.report().continues(&report);
        restored.end_task();
    }
}

#[test]
fn wrong_names_are_explained() {
    let story = Story::begin();
    let container = Run::new("names").workload(&STATE).detach();
    let id = container.id();
    let dump = ["dump", "containerd", "-i", "never"];
    let with = |words: &[&str]| -> Vec<String> {
        let words = dump.iter().chain(words);
        words.map(|word| (*word).to_owned()).collect()
    };
    let refused = |words: Vec<String>, expected: &[&str]| {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        story.refused(&words, expected);
    };
    refused(with(&["nope"]), &["no container nope", "namespace default"]);
    refused(
        with(&[id, "-n", "moby"]),
        &["namespace moby", "there is one in default", "-n default"],
    );
    refused(
        with(&[id, "--address", "/run/nope.sock"]),
        &["/run/nope.sock", "No such file", "--containerd-address"],
    );
    story.refused(
        &["dump", "containerd", "-i", BUSYBOX, id],
        &["there is an image", BUSYBOX],
    );
    let restore = |image: &str, id: &str, expected: &[&str]| {
        let words = ["restore", "containerd", "-i", image, "-p", id];
        story.refused(&words, expected);
    };
    restore("nope", "new", &["no image nope", "namespace default"]);
    restore(BUSYBOX, "new", &[BUSYBOX, "no checkpoint"]);
    let image = story.dump(&container, &["--leave-running"]);
    restore(image.name(), id, &["there is a container", id, "-p"]);
    ctr_ok(&["snapshots", "prepare", "taken"]);
    restore(image.name(), "taken", &["there is a snapshot taken"]);
    ctr_ok(&["snapshots", "rm", "taken"]);
    let words = ["restore", "containerd", "-i", image.name(), "-p", "new"];
    story.refused(
        &[&words[..], &["--leave-stopped"]].concat(),
        &["--leave-stopped", "cedana freeze"],
    );
    let mut check = story.daemon.command(&["check", "containerd", id]);
    let checked = check.env("CEDANA_CHECKPOINT_LEVEL", "7").output();
    let said = String::from_utf8_lossy(&checked.expect("cedana").stdout).into_owned();
    assert!(said.contains("checkpoint.level of this call"), "{said}");
    container.end_task();
    refused(with(&[id]), &["does not run", "no task", "tasks start"]);
    let checked = story.daemon.cedana(&["check", "containerd", id]);
    assert!(checked.stdout.contains("no task"), "{checked}");
}
