//! Waits for states that pass by themselves; the client gets an error only if they stay.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use cedana_integration::folder::{Folder, MANIFEST};
use cedana_integration::{Container, Report, Run, cgroup_of, command, eventually};

/// Each story holds it shared. `ctr task ls`, which the stories use, asks the shims for
/// the state of all tasks, and the shim takes a pause that such a request follows for
/// the owner's. A story that expects otherwise holds it exclusively.
static STORIES: RwLock<()> = RwLock::new(());

fn shared() -> RwLockReadGuard<'static, ()> {
    STORIES.read().unwrap_or_else(PoisonError::into_inner)
}

/// The shim's `--root` of runc.
const ROOT: &str = "/run/containerd/runc/default";

/// A container with a state that passes when the test opens a fifo.
struct Passing {
    container: Container,
    fifo: PathBuf,
    before: Report,
    /// Its cgroup of the freezer.
    group: PathBuf,
}

impl Passing {
    /// Runs the workload with `flag`.
    #[track_caller]
    fn run(flag: &str) -> Self {
        let run = Run::new("passing");
        let fifo = Path::new("/var/tmp/cedana-tests").join(run.id()).join("go");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)
            .unwrap_or_else(|error| panic!("{}: {error}", fifo.display()));
        let workload = ["--memory", "4", flag, "/out/go"];
        let container = run.workload(&workload).detach();
        let before = container.report();
        Self {
            group: cgroup_of(container.pid(), "freezer"),
            container,
            fifo,
            before,
        }
    }

    /// Ends the state: opens the fifo for which the workload waits.
    #[track_caller]
    fn pass(&self) {
        eventually("the workload waits", || {
            fs::File::options()
                .write(true)
                .custom_flags(nix::libc::O_NONBLOCK)
                .open(&self.fifo)
                .map_err(|error| error.to_string())
        });
    }

    #[track_caller]
    fn continues(&self) {
        self.container.report().continues(&self.before);
    }

    /// Takes a checkpoint without an engine.
    #[track_caller]
    fn checkpoint(&self) -> Checkpoint {
        Checkpoint::begin(self.container.id())
    }

    /// The runtime's log in the bundle.
    fn log(&self) -> PathBuf {
        let bundles = Path::new("/run/containerd/io.containerd.runtime.v2.task/default");
        bundles.join(self.container.id()).join("log.json")
    }

    /// Whether the cgroup is checkpointed.
    #[track_caller]
    fn is_frozen(&self) -> bool {
        let text = |name: &str| fs::read_to_string(self.group.join(name)).unwrap_or_default();
        text("freezer.state").trim() == "FROZEN" || text("cgroup.events").contains("frozen 1")
    }
}

/// A running checkpoint.
struct Checkpoint {
    child: Option<Child>,
    home: Folder,
}

impl Checkpoint {
    #[track_caller]
    fn begin(id: &str) -> Self {
        let home = Folder::new("retry");
        let mut command = Command::new("cedana-runc");
        command.args(["--root", ROOT, "--log-format", "json", "--log"]);
        command.arg(home.file("log"));
        command.args(["checkpoint", "--leave-running", "--image-path"]);
        command.arg(home.file("images")).arg("--work-path");
        command.arg(home.file("work")).arg(id);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        fs::create_dir(home.file("work")).unwrap_or_else(|error| panic!("{error}"));
        let child = command.spawn();
        Self {
            child: Some(child.unwrap_or_else(|error| panic!("cedana-runc: {error}"))),
            home,
        }
    }

    #[track_caller]
    fn says(&self, words: &str) {
        says(&self.home.file("log"), words);
    }

    /// Waits until it has exited, and returns its standard error if it failed.
    #[track_caller]
    fn ended(&mut self) -> Result<(), String> {
        let Some(child) = self.child.take() else {
            panic!("the checkpoint was waited for twice");
        };
        let output = child.wait_with_output();
        let output = output.unwrap_or_else(|error| panic!("cedana-runc: {error}"));
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Asserts that it succeeds.
    #[track_caller]
    fn succeeds(&mut self) {
        self.ended().unwrap_or_else(|why| panic!("{why}"));
        assert!(self.home.file("images").join(MANIFEST).exists());
    }

    /// Asserts that it fails with all of `words` and leaves no files.
    #[track_caller]
    fn is_refused(&mut self, words: &[&str]) {
        let why = match self.ended() {
            Err(why) => why,
            Ok(()) => panic!("this should have been refused"),
        };
        for word in words {
            assert!(why.contains(word), "{word:?} is not in: {why}");
        }
        let images = fs::read_dir(self.home.file("images")).map(Iterator::count);
        assert_eq!(images.unwrap_or(0), 0, "{why}");
    }

    /// Whether CRIU was started.
    fn has_started_criu(&self) -> bool {
        self.home.file("work").join("dump.log").exists()
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits until a log has these words.
#[track_caller]
fn says(log: &Path, words: &str) {
    eventually(&format!("the log says {words:?}"), || {
        let text = fs::read_to_string(log).map_err(|error| error.to_string())?;
        text.contains(words).then_some(()).ok_or(text)
    });
}

#[test]
fn a_state_that_passes_between_two_attempts_fails_no_checkpoint() {
    let _others = shared();
    for (flag, cause) in [("--backlog", "connection"), ("--netlink", "netlink")] {
        let passing = Passing::run(flag);
        let mut checkpoint = passing.checkpoint();
        checkpoint.says("trying again");
        checkpoint.says(cause);
        passing.pass();
        checkpoint.succeeds();
        passing.continues();
    }
}

#[test]
fn a_state_that_stays_is_named_with_the_number_of_attempts() {
    let _others = shared();
    for (flag, cause) in [("--backlog", "connection"), ("--netlink", "netlink")] {
        let passing = Passing::run(flag);
        let tried = ["(tried ", " times within "];
        passing
            .checkpoint()
            .is_refused(&[&[cause], &tried[..]].concat());
        passing.continues();
        passing.pass();
        passing.checkpoint().succeeds();
        passing.continues();
    }
}

#[test]
fn a_process_that_cannot_be_stopped_is_found_before_criu_starts() {
    let _others = shared();
    for (flag, how) in [("--traced", "is traced by process"), ("--vfork", "vfork")] {
        let passing = Passing::run(flag);
        let mut checkpoint = passing.checkpoint();
        checkpoint.is_refused(&[how, "(workload)", "for it to pass"]);
        assert!(!checkpoint.has_started_criu(), "{flag}: CRIU was started");
        passing.continues();
    }
}

#[test]
fn a_process_that_can_be_stopped_soon_is_waited_for() {
    let _others = shared();
    for (flag, how) in [("--traced", "is traced"), ("--vfork", "vfork")] {
        let passing = Passing::run(flag);
        let mut checkpoint = passing.checkpoint();
        checkpoint.says("waiting");
        checkpoint.says(how);
        assert!(!checkpoint.has_started_criu(), "{flag}: CRIU was started");
        passing.pass();
        checkpoint.succeeds();
        passing.continues();
    }
}

#[test]
fn a_clients_pause_for_the_checkpoint_is_interrupted_between_attempts() {
    let _alone = STORIES.write().unwrap_or_else(PoisonError::into_inner);
    let passing = Passing::run("--backlog");
    let task = passing.container.task();
    let images = Folder::new("images");
    // As containerd's client does: a pause without a later request for the state.
    task.pause().unwrap_or_else(|refused| panic!("{refused}"));
    std::thread::scope(|scope| {
        let taken = scope.spawn(|| task.checkpoint(&images.0, None));
        says(&passing.log(), "trying again");
        passing.pass();
        let taken = taken.join().unwrap_or_else(|_| panic!("the checkpoint"));
        taken.unwrap_or_else(|refused| panic!("{refused}"));
    });
    assert!(passing.is_frozen(), "the task is not paused");
    task.resume().unwrap_or_else(|refused| panic!("{refused}"));
    passing.continues();
}

#[test]
fn an_owners_pause_is_not_interrupted() {
    let _others = shared();
    let passing = Passing::run("--backlog");
    let task = passing.container.task();
    let images = Folder::new("images");
    task.pause().unwrap_or_else(|refused| panic!("{refused}"));
    task.state("").unwrap_or_else(|refused| panic!("{refused}"));
    let why = match task.checkpoint(&images.0, None) {
        Err(refused) => refused.message,
        Ok(()) => panic!("this should have been refused"),
    };
    assert!(why.contains("not tried again"), "{why}");
    assert!(passing.is_frozen(), "the task is not paused");
    task.resume().unwrap_or_else(|refused| panic!("{refused}"));
    passing.continues();
}

#[test]
fn a_failed_pause_is_tried_again() {
    let _others = shared();
    let home = Folder::new("freezer");
    // runc prints this on cgroup v1 if processes start faster than it freezes them.
    let script = format!(
        "#!/bin/sh\n\
         case \" $* \" in *\" pause \"*)\n\
         \techo >>{0}/pauses\n\
         \tif [ $(wc -l <{0}/pauses) -le 3 ]; then\n\
         \t\techo 'level=error msg=\"unable to freeze\"' >&2\n\
         \t\texit 1\n\
         \tfi;;\n\
         esac\n\
         exec runc \"$@\"\n",
        home.text()
    );
    let runtime = home.file("runtime");
    fs::write(&runtime, script)
        .and_then(|()| fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)))
        .unwrap_or_else(|error| panic!("{}: {error}", runtime.display()));
    let container = Run::new("pause")
        .runtime_binary(&runtime)
        .workload(&["--memory", "1"])
        .detach();
    let before = container.report();
    let task = container.task();
    task.pause().unwrap_or_else(|refused| panic!("{refused}"));
    task.resume().unwrap_or_else(|refused| panic!("{refused}"));
    container.report().continues(&before);
    let pauses = command("wc", &["-l", &home.file("pauses").display().to_string()]).ok();
    assert!(pauses.stdout.starts_with("4 "), "{pauses}");
}
