//! Containers that `runc` runs by itself, and what a daemon restores.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::daemon::{runs, send};
use crate::folder::Folder;
use crate::{Output, Report, command, eventually, unique, workload};

/// A bundle with a container of runc, deleted when dropped.
pub struct RuncContainer {
    id: String,
    home: Folder,
}

impl RuncContainer {
    /// Starts a container that runs the workload with `flags`.
    #[track_caller]
    pub fn start(label: &str, flags: &[&str]) -> Self {
        let container = Self {
            id: unique(label),
            home: Folder::new(label),
        };
        for directory in [
            "bundle/rootfs/proc",
            "bundle/rootfs/dev",
            "bundle/rootfs/sys",
            "bundle/rootfs/tmp",
            "bundle/rootfs/out",
            "out",
        ] {
            let path = container.home.file(directory);
            fs::create_dir_all(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
        container.write("bundle/rootfs/workload", "");
        container.write("bundle/config.json", &container.spec(flags).to_string());
        container.run();
        container
    }

    /// Runs it.
    #[track_caller]
    fn run(&self) {
        let bundle = self.bundle();
        let log = self.home.file("log").display().to_string();
        // runc passes its stdio on to the container.
        let script =
            "exec runc --log \"$3\" run --detach --bundle \"$1\" \"$2\" </dev/null >/dev/null 2>&1";
        command("sh", &["-c", script, "sh", &bundle, &self.id, &log]).ok();
        let ready = self.home.file("out/workload.ready");
        eventually("the workload is ready", || {
            fs::read(&ready)
                .map_err(|e| format!("{e}: {}", fs::read_to_string(&log).unwrap_or_default()))
        });
    }

    #[track_caller]
    fn spec(&self, flags: &[&str]) -> Value {
        let made = self.home.file("made");
        fs::create_dir_all(&made).unwrap_or_else(|e| panic!("{}: {e}", made.display()));
        command("runc", &["spec", "--bundle", &made.display().to_string()]).ok();
        let text = fs::read(made.join("config.json")).unwrap_or_else(|e| panic!("{e}"));
        let mut spec: Value = serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{e}"));
        spec["process"]["args"] = json!(workload::command_line(flags));
        spec["process"]["terminal"] = json!(false);
        spec["root"]["readonly"] = json!(false);
        let bind = |from: &Path, to: &str| json!({"type": "bind", "source": from, "destination": to, "options": ["rbind"]});
        if let Some(mounts) = spec["mounts"].as_array_mut() {
            mounts.push(bind(workload::installed(), workload::PATH));
            mounts.push(bind(&self.home.file("out"), "/out"));
        }
        spec
    }

    #[track_caller]
    fn write(&self, name: &str, text: &str) {
        let path = self.home.file(name);
        fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    /// Its ID.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its bundle.
    pub fn bundle(&self) -> String {
        self.home.file("bundle").display().to_string()
    }

    /// Its PID, which must run.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        pid(&self.id)
    }

    /// Asks its workload, or the restored one of this ID, to verify itself.
    #[track_caller]
    pub fn report_of(&self, id: &str) -> Report {
        report(&self.home.file("out"), pid(id))
    }

    /// [`Self::report_of`] this one.
    #[track_caller]
    pub fn report(&self) -> Report {
        self.report_of(&self.id)
    }
}

impl Drop for RuncContainer {
    fn drop(&mut self) {
        delete(&self.id);
    }
}

/// Asks a workload that writes to `out` to verify itself.
#[track_caller]
pub fn report(out: &Path, pid: i32) -> Report {
    let path = out.join("workload.report");
    let _ = fs::remove_file(&path);
    send(pid, Signal::SIGUSR1);
    Report::parse(&eventually("the workload reports", || {
        fs::read_to_string(&path).map_err(|e| format!("{e}; process {pid} runs: {}", runs(pid)))
    }))
}

/// The PID of a container of runc, which must run.
#[track_caller]
pub fn pid(id: &str) -> i32 {
    let state = state(id).ok().stdout;
    let state: Value = serde_json::from_str(&state).unwrap_or_else(|e| panic!("{state}: {e}"));
    assert_eq!(state["status"], "running", "{state}");
    let pid = state["pid"]
        .as_i64()
        .and_then(|pid| i32::try_from(pid).ok());
    pid.unwrap_or_else(|| panic!("no PID: {state}"))
}

/// Runs `cedana-runc state`.
#[track_caller]
pub fn state(id: &str) -> Output {
    command("cedana-runc", &["state", id])
}

/// Kills and deletes a container, if there is one.
pub fn delete(id: &str) {
    command("cedana-runc", &["delete", "--force", id]);
}

/// Waits until there is no bundle of the daemon's for this ID.
#[track_caller]
pub fn no_bundle(id: &str) {
    let path = bundle_of(id);
    eventually("the bundle is removed", || match path.exists() {
        true => Err(path.display().to_string()),
        false => Ok(()),
    });
}

/// The daemon's own bundle for this ID.
pub fn bundle_of(id: &str) -> PathBuf {
    Path::new("/var/lib/cedana/bundles").join(id)
}
