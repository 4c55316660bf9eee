//! How long a checkpoint keeps a task paused, and when an owner's pause is kept.
//!
//! The shim may resume a task before its client does, but only if nothing reads the
//! container's files afterwards. In these stories a file of the writable layer grows all
//! the time. If it grew while containerd packs it, containerd would fail the checkpoint,
//! or the restored file would not match the memory.

use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;

use cedana_integration::api::Status;
use cedana_integration::checkpointed::Checkpointed;
use cedana_integration::folder::{Folder, MANIFEST, json};
use cedana_integration::protos::shim::oci::CheckpointOptions;
use cedana_integration::{
    Container, Events, Image, NAMESPACE, Run, Settings, command, ctr, ctr_ok, ctr_sends_flags,
    named_as_stock, testbed,
};

/// Memory, and a file of the writable layer that grows every 20 ms and takes
/// longer than that to pack.
const GROWING: [&str; 4] = ["--memory", "16", "--long-journal", "/journal"];

/// The number of checkpoints of each client.
const ROUNDS: usize = 5;

/// Each story holds it shared. `ctr task ls`, which the stories use, asks the shims for
/// the state of all tasks, and the shim takes a pause that such a request follows for
/// the owner's. Stories that expect an early resume hold it exclusively, so that none
/// interferes.
static STORIES: RwLock<()> = RwLock::new(());

fn shared() -> RwLockReadGuard<'static, ()> {
    STORIES.read().unwrap_or_else(PoisonError::into_inner)
}

fn alone() -> RwLockWriteGuard<'static, ()> {
    STORIES.write().unwrap_or_else(PoisonError::into_inner)
}

fn growing(label: &str) -> Container {
    Run::new(label).workload(&GROWING).detach()
}

/// The settings with which the shim also resumes early for `container.Checkpoint`.
const EARLY_FOR_CONTAINERS: &str = "[checkpoint]\nresume_early = \"container\"\n";

/// The options that `container.Checkpoint` of containerd's client sends.
fn of_container_checkpoint() -> Option<CheckpointOptions> {
    Some(CheckpointOptions {
        file_locks: true,
        ..Default::default()
    })
}

#[track_caller]
fn is_running(container: &Container) {
    let running = container.is("RUNNING");
    running.unwrap_or_else(|status| panic!("it should run: {status}"));
}

#[track_caller]
fn is_paused(container: &Container) {
    let paused = container.is("PAUSED");
    paused.unwrap_or_else(|status| panic!("it should be paused: {status}"));
}

/// Runs `ctr task checkpoint` with `flags`, and returns its image, if it makes one. (ctr
/// does not print the image's name if it gets a path.)
#[track_caller]
fn task_checkpoint(container: &Container, flags: &[&str]) -> Option<Image> {
    ctr_ok(&[&["task", "checkpoint"], flags, &[container.id()]].concat());
    let name = format!("containerd.io/checkpoint/{}:", container.id());
    let images = ctr_ok(&["images", "ls", "-q"]);
    let made = images.lines().find(|line| line.starts_with(&name));
    made.map(Image::named)
}

/// Unpacks an image of `task.Checkpoint`: CRIU's files into a directory, and the
/// writable layer over the container's root, as a client does for a restore.
#[track_caller]
fn unpack(image: &Image, container: &Container) -> Folder {
    let images = Folder::new("images");
    let root = format!(
        "/run/containerd/io.containerd.runtime.v2.task/{NAMESPACE}/{}/rootfs",
        container.id()
    );
    let index = json(&image.index());
    let mut layers = 0;
    for manifest in index["manifests"].as_array().into_iter().flatten() {
        let [kind, digest] = ["mediaType", "digest"].map(|key| {
            let text = manifest[key].as_str();
            text.unwrap_or_else(|| panic!("no {key}: {manifest}"))
        });
        let (to, flag) = match kind {
            kind if kind.ends_with("criu.tar") => (images.text(), "-x"),
            kind if kind.ends_with("layer.v1.tar+gzip") => (root.clone(), "-xz"),
            _ => continue,
        };
        layers += usize::from(flag == "-xz");
        let line = format!(
            "ctr -n {NAMESPACE} content get {digest} | tar {flag} --exclude='.wh.*' -C {to}"
        );
        command("bash", &["-o", "pipefail", "-c", &line]).ok();
    }
    assert_eq!(layers, 1, "no writable layer: {index}");
    images
}

/// Asserts that `cedana-runc` restores it from its directory of images.
#[track_caller]
fn is_restored(checkpointed: &Checkpointed) {
    checkpointed
        .restore("cedana-runc", &checkpointed.images)
        .ok();
    checkpointed.is_restored_intact();
}

/// `ctr task checkpoint` into an image, with the options of CRI's `CheckpointContainer`.
/// nerdctl and Docker use the same method of containerd's client.
#[test]
fn a_file_may_grow_during_a_checkpoint_of_a_task_into_an_image() {
    let _lock = shared();
    let container = growing("task");
    let before = container.report();
    let work = Folder::new("work");
    let work_path = work.text();
    for flags in [&[][..], &["--work-path", &work_path]] {
        for _ in 0..ROUNDS {
            let image = task_checkpoint(&container, flags);
            drop(image.unwrap_or_else(|| panic!("no image")));
            is_running(&container);
        }
    }
    let image = task_checkpoint(&container, &[]).unwrap_or_else(|| panic!("no image"));
    container.report().continues(&before);
    container.kill("SIGKILL");
    container.stopped();
    let images = unpack(&image, &container);
    is_restored(&Checkpointed::ended(container, before, images));
}

#[test]
fn a_file_may_grow_during_a_checkpoint_of_a_task_to_a_path() {
    let _lock = shared();
    let container = growing("path");
    let before = container.report();
    for _ in 0..ROUNDS {
        let images = Folder::new("images");
        let image = task_checkpoint(&container, &["--image-path", &images.text()]);
        assert_eq!(
            image.is_none(),
            named_as_stock(),
            "ctr makes an image for another runtime only"
        );
        is_running(&container);
        // containerd 1.7's ctr ignores the path and makes an image.
        assert_eq!(images.file("inventory.img").exists(), ctr_sends_flags());
    }
    container.report().continues(&before);
    if ctr_sends_flags() {
        let images = Folder::new("images");
        drop(task_checkpoint(
            &container,
            &["--exit", "--image-path", &images.text()],
        ));
        is_restored(&Checkpointed::ended(container, before, images));
    }
}

/// Takes checkpoints by `ctr container checkpoint --rw`, and restores the last.
#[track_caller]
fn is_restored_with_its_file(container: &Container) {
    let before = container.report();
    for _ in 0..ROUNDS {
        drop(container.checkpoint(&["--rw"]));
        is_running(container);
    }
    let image = container.checkpoint(&["--rw"]);
    container.report().continues(&before);
    container.end_task();
    let restored = container.restore(&image, &["--rw"]);
    restored.report().continues(&before);
}

#[test]
fn a_file_may_grow_during_a_checkpoint_of_a_container() {
    let _lock = shared();
    is_restored_with_its_file(&growing("container"));
}

#[test]
fn a_file_may_grow_during_a_checkpoint_of_a_container_that_is_resumed_early() {
    let _lock = alone();
    let _settings = Settings::write(EARLY_FOR_CONTAINERS);
    let container = growing("container-early");
    is_restored_with_its_file(&container);
}

/// Checkpoints `container` to a directory as containerd's client does.
#[track_caller]
fn checkpoint_to_path(container: &Container, images: &Folder) {
    let image_path = images.text();
    if ctr_sends_flags() {
        drop(task_checkpoint(container, &["--image-path", &image_path]));
    } else {
        let options = CheckpointOptions {
            image_path,
            ..Default::default()
        };
        let task = container.task();
        let paused = task.state("").map(|state| state.status());
        let answer = || {
            if paused? != Status::PAUSED {
                task.pause()?;
                task.checkpoint(&images.0, Some(options))?;
                return task.resume();
            }
            task.checkpoint(&images.0, Some(options))
        };
        answer().unwrap_or_else(|refused| panic!("{refused}"));
    }
    assert!(images.file("inventory.img").exists(), "no checkpoint");
}

/// The events of a task during its checkpoint that concern the pause.
#[track_caller]
fn events_of(container: &Container, checkpoint: impl FnOnce()) -> Vec<String> {
    let events = Events::watch();
    checkpoint();
    for topic in ["checkpointed", "resumed"] {
        events.expect(container.id(), &format!("/tasks/{topic}"));
    }
    let of_a_pause = ["paused", "checkpointed", "resumed"];
    let mut topics = events.topics_of(container.id());
    topics.retain(|topic| of_a_pause.contains(&topic.as_str()));
    topics
}

/// Asserts that each checkpoint of a running task resumes it before the checkpoint
/// is complete. The caller holds [`alone`].
#[track_caller]
fn is_resumed_early(container: &Container, checkpoint: impl Fn()) {
    for _ in 0..ROUNDS {
        let topics = events_of(container, &checkpoint);
        assert_eq!(topics, ["paused", "resumed", "checkpointed"]);
    }
}

/// Asserts that each checkpoint of a running task leaves it paused until its client
/// resumes it. The caller holds [`alone`], since a state request of another client
/// would prevent an early resume.
#[track_caller]
fn stays_paused_to_the_end(container: &Container, checkpoint: impl Fn()) {
    for _ in 0..ROUNDS {
        let topics = events_of(container, &checkpoint);
        assert_eq!(topics, ["paused", "checkpointed", "resumed"]);
    }
}

#[test]
fn a_checkpoint_to_a_path_resumes_the_task_early_if_the_client_makes_no_image() {
    let _lock = alone();
    let container = growing("early");
    let before = container.report();
    let checkpoint = || checkpoint_to_path(&container, &Folder::new("images"));
    if named_as_stock() {
        is_resumed_early(&container, checkpoint);
    } else {
        stays_paused_to_the_end(&container, checkpoint);
    }
    is_running(&container);
    // A later pause and resume behave as usual.
    ctr_ok(&["task", "pause", container.id()]);
    ctr_ok(&["task", "resume", container.id()]);
    ctr(&["task", "resume", container.id()]).refused();
    container.report().continues(&before);
}

#[test]
fn a_checkpoint_of_a_container_pauses_it_to_the_end_unless_a_setting_resumes_it_early() {
    let _lock = alone();
    let container = growing("packed");
    let before = container.report();
    stays_paused_to_the_end(&container, || drop(container.checkpoint(&["--rw"])));
    container.report().continues(&before);

    // The container's user can't ask for it.
    let asks = [
        "--annotation",
        "io.cedana.checkpoint.resume_early=container",
    ];
    let container = Run::new("asks").flags(&asks);
    let container = container.workload(&GROWING).detach();
    stays_paused_to_the_end(&container, || drop(container.checkpoint(&["--rw"])));

    let _settings = Settings::write(EARLY_FOR_CONTAINERS);
    let container = growing("packed-early");
    let before = container.report();
    is_resumed_early(&container, || drop(container.checkpoint(&["--rw"])));
    container.report().continues(&before);
}

/// The compression of memory in a checkpoint image.
#[track_caller]
fn compression(image: &Image) -> String {
    let index = json(&image.index());
    let manifests = index["manifests"].as_array().into_iter().flatten();
    let mut of_criu = manifests.filter(|manifest| {
        let kind = manifest["mediaType"].as_str();
        kind.is_some_and(|kind| kind.ends_with("criu.tar"))
    });
    let digest = of_criu
        .next()
        .and_then(|manifest| manifest["digest"].as_str());
    let digest = digest.unwrap_or_else(|| panic!("no checkpoint in {index}"));
    let line = format!("ctr -n {NAMESPACE} content get {digest} | tar -xO {MANIFEST}");
    let manifest = command("bash", &["-o", "pipefail", "-c", &line]).ok();
    let compression = &json(&manifest.stdout)["options"]["compression"];
    let compression = compression.as_str();
    compression
        .unwrap_or_else(|| panic!("no compression in {manifest}"))
        .to_owned()
}

#[test]
fn a_paused_task_does_not_wait_for_compression_without_idle_cores() {
    let _lock = alone();
    let container = growing("waits");
    let before = container.report();
    let image = container.checkpoint(&["--rw"]);
    // With four cores or more some may be idle, and memory may be compressed.
    if thread::available_parallelism().is_ok_and(|cores| cores.get() < 4) {
        assert_eq!(compression(&image), "none");
    }
    container.end_task();
    let restored = container.restore(&image, &["--rw"]);
    restored.report().continues(&before);

    let is_compressed = |container: &Container| {
        for _ in 0..ROUNDS {
            let image = container.checkpoint(&["--rw"]);
            assert_eq!(compression(&image), "zstd");
        }
    };
    let told = ["--annotation", "io.cedana.checkpoint.compression=zstd"];
    let container = Run::new("told").flags(&told);
    is_compressed(&container.workload(&GROWING).detach());
    let _settings = Settings::write(EARLY_FOR_CONTAINERS);
    is_compressed(&growing("resumed"));
}

#[test]
fn a_paused_task_stays_paused_after_a_checkpoint_of_its_container() {
    let _lock = shared();
    let container = growing("owner");
    let before = container.report();
    for _ in 0..ROUNDS {
        // The shim's requests for `container.Task`, `task.Pause` and
        // `container.Checkpoint` of containerd's client.
        let task = container.task();
        let images = Folder::new("images");
        task.state("")
            .and_then(|_| task.pause())
            .and_then(|()| task.checkpoint(&images.0, of_container_checkpoint()))
            .unwrap_or_else(|refused| panic!("{refused}"));
        is_paused(&container);
        ctr_ok(&["task", "resume", container.id()]);
    }
    container.report().continues(&before);
}

#[test]
fn a_paused_task_stays_paused_after_a_checkpoint_to_a_path() {
    let _lock = shared();
    let container = growing("kept");
    let before = container.report();
    ctr_ok(&["task", "pause", container.id()]);
    checkpoint_to_path(&container, &Folder::new("images"));
    is_paused(&container);
    ctr_ok(&["task", "resume", container.id()]);
    container.report().continues(&before);
}

#[test]
fn a_relative_path_is_refused_and_the_container_continues() {
    let _lock = shared();
    let container = growing("relative");
    let before = container.report();
    let refusal = if ctr_sends_flags() {
        let flags = ["task", "checkpoint", "--image-path", "rel/cp"];
        ctr(&[&flags[..], &[container.id()]].concat()).refused()
    } else {
        let answer = container.task().checkpoint(Path::new("rel/cp"), None);
        let refused = answer.err().map(|refused| refused.message);
        refused.unwrap_or_else(|| panic!("a relative path on {}", testbed()))
    };
    for words in ["rel/cp is relative", "give an absolute path"] {
        assert!(refusal.contains(words), "{words:?} is not in: {refusal}");
    }
    is_running(&container);
    container.report().continues(&before);
    let bundle = "/run/containerd/io.containerd.runtime.v2.task/default";
    let left = Path::new(bundle).join(container.id()).join("rel");
    assert!(!left.exists(), "{} is left", left.display());
}
