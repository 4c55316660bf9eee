//! runc's own containers, dumped, frozen and restored by `cedana`.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use cedana_integration::daemon::{Daemon, runs, send};
use cedana_integration::folder::Folder;
use cedana_integration::runc::{self, RuncContainer, bundle_of};
use cedana_integration::{Gate, command, eventually, unique};
use nix::sys::signal::Signal;

const WORKLOAD: [&str; 4] = ["--memory", "16", "--threads", "2"];

/// The path of the archive that a dump has printed.
fn archive(said: &str) -> String {
    said.split(' ').next_back().unwrap_or_default().to_owned()
}

#[test]
fn a_container_comes_back_with_its_bundle() {
    let daemon = Daemon::start("runc");
    let container = RuncContainer::start("first", &WORKLOAD);
    let before = container.report();
    let folder = Folder::new("first");
    let first = container.pid();
    let said = daemon.ok(&["dump", "runc", container.id(), "-d", &folder.text()]);
    eventually("the container has ended", || {
        match runs(first) {
            true => Err("it runs"),
            false => Ok(()),
        }
        .map_err(str::to_owned)
    });
    runc::delete(container.id());
    let shown = command("cedana-runc", &["inspect", &archive(&said)])
        .ok()
        .stdout;
    assert!(shown.contains(container.id()), "{shown}");

    let new = unique("second");
    let flags = [
        "--bundle",
        &container.bundle(),
        "-i",
        &new,
        "-p",
        &archive(&said),
    ];
    daemon.ok(&[&["restore", "runc"], &flags[..]].concat());
    container.report_of(&new).continues(&before);
    runc::delete(&new);
    // A bundle without config.json gets that of the checkpoint.
    fs::remove_file(Path::new(&container.bundle()).join("config.json")).expect("config.json");
    daemon.ok(&[&["restore", "runc"], &flags[..]].concat());
    container.report_of(&new).continues(&before);
    assert!(bundle_of(&new).exists());
    runc::delete(&new);
    runc::no_bundle(&new);
    assert!(Path::new(&container.bundle()).join("rootfs").exists());
}

#[test]
fn a_bundle_may_be_a_tar() {
    let daemon = Daemon::start("runc");
    let container = RuncContainer::start("packed", &WORKLOAD);
    let before = container.report();
    let folder = Folder::new("packed");
    let text = folder.text();
    daemon.ok(&["dump", "runc", container.id(), "-d", &text]);
    runc::delete(container.id());
    let new = unique("unpacked");
    for within in [".", "rootfs"] {
        let tar = folder.file("bundle.tar").display().to_string();
        let from = Path::new(&container.bundle()).join(within);
        command(
            "tar",
            &["-cf", &tar, "-C", &from.display().to_string(), "."],
        )
        .ok();
        daemon.ok(&["restore", "--bundle", &tar, "-i", &new, "-d", &text]);
        container.report_of(&new).continues(&before);
        runc::delete(&new);
        runc::no_bundle(&new);
    }
}

#[test]
fn a_frozen_container_stands_still() {
    let daemon = Daemon::start("runc");
    let container = RuncContainer::start("still", &WORKLOAD);
    daemon.ok(&["freeze", "runc", container.id()]);
    let state = runc::state(container.id()).ok().stdout;
    assert!(state.contains("\"paused\""), "{state}");
    let twice = daemon.cedana(&["freeze", "runc", container.id()]).refused();
    assert!(twice.contains("frozen already"), "{twice}");
    daemon.ok(&["unfreeze", "runc", "-i", container.id()]);
    container.report().intact();
    let twice = daemon
        .cedana(&["unfreeze", "runc", container.id()])
        .refused();
    assert!(twice.contains("not frozen"), "{twice}");
}

#[test]
fn a_check_names_what_would_stop_a_dump() {
    let daemon = Daemon::start("runc");
    let container = RuncContainer::start("checked", &WORKLOAD);
    let before = container.report();
    let check = ["check", "runc", container.id()];
    let clean = daemon.cedana(&check).ok().stdout;
    assert!(!clean.contains("RLIMIT_NOFILE"), "{clean}");
    let pid = container.pid().to_string();
    let open = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("descriptors")
        .count();
    command("prlimit", &["--pid", &pid, &format!("--nofile={open}:")]).ok();
    let found = daemon.cedana(&check);
    assert!(
        found.stdout.contains("RLIMIT_NOFILE") || found.stderr.contains("RLIMIT_NOFILE"),
        "{found}"
    );
    // The dump is refused for that.
    let folder = Folder::new("checked");
    let dump = daemon.cedana(&["dump", "runc", container.id(), "-d", &folder.text()]);
    assert!(dump.refused().contains("RLIMIT_NOFILE"));
    assert_eq!(folder.names(), [""; 0]);
    command("prlimit", &["--pid", &pid, "--nofile=64:"]).ok();
    container.report().continues(&before);
}

/// `cedana` in the background.
fn begin(daemon: &Daemon, arguments: &[&str]) -> Child {
    let mut command = daemon.command(arguments);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().expect("cedana")
}

/// As ^C does, and the end of `cedana`. Programs that a script starts in the background
/// ignore SIGINT.
fn interrupt(mut cedana: Child) {
    send(i32::try_from(cedana.id()).expect("a PID"), Signal::SIGTERM);
    let status = cedana.wait().expect("cedana");
    assert!(!status.success());
}

/// Waits until no child of the daemon is left.
fn no_child_of(daemon: &Daemon) {
    eventually("the daemon has no child", || {
        let children = command(
            "pgrep",
            &["--list-full", "--parent", &daemon.pid().to_string()],
        );
        match children.stdout.is_empty() {
            true => Ok(()),
            false => Err(children.stdout),
        }
    });
}

/// A daemon whose runtime waits at a gate.
fn daemon_with(gate: &Gate) -> (Daemon, Folder) {
    let folder = Folder::new("settings");
    let settings = folder.file("config.toml");
    let runtime = gate.program().display().to_string();
    fs::write(&settings, format!("runtime = \"{runtime}\"\n")).expect("settings");
    let settings = settings.display().to_string();
    let daemon = Daemon::start_with_settings("runc", &["--tcp", "off"], &settings);
    (daemon, folder)
}

#[test]
fn an_interrupted_restore_leaves_nothing() {
    let gate = Gate::before("restore");
    let (daemon, _settings) = daemon_with(&gate);
    let container = RuncContainer::start("again", &WORKLOAD);
    let before = container.report();
    let to = Folder::new("again");
    let text = to.text();
    daemon.ok(&["dump", "runc", container.id(), "-d", &text]);
    runc::delete(container.id());
    let new = unique("again");
    let rootfs = format!("{}/rootfs", container.bundle());
    let restore = ["restore", "--bundle", &rootfs, "-i", &new, "-d", &text];
    let cedana = begin(&daemon, &restore);
    gate.arrived();
    assert!(bundle_of(&new).exists());
    interrupt(cedana);
    no_child_of(&daemon);
    runc::no_bundle(&new);
    assert_ne!(runc::state(&new).code, 0);
    drop(gate);
    // The same can be restored, dumped again, and restored from that.
    daemon.ok(&restore);
    container.report_of(&new).continues(&before);
    daemon.ok(&["dump", "runc", &new, "-d", &text]);
    runc::delete(&new);
    runc::no_bundle(&new);
    daemon.ok(&restore);
    container.report_of(&new).continues(&before);
    runc::delete(&new);
    runc::no_bundle(&new);
}

#[test]
fn an_interrupted_dump_leaves_the_container_running() {
    let gate = Gate::before("checkpoint");
    let (daemon, _settings) = daemon_with(&gate);
    let container = RuncContainer::start("interrupted", &WORKLOAD);
    let before = container.report();
    let to = Folder::new("interrupted");
    let cedana = begin(&daemon, &["dump", "runc", container.id(), "-d", &to.text()]);
    gate.arrived();
    interrupt(cedana);
    no_child_of(&daemon);
    assert_eq!(to.names(), [""; 0]);
    container.report().continues(&before);
}

/// The CRIU that dumps for a daemon, and not one that is asked for its version.
fn criu(daemon: &Daemon) -> Option<i32> {
    let mut above = vec![daemon.pid().to_string()];
    while let Some(pid) = above.pop() {
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if words.contains("criu\0swrk\0") {
            return pid.parse().ok();
        }
        for thread in fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let children = fs::read_to_string(thread.path().join("children"));
            above.extend(
                children
                    .unwrap_or_default()
                    .split_whitespace()
                    .map(str::to_owned),
            );
        }
    }
    None
}

#[test]
fn a_dump_that_is_interrupted_while_criu_writes_leaves_nothing() {
    let daemon = Daemon::start("runc");
    let container = RuncContainer::start("within", &["--memory", "192", "--threads", "2"]);
    let before = container.report();
    for flags in [&[][..], &["--leave-running"]] {
        let to = Folder::new("within");
        let place = ["dump", "runc", container.id(), "-d", &to.text()];
        let cedana = begin(&daemon, &[&place[..], flags].concat());
        let begun = Instant::now();
        let found = loop {
            assert!(begun.elapsed() < Duration::from_secs(180), "no CRIU");
            if let Some(found) = criu(&daemon) {
                break found;
            }
        };
        send(found, Signal::SIGSTOP);
        interrupt(cedana);
        send(found, Signal::SIGCONT);
        no_child_of(&daemon);
        assert_eq!(to.names(), [""; 0], "{flags:?}");
        container.report().continues(&before);
    }
}

#[test]
fn what_is_no_bundle_is_refused_in_words() {
    let daemon = Daemon::start("runc");
    let container = RuncContainer::start("refused", &WORKLOAD);
    let folder = Folder::new("refused");
    let text = folder.text();
    daemon.ok(&[
        "dump",
        "runc",
        container.id(),
        "-d",
        &text,
        "--leave-running",
    ]);
    let shell = |script: &str| {
        command("sh", &["-c", &format!("set -e; cd {text}; {script}")]).ok();
    };
    shell("mkdir -p empty root/etc outside; echo x >root/etc/file; echo x >plain");
    shell("tar -cf whole.tar -C root . && head -c 1000 whole.tar >short.tar");
    shell("tar -czf packed.tar.gz -C root .");
    shell(
        "ln -s ../outside root/link; tar -cf link.tar -C root link; rm root/link; mkdir root/link; echo x >root/link/x; tar -rf link.tar -C root link/x",
    );
    shell("tar -cPf above.tar ../$(basename $PWD)/plain");
    shell("tar -cf flat.tar plain");
    for (bundle, words) in [
        ("empty", "neither config.json"),
        ("plain", "not a tar"),
        ("short.tar", "truncated"),
        ("packed.tar.gz", "decompressed"),
        ("link.tar", "link.tar"),
        ("above.tar", "leads out"),
        ("flat.tar", "no directories"),
        ("missing.tar", "No such file"),
    ] {
        let new = unique("refused");
        let bundle = folder.file(bundle).display().to_string();
        let restore = daemon.cedana(&["restore", "--bundle", &bundle, "-i", &new, "-d", &text]);
        let said = restore.refused();
        assert!(said.contains(words), "{bundle}: {said}");
        assert!(!bundle_of(&new).exists(), "{bundle}");
        assert_ne!(runc::state(&new).code, 0);
    }
    assert_eq!(
        fs::read_dir(folder.file("outside"))
            .expect("outside")
            .count(),
        0
    );
    let nothing = Folder::new("nothing");
    let flags = [
        "--bundle",
        &container.bundle(),
        "-i",
        "none",
        "-d",
        &nothing.text(),
    ];
    let said = daemon
        .cedana(&[&["restore"], &flags[..]].concat())
        .refused();
    assert!(said.contains("no archive of a container"), "{said}");
}

#[test]
fn a_damaged_checkpoint_is_refused_and_stays() {
    let daemon = Daemon::start("runc");
    let container = RuncContainer::start("damaged", &WORKLOAD);
    let folder = Folder::new("damaged");
    let said = daemon.ok(&[
        "dump",
        "runc",
        container.id(),
        "-d",
        &folder.text(),
        "--leave-running",
    ]);
    let path = archive(&said);
    let mut bytes = fs::read(&path).expect("the archive");
    // Memory is verified when it is read; small images are before CRIU runs.
    let name = b"core-1.img\0";
    let header = bytes.windows(name.len()).position(|bytes| bytes == name);
    bytes[header.expect("an image") + 512 + 100] ^= 0xff;
    fs::write(&path, &bytes).expect("the archive");
    let rootfs = Path::new(&container.bundle())
        .join("rootfs")
        .display()
        .to_string();
    for bundle in [container.bundle(), rootfs] {
        let new = unique("damaged");
        let flags = ["--bundle", &bundle, "-i", &new, "-p", &path];
        daemon
            .cedana(&[&["restore"], &flags[..]].concat())
            .refused();
        assert_ne!(runc::state(&new).code, 0);
        assert!(!bundle_of(&new).exists());
    }
    assert_eq!(fs::read(&path).expect("the archive"), bytes);
}

#[test]
fn an_id_in_two_directories_is_ambiguous() {
    let daemon = Daemon::start("runc");
    let container = RuncContainer::start("twice", &WORKLOAD);
    let other = format!("/run/containerd/runc/{}", unique("namespace"));
    let record = Path::new(&other).join(container.id());
    fs::create_dir_all(&record).expect("a directory");
    fs::write(record.join("state.json"), "{}").expect("a record");
    let said = daemon.cedana(&["freeze", "runc", container.id()]).refused();
    assert!(said.contains(&other) && said.contains("--root"), "{said}");
    daemon.ok(&["freeze", "runc", container.id(), "--root", "/run/runc"]);
    daemon.ok(&["unfreeze", "runc", container.id(), "--root", "/run/runc"]);
    fs::remove_dir_all(other).expect("remove");
}
