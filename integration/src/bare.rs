//! Runs a shim without containerd: the test sends containerd's requests.
//!
//! containerd prepares a correct bundle, sends correct requests, and has no
//! client that restores from a directory of images. Here the test chooses the
//! bundle, the options and the order of calls.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use containerd_shim_protos::api::CreateTaskRequest;
use serde_json::{Value, json};

use crate::ctr::finish;
use crate::{NAMESPACE, Report, Task, command, ctr_ok, eventually, runtime, unique, workload};

/// A shim that the test started, with its bundle.
pub struct BareShim {
    id: String,
    home: PathBuf,
    task: Task,
    pid: u32,
    logged: Arc<Mutex<String>>,
}

impl BareShim {
    /// Starts a shim for a container that runs the workload with `flags`.
    ///
    /// The root file system is a directory with nothing but mount points.
    #[track_caller]
    pub fn start(label: &str, flags: &[&str]) -> Self {
        Self::start_with(label, flags, &[])
    }

    /// [`BareShim::start`] with variables in the shim's environment.
    #[track_caller]
    pub fn start_with(label: &str, flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let id = unique(label);
        let home = Path::new("/var/tmp/cedana-tests").join(&id);
        let bundle = home.join("bundle");
        for directory in ["proc", "dev", "sys", "run", "tmp", "out"] {
            make(&bundle.join("rootfs").join(directory));
        }
        make(&home.join("out"));
        make(&bundle.join("work"));
        write(&bundle.join("rootfs/workload"), "");
        write(
            &bundle.join("config.json"),
            &specification(&id, &home, flags).to_string(),
        );
        nix::unistd::mkfifo(&bundle.join("log"), nix::sys::stat::Mode::S_IRWXU)
            .unwrap_or_else(|error| panic!("the shim's log: {error}"));
        // Opened for both directions, so the shim's open does not block.
        let log = fs::File::options()
            .read(true)
            .write(true)
            .open(bundle.join("log"));
        let log = log.unwrap_or_else(|error| panic!("the shim's log: {error}"));

        let mut command = shim_command(&id);
        command.arg("start").current_dir(&bundle);
        command.envs(environment.iter().copied());
        let started = finish(&mut command).ok();
        let task = Task::announced(&id, &started.stdout);
        let pid = task.connect().map(|c| c.shim_pid).unwrap_or_else(|_| {
            // Before Create the shim may have no task, and refuses Connect.
            pid_of_shim(&id)
        });
        Self {
            id,
            home,
            task,
            pid,
            logged: kept(log),
        }
    }

    /// The container's name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The bundle, which a test may change before [`BareShim::run`].
    pub fn bundle(&self) -> PathBuf {
        self.home.join("bundle")
    }

    /// The shim's task service.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// The shim's log so far.
    pub fn logged(&self) -> String {
        let logged = self.logged.lock();
        logged.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The shim's PID.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The Create request that containerd would send, for the test to alter.
    pub fn request(&self) -> CreateTaskRequest {
        CreateTaskRequest {
            id: self.id.clone(),
            bundle: self.bundle().display().to_string(),
            ..Default::default()
        }
    }

    /// Creates and starts the task, and waits until the workload is ready.
    #[track_caller]
    pub fn run(&self) {
        self.run_as(&self.request());
    }

    /// [`BareShim::run`] with another Create request.
    #[track_caller]
    pub fn run_as(&self, request: &CreateTaskRequest) {
        let started = self.task.create(request).and_then(|_| self.task.start(""));
        started.unwrap_or_else(|refused| panic!("{}: {refused}", self.id));
        let ready = self.home.join("out/workload.ready");
        eventually("the workload is ready", || {
            fs::read(&ready).map_err(|e| e.to_string())
        });
    }

    /// Asks the workload to verify itself.
    #[track_caller]
    pub fn report(&self) -> Report {
        let path = self.home.join("out/workload.report");
        let _ = fs::remove_file(&path);
        self.task
            .kill("", 10, false)
            .unwrap_or_else(|refused| panic!("{refused}"));
        Report::parse(&eventually("the workload reports", || {
            fs::read_to_string(&path).map_err(|e| format!("{e}; {:?}", self.task.state("")))
        }))
    }

    /// A second shim, whose container is restored from a checkpoint of this one's.
    #[track_caller]
    pub fn successor(&self, label: &str) -> Self {
        self.successor_with(label, &[])
    }

    /// [`BareShim::successor`] with variables in the new shim's environment.
    #[track_caller]
    pub fn successor_with(&self, label: &str, environment: &[(&str, &str)]) -> Self {
        let next = Self::start_with(label, &[], environment);
        let spec = specification(&next.id, &self.home, &[]);
        let mut spec_of_first = read_json(&self.bundle().join("config.json"));
        spec_of_first["linux"]["cgroupsPath"] = spec["linux"]["cgroupsPath"].clone();
        let rootfs = self.bundle().join("rootfs");
        spec_of_first["root"]["path"] = json!(rootfs);
        write(
            &next.bundle().join("config.json"),
            &spec_of_first.to_string(),
        );
        next
    }

    /// Asks the restored workload to verify itself. It writes its report to the
    /// directory of `first`, whose mounts it has.
    #[track_caller]
    pub fn report_into(&self, first: &Self) -> Report {
        let path = first.home.join("out/workload.report");
        let _ = fs::remove_file(&path);
        self.task
            .kill("", 10, false)
            .unwrap_or_else(|refused| panic!("{refused}"));
        Report::parse(&eventually("the workload reports", || {
            fs::read_to_string(&path).map_err(|e| format!("{e}; {:?}", self.task.state("")))
        }))
    }
}

impl Drop for BareShim {
    fn drop(&mut self) {
        // In containerd's order. Each step may fail. Wait is sent only after a
        // successful Kill, since a task that was never started does not exit.
        let task = self.task.within(Duration::from_secs(5));
        if task.kill("", 9, true).is_ok() {
            let _ = task.wait("");
        }
        let _ = task.delete("");
        let _ = task.shutdown(true);
        finish(shim_command(&self.id).arg("delete").current_dir(&self.home));
        if fs::metadata(format!("/proc/{}", self.pid)).is_ok() {
            let pid = nix::unistd::Pid::from_raw(self.pid.cast_signed());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        command(
            "umount",
            &["-q", &self.bundle().join("rootfs").display().to_string()],
        );
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.home);
        }
    }
}

/// The command by which containerd calls the shim's binary.
fn shim_command(id: &str) -> Command {
    let name = runtime();
    let [kind, version] = ["cedana", "v2"];
    let parts: Vec<_> = name.rsplitn(3, '.').collect();
    let binary = match parts.as_slice() {
        [version, kind, _] => format!("containerd-shim-{kind}-{version}"),
        _ => format!("containerd-shim-{kind}-{version}"),
    };
    let mut shim = Command::new(binary);
    shim.args(["-namespace", NAMESPACE, "-id", id])
        .args(["-address", "/run/containerd/containerd.sock"])
        .args(["-publish-binary", "/usr/bin/containerd"])
        .env("TTRPC_ADDRESS", "/run/containerd/containerd.sock.ttrpc")
        .stdin(Stdio::null());
    shim
}

/// `ctr`'s default specification, as containerd would write it into the bundle.
fn specification(id: &str, home: &Path, flags: &[&str]) -> Value {
    let mut spec: Value = serde_json::from_str(&ctr_ok(&["oci", "spec"]))
        .unwrap_or_else(|error| panic!("`ctr oci spec`: {error}"));
    let arguments = workload::command_line(flags);
    spec["process"]["args"] = json!(arguments);
    spec["process"]["terminal"] = json!(false);
    spec["root"]["readonly"] = json!(false);
    spec["linux"]["cgroupsPath"] = json!(format!("/{NAMESPACE}/{id}"));
    let bind = |from: &Path, to: &str| json!({"type": "bind", "source": from, "destination": to, "options": ["rbind"]});
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        mounts.push(bind(workload::installed(), workload::PATH));
        mounts.push(bind(&home.join("out"), "/out"));
    }
    spec
}

/// The PID of the shim with the container's name on its command line.
#[track_caller]
fn pid_of_shim(id: &str) -> u32 {
    let found = command("pgrep", &["-f", &format!("containerd-shim-.* -id {id} ")]);
    let first = found
        .stdout
        .lines()
        .next()
        .and_then(|line| line.parse().ok());
    first.unwrap_or_else(|| panic!("no shim of {id}: {found}"))
}

/// Collects the shim's log until its last writer closes it.
fn kept(mut log: fs::File) -> Arc<Mutex<String>> {
    let logged = Arc::<Mutex<String>>::default();
    let growing = Arc::clone(&logged);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = log.read(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]);
            let mut logged = growing.lock().unwrap_or_else(PoisonError::into_inner);
            logged.push_str(&text);
        }
    });
    logged
}

fn read_json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn make(directory: &Path) {
    fs::create_dir_all(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}
