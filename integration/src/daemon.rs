//! A daemon of the command `cedana`, with directories of its own.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::folder::Folder;
use crate::{Output, command, eventually};

/// The daemon; ended with its jobs when dropped.
pub struct Daemon {
    folder: Folder,
    options: Vec<String>,
    settings: String,
    process: Child,
}

/// A user of the tests, a member of the group cedana or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TestUser {
    /// The user and group ID.
    pub uid: u32,
    /// Whether the user may use the daemon.
    pub member: bool,
}

/// A member of the group cedana.
pub const ALICE: TestUser = TestUser {
    uid: 4001,
    member: true,
};

/// Another member.
pub const BOB: TestUser = TestUser {
    uid: 4002,
    member: true,
};

/// Not a member.
pub const EVE: TestUser = TestUser {
    uid: 4003,
    member: false,
};

impl Daemon {
    /// Starts a daemon without TCP.
    #[track_caller]
    pub fn start(label: &str) -> Self {
        Self::start_with(label, &["--tcp", "off"])
    }

    /// Starts a daemon with these options.
    #[track_caller]
    pub fn start_with(label: &str, options: &[&str]) -> Self {
        Self::start_with_settings(label, options, "")
    }

    /// The same with a settings file, unless its path is empty.
    #[track_caller]
    pub fn start_with_settings(label: &str, options: &[&str], settings: &str) -> Self {
        group();
        let folder = Folder::new(label);
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        let settings = settings.to_owned();
        let process = spawn(&folder, &options, &settings);
        let daemon = Self {
            folder,
            options,
            settings,
            process,
        };
        daemon.answers();
        daemon
    }

    /// The command line of a daemon with the same directories.
    pub fn command_line(&self) -> Vec<String> {
        command_line(&self.folder, &self.options)
    }

    /// A path below its directories: `state/cedana.db`, `socket`, `log`.
    pub fn path(&self, name: &str) -> String {
        self.folder.file(name).display().to_string()
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Runs `cedana` as root.
    #[track_caller]
    pub fn cedana(&self, arguments: &[&str]) -> Output {
        let socket = self.path("socket");
        command("cedana", &[&["--daemon", &socket], arguments].concat())
    }

    /// The same for a program on a terminal, or in the background.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("cedana");
        command
            .args(["--daemon", &self.path("socket")])
            .args(arguments);
        command
    }

    /// Runs `cedana` as another user.
    #[track_caller]
    pub fn as_user(&self, user: TestUser, arguments: &[&str]) -> Output {
        let socket = self.path("socket");
        let cedana = ["cedana", "--daemon", &socket];
        user.run(&[&cedana[..], arguments].concat())
    }

    /// Runs `cedana`, which must succeed, and returns its trimmed output.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        self.cedana(arguments).ok().stdout.trim().to_owned()
    }

    /// A job as `ps -a --json` shows it; null if there is none.
    #[track_caller]
    pub fn job(&self, id: &str) -> Value {
        let listed = self.ok(&["ps", "-a", "--json"]);
        let jobs = listed.lines().map(|line| {
            serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{line}: {e}"))
        });
        jobs.into_iter()
            .find(|job| job["id"] == id)
            .unwrap_or_default()
    }

    /// Waits until a job has this state, and returns it.
    #[track_caller]
    pub fn job_is(&self, id: &str, state: &str) -> Value {
        eventually(&format!("job {id} is {state}"), || {
            let job = self.job(id);
            if job["state"] == state {
                Ok(job)
            } else {
                Err(job.to_string())
            }
        })
    }

    /// The process ID of a running job's program.
    #[track_caller]
    pub fn pid_of(&self, id: &str) -> i32 {
        let job = self.job_is(id, "running");
        let pid = job["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        pid.unwrap_or_else(|| panic!("no PID: {job}"))
    }

    /// The process ID of a running job's supervisor.
    #[track_caller]
    pub fn supervisor_of(&self, id: &str) -> i32 {
        let text = self.ok(&["job", "inspect", "--json", id]);
        let job: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
        let pid = job["supervisor"]
            .as_i64()
            .and_then(|pid| i32::try_from(pid).ok());
        pid.unwrap_or_else(|| panic!("no supervisor: {job}"))
    }

    /// Waits until a job's output contains `text`.
    #[track_caller]
    pub fn writes(&self, id: &str, text: &str) {
        eventually(&format!("job {id} writes {text:?}"), || {
            let seen = self.ok(&["logs", id]);
            if seen.contains(text) {
                Ok(())
            } else {
                Err(seen)
            }
        });
    }

    /// Sends the daemon a signal, and waits for its end.
    #[track_caller]
    pub fn end(&mut self, signal: Signal) {
        send(i32::try_from(self.pid()).unwrap_or(0), signal);
        let _ = self.process.wait();
    }

    /// Starts the daemon again.
    #[track_caller]
    pub fn again(&mut self) {
        self.process = spawn(&self.folder, &self.options, &self.settings);
        self.answers();
    }

    /// What the daemon has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    #[track_caller]
    fn answers(&self) {
        eventually("the daemon answers", || {
            let asked = self.cedana(&["daemon", "status"]);
            match asked.code {
                0 => Ok(()),
                _ => Err(format!("{asked}\n{}", self.log())),
            }
        });
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        for supervisor in supervisors(&self.folder.text()) {
            let children = format!("/proc/{supervisor}/task/{supervisor}/children");
            let children = fs::read_to_string(children).unwrap_or_default();
            // No restart in between.
            send(supervisor, Signal::SIGKILL);
            for pid in children
                .split_whitespace()
                .filter_map(|pid| pid.parse().ok())
            {
                send(pid, Signal::SIGKILL);
            }
        }
    }
}

impl TestUser {
    /// Runs a program as this user, with two more groups and a umask of its own.
    #[track_caller]
    pub fn run(self, arguments: &[&str]) -> Output {
        let uid = self.uid.to_string();
        let groups = match self.member {
            true => format!("{uid},5001,{}", group()),
            false => format!("{uid},5001"),
        };
        let setpriv = [
            "--reuid",
            &uid,
            "--regid",
            &uid,
            "--groups",
            &groups,
            "--inh-caps=-all",
        ];
        let shell = ["sh", "-c", "umask 027; export HOME=/; exec \"$@\"", "sh"];
        command("setpriv", &[&setpriv[..], &shell, arguments].concat())
    }
}

/// Sends a signal; the process may have ended.
pub fn send(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}

/// Whether a process runs; a zombie does not.
pub fn runs(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .starts_with(" Z")
    })
}

/// Waits until a process has ended.
#[track_caller]
pub fn has_ended(pid: i32) {
    eventually(&format!("process {pid} has ended"), || match runs(pid) {
        true => Err("it runs".to_owned()),
        false => Ok(()),
    });
}

/// The processes that were started with a variable whose value begins like that.
pub fn with_variable(name: &str, value: &str) -> Vec<i32> {
    let entry = format!("{name}={value}");
    pids(|pid| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ
            .split(|byte| *byte == 0)
            .any(|line| line.starts_with(entry.as_bytes()))
    })
}

/// The supervisors of jobs below a directory.
pub fn supervisors(directory: &str) -> Vec<i32> {
    pids(|pid| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains("--cedana-supervise") && line.contains(directory)
    })
}

fn pids(wanted: impl Fn(i32) -> bool) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| wanted(*pid))
        .collect()
}

/// An address of loopback, with a port, at which no other test listens. A free port of
/// 127.0.0.1 could be taken before the daemon listens.
pub fn own_address() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    format!("127.77.0.{}:7070", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Creates the group cedana, once. Returns its ID.
fn group() -> u32 {
    static GROUP: OnceLock<u32> = OnceLock::new();
    *GROUP.get_or_init(|| {
        command("groupadd", &["--force", "--gid", "5000", "cedana"]).ok();
        5000
    })
}

fn command_line(folder: &Folder, options: &[String]) -> Vec<String> {
    let path = |name: &str| folder.file(name).display().to_string();
    let words = [
        "cedana",
        "daemon",
        "start",
        "--socket",
        &path("socket"),
        "--state-dir",
        &path("state"),
        "--run-dir",
        &path("run"),
    ];
    words
        .iter()
        .map(|word| (*word).to_owned())
        .chain(options.iter().cloned())
        .collect()
}

#[track_caller]
fn spawn(folder: &Folder, options: &[String], settings: &str) -> Child {
    let log = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(folder.file("log"));
    let log = log.unwrap_or_else(|error| panic!("the daemon's log: {error}"));
    let line = command_line(folder, options);
    let mut command = Command::new(&line[0]);
    command
        .args(&line[1..])
        .current_dir(Path::new("/"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    if !settings.is_empty() {
        command.env("CEDANA_CONFIG", settings);
    }
    command
        .spawn()
        .unwrap_or_else(|error| panic!("{line:?}: {error}"))
}
