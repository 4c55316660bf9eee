//! Restores a checkpoint by an OCI runtime alone, without an engine.

use std::fs;
use std::path::Path;

use containerd_shim_protos::shim::oci::CheckpointOptions;

use crate::folder::{Folder, json, read};
use crate::{Container, Leaks, Output, Report, Run, command, eventually, unique};

/// A container that was checkpointed and killed, with its checkpoint and a bundle
/// in which an OCI runtime restores it.
pub struct Checkpointed {
    /// The container that was checkpointed and killed.
    pub container: Container,
    /// Its report before the checkpoint.
    pub before: Report,
    /// Its checkpoint.
    pub images: Folder,
    /// The bundle of the restored container.
    pub bundle: Folder,
    /// The files of [`Checkpointed::script`].
    pub criu: Folder,
    /// The id of the restored container.
    pub id: String,
}

/// The runtimes' `--root`.
pub const ROOT: &str = "/run/cedana-stored";

impl Checkpointed {
    /// Checkpoints a workload with 64 MiB of memory, children, a connection and a file.
    #[track_caller]
    pub fn new(label: &str, flags: &[&str]) -> Self {
        let workload = [
            "--memory",
            "64",
            "--children",
            "2",
            "--unix",
            "--file",
            "/f",
        ];
        Self::of(label, flags, &workload)
    }

    /// Checkpoints another workload.
    #[track_caller]
    pub fn of(label: &str, flags: &[&str], workload: &[&str]) -> Self {
        let run = Run::new(label).flags(flags);
        let container = run.workload(workload).detach();
        let before = container.report();
        let images = Folder::new("images");
        let answer = container
            .task()
            .checkpoint(&images.0, Some(CheckpointOptions::default()));
        answer.unwrap_or_else(|refused| panic!("{refused}"));
        container.report().continues(&before);
        container.kill("SIGKILL");
        Self::ended(container, before, images)
    }

    /// A container that has exited, or is about to, after its checkpoint in `images`.
    /// containerd still has its task.
    #[track_caller]
    pub fn ended(container: Container, before: Report, images: Folder) -> Self {
        container.stopped();
        let id = unique("alone");
        let bundle = Folder::new("bundle");
        command("ip", &["netns", "add", &id]).ok();
        let checkpointed = Self {
            container,
            before,
            images,
            bundle,
            criu: Folder::of_criu("script"),
            id,
        };
        checkpointed.write_bundle();
        checkpointed
    }

    /// Writes the bundle from the container's. Its root is the one that containerd
    /// has still mounted.
    fn write_bundle(&self) {
        let engines = format!(
            "/run/containerd/io.containerd.runtime.v2.task/default/{}",
            self.container.id()
        );
        let mut spec = json(&read(&Path::new(&engines).join("config.json")));
        spec["root"]["path"] = format!("{engines}/rootfs").into();
        let namespaces = spec["linux"]["namespaces"].as_array_mut();
        for namespace in namespaces.into_iter().flatten() {
            if namespace["type"] == "network" {
                namespace["path"] = format!("/run/netns/{}", self.id).into();
            }
        }
        let config = self.bundle.file("config.json");
        fs::write(config, spec.to_string()).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Has CRIU run a shell script at each step of a restore. CRIU sets
    /// `$CRTOOLS_SCRIPT_ACTION` to the step.
    #[track_caller]
    pub fn script(&self, script: &str) {
        let file = |name: &str, text: &str| {
            let path = self.criu.file(name);
            fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            path.display().to_string()
        };
        let path = file("step", &format!("#!/bin/sh\n{script}\n"));
        command("chmod", &["+x", &path]).ok();
        self.criu_options(&format!("action-script {path}\n"));
    }

    /// Gives CRIU options of a configuration file at a restore, by every runtime.
    #[track_caller]
    pub fn criu_options(&self, options: &str) {
        let path = self.criu.file("criu.conf");
        fs::write(&path, options).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let options = path.display().to_string();
        let config = self.bundle.file("config.json");
        let mut spec = json(&read(&config));
        spec["annotations"]["org.criu.config"] = options.into();
        fs::write(config, spec.to_string()).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Runs `PROGRAM restore --detach`, and returns its output.
    #[track_caller]
    pub fn restore(&self, program: &str, images: &Folder) -> Output {
        let mut output = self.begin(program, "--detach", images);
        output.code = self.code();
        if output.code != 0 {
            eventually("the output of the restore is complete", || {
                fs::metadata(self.bundle.file("ended")).map_err(|error| error.to_string())
            });
        }
        output.stderr = read(&self.bundle.file("said"));
        output
    }

    /// Runs `PROGRAM restore` in the foreground; it exits with the container.
    #[track_caller]
    pub fn restore_in_foreground(&self, program: &str) -> Foreground<'_> {
        self.begin(program, "", &self.images);
        Foreground(self)
    }

    #[track_caller]
    fn code(&self) -> i32 {
        let code = eventually("the restore has ended", || {
            fs::read_to_string(self.bundle.file("code")).map_err(|error| error.to_string())
        });
        code.trim().parse().unwrap_or(-1)
    }

    #[track_caller]
    fn begin(&self, program: &str, detach: &str, images: &Folder) -> Output {
        let file = |name: &str| self.bundle.file(name);
        for name in ["code", "ended", "pid"] {
            let _ = fs::remove_file(file(name));
        }
        // The container keeps its streams open, so a pipe to this process would
        // never end. A file is not in its mounts, so CRIU could not dump it.
        let line = format!(
            "{{ : | {{ {program} --root {ROOT} --log {bundle}/log.json --log-format json \
             restore {detach} --bundle {bundle} --work-path {bundle} --image-path {images} \
             --pid-file {bundle}/pid {id}; echo $? >{bundle}/code.new; \
             mv {bundle}/code.new {bundle}/code; }} 2>&1 | cat >{bundle}/said; \
             : >{bundle}/ended; }} </dev/null >/dev/null 2>&1 &",
            bundle = self.bundle.text(),
            images = images.text(),
            id = self.id,
        );
        command("sh", &["-c", &line]).ok()
    }

    /// Asserts that it was restored intact, and kills it.
    #[track_caller]
    pub fn is_restored_intact(&self) {
        self.is_intact();
        self.end();
        self.has_exited();
    }

    /// The PID of its init.
    #[track_caller]
    pub fn pid(&self) -> String {
        read(&self.bundle.file("pid")).trim().to_owned()
    }

    /// Its report after a signal.
    #[track_caller]
    pub fn report_after_signal(&self, signal: &str) -> Report {
        let pid = self.pid();
        self.container.report_after("workload", || {
            command("kill", &[signal, &pid]).ok();
        })
    }

    /// Asserts that it continues the process that was checkpointed.
    #[track_caller]
    pub fn is_intact(&self) {
        self.report_after_signal("-USR1").continues(&self.before);
    }

    /// Waits until its init has exited.
    #[track_caller]
    pub fn has_exited(&self) {
        let process = Path::new("/proc").join(self.pid());
        eventually("the restored init has exited", || match process.exists() {
            true => Err("it still runs".to_owned()),
            false => Ok(()),
        });
    }

    /// Removes the restored container, in any state.
    pub fn end(&self) {
        command("runc", &["--root", ROOT, "delete", "--force", &self.id]);
    }

    /// Asserts that a restore fails with all of `words` and leaves no container.
    #[track_caller]
    pub fn is_refused(&self, images: &Folder, words: &[&str]) {
        let leaks = self.leaks(images);
        let output = self.restore("cedana-runc", images);
        assert_ne!(output.code, 0, "restored from a bad checkpoint: {output}");
        for word in words {
            assert!(output.stderr.contains(word), "{word:?} is not in: {output}");
        }
        // runc names a container's directory by its ID, and makes its root for the first.
        let left = Path::new(ROOT).join(&self.id);
        assert!(!left.exists(), "{} is left", left.display());
        leaks.none();
    }

    /// A snapshot to compare with after a failed restore from `images`.
    #[track_caller]
    pub fn leaks(&self, images: &Folder) -> Leaks {
        Leaks::before(&[&self.id, &self.bundle.text(), &images.text()])
    }
}

impl Drop for Checkpointed {
    fn drop(&mut self) {
        self.end();
        command("ip", &["netns", "delete", &self.id]);
    }
}

/// A restore in the foreground, which exits with its container.
pub struct Foreground<'a>(&'a Checkpointed);

impl Foreground<'_> {
    /// Waits until it exits, and asserts its exit code.
    #[track_caller]
    pub fn has_code(&self, code: i32) {
        assert_eq!(self.0.code(), code, "{}", read(&self.0.bundle.file("said")));
    }
}
