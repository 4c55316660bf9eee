//! Processes that were restored into a PID namespace of their own, because their PID was
//! taken: they are dumped and restored again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cedana_integration::daemon::send;
use cedana_integration::job::{self, Job, MEMORY};
use cedana_integration::{Output, command, eventually};
use nix::sys::signal::Signal;

/// A copy of a job, restored into a namespace while the job has the PID.
struct Copy<'a> {
    job: &'a Job,
    pid: i32,
    keeper: i32,
}

impl<'a> Copy<'a> {
    #[track_caller]
    fn restore(job: &'a Job, archive: &Path, flags: &[&str]) -> Self {
        let said = job.try_restore(archive, flags).ok().stdout;
        let number = |word: Option<&str>| word.and_then(|word| word.parse().ok());
        let keeper = said
            .split_whitespace()
            .find_map(|word| word.strip_prefix("child="));
        let (pid, keeper) = (number(said.split_whitespace().last()), number(keeper));
        let (Some(pid), Some(keeper)) = (pid, keeper) else {
            panic!("{said}");
        };
        assert_eq!(inside(pid), Some(job.pid().to_string()), "{said}");
        Self { job, pid, keeper }
    }

    fn try_dump(&self, flags: &[&str]) -> Output {
        let (pid, dir) = (self.pid.to_string(), self.job.checkpoints());
        let words = ["dump", &pid, dir.to_str().unwrap_or_default()];
        command(job::program(), &[&words, flags].concat())
    }

    #[track_caller]
    fn dump(&self, flags: &[&str]) -> PathBuf {
        let said = self.try_dump(flags).ok().stdout;
        PathBuf::from(said.split_whitespace().last().unwrap_or_default())
    }

    /// Waits until the namespace has ended.
    #[track_caller]
    fn ended(&self) {
        eventually("the namespace has ended", || {
            let left = [self.pid, self.keeper].into_iter().find(|pid| exists(*pid));
            left.map_or(Ok(()), |pid| Err(format!("process {pid} runs")))
        });
    }
}

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        job::kill(self.keeper);
    }
}

fn exists(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// The PID of a process in its namespace.
fn inside(pid: i32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("NSpid:"))?;
    line.split_whitespace().last().map(str::to_owned)
}

/// A job whose original is stopped, so that its copies answer.
fn stopped(program: &str) -> (Job, String, PathBuf) {
    let job = Job::start(program);
    let sum = job.line(1);
    let archive = job.dump(&["--leave-running"]);
    send(job.pid(), Signal::SIGSTOP);
    (job, sum, archive)
}

#[test]
fn ten_times() {
    let (mut job, sum, mut archive) = stopped(MEMORY);
    for round in 0..10 {
        let flags: &[&str] = if round % 3 == 1 { &["--eager"] } else { &[] };
        let copy = Copy::restore(&job, &archive, flags);
        if round % 2 == 0 {
            assert_eq!(job.ask(), sum, "round {round}");
        }
        fs::remove_file(&archive).unwrap_or_else(|error| panic!("{error}"));
        // In odd rounds at once: what a lazy restore has not brought is completed before.
        let runs_on = round % 4 < 2;
        archive = copy.dump(if runs_on { &["--leave-running"] } else { &[] });
        if runs_on {
            assert_eq!(job.ask(), sum, "round {round}");
            send(copy.pid, Signal::SIGKILL);
        }
        copy.ended();
    }
    // With the PID free again, it comes back here.
    job.kill();
    job.restore(&archive, &["--own"]);
    assert_eq!(job.ask(), sum);
}

#[test]
fn children_and_their_shared_memory() {
    let (job, sum, archive) = stopped(
        r#"
shared = mmap.mmap(-1, 16 << 20)
for at in range(0, len(shared), 4096): shared[at:at + 8] = at.to_bytes(8, 'little')
for child in range(3):
    if os.fork() == 0:
        while True: time.sleep(0.001)
say(hashlib.sha256(shared).hexdigest())
while True:
    if asked(): say(hashlib.sha256(shared).hexdigest())
"#,
    );
    let copy = Copy::restore(&job, &archive, &[]);
    let again = copy.dump(&[]);
    copy.ended();
    let copy = Copy::restore(&job, &again, &[]);
    assert_eq!(job.ask(), sum);
    // The children are children of its own.
    assert_eq!(job::children(copy.pid.cast_unsigned()).len(), 3);
    drop(copy);
    for (pid, _) in job::children(job.pid().cast_unsigned()) {
        job::kill(pid);
    }
}

#[test]
fn a_container_is_its_engine_s() {
    let mut container = Command::new("unshare")
        .args(["-p", "-m", "-f", "--mount-proc", "--kill-child"])
        .args(["sh", "-c", "setsid sleep 1000; :"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{error}"));
    let sleep = eventually("it runs", || {
        let shell = job::children(container.id());
        let shell = shell.first().ok_or("no shell")?;
        let all = job::children(shell.0.cast_unsigned());
        let sleep = all.iter().find(|(_, line)| line.starts_with("sleep"));
        sleep.map(|(pid, _)| *pid).ok_or(format!("{all:?}"))
    });
    let error = command(job::program(), &["dump", &sleep.to_string(), "/var/tmp"]).refused();
    assert!(error.contains("in another PID namespace"), "{error}");
    job::kill(sleep);
    let _ = container.kill();
    let _ = container.wait();
}

/// Starts a dump, and returns when CRIU has written some memory.
fn dumping(copy: &Copy) -> Child {
    let place = copy.job.checkpoints();
    let child = Command::new(job::program())
        .args(["dump", &copy.pid.to_string()])
        .arg(&place)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{error}"));
    let hidden = format!(".cedana-work-{}-0", child.id());
    let pages = place.join(hidden).join("pages-1.img");
    while !fs::metadata(&pages).is_ok_and(|status| status.len() > 0) {
        assert!(
            !job::children(child.id()).is_empty() || pages_may_come(&child),
            "the dump has ended"
        );
        std::thread::yield_now();
    }
    child
}

/// Whether a dump has not exited yet.
fn pages_may_come(child: &Child) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    !stat.contains(") Z ")
}

/// Waits until no helper of a dump is left.
#[track_caller]
fn no_helper(copy: &Copy) {
    eventually("no CRIU and no helper is left", || {
        let found = command("ps", &["ax", "-o", "pid,args"]).ok().stdout;
        let left =
            |line: &&str| job::is_dump_of(line, copy.job.pid()) || line.contains("cedana-enter");
        match found.lines().find(left) {
            Some(line) => Err(line.to_owned()),
            None => Ok(()),
        }
    });
}

/// The first process below one whose command line contains a word.
#[track_caller]
fn below(pid: u32, word: &str) -> i32 {
    let mut at = vec![pid];
    while let Some(pid) = at.pop() {
        for (child, line) in job::children(pid) {
            if line.contains(word) {
                return child;
            }
            at.push(child.cast_unsigned());
        }
    }
    panic!("no {word} below {pid}");
}

#[test]
fn a_dump_that_is_cancelled_or_killed_leaves_it_running() {
    let (job, sum, archive) = stopped(&MEMORY.replace("'SIZE', 64", "'SIZE', 384"));
    let first = job.dir().join("first");
    fs::rename(&archive, &first).unwrap_or_else(|error| panic!("{error}"));
    let copy = Copy::restore(&job, &first, &["--eager"]);
    let helper = |child: &Child| below(child.id(), "cedana-enter");
    let runs_on = |what: &str, mut child: Child| {
        let status = child.wait().unwrap_or_else(|error| panic!("{error}"));
        assert!(!status.success(), "{what}");
        assert_eq!(job.ask(), sum, "{what}");
        no_helper(&copy);
    };
    let child = dumping(&copy);
    send(child.id().cast_signed(), Signal::SIGTERM);
    runs_on("cancelled", child);
    assert!(job.names().is_empty(), "{:?}", job.names());
    let child = dumping(&copy);
    job::kill(below(child.id(), "criu"));
    runs_on("CRIU", child);
    let child = dumping(&copy);
    job::kill(helper(&child));
    runs_on("the helper", child);
    let child = dumping(&copy);
    job::kill(below(helper(&child).cast_unsigned(), "cedana-enter"));
    runs_on("the relay", child);
    assert!(job.names().is_empty(), "{:?}", job.names());
    // The next dump removes what it leaves.
    let child = dumping(&copy);
    job::kill(child.id().cast_signed());
    runs_on("the caller", child);
    let archive = copy.dump(&["--leave-running"]);
    let name = archive
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    assert_eq!(job.names(), Vec::from_iter(name));
    assert_eq!(job.ask(), sum);
    // The namespace ends with its keeper, and the dump with it.
    let mut child = dumping(&copy);
    job::kill(copy.keeper);
    let status = child.wait().unwrap_or_else(|error| panic!("{error}"));
    assert!(!status.success());
    copy.ended();
    no_helper(&copy);
    assert_eq!(job.names().len(), 1, "{:?}", job.names());
    let copy = Copy::restore(&job, &archive, &[]);
    assert_eq!(job.ask(), sum);
    drop(copy);
}

#[test]
fn signals_reach_it_and_its_exit_status_its_parent() {
    let story = r#"
import ctypes, os, signal, subprocess, tempfile, time
home = tempfile.mkdtemp(dir='/var/tmp')
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
program = f'''
import os, signal, sys, time
os.chdir('{home}')
signal.signal(signal.SIGUSR1, lambda *_: open('got', 'a').write('x'))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
open('ready', 'w').close()
while True: time.sleep(0.01)
'''
def run(*words):
    done = subprocess.run(['cedana-process', *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()
def until(what):
    end = time.monotonic() + 180
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)
def restore(archive):
    words = run('restore', archive)
    keeper = next(word for word in words if word.startswith('child='))
    return int(words[-1]), int(keeper[6:])
job = subprocess.Popen(['python3', '-c', program], stdin=subprocess.DEVNULL,
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
until(lambda: os.path.exists(home + '/ready'))
archive = run('dump', str(job.pid), home, '--leave-running')[-1]
job.send_signal(signal.SIGSTOP)
pid, keeper = restore(archive)
# It is ended by its dump.
archive = run('dump', str(pid), home)[-1]
found = os.waitstatus_to_exitcode(os.waitpid(keeper, 0)[1])
assert found == 128 + 9, found
for end, status in [(signal.SIGTERM, 7), (signal.SIGKILL, 128 + 9)]:
    pid, keeper = restore(archive)
    archive = run('dump', str(pid), home, '--leave-running')[-1]
    try: os.unlink(home + '/got')
    except FileNotFoundError: pass
    os.kill(pid, signal.SIGUSR1)
    until(lambda: os.path.exists(home + '/got'))
    os.kill(pid, end)
    found = os.waitstatus_to_exitcode(os.waitpid(keeper, 0)[1])
    assert found == status, found
job.kill()
import shutil; shutil.rmtree(home)
"#;
    command("python3", &["-c", story]).ok();
}
