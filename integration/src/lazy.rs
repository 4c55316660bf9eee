//! A container that runs before it has its memory.
//!
//! Prefetching waits before a gate, so that a story can look at a container that
//! lacks memory, and do with it what it likes, for as long as it likes.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::frozen::{Folder, Frozen, ROOT, json, read};
use crate::{Output, command, eventually, unique};

/// How a page source is told of its gate.
pub const GATE: &str = "CEDANA_TEST_PREFETCH_GATE";

/// The fifo before which page sources that are started meanwhile wait.
pub struct PrefetchGate(pub PathBuf);

impl PrefetchGate {
    /// A gate that nothing passes yet.
    pub fn closed() -> Self {
        let path = Path::new("/var/tmp/cedana-tests").join(unique("prefetch"));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }

    /// A program that restores before this gate.
    pub fn program(&self) -> String {
        format!("{GATE}={} cedana-runc", self.0.display())
    }

    /// Lets them go on.
    #[track_caller]
    pub fn open(&self) {
        eventually("the source stands before the gate", || {
            self.let_through().map_err(|error| error.to_string())
        });
    }

    fn let_through(&self) -> std::io::Result<()> {
        let mut options = fs::File::options();
        let gate = options
            .write(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(&self.0);
        gate.and_then(|mut gate| gate.write_all(b"go"))
    }
}

impl Drop for PrefetchGate {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A restored container, its page source, and what is known of both.
pub struct Lazy {
    /// What was checkpointed.
    pub frozen: Frozen,
    /// Before which its page source waits.
    pub gate: PrefetchGate,
}

impl Lazy {
    /// A container that runs, and has none of its memory but what it has asked
    /// for.
    #[track_caller]
    pub fn new(label: &str, workload: &[&str]) -> Self {
        let lazy = Self {
            frozen: Frozen::of(label, &[], workload),
            gate: PrefetchGate::closed(),
        };
        lazy.restore();
        lazy
    }

    /// Restores it lazily.
    #[track_caller]
    pub fn restore(&self) {
        self.frozen
            .restore(&self.gate.program(), &self.frozen.images)
            .ok();
        assert!(self.lacks_memory(), "nothing is missing");
    }

    /// Restores it lazily, lets prefetching complete its memory, verifies the
    /// workload and removes it.
    #[track_caller]
    pub fn restores_completely(&self) {
        self.restore();
        self.gate.open();
        self.is_complete();
        self.frozen.goes_on();
    }

    /// Whether a page source serves it.
    pub fn lacks_memory(&self) -> bool {
        let prefix = format!("{}-", self.frozen.pid());
        let known = fs::read_dir("/run/cedana/lazy").into_iter().flatten();
        known
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .any(|name| name.to_string_lossy().starts_with(&prefix))
    }

    /// Waits until the page source and its watchdog have ended.
    #[track_caller]
    pub fn is_complete(&self) {
        eventually("memory is complete", || match self.lacks_memory() {
            true => Err("it is not".to_owned()),
            false => Ok(()),
        });
        self.nothing_runs();
    }

    /// The same for a source that may have given everything before its gate opens.
    #[track_caller]
    pub fn completes(&self) {
        eventually("memory is complete", || match self.lacks_memory() {
            true => {
                // Without a reader the source has ended meanwhile.
                let _ = self.gate.let_through();
                Err("it is not".to_owned())
            }
            false => Ok(()),
        });
        self.nothing_runs();
    }

    /// Waits until page source and watchdog have ended.
    #[track_caller]
    pub fn nothing_runs(&self) {
        eventually("page source and watchdog have ended", || {
            let left = [
                self.process("cedana-pages"),
                self.process("cedana-watchdog"),
            ];
            match left.iter().all(Option::is_none) {
                true => Ok(()),
                false => Err(format!("{left:?}")),
            }
        });
    }

    /// The PID of one of both; other stories have their own.
    pub fn process(&self, name: &str) -> Option<String> {
        process(name, &self.gate.0.display().to_string())
    }

    /// Waits until `cedana-runc restore`, which still runs, has put config.json back
    /// and serves no images any more.
    #[track_caller]
    pub fn gives_up_what_it_lent(&self) {
        eventually(
            "config.json is the original, and no images are served",
            || {
                let lent = self.frozen.bundle.file(".config.json.cedana").exists();
                let restoring = self.process("cedana-runc").ok_or("the restore has ended")?;
                let descriptors = fs::read_dir(format!("/proc/{restoring}/fd"))
                    .map_err(|error| error.to_string())?;
                let serves = descriptors.flatten().any(|descriptor| {
                    fs::read_link(descriptor.path())
                        .is_ok_and(|file| file == Path::new("/dev/fuse"))
                });
                match lent || serves {
                    true => Err(format!(
                        "config.json is lent: {lent}; /dev/fuse is open: {serves}"
                    )),
                    false => Ok(()),
                }
            },
        );
    }

    /// Kills one of both.
    #[track_caller]
    pub fn kill(&self, name: &str) {
        let pid = self.process(name).unwrap_or_else(|| panic!("no {name}"));
        command("kill", &["-KILL", &pid]).ok();
    }

    /// The container was killed, the log says why, and it can come back.
    #[track_caller]
    pub fn was_killed(&self, words: &[&str]) {
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
    pub fn record(&self) -> Value {
        self.records().pop().unwrap_or_else(|| panic!("no record"))
    }

    /// The records of all of its restores, as far as they are complete.
    #[track_caller]
    pub fn records(&self) -> Vec<Value> {
        let said = command("cedana-runc", &["inspect", "--restores", "--json"]).ok();
        let all = json(&said.stdout);
        let all = all.as_array().into_iter().flatten();
        all.filter(|record| record["id"] == self.frozen.id.as_str())
            .cloned()
            .collect()
    }

    /// Its cgroup, where that can forbid the kernel to kill for memory (cgroup v1).
    pub fn oom_killer(&self) -> Option<PathBuf> {
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

    /// Takes a checkpoint of what was restored, which runs on.
    #[track_caller]
    pub fn checkpoint(&self, images: &Folder) {
        self.try_checkpoint(images).ok();
    }

    /// The same, which may be refused.
    #[track_caller]
    pub fn try_checkpoint(&self, images: &Folder) -> Output {
        let (to, work) = (images.text(), self.frozen.bundle.text());
        let flags = ["--leave-running", "--image-path", &to, "--work-path", &work];
        let all = [
            &["--root", ROOT, "checkpoint"],
            flags.as_slice(),
            &[&self.frozen.id],
        ]
        .concat();
        command("cedana-runc", &all)
    }

    /// Has runc act on it.
    pub fn runc(&self, verb: &[&str]) {
        let mut all = vec!["--root", ROOT];
        all.extend(verb);
        all.push(&self.frozen.id);
        command("runc", &all).ok();
    }
}

/// A step of CRIU's restore that fails the first time.
pub struct FailsOnce(Folder);

impl FailsOnce {
    /// At this step, as CRIU's action scripts know it.
    #[track_caller]
    pub fn at(step: &str) -> Self {
        let folder = Folder::new("steps");
        let write = |name: &str, text: String| {
            let path = folder.file(name);
            fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            path.display().to_string()
        };
        let script = write(
            "step",
            format!(
                "#!/bin/sh
                 [ \"$CRTOOLS_SCRIPT_ACTION\" = {step} ] || exit 0
                 [ -e {seen} ] && exit 0
                 touch {seen}
                 exit 1",
                seen = folder.file("seen").display()
            ),
        );
        command("chmod", &["+x", &script]).ok();
        write("criu.conf", format!("action-script {script}\n"));
        Self(folder)
    }

    /// The annotation by which a container's CRIU knows of it.
    #[track_caller]
    pub fn annotation(&self) -> String {
        format!("org.criu.config={}", self.0.file("criu.conf").display())
    }

    /// It has failed.
    #[track_caller]
    pub fn has_failed(&self) {
        assert!(self.0.file("seen").exists(), "the step was not reached");
    }
}

/// The PID of a living process by its name and its gate.
pub fn process(name: &str, gate: &str) -> Option<String> {
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
