//! Debian's Podman, as its users run it.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use crate::folder::Folder;
use crate::{BUSYBOX, Output, Report, command, ctr_ok, eventually, unique, workload};

/// The runtime under test, as users name it.
pub const RUNTIME: &str = "cedana-runc";

/// Podman's storage configuration: its overlays need a file system that is not an
/// overlay itself.
const STORAGE: &str = r#"[storage]
driver = "overlay"
graphroot = "/var/lib/docker/podman"
runroot = "/run/podman-storage"
"#;

/// The configuration from docs/podman.md.
const SETTINGS: &str = r#"[engine]
runtime_supports_json = ["cedana-runc", {append = true}]
[engine.runtimes]
cedana-runc = ["/usr/local/bin/cedana-runc"]
"#;

/// Runs `podman`, which is prepared once.
#[track_caller]
pub fn podman(arguments: &[&str]) -> Output {
    static PREPARED: OnceLock<()> = OnceLock::new();
    PREPARED.get_or_init(|| {
        crate::testbed();
        write("/etc/containers/storage.conf", STORAGE);
        write("/etc/containers/containers.conf.d/cedana.conf", SETTINGS);
        let archive = Folder::new("archive");
        let file = archive.file("busybox.tar").display().to_string();
        ctr_ok(&["images", "export", &file, BUSYBOX]);
        command("podman", &["load", "--input", &file]).ok();
    });
    command("podman", arguments)
}

#[track_caller]
fn write(path: &str, text: &str) {
    let folder = Path::new(path).parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(path, text))
        .unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// Runs `podman`, which must succeed, and returns its trimmed output.
#[track_caller]
pub fn podman_ok(arguments: &[&str]) -> String {
    podman(arguments).ok().stdout.trim().to_owned()
}

/// A container that runs the workload, removed when dropped.
pub struct Container {
    /// Its name.
    pub name: String,
    /// Where its workload writes.
    pub out: Folder,
}

impl Container {
    /// Starts it with the runtime under test, without a network, and waits until the
    /// workload is ready.
    #[track_caller]
    pub fn run(label: &str, flags: &[&str], workload: &[&str]) -> Self {
        let flags = [&["--network", "none"], flags].concat();
        Self::run_with(RUNTIME, label, &flags, workload)
    }

    /// Starts it with another runtime.
    #[track_caller]
    pub fn run_with(runtime: &str, label: &str, flags: &[&str], workload: &[&str]) -> Self {
        let container = Self {
            name: unique(label),
            out: Folder::new(label),
        };
        let program = format!("{}:{}:ro", workload::installed().display(), workload::PATH);
        let out = format!("{}:/out", container.out.text());
        let mut all = vec!["--runtime", runtime, "run", "--detach"];
        all.extend(["--name", &container.name, "--volume", &program]);
        all.extend(["--volume", &out]);
        all.extend(flags);
        all.extend([BUSYBOX, workload::PATH]);
        all.extend(workload);
        podman(&all).ok();
        eventually("the workload is ready", || {
            fs::read(container.out.file("workload.ready"))
                .map_err(|error| format!("{error}; {}", container.state()))
        });
        container
    }

    /// What `podman inspect` says by this template.
    #[track_caller]
    pub fn inspect(&self, template: &str) -> String {
        podman_ok(&["inspect", "--format", template, &self.name])
    }

    /// The state of a container, for an error's message.
    fn known_of(name: &str) -> String {
        podman(&["inspect", "--format", "{{json .State}}", name]).to_string()
    }

    /// Its state, for messages.
    #[track_caller]
    pub fn state(&self) -> String {
        self.inspect("{{json .State}}")
    }

    /// Asserts its status.
    #[track_caller]
    pub fn is(&self, status: &str) {
        let found = self.inspect("{{.State.Status}}");
        assert_eq!(found, status, "{}", self.state());
    }

    /// Asks the workload to verify itself, through `podman kill`.
    #[track_caller]
    pub fn report(&self) -> Report {
        self.report_of(&self.name)
    }

    /// [`Container::report`] of a container that was restored under another name.
    #[track_caller]
    pub fn report_of(&self, name: &str) -> Report {
        let path = self.out.file("workload.report");
        let _ = fs::remove_file(&path);
        podman(&["kill", "--signal", "USR1", name]).ok();
        Report::parse(&eventually("the workload reports", || {
            fs::read_to_string(&path).map_err(|error| format!("{error}; {}", Self::known_of(name)))
        }))
    }

    /// Runs `podman container checkpoint` with these flags.
    #[track_caller]
    pub fn checkpoint(&self, flags: &[&str]) -> Output {
        podman(&[&["container", "checkpoint"], flags, &[&self.name]].concat())
    }

    /// Removes it.
    #[track_caller]
    pub fn remove(&self) {
        podman(&["rm", "--force", "--time", "0", &self.name]).ok();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        command("podman", &["rm", "--force", "--time", "0", &self.name]);
    }
}
