//! A container of a test, from `ctr run` to its removal.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::ctr::{BUSYBOX, Output, ctr, ctr_command, ctr_ok, finish};
use crate::{Pty, Report, Task, eventually, runtime, unique, workload};

/// The arguments of `ctr run`.
///
/// Every container gets `/workload` and a directory `/out` that the test sees.
#[derive(Clone)]
pub struct Run {
    id: String,
    image: String,
    runtime: String,
    flags: Vec<String>,
    command: Vec<String>,
    out: Arc<Out>,
}

impl Run {
    /// A busybox container whose name begins with `label`.
    pub fn new(label: &str) -> Self {
        let id = unique(label);
        let out = Arc::new(Out::create(&id));
        let bind = |from: &Path, to: &str, mode: &str| {
            format!(
                "type=bind,src={},dst={to},options=rbind:{mode}",
                from.display()
            )
        };
        Self {
            image: BUSYBOX.into(),
            runtime: runtime(),
            flags: vec![
                "--mount".into(),
                bind(workload::installed(), workload::PATH, "ro"),
                "--mount".into(),
                bind(&out.0, "/out", "rw"),
            ],
            command: vec![],
            id,
            out,
        }
    }

    /// Sets the image; busybox otherwise.
    pub fn image(mut self, image: &str) -> Self {
        self.image = image.into();
        self
    }

    /// Sets the runtime, to compare the one under test with it.
    pub fn under(mut self, runtime: &str) -> Self {
        self.runtime = runtime.into();
        self
    }

    /// Another container of the same image, which sees the same `/out`.
    pub fn beside(&self, label: &str) -> Self {
        let mut run = Self::new(label);
        let flags = self.flags.iter().take(run.flags.len());
        run.flags = flags.cloned().collect();
        run.image.clone_from(&self.image);
        run.out = Arc::clone(&self.out);
        run
    }

    /// Adds flags of `ctr run`.
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|&f| f.into()));
        self
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

    /// Has the shim call `program` in runc's place.
    ///
    /// ctr sends runc's options only to a runtime named like containerd's own. To
    /// others it sends the path of a file with settings.
    pub fn runtime_binary(self, program: &Path) -> Self {
        let program = program.display().to_string();
        if self.runtime == crate::STOCK {
            return self.flags(&["--runc-binary", &program]);
        }
        let settings = self.out.0.join("options.toml");
        fs::write(&settings, format!("BinaryName = {program:?}\n"))
            .unwrap_or_else(|error| panic!("{}: {error}", settings.display()));
        self.flags(&["--runtime-config-path", &settings.display().to_string()])
    }

    /// Makes it a container of the pod of `sandbox`, or the sandbox itself.
    pub fn in_pod(self, sandbox: &str) -> Self {
        self.flags(&[
            "--annotation",
            &format!("io.kubernetes.cri.sandbox-id={sandbox}"),
        ])
    }

    /// The name the container will have.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Starts it in the background; a workload is ready on return.
    #[track_caller]
    pub fn detach(self) -> Container {
        let container = self.container();
        self.ctr(&["-d"]).ok();
        if self.command.first().is_some_and(|c| c == workload::PATH) {
            container.ready("workload");
        }
        container
    }

    /// Starts it in the background, which must fail, and returns the error.
    #[track_caller]
    pub fn fails(self) -> String {
        let _removed_if_it_started = self.container();
        self.ctr(&["-d"]).refused()
    }

    /// Runs it in the foreground until it exits.
    #[track_caller]
    pub fn foreground(self) -> Output {
        let _removed = self.container();
        self.ctr(&["--rm"])
    }

    /// Runs it on a terminal whose other side the test holds.
    #[track_caller]
    pub fn on_terminal(self) -> (Container, Pty) {
        let container = self.container();
        let pty = Pty::start(&mut ctr_command(&self.arguments(&["-t"])));
        eventually("the container runs", || container.is("RUNNING"));
        (container, pty)
    }

    /// `ctr run` as a command, for a test that uses its streams.
    pub fn spawnable(&self, extra: &[&str]) -> (Container, std::process::Command) {
        (self.container(), ctr_command(&self.arguments(extra)))
    }

    fn arguments<'a>(&'a self, extra: &[&'a str]) -> Vec<&'a str> {
        let mut all = vec!["run", "--runtime", &self.runtime];
        all.extend(extra);
        all.extend(self.flags.iter().map(String::as_str));
        all.extend([self.image.as_str(), &self.id]);
        all.extend(self.command.iter().map(String::as_str));
        all
    }

    #[track_caller]
    fn ctr(&self, extra: &[&str]) -> Output {
        finish(&mut ctr_command(&self.arguments(extra)))
    }

    fn container(&self) -> Container {
        Container {
            id: self.id.clone(),
            out: Arc::clone(&self.out),
        }
    }
}

/// A container, removed when dropped, in any state.
pub struct Container {
    id: String,
    out: Arc<Out>,
}

impl Container {
    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A copy of it that a client restores under this name.
    pub fn restored_as(&self, id: &str) -> Self {
        Self {
            id: id.to_owned(),
            out: Arc::clone(&self.out),
        }
    }

    /// The directory it sees as `/out`.
    pub fn out(&self) -> &Path {
        &self.out.0
    }

    /// The PID of its shim.
    #[track_caller]
    pub fn shim_pid(&self) -> u32 {
        self.task()
            .connect()
            .map(|answer| answer.shim_pid)
            .unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// Its task at the shim's own socket, without containerd in between.
    #[track_caller]
    pub fn task(&self) -> Task {
        Task::of_container(&self.id)
    }

    /// The PID and status that `ctr task ls` shows.
    #[track_caller]
    pub fn status(&self) -> Option<(u32, String)> {
        ctr_ok(&["task", "ls"]).lines().find_map(|line| {
            let mut fields = line.split_whitespace();
            (fields.next()? == self.id).then_some(())?;
            Some((fields.next()?.parse().ok()?, fields.next()?.to_owned()))
        })
    }

    /// For [`eventually`]: whether its task has this status.
    #[track_caller]
    pub fn is(&self, status: &str) -> Result<u32, String> {
        match self.status() {
            Some((pid, now)) if now == status => Ok(pid),
            other => Err(format!("{other:?}")),
        }
    }

    /// The PID of its init, which must be running.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.is("RUNNING")
            .unwrap_or_else(|s| panic!("{} is not running: {s}", self.id))
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
            fs::read(&path).map_err(|e| format!("{e}; task: {:?}", self.status()))
        });
    }

    /// Asks the container's workload to verify itself.
    #[track_caller]
    pub fn report(&self) -> Report {
        self.report_after("workload", || {
            ctr_ok(&["task", "kill", "--signal", "SIGUSR1", &self.id]);
        })
    }

    /// Waits for the report that the workload of this name writes after `ask`.
    #[track_caller]
    pub fn report_after(&self, name: &str, ask: impl FnOnce()) -> Report {
        let path = self.out().join(format!("{name}.report"));
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => panic!("{path:?}: {e}"),
            _ => ask(),
        }
        let text = eventually("the workload reports", || {
            fs::read_to_string(&path).map_err(|e| format!("{e}; task: {:?}", self.status()))
        });
        Report::parse(&text)
    }

    /// Runs `ctr task exec` until it exits.
    #[track_caller]
    pub fn exec(&self, command: &[&str]) -> Output {
        self.exec_with(&[], &unique("exec"), command)
    }

    /// Runs `ctr task exec` with flags and an exec id.
    #[track_caller]
    pub fn exec_with(&self, flags: &[&str], exec_id: &str, command: &[&str]) -> Output {
        let mut all = vec!["task", "exec", "--exec-id", exec_id];
        all.extend(flags);
        all.push(&self.id);
        all.extend(command);
        ctr(&all)
    }

    /// Runs `ctr task kill --signal`.
    #[track_caller]
    pub fn kill(&self, signal: &str) {
        ctr_ok(&["task", "kill", "--signal", signal, &self.id]);
    }

    /// Kills it and deletes its task; the container stays.
    #[track_caller]
    pub fn end_task(&self) {
        self.kill("SIGKILL");
        self.stopped();
        // ctr exits with the exit code of the task that it deletes.
        let deleted = ctr(&["task", "delete", &self.id]);
        assert!([0, 137].contains(&deleted.code), "{deleted}");
    }

    /// Waits until its task has stopped.
    #[track_caller]
    pub fn stopped(&self) {
        eventually("the task has stopped", || self.is("STOPPED"));
    }

    /// Runs `ctr containers checkpoint --task` with `flags`.
    #[track_caller]
    pub fn checkpoint(&self, flags: &[&str]) -> Image {
        self.try_checkpoint(flags)
            .unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// [`Container::checkpoint`], but returns a failure.
    #[track_caller]
    pub fn try_checkpoint(&self, flags: &[&str]) -> Result<Image, Output> {
        let image = Image(format!("cedana.test/{}:latest", unique("checkpoint")));
        let mut all = vec!["containers", "checkpoint", "--task"];
        all.extend(flags);
        all.extend([self.id.as_str(), &image.0]);
        let answer = ctr(&all);
        if answer.code != 0 {
            return Err(answer);
        }
        // ctr resumes the task last, and only prints if that fails.
        assert!(!answer.stdout.contains("error"), "{answer}");
        // containerd's client takes "already exists" for success and then leaves
        // the task out. That happens to a second checkpoint while the first one's
        // copy of the same specification is still stored.
        assert!(
            image.index().contains("criu.checkpoint"),
            "no task in it: {}",
            image.index()
        );
        Ok(image)
    }

    /// Runs `ctr containers restore --live` with `flags`, under a new name.
    #[track_caller]
    pub fn restore(&self, image: &Image, flags: &[&str]) -> Self {
        let (restored, output) = self.try_restore(image, flags);
        output.ok();
        restored
    }

    /// [`Container::restore`], but returns a failure.
    #[track_caller]
    pub fn try_restore(&self, image: &Image, flags: &[&str]) -> (Self, Output) {
        let (restored, all) = self.restore_arguments(image, flags);
        let all: Vec<_> = all.iter().map(String::as_str).collect();
        (restored, ctr(&all))
    }

    /// [`Container::restore`] of a container that has a terminal.
    #[track_caller]
    pub fn restore_on_terminal(&self, image: &Image) -> (Self, Pty) {
        let (restored, all) = self.restore_arguments(image, &[]);
        let all: Vec<_> = all.iter().map(String::as_str).collect();
        let pty = Pty::start(&mut ctr_command(&all));
        eventually("the restored container runs", || {
            restored
                .is("RUNNING")
                .map_err(|s| format!("{s}; terminal: {}", pty.seen()))
        });
        (restored, pty)
    }

    /// The new container and ctr's arguments. It sees the same `/out`, since its
    /// mounts come from the checkpoint.
    fn restore_arguments(&self, image: &Image, flags: &[&str]) -> (Self, Vec<String>) {
        let restored = Self {
            id: unique("restored"),
            out: Arc::clone(&self.out),
        };
        let mut all: Vec<String> = ["containers", "restore", "--live"].map(Into::into).into();
        all.extend(flags.iter().map(|&f| f.into()));
        all.extend([restored.id.clone(), image.0.clone()]);
        (restored, all)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Some of it may be removed already. The rest fails the leftovers test.
        ctr(&["task", "resume", &self.id]);
        ctr(&["task", "delete", "--force", &self.id]);
        ctr(&["containers", "delete", &self.id]);
    }
}

/// A checkpoint in containerd's image store, removed with its content when dropped.
pub struct Image(String);

impl Image {
    /// An image of this name that a client has made.
    pub fn named(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// Its reference.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Its index, as JSON.
    #[track_caller]
    pub fn index(&self) -> String {
        let images = ctr_ok(&["images", "ls"]);
        let line = images
            .lines()
            .find(|line| line.split_whitespace().next() == Some(&self.0));
        let digest =
            line.and_then(|line| line.split_whitespace().find(|w| w.starts_with("sha256:")));
        let digest = digest.unwrap_or_else(|| panic!("no {} in {images}", self.0));
        ctr_ok(&["content", "get", digest])
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        ctr(&["images", "rm", "--sync", &self.0]);
    }
}

/// The test's side of `/out`, shared by a container and its restored copies.
pub(crate) struct Out(pub(crate) PathBuf);

impl Out {
    pub(crate) fn create(id: &str) -> Self {
        let path = Path::new("/var/tmp/cedana-tests").join(id);
        fs::create_dir_all(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self(path)
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        // Kept for inspection if the test failed; it is removed with the instance.
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
