//! Dumps and restores plain processes with `cedana-process`.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use cedana_integration::daemon::send;
use cedana_integration::job::{self, Job, MEMORY};
use cedana_integration::{command, eventually};
use nix::sys::signal::Signal;

#[test]
fn memory_and_threads_come_back_from_the_archive() {
    let mut job = Job::start(MEMORY);
    let sum = job.line(1);
    for round in 0..3 {
        let archive = job.dump(&[]);
        let mode = fs::metadata(&archive)
            .unwrap_or_else(|e| panic!("{e}"))
            .mode();
        assert_eq!(mode & 0o7777, 0o600);
        let flags: &[&str] = if round == 1 { &["--eager"] } else { &[] };
        let said = job.restore(&archive, flags);
        assert_eq!(said.contains("lazy true"), round != 1, "{said}");
        assert_eq!(job.ask(), sum, "round {round}");
    }
    assert_eq!(job.names().len(), 3, "{:?}", job.names());
}

#[test]
fn a_job_that_runs_on_is_the_same_and_can_come_back_later() {
    let mut job = Job::start(MEMORY);
    let sum = job.line(1);
    let archive = job.dump(&["--leave-running"]);
    assert_eq!(job.ask(), sum);
    let taken = job.try_restore(&archive, &["--own"]).refused();
    assert!(
        taken.contains(&job.pid().to_string()) && taken.contains("taken"),
        "{taken}"
    );
    assert_eq!(job.ask(), sum);
    // A file that has grown is not what CRIU recorded, so the job closes its files.
    job.kill();
    job.restore(&archive, &[]);
    assert_eq!(job.ask(), sum);
}

#[test]
fn a_job_whose_pid_is_taken_comes_back_in_a_namespace() {
    let job = Job::start(MEMORY);
    let sum = job.line(1);
    let archive = job.dump(&["--leave-running"]);
    // The first one doesn't answer, and has the PID.
    send(job.pid(), Signal::SIGSTOP);
    for flags in [&[][..], &["--eager"]] {
        let said = job.try_restore(&archive, flags).ok().stdout;
        let restored: i32 = said
            .split_whitespace()
            .last()
            .and_then(|pid| pid.parse().ok())
            .unwrap_or_else(|| panic!("{said}"));
        assert_ne!(restored, job.pid());
        assert_eq!(job.ask(), sum);
        let status = fs::read_to_string(format!("/proc/{restored}/status")).unwrap_or_default();
        let inside = status.lines().find(|line| line.starts_with("NSpid:"));
        let inside = inside.and_then(|line| line.split_whitespace().last());
        assert_eq!(inside, Some(job.pid().to_string().as_str()));
        // The namespace ends with it.
        let keeper = said
            .split_whitespace()
            .find_map(|word| word.strip_prefix("child="))
            .unwrap_or_else(|| panic!("{said}"));
        job::kill(restored);
        let path = format!("/proc/{keeper}");
        eventually("the keeper has ended", || match Path::new(&path).exists() {
            true => Err(said.clone()),
            false => Ok(()),
        });
    }
    send(job.pid(), Signal::SIGCONT);
    assert_eq!(job.ask(), sum);
}

#[test]
fn the_archive_is_a_tar_and_stock_tools_restore_it() {
    let mut job = Job::start(MEMORY);
    let sum = job.line(1);
    for flags in [&["--none"][..], &[]] {
        let archive = job.dump(flags);
        let shown = archive.display().to_string();
        let listed = command("tar", &["-tf", &shown]).ok().stdout;
        assert!(
            listed.lines().any(|name| name == "cedana-manifest.json"),
            "{listed}"
        );
        assert!(
            listed.lines().any(|name| name == "inventory.img"),
            "{listed}"
        );
        let dir = job.dir().join("unpacked");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap_or_else(|error| panic!("{error}"));
        let place = dir.display().to_string();
        command("tar", &["-C", &place, "-xf", &shown]).ok();
        // The directory is a checkpoint, too.
        job.restore(&dir, &[]);
        assert_eq!(job.ask(), sum);
        // So is another archive of it.
        let again = job.dir().join("again.tar");
        let script = format!("cd {place} && tar --format=ustar -cf {} *", again.display());
        job.kill();
        command("sh", &["-c", &script]).ok();
        job.restore(&again, &[]);
        assert_eq!(job.ask(), sum);
        job.kill();
        // And stock CRIU's, once its memory is decompressed.
        let script = format!(
            "cd {place} && for f in pages-*.zst; do [ ! -e $f ] || zstd -qd --rm $f; done; criu restore -D {place} --restore-detached --file-locks"
        );
        command("sh", &["-c", &script]).ok();
        assert_eq!(job.ask(), sum);
    }
}

#[test]
fn a_directory_is_a_target_too() {
    let mut job = Job::start(MEMORY);
    let sum = job.line(1);
    let dir = job.dump(&["--directory"]);
    assert_eq!(dir, job.checkpoints());
    job.restore(&dir, &[]);
    assert_eq!(job.ask(), sum);
}

#[test]
fn children_with_shared_memory_come_back_together() {
    let mut job = Job::start(
        r#"
shared = mmap.mmap(-1, 16 << 20)
for at in range(0, len(shared), 4096): shared[at:at + 8] = at.to_bytes(8, 'little')
for child in range(3):
    if os.fork() == 0:
        while True:
            n = int.from_bytes(shared[8 + 8 * child:16 + 8 * child], 'little') + 1
            shared[8 + 8 * child:16 + 8 * child] = n.to_bytes(8, 'little')
            time.sleep(0.001)
def counts(): return [int.from_bytes(shared[8 + 8 * c:16 + 8 * c], 'little') for c in range(3)]
say(hashlib.sha256(shared[4096:]).hexdigest())
while True:
    if asked():
        before = counts()
        while not all(b > a for a, b in zip(before, counts())): time.sleep(0.001)
        say(hashlib.sha256(shared[4096:]).hexdigest())
"#,
    );
    let sum = job.line(1);
    for flags in [&[][..], &["--eager"]] {
        let archive = job.dump(&[]);
        job.restore(&archive, flags);
        assert_eq!(job.ask(), sum);
    }
}

#[test]
fn a_connection_goes_on() {
    let mut job = Job::start(
        r#"
server = socket.create_server(('127.0.0.1', 0))
say(str(server.getsockname()[1]))
client, _ = server.accept()
total = 0
while True:
    data = client.recv(100)
    if not data: break
    total += len(data)
    client.sendall(b'%d\n' % total)
"#,
    );
    let port: u16 = job.line(1).parse().unwrap_or_else(|e| panic!("{e}"));
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap_or_else(|e| panic!("{e}"));
    let mut say = |text: &str| {
        client
            .write_all(text.as_bytes())
            .unwrap_or_else(|e| panic!("{e}"));
        let mut answer = [0; 16];
        let read = client.read(&mut answer).unwrap_or_else(|e| panic!("{e}"));
        String::from_utf8_lossy(&answer[..read]).trim().to_owned()
    };
    assert_eq!(say("abc"), "3");
    let archive = job.dump(&[]);
    job.restore(&archive, &[]);
    assert_eq!(say("defg"), "7");
}

#[test]
fn what_cannot_be_dumped_is_named_before_anything_is_frozen() {
    let job = Job::start(MEMORY);
    let sum = job.line(1);
    let dump = |pid: &str| command(job::program(), &["dump", pid, "/var/tmp"]).refused();
    assert!(dump("4194303").contains("no such process"));
    assert!(dump("1").contains("init"));
    let own = dump(&std::process::id().to_string());
    assert!(own.contains("ancestor"), "{own}");
    send(job.pid(), Signal::SIGSTOP);
    eventually("it is stopped", || {
        let path = format!("/proc/{}/status", job.pid());
        let status = fs::read_to_string(path).unwrap_or_default();
        match status.contains("State:\tT") {
            true => Ok(()),
            false => Err(status),
        }
    });
    let stopped = job.try_dump(&[]).refused();
    assert!(stopped.contains("kill -CONT"), "{stopped}");
    send(job.pid(), Signal::SIGCONT);
    assert_eq!(job.ask(), sum);
    let mut piped = Command::new("setsid")
        .args([
            "sh",
            "-c",
            "exec 3>&- 9>&- 2>/dev/null </dev/null; exec sleep 1000",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{error}"));
    let text = eventually("the pipe is named", || {
        let text = dump(&piped.id().to_string());
        match text.contains("descriptor 1 ") && text.contains("is a pipe to process") {
            true => Ok(text),
            false => Err(text),
        }
    });
    assert!(text.contains(&std::process::id().to_string()), "{text}");
    let _ = piped.kill();
    let _ = piped.wait();
    let missing = command(
        job::program(),
        &["dump", &job.pid().to_string(), "/nowhere/at/all"],
    );
    assert!(missing.refused().contains("/nowhere/at/all"));
    assert_eq!(job.ask(), sum);
}

#[test]
fn a_part_of_a_lazily_restored_tree_has_all_of_its_memory() {
    // The root exits after the restore, or stays.
    for quits in [true, false] {
        let mut job = Job::start(&format!(
            r#"
if os.fork() == 0:
    os.setsid()
    data = bytearray(os.urandom(1 << 20) * 256)
    open('pid', 'w').write(str(os.getpid()))
    say(hashlib.sha256(data).hexdigest())
    while True:
        if asked(): say(hashlib.sha256(data).hexdigest())
while {} or not os.path.exists('quit'): time.sleep(0.001)
"#,
            if quits { "False" } else { "True" }
        ));
        let sum = job.line(1);
        let archive = job.dump(&[]);
        job.ended();
        fs::write(job.dir().join("quit"), "").unwrap_or_else(|error| panic!("{error}"));
        let said = job.try_restore(&archive, &[]).ok().stdout;
        assert!(said.contains("lazy true"), "{said}");
        if quits {
            job.ended();
        }
        let pid = fs::read_to_string(job.dir().join("pid")).unwrap_or_default();
        let place = job.checkpoints().display().to_string();
        let said = command(job::program(), &["dump", &pid, &place]).ok().stdout;
        let child = said.split_whitespace().last().unwrap_or_default();
        let gone = format!("/proc/{pid}");
        eventually("the child has ended", || {
            // Its parent does not wait for it.
            let stat = fs::read_to_string(format!("{gone}/stat")).unwrap_or_default();
            match stat.is_empty() || stat.contains(") Z ") {
                true => Ok(()),
                false => Err(stat),
            }
        });
        let restored = job.try_restore(Path::new(child), &[]).ok().stdout;
        assert_eq!(job.ask(), sum, "quits: {quits}");
        let restored = restored.split_whitespace().last().map(str::parse);
        job::kill(restored.and_then(Result::ok).unwrap_or_default());
    }
}

#[test]
fn a_check_names_what_would_be_lost_and_what_stops_a_dump() {
    let job = Job::start(
        r#"
import ctypes, fcntl
libc = ctypes.CDLL(None)
data = bytearray(os.urandom(32 << 20))
if os.fork() == 0:
    libc.prctl(29, 123456)  # PR_SET_TIMERSLACK, which is put back
    libc.eventfd(3, 1)  # EFD_SEMAPHORE
    locked = open('locked', 'w+')
    locked.truncate(4096)
    mapped = mmap.mmap(locked.fileno(), 4096)
    fcntl.lockf(locked, fcntl.LOCK_EX)
    open('child', 'w').close()
    while True: time.sleep(1)
while not os.path.exists('child'): time.sleep(0.01)
say('ready')
while not asked(): pass
program = os.memfd_create('program')
os.write(program, open('/bin/sleep', 'rb').read())
os.execve(program, ['sleep', '1000'], {})
"#,
    );
    let check = |pid: &str| command(job::program(), &["check", pid]).ok().stdout;
    let pid = job.pid().to_string();
    let found = check(&pid);
    assert!(found.starts_with("processes 2 memory "), "{found}");
    let memory = found.split_whitespace().nth(3);
    let memory: u64 = memory.and_then(|text| text.parse().ok()).unwrap_or(0);
    assert!(memory > 32 << 20, "{found}");
    assert!(!found.contains("obstacle: "), "{found}");
    let child = job::children(job.pid().cast_unsigned())[0].0;
    for lost in ["POSIX lock", "EFD_SEMAPHORE"] {
        let warned = |line: &str| {
            line.starts_with(&format!("warning: process {child} (python3) ")) && line.contains(lost)
        };
        assert!(found.lines().any(warned), "{lost}: {found}");
    }
    assert_eq!(found.matches("warning: ").count(), 2, "{found}");
    fs::write(job.dir().join("ask"), "").unwrap_or_else(|error| panic!("{error}"));
    eventually("the program in memory is named", || {
        let found = check(&pid);
        let named = |line: &str| line.starts_with("obstacle: ") && line.contains("memfd");
        match found.lines().any(named) {
            true => Ok(()),
            false => Err(found),
        }
    });
    job::kill(child);
    assert!(check("4194303").contains("obstacle: there is no such process"));
}

#[test]
fn attributes_that_criu_leaves_out_are_put_back() {
    let mut job = Job::start(
        r#"
import ctypes
libc = ctypes.CDLL(None)
data = bytearray(os.urandom(16 << 20))
ids = []
def other():
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    libc.prctl(29, 333333)  # PR_SET_TIMERSLACK
    ids.append(threading.get_native_id())
    while True: time.sleep(1)
threading.Thread(target=other, daemon=True).start()
while not ids: time.sleep(0.01)
libc.prctl(29, 777777)
open('/proc/self/coredump_filter', 'w').write('0x7')
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS
def now():
    # The thread's ID is another one in a namespace above.
    ids[0] = int(max(os.listdir('/proc/self/task'), key=int))
    slacks = [open('/proc/%s/timerslack_ns' % i).read().strip() for i in ('self', ids[0])]
    return repr([slacks, os.sched_getaffinity(ids[0]), open('/proc/self/coredump_filter').read(),
        datagrams.getsockopt(socket.SOL_SOCKET, 35)])
say(now())
while True:
    if asked(): say(now())
"#,
    );
    let before = job.line(1);
    for part in ["['777777', '333333']", "00000007", ", 1]"] {
        assert!(before.contains(part), "{before}");
    }
    let archive = job.dump(&[]);
    job.restore(&archive, &["--own"]);
    assert_eq!(job.ask(), before);
    let archive = job.dump(&[]);
    job.ended();
    let restored = job.try_restore(&archive, &["--namespace"]).ok().stdout;
    assert_eq!(job.ask(), before);
    let pid = restored.split_whitespace().last().map(str::parse);
    job::kill(pid.and_then(Result::ok).unwrap_or_default());
}

#[test]
fn damaged_and_hostile_archives_start_nothing() {
    let mut job = Job::start(MEMORY);
    let sum = job.line(1);
    let archive = job.dump(&[]);
    job.ended();
    let whole = fs::read(&archive).unwrap_or_else(|error| panic!("{error}"));
    let bad = job.dir().join("bad.tar");
    let try_it = |what: &str, bytes: &[u8]| {
        fs::write(&bad, bytes).unwrap_or_else(|error| panic!("{error}"));
        let error = job.try_restore(&bad, &[]).refused();
        assert!(error.contains("bad.tar"), "{what}: {error}");
        let path = format!("/proc/{}", job.pid());
        eventually("nothing was started", || match Path::new(&path).exists() {
            true => Err(format!("{what}: {error}")),
            false => Ok(()),
        });
        error
    };
    for end in [
        0,
        100,
        512,
        5000,
        whole.len() / 2,
        whole.len() - 1024,
        whole.len() - 1,
    ] {
        let error = try_it("truncated", &whole[..end]);
        assert!(error.contains("truncated"), "{end}: {error}");
    }
    let edited = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    // A header, a frame in the middle of the memory, the manifest.
    try_it("a header", &edited(3));
    let found = |text: &[u8]| {
        let at = whole.windows(text.len()).rposition(|part| part == text);
        at.unwrap_or_else(|| panic!("not in the archive"))
    };
    try_it("the manifest", &edited(found(b"\"digest\"") + 20));
    let core = format!("core-{}.img", job.pid());
    try_it("an image", &edited(found(core.as_bytes()) + 512 + 50));
    try_it("data after the end", &[&whole[..], &whole[..]].concat());
    // A link, as tar makes it.
    let links = job.dir().join("links");
    fs::create_dir(&links).unwrap_or_else(|error| panic!("{error}"));
    let script = format!(
        "cd {} && ln -s /etc/shadow inventory.img && tar --format=ustar -cf {} *",
        links.display(),
        bad.display()
    );
    command("sh", &["-c", &script]).ok();
    let error = try_it("a link", &fs::read(&bad).unwrap_or_default());
    assert!(error.contains("not a regular file"), "{error}");
    // A frame that is damaged is found when it is read, wherever CRIU or the page source
    // reads it: the process must not go on with it.
    fs::write(&bad, edited(30 << 20)).unwrap_or_else(|error| panic!("{error}"));
    let eager = job.try_restore(&bad, &["--eager"]).refused();
    assert!(eager.contains("damaged"), "{eager}");
    let lazy = job.try_restore(&bad, &[]);
    if lazy.code == 0 {
        job.ended();
    }
    let pipe = job.dir().join("pipe");
    command("mkfifo", &[&pipe.display().to_string()]).ok();
    let error = job.try_restore(&pipe, &[]).refused();
    assert!(error.contains("not a regular file"), "{error}");
    job.restore(&archive, &[]);
    assert_eq!(job.ask(), sum);
}

#[test]
fn a_full_disk_leaves_the_job_running_and_nothing_behind() {
    let job = Job::start(MEMORY);
    let sum = job.line(1);
    let place = job.checkpoints().display().to_string();
    command("mount", &["-t", "tmpfs", "-o", "size=24m", "none", &place]).ok();
    let error = job.try_dump(&[]).refused();
    let left = job.names();
    command("umount", &[&place]).ok();
    assert!(
        error.contains("make room") || error.contains("disk is full"),
        "{error}"
    );
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(job.ask(), sum);
}
