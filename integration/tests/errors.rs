//! Error messages name what failed, on what, why, and what to do.

use std::fs;
use std::path::Path;
use std::process::Command;

use cedana_integration::folder::Folder;
use cedana_integration::protos::protobuf::well_known_types::any::Any;
use cedana_integration::{BareShim, Image, Leaks, Refused, Run, command, ctr, ctr_ok};

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Refused>) -> Refused {
    match answer {
        Err(refused) => refused,
        Ok(answer) => panic!("this should have been refused: {answer:?}"),
    }
}

#[track_caller]
fn says(refused: &Refused, words: &[&str]) {
    let message = refused.message.to_lowercase();
    for word in words {
        assert!(
            message.contains(&word.to_lowercase()),
            "no {word:?} in: {refused}"
        );
    }
}

/// A file system of one megabyte, unmounted when dropped.
struct SmallDisk(Folder);

impl SmallDisk {
    fn mount() -> Self {
        let place = Folder::new("scratch");
        let path = place.text();
        command("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs", &path]).ok();
        Self(place)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        command("umount", &["--lazy", &self.0.text()]);
    }
}

#[test]
fn a_missing_bundle_is_named() {
    let shim = BareShim::start("no-bundle", &[]);
    let mut request = shim.request();
    request.bundle = "/no/such/bundle".into();
    says(
        &refused(shim.task().create(&request)),
        &["/no/such/bundle", "no such file"],
    );
    // The shim still works.
    shim.run();
    shim.report().intact();
}

#[test]
fn a_bundle_without_a_specification_is_named() {
    let shim = BareShim::start("no-spec", &[]);
    fs::remove_file(shim.bundle().join("config.json")).unwrap_or_else(|e| panic!("{e}"));
    says(
        &refused(shim.task().create(&shim.request())),
        &["config.json"],
    );
}

#[test]
fn a_specification_that_is_no_json_is_named() {
    let shim = BareShim::start("bad-spec", &[]);
    fs::write(shim.bundle().join("config.json"), "{ \"ociVersion\": ")
        .unwrap_or_else(|e| panic!("{e}"));
    let refused = refused(shim.task().create(&shim.request()));
    says(&refused, &["config.json"]);
}

#[test]
fn a_missing_runtime_binary_is_named() {
    let reason = Run::new("no-runtime")
        .runtime_binary(Path::new("/no/such/runc"))
        .workload(&[])
        .fails();
    assert!(reason.contains("/no/such/runc"), "{reason}");
    assert!(reason.to_lowercase().contains("no such file"), "{reason}");
}

#[test]
fn an_unknown_setting_in_the_options_file_is_named() {
    let scratch = Folder::new("scratch");
    let settings = scratch.0.join("options.toml");
    fs::write(&settings, "BinaryNane = \"runc\"\n").unwrap_or_else(|e| panic!("{e}"));
    if cedana_integration::named_as_stock() {
        println!("skipped: clients send no settings file to a runtime of that name");
        return;
    }
    let reason = Run::new("typo")
        .flags(&["--runtime-config-path", &settings.display().to_string()])
        .workload(&[])
        .fails();
    assert!(reason.contains("BinaryNane"), "{reason}");
}

#[test]
fn options_of_an_unknown_type_are_named() {
    let shim = BareShim::start("unknown-type", &["--memory", "1"]);
    let mut request = shim.request();
    let unknown = Any {
        type_url: "example.com/Unknown".into(),
        ..Default::default()
    };
    request.options = Some(unknown.clone()).into();
    says(
        &refused(shim.task().create(&request)),
        &["example.com/Unknown"],
    );
    shim.run();
    let before = shim.report();
    let images = Folder::new("scratch");
    let answer = refused(shim.task().checkpoint_with(&images.0, Some(unknown)));
    says(&answer, &["example.com/Unknown"]);
    shim.report().continues(&before);
}

#[test]
fn options_that_do_not_parse_are_refused() {
    let shim = BareShim::start("garbled", &[]);
    let mut request = shim.request();
    let garbled = Any {
        type_url: "containerd.runc.v1.Options".into(),
        value: vec![0xff; 7],
        ..Default::default()
    };
    request.options = Some(garbled).into();
    let refused = refused(shim.task().create(&request));
    says(&refused, &["options"]);
}

#[test]
fn a_second_create_is_refused_and_the_task_continues() {
    let shim = BareShim::start("twice", &[]);
    shim.run();
    let before = shim.report();
    let refused = refused(shim.task().create(&shim.request()));
    says(&refused, &["exist"]);
    shim.report().continues(&before);
}

#[test]
fn a_second_start_is_refused_and_the_task_continues() {
    let container = Run::new("start-twice").workload(&[]).detach();
    let before = container.report();
    let answer = refused(container.task().start(""));
    says(&answer, &["running"]);
    container.report().continues(&before);
}

#[test]
fn an_unknown_task_or_exec_is_not_found() {
    let container = Run::new("unknown").workload(&[]).detach();
    let task = container.task();
    assert_eq!(
        refused(task.other("unknown-task").state("")).code,
        "NOT_FOUND"
    );
    assert_eq!(
        refused(task.other("unknown-task").kill("", 15, false)).code,
        "NOT_FOUND"
    );
    assert_eq!(refused(task.state("nothing")).code, "NOT_FOUND");
    assert_eq!(refused(task.kill("nothing", 15, false)).code, "NOT_FOUND");
    assert_eq!(refused(task.wait("nothing")).code, "NOT_FOUND");
    container.report().intact();
}

#[test]
fn deleting_a_running_task_is_refused() {
    let container = Run::new("delete").workload(&[]).detach();
    let before = container.report();
    says(&refused(container.task().delete("")), &["running"]);
    container.report().continues(&before);
}

#[test]
fn a_checkpoint_of_a_stopped_task_is_refused() {
    let container = Run::new("stopped").workload(&[]).detach();
    container.kill("SIGKILL");
    container.stopped();
    let images = Folder::new("scratch");
    let answer = refused(container.task().checkpoint(&images.0, None));
    says(&answer, &["stopped"]);
}

#[test]
fn a_restore_from_an_empty_directory_names_it() {
    let (shim, images) = (BareShim::start("empty", &[]), Folder::new("scratch"));
    let answer = restore(&shim, &images.0);
    says(&answer, &[&images.0.display().to_string(), "inventory.img"]);
}

#[test]
fn a_restore_from_a_missing_directory_names_it() {
    let shim = BareShim::start("nowhere", &[]);
    says(
        &restore(&shim, Path::new("/no/such/images")),
        &["/no/such/images"],
    );
}

#[test]
fn a_restore_from_truncated_images_names_the_file() {
    let first = BareShim::start("truncated", &["--memory", "1"]);
    first.run();
    let images = Folder::new("scratch");
    let done = first.task().checkpoint(&images.0, None);
    done.unwrap_or_else(|refused| panic!("{refused}"));
    let inventory = images.0.join("inventory.img");
    let file = fs::File::options().write(true).open(&inventory);
    file.and_then(|f| f.set_len(6))
        .unwrap_or_else(|error| panic!("{error}"));
    let next = first.successor("truncated-next");
    says(&restore(&next, &images.0), &["inventory.img"]);
    first.report().intact();
}

/// The error of a restore that cannot succeed, from Create or Start.
#[track_caller]
fn restore(shim: &BareShim, images: &Path) -> Refused {
    let images = images.display().to_string();
    let leaks = Leaks::before(&[shim.id(), &images]);
    let mut request = shim.request();
    request.checkpoint = images;
    let answer = refused(
        shim.task()
            .create(&request)
            .and_then(|_| shim.task().start("")),
    );
    leaks.none();
    answer
}

#[test]
fn a_full_disk_is_named_and_the_container_continues() {
    let container = Run::new("full").workload(&["--memory", "16"]).detach();
    let before = container.report();
    let disk = SmallDisk::mount();
    let images = disk.0.0.join("images");
    fs::create_dir(&images).unwrap_or_else(|error| panic!("{error}"));
    let leaks = Leaks::before(&[container.id(), &disk.0.0.display().to_string()]);
    let answer = refused(container.task().checkpoint(&images, None));
    leaks.none();
    says(&answer, &["space", &disk.0.0.display().to_string()]);
    container.report().continues(&before);
    let left = fs::read_dir(&images).map(Iterator::count).unwrap_or(0);
    assert_eq!(left, 0, "an incomplete checkpoint was left");
    let _image = Image::named(ctr_ok(&["task", "checkpoint", container.id()]));
}

#[test]
fn a_connection_is_named_if_tcp_established_is_off() {
    let container = Run::new("no-tcp")
        .flags(&["--annotation", "io.cedana.checkpoint.tcp_established=false"])
        .workload(&["--tcp"])
        .detach();
    let before = container.report();
    let images = Folder::new("scratch");
    let leaks = Leaks::before(&[container.id(), &images.0.display().to_string()]);
    let answer = refused(container.task().checkpoint(&images.0, None));
    leaks.none();
    says(&answer, &["established TCP", "tcp_established"]);
    container.report().continues(&before);
    // ctr prints the same reason.
    let reason = ctr(&["task", "checkpoint", container.id()]).refused();
    assert!(reason.contains("tcp_established"), "{reason}");
    container.report().continues(&before);
}

#[test]
fn an_unknown_annotation_with_our_prefix_is_named() {
    let container = Run::new("annotation")
        .flags(&["--annotation", "io.cedana.checkpoint.tcp_establishd=true"])
        .workload(&[])
        .detach();
    let images = Folder::new("scratch");
    let answer = refused(container.task().checkpoint(&images.0, None));
    says(&answer, &["io.cedana.checkpoint.tcp_establishd"]);
    container.report().intact();
}

#[test]
fn the_message_names_the_path_of_the_kept_log() {
    let container = Run::new("log")
        .flags(&["--annotation", "io.cedana.checkpoint.tcp_established=false"])
        .workload(&["--tcp"])
        .detach();
    let images = Folder::new("scratch");
    let answer = refused(container.task().checkpoint(&images.0, None));
    let kept = answer
        .message
        .split(|c: char| c.is_whitespace() || "\"'()<>,;".contains(c))
        .map(|word| word.trim_end_matches(['.', ':']))
        .find(|word| word.starts_with('/') && Path::new(word).is_file());
    let kept = kept.unwrap_or_else(|| panic!("the message names no log: {answer}"));
    let text = Command::new("grep").args(["-c", "Error", kept]).output();
    assert!(
        text.is_ok_and(|o| o.status.success()),
        "{kept} holds no error"
    );
}
