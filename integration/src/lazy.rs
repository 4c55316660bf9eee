//! A container that was restored lazily and still lacks memory.
//!
//! The page source waits at a gate before it prefetches, so a test can act on the
//! container while memory is missing.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::checkpointed::{Checkpointed, ROOT};
use crate::folder::{Folder, json, read};
use crate::{Output, command, eventually, unique};

/// The variable with the path of a page source's gate.
pub const GATE: &str = "CEDANA_TEST_PREFETCH_GATE";

/// The fifo at which page sources wait before they prefetch.
pub struct PrefetchGate(pub PathBuf);

impl PrefetchGate {
    /// A closed gate.
    pub fn closed() -> Self {
        let path = Path::new("/var/tmp/cedana-tests").join(unique("prefetch"));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }

    /// The restore command whose page source waits at this gate.
    pub fn program(&self) -> String {
        format!("{GATE}={} cedana-runc", self.0.display())
    }

    /// Lets a waiting page source continue.
    #[track_caller]
    pub fn open(&self) {
        eventually("the page source waits at the gate", || {
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

/// A lazily restored container, with the gate of its page source.
pub struct Lazy {
    /// The checkpoint and the restored container.
    pub checkpointed: Checkpointed,
    /// The gate at which its page source waits.
    pub gate: PrefetchGate,
}

impl Lazy {
    /// A container that was restored with none of its memory.
    #[track_caller]
    pub fn new(label: &str, workload: &[&str]) -> Self {
        Self::with(label, &[], workload)
    }

    /// The same, with flags of `ctr run`.
    #[track_caller]
    pub fn with(label: &str, flags: &[&str], workload: &[&str]) -> Self {
        let lazy = Self {
            checkpointed: Checkpointed::of(label, flags, workload),
            gate: PrefetchGate::closed(),
        };
        lazy.restore();
        lazy
    }

    /// Restores it lazily.
    #[track_caller]
    pub fn restore(&self) {
        let output = self
            .checkpointed
            .restore(&self.gate.program(), &self.checkpointed.images)
            .ok();
        let log = || fs::read_to_string(self.checkpointed.bundle.file("log.json"));
        assert!(
            self.lacks_memory(),
            "the container lacks no memory: {output}{}",
            log().unwrap_or_default()
        );
    }

    /// Restores it lazily, lets prefetching complete its memory, verifies the
    /// workload and removes it.
    #[track_caller]
    pub fn restores_completely(&self) {
        self.restore();
        self.gate.open();
        self.is_complete();
        self.checkpointed.is_restored_intact();
    }

    /// Whether a page source serves it.
    pub fn lacks_memory(&self) -> bool {
        let prefix = format!("{}-", self.checkpointed.pid());
        let known = fs::read_dir("/run/cedana/lazy").into_iter().flatten();
        known
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .any(|name| name.to_string_lossy().starts_with(&prefix))
    }

    /// Waits until memory is complete and page source and watchdog have exited.
    #[track_caller]
    pub fn is_complete(&self) {
        eventually("memory is complete", || match self.lacks_memory() {
            true => Err("it is not".to_owned()),
            false => Ok(()),
        });
        self.page_source_has_exited();
    }

    /// [`Lazy::is_complete`] for a page source that may complete before its gate opens.
    #[track_caller]
    pub fn completes(&self) {
        eventually("memory is complete", || match self.lacks_memory() {
            true => {
                // This fails without a reader: the page source has exited.
                let _ = self.gate.let_through();
                Err("it is not".to_owned())
            }
            false => Ok(()),
        });
        self.page_source_has_exited();
    }

    /// Waits until page source and watchdog have exited.
    #[track_caller]
    pub fn page_source_has_exited(&self) {
        eventually("page source and watchdog have exited", || {
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

    /// The PID of its page source, watchdog or restore, by the name of the process.
    pub fn process(&self, name: &str) -> Option<String> {
        process(name, &self.gate.0.display().to_string())
    }

    /// Waits until `cedana-runc restore`, which still runs, has restored config.json
    /// and has stopped to serve images.
    #[track_caller]
    pub fn releases_config_and_images(&self) {
        eventually("config.json is restored, and no images are served", || {
            let lent = self
                .checkpointed
                .bundle
                .file(".config.json.cedana")
                .exists();
            let restoring = self
                .process("cedana-runc")
                .ok_or("the restore has exited")?;
            let descriptors =
                fs::read_dir(format!("/proc/{restoring}/fd")).map_err(|error| error.to_string())?;
            let serves = descriptors.flatten().any(|descriptor| {
                fs::read_link(descriptor.path()).is_ok_and(|file| file == Path::new("/dev/fuse"))
            });
            match lent || serves {
                true => Err(format!(
                    "config.json is changed: {lent}; /dev/fuse is open: {serves}"
                )),
                false => Ok(()),
            }
        });
    }

    /// Kills the page source or its watchdog. Waits for both before: until the watchdog
    /// has its name, it has the source's, and a source that ends earlier has none.
    #[track_caller]
    pub fn kill(&self, name: &str) {
        let pid = eventually("page source and watchdog run", || {
            let watchdog = self.process("cedana-watchdog").ok_or("no watchdog")?;
            let source = self.process("cedana-pages").ok_or("no page source")?;
            match name {
                "cedana-pages" => Ok(source),
                "cedana-watchdog" => Ok(watchdog),
                _ => panic!("{name} is neither"),
            }
        });
        command("kill", &["-KILL", &pid]).ok();
    }

    /// Asserts that the container is killed, that log and record have all of `words`,
    /// and that it can be restored again.
    #[track_caller]
    pub fn was_killed(&self, words: &[&str]) {
        self.checkpointed.has_exited();
        self.page_source_has_exited();
        let log = read(&self.checkpointed.bundle.file("log.json"));
        let why = read(&self.checkpointed.bundle.file("cedana-killed"));
        for word in words {
            assert!(log.contains(word), "{word:?} is not in {log}");
            assert!(why.contains(word), "{word:?} is not in {why}");
        }
        self.checkpointed.end();
    }

    /// The record of its last restore.
    #[track_caller]
    pub fn record(&self) -> Value {
        self.records().pop().unwrap_or_else(|| panic!("no record"))
    }

    /// The records of its restores that are complete.
    #[track_caller]
    pub fn records(&self) -> Vec<Value> {
        let said = command("cedana-runc", &["inspect", "--restores", "--json"]).ok();
        let all = json(&said.stdout);
        let all = all.as_array().into_iter().flatten();
        all.filter(|record| record["id"] == self.checkpointed.id.as_str())
            .cloned()
            .collect()
    }

    /// Its cgroup, if the OOM killer can be turned off there (cgroup v1).
    pub fn oom_killer(&self) -> Option<PathBuf> {
        let cgroups = read(&PathBuf::from(format!(
            "/proc/{}/cgroup",
            self.checkpointed.pid()
        )));
        let path = cgroups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let memory = controllers.split(',').any(|name| name == "memory");
            memory.then_some(path)
        })?;
        let dir = Path::new("/sys/fs/cgroup/memory").join(path.trim_start_matches('/'));
        dir.join("memory.oom_control").exists().then_some(dir)
    }

    /// Takes a checkpoint of the restored container and leaves it running.
    #[track_caller]
    pub fn checkpoint(&self, images: &Folder) {
        self.try_checkpoint(images).ok();
    }

    /// [`Lazy::checkpoint`], but returns a failure.
    #[track_caller]
    pub fn try_checkpoint(&self, images: &Folder) -> Output {
        let (to, work) = (images.text(), self.checkpointed.bundle.text());
        let flags = ["--leave-running", "--image-path", &to, "--work-path", &work];
        let all = [
            &["--root", ROOT, "checkpoint"],
            flags.as_slice(),
            &[&self.checkpointed.id],
        ]
        .concat();
        command("cedana-runc", &all)
    }

    /// Runs a command of runc on it.
    pub fn runc(&self, verb: &[&str]) {
        let mut all = vec!["--root", ROOT];
        all.extend(verb);
        all.push(&self.checkpointed.id);
        command("runc", &all).ok();
    }
}

/// An action script that fails one step of CRIU's restore the first time.
pub struct FailsOnce(Folder);

impl FailsOnce {
    /// Fails at this step, by the name that CRIU gives its action scripts.
    #[track_caller]
    pub fn at(step: &str) -> Self {
        let folder = Folder::of_criu("steps");
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

    /// The annotation that gives the script to CRIU.
    #[track_caller]
    pub fn annotation(&self) -> String {
        format!("org.criu.config={}", self.0.file("criu.conf").display())
    }

    /// Asserts that CRIU has reached the step.
    #[track_caller]
    pub fn has_failed(&self) {
        assert!(self.0.file("seen").exists(), "the step was not reached");
    }
}

/// The PID of a running process by its name and its gate.
pub fn process(name: &str, gate: &str) -> Option<String> {
    fs::read_dir("/proc").ok()?.find_map(|entry| {
        let path = entry.ok()?.path();
        let comm = fs::read_to_string(path.join("comm")).ok()?;
        let environment = fs::read(path.join("environ")).ok()?;
        let ours = environment
            .split(|&byte| byte == 0)
            .any(|variable| variable == format!("{GATE}={gate}").as_bytes());
        let zombie = fs::read_to_string(path.join("stat")).is_ok_and(|s| s.contains(") Z "));
        (comm.trim() == name && ours && !zombie).then(|| {
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into()
        })
    })
}
