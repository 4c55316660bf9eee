//! The directory in which a test runs `cedana-runc`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A directory with a fake runc and criu in `bin`, a state root, and a log.
pub(crate) struct Stage {
    dir: tempfile::TempDir,
}

impl Stage {
    pub(crate) fn new(runc: &str) -> Self {
        let stage = Self {
            dir: tempfile::tempdir().expect("tempdir"),
        };
        fs::create_dir(stage.path("bin")).expect("mkdir");
        stage.program("runc", runc);
        stage.program("criu", "echo Version: 4.2.1");
        fs::create_dir_all(stage.path("root/c")).expect("mkdir");
        fs::write(
            stage.path("root/c/state.json"),
            r#"{"init_process_pid":1,"config":{"namespaces":[],"labels":["io.cedana.checkpoint.ghost_limit=7MiB"]}}"#,
        )
        .expect("write");
        fs::write(
            stage.path("config.toml"),
            // The images of these tests have no processes to compare.
            format!(
                "log_dir = {:?}\nlog_keep = 2\n[restore]\ncheck = \"off\"\n",
                stage.path("logs")
            ),
        )
        .expect("write");
        stage
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn program(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cedana-runc"));
        command
            .args(args)
            .env_clear()
            .env(
                "PATH",
                format!("{}:/bin:/usr/bin", self.path("bin").display()),
            )
            .env("CEDANA_CONFIG", self.path("config.toml"))
            .env("STAGE", self.dir.path())
            .current_dir(self.dir.path());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("run")
    }

    pub(crate) fn checkpoint(&self) -> Output {
        self.run(&[
            "--root",
            "root",
            "--log",
            "log.json",
            "--log-format",
            "json",
            "checkpoint",
            "--image-path",
            "images",
            "--work-path",
            "work",
            "c",
        ])
    }

    /// Gives the running container an annotation, which runc keeps as a label.
    pub(crate) fn annotate(&self, name: &str, value: &str) {
        let record = self.path("root/c/state.json");
        let text = fs::read_to_string(&record).expect("read");
        let labels = format!(r#""labels":["{name}={value}","#);
        fs::write(&record, text.replace(r#""labels":["#, &labels)).expect("write");
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        let bundle = self.path("bundle");
        fs::create_dir(&bundle).expect("mkdir");
        fs::write(bundle.join("config.json"), "{}").expect("write");
        bundle
    }

    pub(crate) fn images(&self) {
        fs::create_dir(self.path("images")).expect("mkdir");
        let inventory = [0x16, 0x31, 0x31, 0x58, 2, 0, 0, 0, 8, 1];
        fs::write(self.path("images/inventory.img"), inventory).expect("write");
    }

    pub(crate) fn checkpoint_running(&self, options: &[&str]) -> Command {
        let command = ["--root", "root", "checkpoint", "--leave-running"];
        let images = ["--image-path", "images"];
        self.command(&[&command[..], &images, options, &["c"]].concat())
    }

    pub(crate) fn restore(&self) -> Output {
        self.restore_command(&[]).output().expect("run")
    }

    pub(crate) fn restore_command(&self, options: &[&str]) -> Command {
        let command = ["--root", "root", "restore", "-d", "-b", "bundle"];
        let images = ["--image-path", "images"];
        self.command(&[&command[..], &images, options, &["c"]].concat())
    }
}

/// A script for runc that writes a checkpoint with 3 MB of memory to `--image-path`.
pub(crate) const DUMP: &str = r#"[ "$1" = --version ] && { echo "runc version 1.3.6"; exit; }
for arg; do case $arg in --image-path=*) place=${arg#*=};; esac; done
yes memory | head -c 3000000 >"$place/pages-1.img"
printf '\026\061\061\130\002\000\000\000\010\001' >"$place/inventory.img"
"#;

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("dir")
        .map(|entry| {
            entry
                .expect("entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn first_line(output: &Output) -> String {
    stderr(output).lines().next().unwrap_or_default().to_owned()
}
