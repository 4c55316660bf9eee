//! Plain processes, and a dump or a restore of them that is cancelled or killed.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use cedana_integration::daemon::send;
use cedana_integration::job::{self, Job, MEMORY};
use cedana_integration::{command, eventually};
use nix::sys::signal::Signal;

/// Starts a dump, and returns when CRIU has written some memory.
#[track_caller]
fn dumping(job: &Job) -> Child {
    let place = job.checkpoints();
    let mut child = Command::new(job::program())
        .args(["dump", &job.pid().to_string()])
        .arg(&place)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{error}"));
    let hidden = format!(".cedana-work-{}-0", child.id());
    let pages = place.join(hidden).join("pages-1.img");
    while !fs::metadata(&pages).is_ok_and(|status| status.len() > 0) {
        let ended = child.try_wait().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(ended, None, "the dump ended before its memory was seen");
        std::thread::yield_now();
    }
    child
}

#[track_caller]
fn runs_on(job: &Job, sum: &str) {
    assert_eq!(job.ask(), sum);
    eventually("no CRIU is left", || {
        let found = command("ps", &["ax", "-o", "args"]).ok().stdout;
        match found.lines().find(|line| job::is_dump_of(line, job.pid())) {
            Some(line) => Err(line.to_owned()),
            None => Ok(()),
        }
    });
}

#[test]
fn a_dump_that_is_cancelled_or_killed_leaves_the_job_running() {
    let job = Job::start(&MEMORY.replace("'SIZE', 64", "'SIZE', 384"));
    let sum = job.line(1);
    // Its caller.
    let mut child = dumping(&job);
    send(child.id().cast_signed(), Signal::SIGTERM);
    let mut said = String::new();
    if let Some(stderr) = &mut child.stderr {
        let _ = stderr.read_to_string(&mut said);
    }
    let status = child.wait().unwrap_or_else(|error| panic!("{error}"));
    assert!(!status.success() && said.contains("cancelled"), "{said}");
    assert!(job.names().is_empty(), "{:?}", job.names());
    runs_on(&job, &sum);
    // CRIU.
    let mut child = dumping(&job);
    for (pid, line) in job::children(child.id()) {
        assert!(line.contains("criu"), "{line}");
        job::kill(pid);
    }
    let status = child.wait().unwrap_or_else(|error| panic!("{error}"));
    assert!(!status.success());
    assert!(job.names().is_empty(), "{:?}", job.names());
    runs_on(&job, &sum);
    // The program itself: the next dump removes what it leaves.
    let mut child = dumping(&job);
    job::kill(child.id().cast_signed());
    let _ = child.wait();
    runs_on(&job, &sum);
    let archive = job.dump(&["--leave-running"]);
    let name = archive
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    assert_eq!(job.names(), Vec::from_iter(name));
    runs_on(&job, &sum);
}

#[test]
fn a_restore_that_is_killed_leaves_nothing() {
    let mut job = Job::start(&MEMORY.replace("'SIZE', 64", "'SIZE', 384"));
    let sum = job.line(1);
    let archive = job.dump(&[]);
    job.ended();
    for flags in [&["--eager"][..], &["--eager", "--namespace"]] {
        let mut child = Command::new(job::program())
            .arg("restore")
            .arg(&archive)
            .args(flags)
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{error}"));
        // CRIU has begun, and reads memory for a while.
        let work = format!("/run/cedana/process/.cedana-work-{}-0", child.id());
        while !Path::new(&work).join("restore.log").exists() {
            let ended = child.try_wait().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(ended, None, "the restore ended before CRIU was seen");
            std::thread::yield_now();
        }
        job::kill(child.id().cast_signed());
        let _ = child.wait();
        eventually("nothing of it runs", || {
            let found = command("ps", &["ax", "-o", "args"]).ok().stdout;
            let left = |line: &&str| line.contains("criu: restore") || line.contains("criu swrk");
            let path = format!("/proc/{}", job.pid());
            match found.lines().find(left) {
                Some(line) => Err(line.to_owned()),
                None if Path::new(&path).exists() => Err("the job runs".to_owned()),
                None => Ok(()),
            }
        });
        // The next restore removes what it left.
        job.restore(&archive, &["--own"]);
        assert!(!Path::new(&work).exists());
        assert_eq!(job.ask(), sum);
        job.kill();
    }
}

#[test]
fn a_restored_job_does_not_outlive_its_page_source() {
    let mut job = Job::start(&MEMORY.replace("'SIZE', 64", "'SIZE', 640"));
    let archive = job.dump(&[]);
    job.ended();
    let said = job.try_restore(&archive, &[]).ok().stdout;
    assert!(said.contains("lazy true"), "{said}");
    // The one that has this archive open.
    let pages = command("pgrep", &["-x", "cedana-pages"]).ok().stdout;
    let serves = |pid: &&str| {
        // Another story's may end at any moment.
        let open = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten();
        let mut open = open
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok());
        open.any(|path| path == archive)
    };
    let source = pages.lines().find(serves);
    let source = source.unwrap_or_else(|| panic!("no page source: {pages}"));
    job::kill(source.parse().unwrap_or_else(|error| panic!("{error}")));
    job.ended();
    let mut mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts.retain(|c| c != '\0');
    assert!(!mounts.contains("fuse.cedana"), "{mounts}");
}
