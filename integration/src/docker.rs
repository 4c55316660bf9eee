//! Docker's user: containers, checkpoints and networks by the `docker` command.
//!
//! Docker names its runtimes in daemon.json. `cedana` is one by type, which
//! containerd serves with our shim; `cedana-path` is one by path, where
//! containerd's own shim calls `cedana-runc`. The two differ in what Docker
//! tells them: by type a checkpoint request is the same with and without
//! `--leave-running`, so a container that is to run on has an annotation.

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

/// Whether a restored container runs on after its next checkpoint by type.
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
/// From 28 on it sets the network up through the created task's PID, and
/// containerd's own shim has none for a task that is to be restored.
#[track_caller]
pub fn cannot_restore() -> bool {
    by_path() && !crate::named_as_stock() && version() >= 28
}

/// [`cannot_restore`] for a story that has to say why it isn't told.
#[track_caller]
pub fn no_restore_here() -> bool {
    let none = cannot_restore();
    if none {
        println!("skipped: Docker {} can't restore by path", version());
    }
    none
}

/// Docker's first version number.
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

/// Runs `docker`, which must succeed, and gives its trimmed standard output.
#[track_caller]
pub fn docker_ok(arguments: &[&str]) -> String {
    docker(arguments).ok().stdout.trim().to_owned()
}

/// Runs `docker` for a story that has ended, maybe by a panic: whatever comes of
/// it, there must not be a second one.
fn quietly(arguments: &[&str]) {
    let mut docker = Command::new("timeout");
    docker.args(["30", "docker"]).args(arguments);
    let _ = docker.stdin(Stdio::null()).output();
}

/// What `docker run` is to be told.
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
        // For containers of any user.
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

    /// Another image than busybox.
    pub fn image(mut self, image: &str) -> Self {
        self.image = image.into();
        self
    }

    /// Whatever runtime Docker takes by itself.
    pub fn default_runtime(mut self) -> Self {
        self.runtime = None;
        self
    }

    /// Another runtime than the one under test.
    pub fn runtime(mut self, name: &str) -> Self {
        self.runtime = Some(name.into());
        self
    }

    /// More flags of `docker run`.
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|&f| f.into()));
        self
    }

    /// Runs on after a checkpoint, whether or not Docker says so.
    pub fn leaves_running(self) -> Self {
        self.flags(&["--annotation", LEAVE_RUNNING])
    }

    /// What to run in the container.
    pub fn command(mut self, command: &[&str]) -> Self {
        self.command = command.iter().map(|&a| a.into()).collect();
        self
    }

    /// Runs the workload, holding what `flags` name.
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

    /// Starts it in the background; a workload has set itself up on return.
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

/// A container that is removed, whatever state it is in, when its story ends.
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

    /// `docker inspect` with a template.
    #[track_caller]
    pub fn inspect(&self, template: &str) -> String {
        docker_ok(&["inspect", "--format", template, &self.name])
    }

    /// Its first process, which must be running, as Docker knows it.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        let pid = self.inspect("{{.State.Pid}}");
        match pid.parse() {
            Ok(pid @ 1..) => pid,
            _ => panic!("{} does not run: {}", self.name, self.state()),
        }
    }

    /// Everything that Docker knows of its state.
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

    /// Panics unless it runs.
    #[track_caller]
    pub fn running(&self) {
        self.is("running")
            .unwrap_or_else(|state| panic!("{} should run: {state}", self.name));
    }

    /// Waits for it to have ended.
    #[track_caller]
    pub fn exited(&self) {
        eventually("the container has ended", || self.is("exited"));
    }

    /// Forgets that the workload was ready, so that [`Self::ready`] waits for the one
    /// that is to be started in its place. (A signal that comes before a container's
    /// init has a handler for it is lost.)
    #[track_caller]
    pub fn not_ready(&self) {
        let path = self.out().join("workload.ready");
        fs::remove_file(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    }

    /// Waits for a workload of this name to have set itself up.
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
            // Not by `docker kill`, after which the restart policy is off.
            let pid = Pid::from_raw(self.pid().cast_signed());
            kill(pid, Signal::SIGUSR1).unwrap_or_else(|e| panic!("{pid}: {e}"));
        })
    }

    /// Waits for the report that `ask` makes the workload of this name write.
    #[track_caller]
    pub fn report_after(&self, name: &str, ask: impl FnOnce()) -> Report {
        let path = self.out().join(format!("{name}.report"));
        let _ = fs::remove_file(&path);
        ask();
        Report::parse(&eventually("the workload reports", || {
            fs::read_to_string(&path).map_err(|e| format!("{e}; {}", self.state()))
        }))
    }

    /// Reads a file of the test's side of `/out` until `found` finds something.
    #[track_caller]
    pub fn reads<T>(&self, file: &str, found: impl Fn(&str) -> Option<T>) -> T {
        let path = self.out().join(file);
        eventually(&format!("{file} says it"), || {
            let text = fs::read_to_string(&path).map_err(|e| format!("{e}; {}", self.state()))?;
            found(&text).ok_or(text)
        })
    }

    /// `docker exec` to its end.
    #[track_caller]
    pub fn exec(&self, command: &[&str]) -> Output {
        docker(&[&["exec", &self.name], command].concat())
    }

    /// `docker checkpoint create`.
    #[track_caller]
    pub fn checkpoint(&self, checkpoint: &str) -> Output {
        docker(&["checkpoint", "create", &self.name, checkpoint])
    }

    /// `docker checkpoint create --leave-running`.
    #[track_caller]
    pub fn checkpoint_running(&self, checkpoint: &str) -> Output {
        let flags = ["checkpoint", "create", "--leave-running"];
        docker(&[&flags[..], &[&self.name, checkpoint]].concat())
    }

    /// A checkpoint with which it ends.
    #[track_caller]
    pub fn freeze(&self, checkpoint: &str) {
        self.checkpoint(checkpoint).ok();
        self.exited();
    }

    /// `docker start --checkpoint`.
    #[track_caller]
    pub fn restore(&self, checkpoint: &str) -> Output {
        docker(&["start", "--checkpoint", checkpoint, &self.name])
    }

    /// A restore that must work, and that the container outlives.
    #[track_caller]
    pub fn thaw(&self, checkpoint: &str) {
        self.restore(checkpoint).ok();
        self.running();
    }

    /// `docker kill`, and waits for the end.
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

    /// Where Docker keeps a checkpoint of it.
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

    /// `docker attach` on a terminal that the test holds.
    #[track_caller]
    pub fn attach(&self) -> Pty {
        Pty::start(Command::new("docker").args(["attach", &self.name]))
    }

    /// The standard output of `docker logs`.
    #[track_caller]
    pub fn logs(&self) -> String {
        docker(&["logs", &self.name]).ok().stdout
    }

    /// The shim that serves it.
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
        quietly(&["rm", "--force", "--volumes", &self.name]);
    }
}

/// A user-defined network, removed with its story.
pub struct Network(String);

impl Network {
    /// A bridge of its own.
    #[track_caller]
    pub fn create(label: &str) -> Self {
        Self::with(label, &[])
    }

    /// A bridge of its own, with flags of `docker network create`.
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
        quietly(&["network", "rm", &self.0]);
    }
}

/// The only user of the instance's dockerd for as long as it is held; what was
/// changed in daemon.json is taken back.
///
/// Stories that stop an engine must not have others beside them: they sit in a
/// test program of their own, and each of them holds this.
pub struct Dockerd {
    _alone: MutexGuard<'static, ()>,
    settings: String,
}

impl Dockerd {
    /// Waits for the other stories of this test program to end.
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
        // Live restore may only be turned on before there is a container to live.
        self.end("stop", "dockerd");
        self.write(&json!(all).to_string());
        self.start("dockerd");
    }

    /// Restarts containerd with these settings in place of none.
    #[track_caller]
    pub fn with_containerds(&self, settings: &str) {
        fs::create_dir_all("/etc/containerd").expect("mkdir");
        fs::write(CONTAINERD_TOML, settings).unwrap_or_else(|e| panic!("{CONTAINERD_TOML}: {e}"));
        self.end("stop", "containerd");
        self.start("containerd");
    }

    /// Ends `engine` with SIGTERM (`stop`) or SIGKILL (`kill`).
    #[track_caller]
    pub fn end(&self, how: &str, engine: &str) {
        finish(Command::new("engine").args([how, engine])).ok();
    }

    /// Starts `engine`; on return it answers.
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
        // A story that failed may have left an engine down.
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

/// Processes that hold a network namespace for a container whose restore has
/// not begun.
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

/// Waits for the last holder to be gone.
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
