//! Messages about what CRIU can't do give the cause and a remedy.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use cedana_integration::folder::{Folder, json, read};
use cedana_integration::{
    BareShim, Image, Leaks, Refused, Run, command, ctr, eventually, unique, workload,
};

/// A state that CRIU can't checkpoint.
struct Refusal {
    /// The workload's name for the state.
    with: &'static str,
    /// Words of the cause.
    cause: &'static str,
    /// Words of the remedy.
    remedy: &'static str,
}

const REFUSALS: [Refusal; 9] = [
    Refusal {
        with: "packet-pipe",
        cause: "a pipe in packet mode (O_DIRECT)",
        remedy: "SOCK_SEQPACKET",
    },
    Refusal {
        with: "message-queue",
        cause: "a POSIX message queue (/queue)",
        remedy: "mq_unlink",
    },
    Refusal {
        with: "control-messages",
        cause: "messages with credentials (SO_PASSCRED) that were not read yet",
        remedy: "have the application read them",
    },
    Refusal {
        with: "secret-memory",
        cause: "secret memory (memfd_secret)",
        remedy: "turn the feature off",
    },
    Refusal {
        with: "epoll-elsewhere",
        cause: "an epoll set holds a file after its process has closed the descriptor",
        remedy: "EPOLL_CTL_DEL",
    },
    Refusal {
        with: "inotify",
        cause: " watches /watched/here by inotify",
        remedy: "\"irmap-scan-path /watched\" and \"force-irmap\"",
    },
    Refusal {
        with: "dead-leader",
        cause: "main thread has ended while other threads of it run",
        remedy: "pthread_join",
    },
    // CRIU would kill a process that can open one more file only.
    Refusal {
        with: "free-descriptors-1",
        cause: " can open at most one more file",
        remedy: "RLIMIT_NOFILE",
    },
    Refusal {
        with: "free-descriptors-2",
        cause: "a process has too few free file descriptors",
        remedy: "RLIMIT_NOFILE",
    },
];

#[track_caller]
fn says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "no {word:?} in: {message}");
    }
}

#[test]
fn a_refused_checkpoint_gives_cause_and_remedy_and_the_container_continues() {
    for Refusal {
        with,
        cause,
        remedy,
    } in REFUSALS
    {
        let container = Run::new(with).workload(&["--with", with]).detach();
        let before = container.report();
        let leaks = Leaks::before(&[container.id()]);
        let message = ctr(&["task", "checkpoint", container.id()]).refused();
        says(&message, &[container.id(), cause, remedy]);
        leaks.none();
        container.report().continues(&before);
    }
}

#[test]
fn a_shell_started_by_a_shell_is_named() {
    let (container, mut terminal) = Run::new("inner").command(&["sh"]).on_terminal();
    terminal.type_line("sh");
    terminal.type_line("echo inner $((40+2))");
    terminal.expect("inner 42");
    let message = ctr(&["task", "checkpoint", container.id()]).refused();
    says(&message, &["/dev/tty", "leave the inner shell"]);
    // Without the inner shell the checkpoint succeeds.
    terminal.type_line("exit");
    terminal.type_line("echo outer $((40+3))");
    terminal.expect("outer 43");
    let image = ctr(&["task", "checkpoint", container.id()]).ok();
    drop(Image::named(image.stdout.trim()));
}

/// CRIU runs an action script of the container after it has stopped the processes. The
/// script kills init at once, or some milliseconds later, while CRIU works.
#[test]
fn the_message_says_that_the_container_ended_during_its_checkpoint() {
    let place = Folder::of_criu("meanwhile");
    for milliseconds in [0, 1, 3, 10, 30] {
        let script = place.file(&format!("kill-{milliseconds}"));
        let settings = place.file(&format!("criu-{milliseconds}.conf"));
        let kill = match milliseconds {
            0 => "kill -KILL \"$CRTOOLS_INIT_PID\"".to_owned(),
            _ => format!(
                "(sleep 0.{milliseconds:03}; kill -KILL \"$CRTOOLS_INIT_PID\") >/dev/null 2>&1 </dev/null &"
            ),
        };
        let text = format!(
            "#!/bin/sh\nif [ \"$CRTOOLS_SCRIPT_ACTION\" = network-lock ]; then {kill}\nfi\n"
        );
        let made = fs::write(&script, text)
            .and_then(|()| fs::set_permissions(&script, fs::Permissions::from_mode(0o755)))
            .and_then(|()| fs::write(&settings, format!("action-script {}\n", script.display())));
        made.unwrap_or_else(|error| panic!("{error}"));
        let annotation = format!("org.criu.config={}", settings.display());
        let run = Run::new("meanwhile").flags(&["--annotation", &annotation]);
        let container = match milliseconds {
            0 => run.workload(&[]).detach(),
            // CRIU 4.2 can wait forever for a process with threads that is killed
            // while CRIU's code runs in it (`parasite_fini_seized`).
            _ => run.command(&["sleep", "1000"]).detach(),
        };
        let output = ctr(&["task", "checkpoint", container.id()]);
        if output.code == 0 && milliseconds > 0 {
            // CRIU has finished before the kill.
            drop(Image::named(output.stdout.trim()));
        } else {
            says(
                &output.to_string(),
                &[
                    "a process of the container ended while CRIU was working on it",
                    "try again if it runs",
                ],
            );
        }
        container.stopped();
    }
}

/// A container without an engine, whose standard output is a file of the host.
#[test]
fn a_standard_output_to_a_file_of_the_host_is_named() {
    const ROOT: &str = "/run/cedana-messages";
    struct Alone(String);
    impl Drop for Alone {
        fn drop(&mut self) {
            command("runc", &["--root", ROOT, "delete", "--force", &self.0]);
        }
    }
    let (bundle, images, id) = (
        Folder::new("outside"),
        Folder::new("outside"),
        unique("outside"),
    );
    fs::create_dir_all(bundle.file("rootfs/out")).unwrap_or_else(|error| panic!("{error}"));
    command("runc", &["spec", "--bundle", &bundle.text()]).ok();
    let mut spec = json(&read(&bundle.file("config.json")));
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = serde_json::json!([workload::PATH]);
    spec["root"]["readonly"] = false.into();
    let mount = serde_json::json!({
        "type": "bind", "source": workload::installed(),
        "destination": workload::PATH, "options": ["bind"],
    });
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        mounts.push(mount);
    }
    let written = fs::write(bundle.file("config.json"), spec.to_string());
    written.unwrap_or_else(|error| panic!("{error}"));
    let output = bundle.file("output");
    let file = fs::File::create(&output).unwrap_or_else(|error| panic!("{error}"));
    let started = Command::new("cedana-runc")
        .args([
            "--root",
            ROOT,
            "run",
            "--detach",
            "--bundle",
            &bundle.text(),
            &id,
        ])
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(Stdio::null())
        .status();
    let _removed = Alone(id.clone());
    assert!(
        started.is_ok_and(|status| status.success()),
        "{}",
        read(&output)
    );
    // `run` returns before runc's init calls exec.
    let state = command("runc", &["--root", ROOT, "state", &id]).ok();
    let executable = format!("/proc/{}/exe", json(&state.stdout)["pid"]);
    eventually("the program runs", || {
        let path = fs::read_link(&executable).map_err(|error| error.to_string())?;
        match path.file_name() == Path::new(workload::PATH).file_name() {
            true => Ok(()),
            false => Err(path.display().to_string()),
        }
    });
    let all = [
        "--root",
        ROOT,
        "checkpoint",
        "--image-path",
        &images.text(),
        &id,
    ];
    let message = command("cedana-runc", &all).refused();
    let file = output.display().to_string();
    says(
        &message,
        &["standard output", &file, "start the container with a pipe"],
    );
}

/// The error of a restore of `images`, which must fail.
#[track_caller]
fn refused_restore(shim: &BareShim, images: &Folder) -> Refused {
    let leaks = Leaks::before(&[shim.id(), &images.text()]);
    let mut request = shim.request();
    request.checkpoint = images.text();
    let answer = shim
        .task()
        .create(&request)
        .and_then(|_| shim.task().start(""));
    leaks.none();
    match answer {
        Err(refused) => refused,
        Ok(answer) => panic!("this should have been refused: {answer:?}"),
    }
}

#[track_caller]
fn checkpoint(shim: &BareShim, images: &Folder) {
    let done = shim.task().checkpoint(&images.0, None);
    done.unwrap_or_else(|refused| panic!("{refused}"));
    let killed = shim.task().kill("", 9, true);
    killed.unwrap_or_else(|refused| panic!("{refused}"));
    let ended = shim.task().wait("");
    ended.unwrap_or_else(|refused| panic!("{refused}"));
}

#[test]
fn a_restore_that_exceeds_the_pids_limit_names_the_limit() {
    let first = BareShim::start("pids", &["--threads", "30"]);
    first.run();
    let images = Folder::new("pids");
    checkpoint(&first, &images);
    let next = first.successor("pids-next");
    let config = next.bundle().join("config.json");
    let mut spec = json(&read(&config));
    spec["linux"]["resources"]["pids"] = serde_json::json!({"limit": 24});
    fs::write(&config, spec.to_string()).unwrap_or_else(|error| panic!("{error}"));
    let refused = refused_restore(&next, &images);
    says(
        &refused.message,
        &[
            "the limit of processes and threads is reached",
            "--pids-limit",
        ],
    );
}

#[test]
fn a_restore_of_an_epoll_set_with_a_closed_descriptor_names_it() {
    let first = BareShim::start("epoll", &["--with", "epoll-twice"]);
    first.run();
    let images = Folder::new("epoll");
    checkpoint(&first, &images);
    let refused = refused_restore(&first.successor("epoll-next"), &images);
    says(
        &refused.message,
        &["an epoll set holds a file", "EPOLL_CTL_DEL"],
    );
}

/// A directory of the host with several mounts below it, all shared, as the host's
/// mounts are under systemd.
struct Tree(Folder);

impl Tree {
    fn new() -> Self {
        let tree = Self(Folder::new("tree"));
        let place = |name: &str| tree.0.file(name).display().to_string();
        let mount = |arguments: &[&str]| command("mount", arguments).ok();
        for name in ["top", "other"] {
            fs::create_dir(tree.0.file(name)).unwrap_or_else(|error| panic!("{error}"));
        }
        fs::write(tree.0.file("other/file"), "").unwrap_or_else(|error| panic!("{error}"));
        mount(&["-t", "tmpfs", "tmpfs", &place("top")]);
        mount(&["--make-shared", &place("top")]);
        for name in ["top/memory", "top/directory"] {
            fs::create_dir(tree.0.file(name)).unwrap_or_else(|error| panic!("{error}"));
        }
        fs::write(tree.0.file("top/file"), "").unwrap_or_else(|error| panic!("{error}"));
        // Two mounts on one path, like an automounted file system on its autofs.
        mount(&["-t", "tmpfs", "tmpfs", &place("top/memory")]);
        mount(&["-t", "tmpfs", "tmpfs", &place("top/memory")]);
        mount(&["--bind", &place("other"), &place("top/directory")]);
        mount(&["--bind", &place("other/file"), &place("top/file")]);
        tree
    }

    fn top(&self) -> String {
        self.0.file("top").display().to_string()
    }

    /// Asserts that all of them are still mounted on the host.
    #[track_caller]
    fn are_mounted(&self) {
        let mounts = read(Path::new("/proc/self/mountinfo"));
        for name in ["top", "top/memory", "top/directory", "top/file"] {
            let place = format!(" {} ", self.0.file(name).display());
            assert!(mounts.contains(&place), "{name} is not mounted:\n{mounts}");
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        for name in [
            "top/memory",
            "top/memory",
            "top/directory",
            "top/file",
            "top",
        ] {
            let place = self.0.file(name).display().to_string();
            command("umount", &["--lazy", "--quiet", &place]);
        }
    }
}

#[test]
fn mounts_below_a_recursive_bind_mount_are_restored_and_stay_shared_with_the_host() {
    for options in ["rbind:rw", "rbind:rw:rslave"] {
        let tree = Tree::new();
        let mount = format!("type=bind,src={},dst=/top,options={options}", tree.top());
        let container = Run::new("tree")
            .flags(&["--mount", &mount])
            .workload(&[
                "--file",
                "/top/memory/held",
                "--journal",
                "/top/directory/journal",
            ])
            .detach();
        let before = container.report();
        let image = container.checkpoint(&["--rw", "--image"]);
        container.report().continues(&before);
        container.kill("SIGKILL");
        container.stopped();
        let restored = container.restore(&image, &["--rw"]);
        restored.report().continues(&before);
        tree.are_mounted();
        // The container writes to the host's file, not to a copy.
        let journal = tree.0.file("other/journal");
        let lines = || read(&journal).lines().count();
        let now = lines();
        eventually("the host sees the container write", || {
            let more = lines();
            (more > now).then_some(()).ok_or_else(|| more.to_string())
        });
        drop(image);
        // A checkpoint of the restored container.
        let image = restored.checkpoint(&["--rw", "--image"]);
        restored.kill("SIGKILL");
        restored.stopped();
        let again = restored.restore(&image, &["--rw"]);
        again.report().intact();
        tree.are_mounted();
    }
}

#[test]
fn a_mount_below_a_recursive_bind_mount_that_is_unmounted_is_named() {
    let tree = Tree::new();
    let mount = format!("type=bind,src={},dst=/top,options=rbind:rw", tree.top());
    let container = Run::new("tree-less")
        .flags(&["--mount", &mount])
        .workload(&[])
        .detach();
    let image = container.checkpoint(&["--rw", "--image"]);
    container.kill("SIGKILL");
    container.stopped();
    let gone = tree.0.file("top/directory");
    command("umount", &[&gone.display().to_string()]).ok();
    // A link in its place must not be followed out of the bind mount.
    let changed = fs::remove_dir(&gone).and_then(|()| symlink("/etc", &gone));
    changed.unwrap_or_else(|error| panic!("{error}"));
    let (_restored, output) = container.try_restore(&image, &["--rw"]);
    says(
        &output.refused(),
        &["/top/directory", &gone.display().to_string(), "create it"],
    );
}
