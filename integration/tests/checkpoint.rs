//! Checkpoints and restores containers, and verifies what is restored.

use std::fs;
use std::thread;

use cedana_integration::folder::Folder;
use cedana_integration::protos::shim::oci::CheckpointOptions;
use cedana_integration::{
    BareShim, Container, Image, Run, ctr, ctr_ok, ctr_sends_flags, eventually, prints, workload,
};

#[track_caller]
fn is_complete(images: &Folder) {
    let names = images.names();
    assert!(
        names.iter().any(|name| name == "inventory.img"),
        "{names:?}"
    );
}

/// The state of a workload that needs no options of a checkpoint.
const MUCH: [&str; 9] = [
    "--memory",
    "32",
    "--threads",
    "4",
    "--children",
    "2",
    "--unix",
    "--file",
    "/tmp/file",
];

/// Checkpoints and kills the container, and asserts that the restored one continues it.
#[track_caller]
fn is_restored(container: &Container) {
    let before = container.report();
    let image = checkpoint_and_end(container, &["--rw", "--image"]);
    container
        .restore(&image, &["--rw"])
        .report()
        .continues(&before);
}

/// Checkpoints `container`, kills it and deletes its task.
fn checkpoint_and_end(container: &Container, flags: &[&str]) -> Image {
    let image = container.checkpoint(flags);
    container.end_task();
    image
}

#[test]
fn a_container_is_restored_under_another_name_with_its_memory() {
    let container = Run::new("memory").workload(&MUCH).detach();
    let before = container.report();
    let image = checkpoint_and_end(&container, &["--rw", "--image"]);
    let restored = container.restore(&image, &["--rw"]);
    restored.report().continues(&before);
}

#[test]
fn a_container_goes_on_running_after_its_checkpoint() {
    let container = Run::new("leave-running").workload(&MUCH).detach();
    let before = container.report();
    let _image = container.checkpoint(&["--rw", "--image"]);
    container
        .is("RUNNING")
        .unwrap_or_else(|status| panic!("it should run: {status}"));
    container.report().continues(&before);
}

#[test]
fn the_writable_layer_is_restored_on_request() {
    let container = Run::new("layer").workload(&["--memory", "1"]).detach();
    container.exec(&["sh", "-c", "echo kept >/root/note"]).ok();
    let image = checkpoint_and_end(&container, &["--rw", "--image"]);
    let restored = container.restore(&image, &["--rw"]);
    prints(0, "kept\n", "", || restored.exec(&["cat", "/root/note"]));
}

#[test]
fn one_checkpoint_restores_three_times() {
    let container = Run::new("thrice").workload(&MUCH).detach();
    let before = container.report();
    let image = checkpoint_and_end(&container, &["--rw", "--image"]);
    for _ in 0..3 {
        let restored = container.restore(&image, &["--rw"]);
        restored.report().continues(&before);
        restored.kill("SIGTERM");
        restored.stopped();
    }
}

#[test]
fn a_restored_container_can_be_checkpointed_again() {
    let container = Run::new("again").workload(&MUCH).detach();
    let before = container.report();
    let image = checkpoint_and_end(&container, &["--rw", "--image"]);
    let restored = container.restore(&image, &["--rw"]);
    let between = restored.report();
    between.continues(&before);
    // containerd stores the specification once; see `Container::checkpoint`.
    drop(image);
    let second = checkpoint_and_end(&restored, &["--rw", "--image"]);
    let last = restored.restore(&second, &["--rw"]);
    last.report().continues(&between);
}

#[test]
fn a_restored_container_takes_exec_pause_and_kill_like_any_other() {
    let container = Run::new("like-any")
        .workload(&["--term-code", "11"])
        .detach();
    let before = container.report();
    let image = checkpoint_and_end(&container, &["--rw", "--image"]);
    let restored = container.restore(&image, &["--rw"]);
    assert_eq!(restored.exec(&["sh", "-c", "exit 3"]).code, 3);
    ctr_ok(&["task", "pause", restored.id()]);
    ctr_ok(&["task", "resume", restored.id()]);
    ctr_ok(&["task", "metrics", restored.id()]);
    assert!(ctr_ok(&["task", "ps", restored.id()]).contains(&restored.pid().to_string()));
    restored.report().continues(&before);
    let task = restored.task();
    let waiting = thread::spawn(move || task.wait(""));
    restored.kill("SIGTERM");
    let exit = waiting
        .join()
        .unwrap_or_else(|_| panic!("the waiting thread"));
    assert_eq!(exit.map(|e| e.exit_status).ok(), Some(11));
}

#[test]
fn a_paused_container_is_checkpointed_and_stays_paused() {
    let container = Run::new("paused").workload(&MUCH).detach();
    let before = container.report();
    ctr_ok(&["task", "pause", container.id()]);
    let name = ctr_ok(&["task", "checkpoint", container.id()]);
    let _image = Image::named(name);
    container
        .is("PAUSED")
        .unwrap_or_else(|status| panic!("it was paused: {status}"));
    ctr_ok(&["task", "resume", container.id()]);
    container.report().continues(&before);
}

#[test]
fn deleted_open_files_are_restored() {
    // 5 MB: ordinary for a program, but above CRIU's default limit of 1 MiB.
    let container = Run::new("deleted")
        .workload(&["--deleted-file", "5000000"])
        .detach();
    is_restored(&container);
}

#[test]
fn file_locks_are_restored() {
    let container = Run::new("locks")
        .workload(&["--lock", "/tmp/lock"])
        .detach();
    is_restored(&container);
}

#[test]
fn shared_memory_is_restored() {
    let container = Run::new("shm").workload(&["--shared-memory", "4"]).detach();
    is_restored(&container);
}

#[test]
fn established_tcp_connections_stay_established() {
    let container = Run::new("tcp")
        .workload(&["--tcp", "--memory", "1"])
        .detach();
    let before = container.report();
    let image = checkpoint_and_end(&container, &["--rw", "--image"]);
    let restored = container.restore(&image, &["--rw"]);
    let between = restored.report();
    between.continues(&before);
    // containerd stores the specification once; see `Container::checkpoint`.
    drop(image);
    let second = checkpoint_and_end(&restored, &["--rw", "--image"]);
    restored
        .restore(&second, &["--rw"])
        .report()
        .continues(&between);
}

#[test]
fn established_tcp_connections_survive_a_checkpoint_that_leaves_running() {
    let container = Run::new("tcp-running").workload(&["--tcp"]).detach();
    let before = container.report();
    let _image = container.checkpoint(&["--rw", "--image"]);
    container.report().continues(&before);
}

#[test]
fn bind_mounts_and_tmpfs_are_restored() {
    let container = Run::new("mounts")
        .flags(&[
            "--mount",
            "type=tmpfs,src=tmpfs,dst=/scratch,options=size=16m",
        ])
        .workload(&["--file", "/scratch/file"])
        .detach();
    container
        .exec(&[
            "sh",
            "-c",
            "echo in tmpfs >/scratch/note; echo bound >/out/note",
        ])
        .ok();
    let before = container.report();
    let image = checkpoint_and_end(&container, &["--rw", "--image"]);
    let restored = container.restore(&image, &["--rw"]);
    restored.report().continues(&before);
    prints(0, "in tmpfs\nbound\n", "", || {
        restored.exec(&["cat", "/scratch/note", "/out/note"])
    });
}

#[test]
fn a_container_with_a_terminal_is_restored_on_a_new_terminal() {
    let (container, mut terminal) = Run::new("terminal")
        .workload(&["--lines", "--memory", "2"])
        .on_terminal();
    container.ready("workload");
    terminal.type_line("before");
    terminal.expect("line 1: before");
    let before = container.report();
    let image = container.checkpoint(&["--rw", "--image"]);
    container.kill("SIGKILL");
    terminal.exit_code();

    let (restored, mut terminal) = container.restore_on_terminal(&image);
    restored.report().continues(&before);
    terminal.type_line("after");
    // The count continues, so the same process reads.
    terminal.expect("line 2: after");
}

#[test]
fn an_exec_continues_after_a_checkpoint_and_is_not_restored() {
    let container = Run::new("exec-open").workload(&["--memory", "2"]).detach();
    container
        .exec_with(
            &["--detach"],
            "beside",
            &[workload::PATH, "--name", "beside"],
        )
        .ok();
    container.ready("beside");
    let task = container.task();
    let ask_beside = || {
        task.kill("beside", 10, false)
            .unwrap_or_else(|refused| panic!("{refused}"));
    };
    let (before, beside) = (
        container.report(),
        container.report_after("beside", ask_beside),
    );
    let image = container.checkpoint(&["--rw", "--image"]);
    container
        .report_after("beside", ask_beside)
        .continues(&beside);
    container.report().continues(&before);

    container.end_task();
    let restored = container.restore(&image, &["--rw"]);
    restored.report().continues(&before);
    let processes = restored.task().pids().map(|p| p.processes.len());
    assert_eq!(processes.ok(), Some(1), "the exec was restored");
}

#[test]
fn a_checkpoint_that_ends_the_container_ends_its_execs() {
    let container = Run::new("exec-exit").workload(&["--memory", "2"]).detach();
    container
        .exec_with(
            &["--detach"],
            "beside",
            &[workload::PATH, "--name", "beside"],
        )
        .ok();
    container.ready("beside");
    let images = Folder::new("images");
    let task = container.task();
    task.checkpoint(
        &images.0,
        Some(CheckpointOptions {
            exit: true,
            ..Default::default()
        }),
    )
    .unwrap_or_else(|refused| panic!("{refused}"));
    is_complete(&images);
    container.stopped();
    let ended = task
        .wait("beside")
        .unwrap_or_else(|refused| panic!("{refused}"));
    assert_ne!(ended.exit_status, 0);
}

#[test]
fn task_checkpoint_makes_an_image_and_leaves_the_task_running() {
    let container = Run::new("task-checkpoint")
        .workload(&["--memory", "4"])
        .detach();
    let before = container.report();
    let image = Image::named(ctr_ok(&["task", "checkpoint", container.id()]));
    assert!(ctr_ok(&["images", "ls", "-q"]).contains(image.name()));
    container.report().continues(&before);
}

#[test]
fn a_checkpoint_with_exit_ends_the_task() {
    let container = Run::new("exit").workload(&["--memory", "4"]).detach();
    let task = container.task();
    let waiting = thread::spawn(move || task.wait(""));
    let images = Folder::new("images");
    if ctr_sends_flags() {
        let (exit, path) = ("--exit", images.text());
        ctr_ok(&[
            "task",
            "checkpoint",
            exit,
            "--image-path",
            &path,
            container.id(),
        ]);
    } else {
        let options = CheckpointOptions {
            exit: true,
            ..Default::default()
        };
        let done = container.task().checkpoint(&images.0, Some(options));
        done.unwrap_or_else(|refused| panic!("{refused}"));
    }
    is_complete(&images);
    waiting
        .join()
        .unwrap_or_else(|_| panic!("the waiting thread"))
        .unwrap_or_else(|refused| panic!("{refused}"));
    container.stopped();
}

#[test]
fn images_and_logs_are_written_to_the_paths_of_the_request() {
    let container = Run::new("paths").workload(&["--memory", "4"]).detach();
    let before = container.report();
    let (images, work) = (Folder::new("images"), Folder::new("images"));
    let [image_path, work_path] = [&images, &work].map(|d| d.0.display().to_string());
    if ctr_sends_flags() {
        let flags = ["--image-path", &image_path, "--work-path", &work_path];
        ctr_ok(&[&["task", "checkpoint"], &flags[..], &[container.id()]].concat());
    } else {
        let options = CheckpointOptions {
            image_path,
            work_path,
            ..Default::default()
        };
        let task = container.task();
        let nowhere = Folder::new("images");
        let done = task.checkpoint(&nowhere.0, Some(options));
        done.unwrap_or_else(|refused| panic!("{refused}"));
    }
    is_complete(&images);
    let kept: Vec<_> = fs::read_dir(&work.0)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .collect();
    assert!(kept.iter().any(|name| name == "dump.log"), "{kept:?}");
    container.report().continues(&before);
}

#[test]
fn a_directory_of_images_restores_without_containerd() {
    // CRIU puts a link into the directory of a renamed file. A checkpoint by `ctr`
    // would lack it, since `ctr` copies the writable layer before CRIU runs.
    let first = BareShim::start(
        "bare",
        &[
            "--memory",
            "8",
            "--children",
            "1",
            "--unix",
            "--renamed-away",
        ],
    );
    first.run();
    let before = first.report();
    let images = Folder::new("images");
    let exit = CheckpointOptions {
        exit: true,
        ..Default::default()
    };
    let done = first.task().checkpoint(&images.0, Some(exit));
    done.unwrap_or_else(|refused| panic!("{refused}"));

    let next = first.successor("bare-next");
    let mut request = next.request();
    request.checkpoint = images.text();
    let started = next
        .task()
        .create(&request)
        .and_then(|_| next.task().start(""));
    started.unwrap_or_else(|refused| panic!("{refused}"));
    next.report_into(&first).continues(&before);
}

#[test]
fn redis_keeps_its_data_and_its_subscriber() {
    const PUBLISH: [&str; 4] = ["redis-cli", "publish", "news", "hello"];
    let script = "redis-server --save '' --dir /scratch >/scratch/server.log &
        until redis-cli ping; do :; done
        redis-cli subscribe news >/scratch/heard &
        wait";
    let container = Run::new("redis")
        .image(cedana_integration::WORK)
        .flags(&[
            "--mount",
            "type=tmpfs,src=tmpfs,dst=/scratch,options=size=16m",
            "--null-io",
        ])
        .command(&["sh", "-c", script])
        .detach();
    let listening = |container: &Container| {
        let answer = container.exec(&PUBLISH).stdout;
        if answer.trim() == "1" {
            Ok(())
        } else {
            Err(format!("{answer} subscribers"))
        }
    };
    eventually("the subscriber is subscribed", || listening(&container));
    container.exec(&["redis-cli", "set", "key", "value"]).ok();
    let image = checkpoint_and_end(&container, &["--rw", "--image"]);

    let restored = container.restore(&image, &["--rw"]);
    prints(0, "value\n", "", || {
        restored.exec(&["redis-cli", "get", "key"])
    });
    // The connection is the same, since the client does not reconnect.
    prints(0, "1\n", "", || restored.exec(&PUBLISH));
    eventually(
        "the subscriber receives the message after the restore",
        || {
            let heard = restored
                .exec(&["grep", "-c", "hello", "/scratch/heard"])
                .stdout;
            let before = ["0", "1", ""].contains(&heard.trim());
            if before { Err(heard) } else { Ok(()) }
        },
    );
}

#[test]
fn a_failed_checkpoint_gives_the_reason_and_the_container_continues() {
    let container = Run::new("failing").workload(&["--memory", "2"]).detach();
    let before = container.report();
    // A file in place of the directory.
    let blocked = Folder::new("images");
    let path = blocked.0.join("file");
    fs::write(&path, "").unwrap_or_else(|error| panic!("{error}"));
    let refused = container.task().checkpoint(&path, None).err();
    let refused = refused.unwrap_or_else(|| panic!("a checkpoint into a file succeeded"));
    assert!(
        refused.message.contains(&path.display().to_string()),
        "{refused}"
    );
    container.report().continues(&before);
    // A later checkpoint succeeds.
    let image = ctr(&["task", "checkpoint", container.id()]).ok();
    let _image = Image::named(image.stdout.trim());
    container.report().continues(&before);
}
