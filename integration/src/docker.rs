//! Runs containers, checkpoints and networks by the `docker` command.
//!
//! Docker names its runtimes in daemon.json. `cedana` is one by type, which
//! containerd serves with our shim; `cedana-path` is one by path, where
//! containerd's own shim calls `cedana-runc`. By type, Docker sends the same
//! checkpoint request with and without `--leave-running`, so a container that is
//! to continue has an annotation.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::container::Out;
use crate::ctr::{Output, finish};
use crate::{Pty, Report, command, eventually, unique, workload};

/// Docker's copy of the image with one static binary.
pub const BUSYBOX: &str = "busybox";
/// Docker's copy of the image with redis, nginx, postgres and python.
pub const WORK: &str = "work";

/// The annotation by which a container continues after a checkpoint by type.
const LEAVE_RUNNING: &str = "io.cedana.checkpoint.leave_running=true";

const CONTAINERD_TOML: &str = "/etc/containerd/config.toml";
const DAEMON_JSON: &str = "/etc/docker/daemon.json";

/// The runtime under test, as daemon.json names it.
pub fn runtime() -> String {
    std::env::var("CEDANA_TEST_DOCKER_RUNTIME").unwrap_or_else(|_| "cedana".into())
}

/// Whether the runtime under test is given by path.
pub fn by_path() -> bool {
    runtime() == "cedana-path"
}

/// Whether Docker can't restore with the runtime under test.
///
/// Docker 28 sets the network up through the created task's PID, and containerd's
/// own shim has none for a task that is to be restored.
#[track_caller]
pub fn cannot_restore() -> bool {
    by_path() && !crate::named_as_stock() && version() >= 28
}

/// [`cannot_restore`], and prints that the test is skipped.
#[track_caller]
pub fn no_restore_here() -> bool {
    let none = cannot_restore();
    if none {
        println!("skipped: Docker {} can't restore by path", version());
    }
    none
}

/// Docker's major version.
#[track_caller]
pub fn version() -> u32 {
    let version = docker_ok(&["version", "--format", "{{.Server.Version}}"]);
    let major = version.split('.').next().and_then(|n| n.parse().ok());
    major.unwrap_or_else(|| panic!("Docker's version: {version}"))
}

/// Runs `docker`.
#[track_caller]
pub fn docker(arguments: &[&str]) -> Output {
    crate::testbed();
    command("docker", arguments)
}

/// Runs `docker`, which must succeed, and returns its trimmed standard output.
#[track_caller]
pub fn docker_ok(arguments: &[&str]) -> String {
    docker(arguments).ok().stdout.trim().to_owned()
}

/// Runs `docker` in a `drop`. A failure is ignored: after a test's panic a second
/// one would abort the program.
fn ignoring_failure(arguments: &[&str]) {
    let mut docker = Command::new("timeout");
    docker.args(["30", "docker"]).args(arguments);
    let _ = docker.stdin(Stdio::null()).output();
}

/// The arguments of `docker run`.
///
/// Every container gets `/workload` and a directory `/out` that the test sees.
#[derive(Clone)]
pub struct Run {
    name: String,
    image: String,
    runtime: Option<String>,
    flags: Vec<String>,
    command: Vec<String>,
    out: Arc<Out>,
}

impl Run {
    /// A busybox container whose name begins with `label`.
    pub fn new(label: &str) -> Self {
        let name = unique(label);
        let out = Arc::new(Out::create(&name));
        // Writable to containers of any user.
        fs::set_permissions(&out.0, fs::Permissions::from_mode(0o777))
            .unwrap_or_else(|e| panic!("{}: {e}", out.0.display()));
        let mount = |from: &Path, to: &str| format!("{}:{to}", from.display());
        Self {
            image: BUSYBOX.into(),
            runtime: Some(runtime()),
            flags: vec![
                "--volume".into(),
                format!("{}:ro", mount(workload::installed(), workload::PATH)),
                "--volume".into(),
                mount(&out.0, "/out"),
            ],
            command: vec![],
            name,
            out,
        }
    }

    /// Sets the image; busybox otherwise.
    pub fn image(mut self, image: &str) -> Self {
        self.image = image.into();
        self
    }

    /// Leaves the choice of the runtime to Docker.
    pub fn default_runtime(mut self) -> Self {
        self.runtime = None;
        self
    }

    /// Sets the runtime; the one under test otherwise.
    pub fn runtime(mut self, name: &str) -> Self {
        self.runtime = Some(name.into());
        self
    }

    /// Adds flags of `docker run`.
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|&f| f.into()));
        self
    }

    /// Has it continue after a checkpoint, even if Docker does not ask for that.
    pub fn leaves_running(self) -> Self {
        self.flags(&["--annotation", LEAVE_RUNNING])
    }

    /// Sets the command that the container runs.
    pub fn command(mut self, command: &[&str]) -> Self {
        self.command = command.iter().map(|&a| a.into()).collect();
        self
    }

    /// Runs the workload with the state that `flags` name.
    pub fn workload(mut self, flags: &[&str]) -> Self {
        self.command = workload::command_line(flags)
            .into_iter()
            .map(str::to_owned)
            .collect();
        self
    }

    /// The name the container will have.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory it will see as `/out`.
    pub fn out(&self) -> &Path {
        &self.out.0
    }

    /// Starts it in the background; a workload is ready on return.
    #[track_caller]
    pub fn start(self) -> Container {
        let container = Container {
            name: self.name.clone(),
            out: Arc::clone(&self.out),
        };
        let mut all = vec!["run", "--detach", "--name", &self.name];
        if let Some(runtime) = &self.runtime {
            all.extend(["--runtime", runtime]);
        }
        all.extend(self.flags.iter().map(String::as_str));
        all.push(&self.image);
        all.extend(self.command.iter().map(String::as_str));
        docker(&all).ok();
        if self.command.first().is_some_and(|c| c == workload::PATH) {
            container.ready("workload");
        }
        container
    }
}

/// A container, removed when dropped, in any state.
pub struct Container {
    name: String,
    out: Arc<Out>,
}

impl Container {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory it sees as `/out`.
    pub fn out(&self) -> &Path {
        &self.out.0
    }

    /// Runs `docker inspect` with a template.
    #[track_caller]
    pub fn inspect(&self, template: &str) -> String {
        docker_ok(&["inspect", "--format", template, &self.name])
    }

    /// The PID of its init by `docker inspect`, which must be running.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        let pid = self.inspect("{{.State.Pid}}");
        match pid.parse() {
            Ok(pid @ 1..) => pid,
            _ => panic!("{} does not run: {}", self.name, self.state()),
        }
    }

    /// Its state by `docker inspect`.
    #[track_caller]
    pub fn state(&self) -> String {
        self.inspect("{{json .State}}")
    }

    /// Whether Docker says that it is `status`: `running`, `paused`, `exited`.
    #[track_caller]
    pub fn is(&self, status: &str) -> Result<(), String> {
        match self.inspect("{{.State.Status}}") == status {
            true => Ok(()),
            false => Err(self.state()),
        }
    }

    /// Asserts that it runs.
    #[track_caller]
    pub fn running(&self) {
        self.is("running")
            .unwrap_or_else(|state| panic!("{} should run: {state}", self.name));
    }

    /// Waits until it has exited.
    #[track_caller]
    pub fn exited(&self) {
        eventually("the container has exited", || self.is("exited"));
    }

    /// Removes the mark of a ready workload, so that [`Self::ready`] waits for the
    /// next one. (The kernel drops a signal to a container's init that has no handler
    /// for it yet.)
    #[track_caller]
    pub fn not_ready(&self) {
        let path = self.out().join("workload.ready");
        fs::remove_file(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    }

    /// Waits until the workload of this name is ready.
    #[track_caller]
    pub fn ready(&self, name: &str) {
        let path = self.out().join(format!("{name}.ready"));
        eventually(&format!("workload {name} is ready"), || {
            fs::read(&path).map_err(|e| {
                let logs = docker(&["logs", "--tail", "5", &self.name]);
                format!("{e}; {}; {logs}", self.state())
            })
        });
    }

    /// Asks the container's workload to verify itself.
    #[track_caller]
    pub fn report(&self) -> Report {
        self.report_after("workload", || {
            // After `docker kill`, Docker ignores the restart policy.
            let pid = Pid::from_raw(self.pid().cast_signed());
            kill(pid, Signal::SIGUSR1).unwrap_or_else(|e| panic!("{pid}: {e}"));
        })
    }

    /// Waits for the report that the workload of this name writes after `ask`.
    #[track_caller]
    pub fn report_after(&self, name: &str, ask: impl FnOnce()) -> Report {
        let path = self.out().join(format!("{name}.report"));
        let _ = fs::remove_file(&path);
        ask();
        Report::parse(&eventually("the workload reports", || {
            fs::read_to_string(&path).map_err(|e| format!("{e}; {}", self.state()))
        }))
    }

    /// Reads a file of `/out` until `found` returns a value.
    #[track_caller]
    pub fn reads<T>(&self, file: &str, found: impl Fn(&str) -> Option<T>) -> T {
        let path = self.out().join(file);
        eventually(&format!("{file} says it"), || {
            let text = fs::read_to_string(&path).map_err(|e| format!("{e}; {}", self.state()))?;
            found(&text).ok_or(text)
        })
    }

    /// Runs `docker exec` until it exits.
    #[track_caller]
    pub fn exec(&self, command: &[&str]) -> Output {
        docker(&[&["exec", &self.name], command].concat())
    }

    /// Runs `docker checkpoint create`.
    #[track_caller]
    pub fn checkpoint(&self, checkpoint: &str) -> Output {
        docker(&["checkpoint", "create", &self.name, checkpoint])
    }

    /// Runs `docker checkpoint create --leave-running`.
    #[track_caller]
    pub fn checkpoint_running(&self, checkpoint: &str) -> Output {
        let flags = ["checkpoint", "create", "--leave-running"];
        docker(&[&flags[..], &[&self.name, checkpoint]].concat())
    }

    /// Takes a checkpoint that ends it.
    #[track_caller]
    pub fn checkpoint_and_exit(&self, checkpoint: &str) {
        self.checkpoint(checkpoint).ok();
        self.exited();
    }

    /// Runs `docker start --checkpoint`.
    #[track_caller]
    pub fn restore(&self, checkpoint: &str) -> Output {
        docker(&["start", "--checkpoint", checkpoint, &self.name])
    }

    /// Restores it; the container must run afterwards.
    #[track_caller]
    pub fn restore_and_run(&self, checkpoint: &str) {
        self.restore(checkpoint).ok();
        self.running();
    }

    /// Runs `docker kill`, and waits until it has exited.
    #[track_caller]
    pub fn kill(&self) {
        docker_ok(&["kill", &self.name]);
        self.exited();
    }

    /// The names that `docker checkpoint ls` shows.
    #[track_caller]
    pub fn checkpoints(&self) -> Vec<String> {
        let listed = docker_ok(&["checkpoint", "ls", &self.name]);
        listed.lines().skip(1).map(|l| l.trim().into()).collect()
    }

    /// The directory in which Docker keeps a checkpoint of it.
    #[track_caller]
    pub fn checkpoint_path(&self, checkpoint: &str) -> std::path::PathBuf {
        Path::new("/var/lib/docker/containers")
            .join(self.inspect("{{.Id}}"))
            .join("checkpoints")
            .join(checkpoint)
    }

    /// Its address in its only network.
    #[track_caller]
    pub fn address(&self) -> String {
        let address = self.inspect("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}");
        assert!(!address.is_empty(), "{} has no address", self.name);
        address
    }

    /// The machine's address in its only network.
    #[track_caller]
    pub fn gateway(&self) -> String {
        self.inspect("{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}")
    }

    /// Runs `docker attach` on a terminal that the test holds.
    #[track_caller]
    pub fn attach(&self) -> Pty {
        Pty::start(Command::new("docker").args(["attach", &self.name]))
    }

    /// The standard output of `docker logs`.
    #[track_caller]
    pub fn logs(&self) -> String {
        docker(&["logs", &self.name]).ok().stdout
    }

    /// The PID of its shim.
    #[track_caller]
    pub fn shim_pid(&self) -> i32 {
        let pattern = format!("containerd-shim.* -id {} ", self.inspect("{{.Id}}"));
        let found = command("pgrep", &["--full", &pattern]);
        let first = found.stdout.lines().next().and_then(|pid| pid.parse().ok());
        first.unwrap_or_else(|| panic!("no shim of {}: {found}", self.name))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        ignoring_failure(&["rm", "--force", "--volumes", &self.name]);
    }
}

/// A user-defined network, removed when dropped.
pub struct Network(String);

impl Network {
    /// A bridge network.
    #[track_caller]
    pub fn create(label: &str) -> Self {
        Self::with(label, &[])
    }

    /// A bridge network with flags of `docker network create`.
    #[track_caller]
    pub fn with(label: &str, flags: &[&str]) -> Self {
        let name = unique(label);
        docker_ok(&[&["network", "create"], flags, &[&name]].concat());
        Self(name)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        ignoring_failure(&["network", "rm", &self.0]);
    }
}

/// A lock on the instance's dockerd. Its drop restores daemon.json.
///
/// Tests that stop an engine must not run beside others. They are a test program of
/// their own, and each of them holds this.
pub struct Dockerd {
    _alone: MutexGuard<'static, ()>,
    settings: String,
}

impl Dockerd {
    /// Waits for the other tests of this program to end.
    #[track_caller]
    pub fn alone() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let settings =
            fs::read_to_string(DAEMON_JSON).unwrap_or_else(|e| panic!("{DAEMON_JSON}: {e}"));
        Self {
            _alone: alone,
            settings,
        }
    }

    /// Restarts dockerd with more settings.
    #[track_caller]
    pub fn with(&self, settings: Value) {
        let mut all: Value =
            serde_json::from_str(&self.settings).unwrap_or_else(|e| panic!("{DAEMON_JSON}: {e}"));
        if let (Some(all), Value::Object(more)) = (all.as_object_mut(), settings) {
            all.extend(more);
        }
        // Live restore must be on before a container is started.
        self.end("stop", "dockerd");
        self.write(&json!(all).to_string());
        self.start("dockerd");
    }

    /// Restarts containerd with these settings.
    #[track_caller]
    pub fn with_containerds(&self, settings: &str) {
        fs::create_dir_all("/etc/containerd").expect("mkdir");
        fs::write(CONTAINERD_TOML, settings).unwrap_or_else(|e| panic!("{CONTAINERD_TOML}: {e}"));
        self.end("stop", "containerd");
        self.start("containerd");
    }

    /// Stops `engine` by SIGTERM (`stop`) or SIGKILL (`kill`).
    #[track_caller]
    pub fn end(&self, how: &str, engine: &str) {
        finish(Command::new("engine").args([how, engine])).ok();
    }

    /// Starts `engine`, and waits until it answers.
    #[track_caller]
    pub fn start(&self, engine: &str) {
        finish(Command::new("engine").args(["start", engine])).ok();
    }

    #[track_caller]
    fn write(&self, settings: &str) {
        fs::write(DAEMON_JSON, settings).unwrap_or_else(|e| panic!("{DAEMON_JSON}: {e}"));
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let changed = fs::read_to_string(DAEMON_JSON).is_ok_and(|now| now != self.settings);
        if changed {
            self.write(&self.settings);
            command("engine", &["stop", "dockerd"]);
        }
        if fs::remove_file(CONTAINERD_TOML).is_ok() {
            command("engine", &["stop", "containerd"]);
        }
        // A test that failed may have left an engine stopped.
        for (engine, socket) in [
            ("containerd", "/run/containerd/containerd.sock"),
            ("dockerd", "/run/docker.sock"),
        ] {
            if std::os::unix::net::UnixStream::connect(socket).is_err() {
                command("engine", &["start", engine]);
            }
        }
    }
}

/// The netns holders: processes that hold a network namespace for a container
/// between Create and Start of its restore.
pub fn holders() -> Vec<String> {
    let listed = command(
        "pgrep",
        &["--list-full", "--full", "--", "--cedana-hold-netns"],
    );
    listed
        .stdout
        .lines()
        .filter(|line| !line.contains("pgrep"))
        .map(Into::into)
        .collect()
}

/// Waits until no netns holder runs.
#[track_caller]
pub fn no_holder_is_left() {
    eventually(
        "no holder of a network namespace is left",
        || match holders() {
            none if none.is_empty() => Ok(()),
            some => Err(some.join("; ")),
        },
    );
}
