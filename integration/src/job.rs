//! Plain processes as jobs, and `cedana-process`, which dumps and restores them.
//!
//! A job is a Python program with a session and a directory of its own. It answers when a
//! file `ask` appears, by a line in the file `said`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{Output, command, eventually, unique};

/// What each job's program begins with: a session of its own, no inherited descriptor,
/// and `say(TEXT)` and `asked()`.
const PRELUDE: &str = r#"
import hashlib, mmap, os, socket, sys, threading, time
os.setsid()
os.closerange(3, 4096)
def say(text):
    with open('said', 'a') as said: said.write(text + '\n')
def asked():
    time.sleep(0.01)
    try: os.unlink('ask')
    except FileNotFoundError: return False
    return True
"#;

/// A program with memory that has a pattern, and a thread that counts. It says the sum of its
/// memory.
pub const MEMORY: &str = r#"
size = int(os.environ.get('SIZE', 64)) << 20
data = bytearray(os.urandom(1 << 20) * (size >> 20))
for at in range(0, size, 4096): data[at:at + 8] = at.to_bytes(8, 'little')
count = 0
def beat():
    global count
    while True:
        count += 1
        time.sleep(0.001)
threading.Thread(target=beat, daemon=True).start()
def sum(): return hashlib.sha256(data).hexdigest()
say(sum())
while True:
    if asked():
        before = count
        while count == before: time.sleep(0.001)
        say(sum())
"#;

/// A running job, which is killed when dropped, wherever it has been restored.
pub struct Job {
    dir: PathBuf,
    pid: i32,
    child: Option<Child>,
}

impl Job {
    /// Starts a program, and waits for its first line.
    #[track_caller]
    pub fn start(program: &str) -> Self {
        let dir = PathBuf::from(format!("/var/tmp/cedana-job-{}", unique("job")));
        fs::create_dir_all(dir.join("checkpoints")).unwrap_or_else(|e| panic!("{e}"));
        fs::write(dir.join("job.py"), [PRELUDE, program].concat())
            .unwrap_or_else(|e| panic!("{e}"));
        let child = Command::new("python3")
            .arg("job.py")
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = child.unwrap_or_else(|error| panic!("python3: {error}"));
        let job = Self {
            dir,
            pid: child.id().cast_signed(),
            child: Some(child),
        };
        job.line(1);
        job
    }

    /// Its PID.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory of its checkpoints.
    #[must_use]
    pub fn checkpoints(&self) -> PathBuf {
        self.dir.join("checkpoints")
    }

    /// The names in the directory of its checkpoints, hidden ones too.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.checkpoints()).unwrap_or_else(|e| panic!("{e}"));
        entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }

    /// Its lines so far, without one that is being written.
    fn said(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.join("said")).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(str::to_owned).collect()
    }

    /// Waits for its line of this number, from 1.
    #[track_caller]
    pub fn line(&self, number: usize) -> String {
        eventually("the job says something", || {
            let said = self.said();
            said.get(number - 1).cloned().ok_or(format!("{said:?}"))
        })
    }

    /// Asks it, and returns its answer.
    #[track_caller]
    pub fn ask(&self) -> String {
        let next = self.said().len() + 1;
        fs::write(self.dir.join("ask"), "").unwrap_or_else(|error| panic!("{error}"));
        self.line(next)
    }

    /// Waits until the process has ended.
    #[track_caller]
    pub fn ended(&mut self) {
        let path = format!("/proc/{}", self.pid);
        eventually("the job has ended", || {
            if let Some(child) = &mut self.child {
                let _ = child.try_wait();
            }
            match Path::new(&path).exists() {
                true => Err("it runs".to_owned()),
                false => Ok(()),
            }
        });
        self.child = None;
    }

    /// Dumps it, which must succeed, and returns the checkpoint.
    #[track_caller]
    pub fn dump(&self, flags: &[&str]) -> PathBuf {
        let said = self.try_dump(flags).ok().stdout;
        PathBuf::from(said.split_whitespace().last().unwrap_or_default())
    }

    /// Dumps it.
    pub fn try_dump(&self, flags: &[&str]) -> Output {
        let (pid, dir) = (self.pid.to_string(), self.checkpoints());
        let words = ["dump", &pid, dir.to_str().unwrap_or_default()];
        cedana_process(&[&words, flags].concat())
    }

    /// Restores a checkpoint of it, which must succeed, under its own PID.
    #[track_caller]
    pub fn restore(&mut self, checkpoint: &Path, flags: &[&str]) -> String {
        self.ended();
        let said = self.try_restore(checkpoint, flags).ok().stdout;
        let pid = said.split_whitespace().last().map(str::to_owned);
        assert_eq!(pid, Some(self.pid.to_string()), "{said}");
        said
    }

    /// Restores a checkpoint.
    pub fn try_restore(&self, checkpoint: &Path, flags: &[&str]) -> Output {
        let words = ["restore", checkpoint.to_str().unwrap_or_default()];
        cedana_process(&[&words, flags].concat())
    }

    /// Kills it.
    #[track_caller]
    pub fn kill(&mut self) {
        kill(self.pid);
        self.ended();
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // Where it was restored, unless the PID is another process's by now.
        let place = fs::read_link(format!("/proc/{}/cwd", self.pid));
        if place.is_ok_and(|place| place == self.dir) {
            kill(self.pid);
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Kills a process.
pub fn kill(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
}

/// Whether a line of `ps -o args` is that of a CRIU that dumps this process.
#[must_use]
pub fn is_dump_of(line: &str, pid: i32) -> bool {
    let pid = pid.to_string();
    let words: Vec<_> = line.split_whitespace().collect();
    line.contains("criu: dump ") && words.windows(2).any(|pair| pair == ["-t", &pid])
}

/// The children of a process, by their command lines.
#[must_use]
pub fn children(pid: u32) -> Vec<(i32, String)> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let pids = fs::read_to_string(path).unwrap_or_default();
    pids.split_whitespace()
        .filter_map(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            Some((pid.parse().ok()?, line))
        })
        .collect()
}

/// The installed `cedana-process`, which scripts/test builds.
#[must_use]
pub fn program() -> &'static str {
    "cedana-process"
}

/// Runs `cedana-process`.
fn cedana_process(words: &[&str]) -> Output {
    command(program(), words)
}
