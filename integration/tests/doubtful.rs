//! Refuses checkpoints that end the container and could never be restored.
//!
//! CRIU dumps more than it can restore. Each story has a state that CRIU can't restore
//! and a similar one that it can. The first is refused, with the reason and the remedy,
//! and the container continues. The second is restored.

use std::fs;

use cedana_integration::checkpointed::Checkpointed;
use cedana_integration::folder::{Folder, MANIFEST};
use cedana_integration::protos::shim::oci::CheckpointOptions;
use cedana_integration::workload::PATH;
use cedana_integration::{BareShim, Leaks, Refused, Run, command, eventually};
use serde_json::{Value, json};

const WARN: (&str, &str) = ("CEDANA_CHECKPOINT_DOUBTFUL", "warn");

/// Asserts that a refused checkpoint left no files.
#[track_caller]
fn is_empty(images: &Folder) {
    assert!(images.names().is_empty(), "left: {:?}", images.names());
}

/// A container whose workload may mount and create devices.
#[track_caller]
fn privileged(label: &str, flags: &[&str]) -> BareShim {
    let shim = BareShim::start(label, flags);
    change_spec(&shim, |spec| {
        for set in ["bounding", "effective", "permitted"] {
            let held = &mut spec["process"]["capabilities"][set];
            let held = held.as_array_mut().expect("a list of capabilities");
            held.extend([json!("CAP_NET_ADMIN"), json!("CAP_SYS_ADMIN")]);
        }
        spec["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}]);
    });
    shim.run();
    shim
}

#[track_caller]
fn change_spec(shim: &BareShim, change: impl FnOnce(&mut Value)) {
    let path = shim.bundle().join("config.json");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut spec = serde_json::from_str(&text).unwrap_or_else(|e| panic!("config.json: {e}"));
    change(&mut spec);
    fs::write(&path, spec.to_string()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn running(label: &str, flags: &[&str]) -> BareShim {
    let shim = BareShim::start(label, flags);
    shim.run();
    shim
}

fn checkpoint_and_exit(shim: &BareShim, images: &Folder) -> Result<(), Refused> {
    let exit = CheckpointOptions {
        exit: true,
        ..Default::default()
    };
    shim.task().checkpoint(&images.0, Some(exit))
}

/// Asserts that a checkpoint is refused with these words and the container continues.
#[track_caller]
fn is_refused(shim: &BareShim, words: &[&str]) {
    let before = shim.report();
    let images = Folder::new("images");
    let leaks = Leaks::before(&[shim.id(), &images.text()]);
    let Err(refused) = checkpoint_and_exit(shim, &images) else {
        panic!("this should have been refused");
    };
    for word in ["could never be restored", "leave-running"]
        .iter()
        .chain(words)
    {
        assert!(refused.message.contains(word), "no {word:?} in: {refused}");
    }
    is_empty(&images);
    leaks.none();
    shim.report().continues(&before);

    // A checkpoint that leaves it running is taken.
    let done = shim.task().checkpoint(&images.0, None);
    done.unwrap_or_else(|refused| panic!("{refused}"));
    shim.report().continues(&before);
    eventually("the shim logs the warning", || {
        let logged = shim.logged();
        match words.iter().all(|word| logged.contains(word)) {
            true => Ok(()),
            false => Err(logged),
        }
    });
}

/// Asserts that a checkpoint is taken and can be restored.
#[track_caller]
fn is_restored(shim: &BareShim) {
    let before = shim.report();
    let images = Folder::new("images");
    checkpoint_and_exit(shim, &images).unwrap_or_else(|refused| panic!("{refused}"));
    assert!(
        !shim.logged().contains("can't be restored"),
        "{}",
        shim.logged()
    );
    restored(shim, &images).report_into(shim).continues(&before);
}

#[track_caller]
fn restored(shim: &BareShim, images: &Folder) -> BareShim {
    let next = shim.successor("back");
    let mut request = next.request();
    request.checkpoint = images.text();
    let started = next
        .task()
        .create(&request)
        .and_then(|_| next.task().start(""));
    started.unwrap_or_else(|refused| panic!("{refused}"));
    next
}

#[test]
fn a_deleted_file_in_a_deleted_directory_is_refused() {
    let odd = running("within", &["--deleted-directory-first"]);
    is_refused(&odd, &["/tmp/directory-1", "close one of them"]);
    is_restored(&running("beside", &["--deleted-directory-last"]));
    is_restored(&running("deleted", &["--deleted-file", "4096"]));
}

#[test]
fn an_open_proc_file_of_a_thread_is_refused() {
    let odd = running("thread", &["--file-of-thread"]);
    is_refused(&odd, &["/proc/1/task/", "close it"]);
    is_restored(&running("first-thread", &["--file-of-first-thread"]));
}

#[test]
fn a_process_whose_program_is_a_memfd_is_refused() {
    let odd = running("memfd", &["--program-in-memory"]);
    is_refused(&odd, &["memfd", "from a file"]);
    is_restored(&running("deleted-program", &["--program-deleted"]));
}

#[test]
fn a_daemon_adopted_by_a_subreaper_is_refused() {
    let odd = running("adopted", &["--daemon-of-subreaper"]);
    is_refused(&odd, &["session", "subreaper", "as the container's init"]);
    is_restored(&running("daemon", &["--daemon-of-init"]));
}

#[test]
fn a_tun_device_is_refused() {
    let odd = privileged("tun", &["--tun"]);
    is_refused(&odd, &["tun9", "close the device"]);
    is_restored(&privileged("no-tun", &["--tun-without-device"]));
}

#[test]
fn an_overlay_mounted_in_the_container_is_refused() {
    let odd = privileged("overlay", &["--overlay"]);
    is_refused(&odd, &["/tmp/place", "make it a volume"]);
    is_restored(&privileged("tmpfs", &["--tmpfs"]));
}

/// A container in a user namespace with its own network namespace.
#[track_caller]
fn in_user_namespace(label: &str, flags: &[&str]) -> BareShim {
    const ROOT: u32 = 100_000;
    let shim = BareShim::start(label, flags);
    change_spec(&shim, |spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut();
        let namespaces = namespaces.expect("a list of namespaces");
        namespaces.push(json!({"type": "user"}));
        for mappings in ["uidMappings", "gidMappings"] {
            spec["linux"][mappings] = json!([{"containerID": 0, "hostID": ROOT, "size": 65_536}]);
        }
    });
    let home = shim.bundle().join("..");
    for directory in ["bundle/rootfs", "out"] {
        let path = home.join(directory).display().to_string();
        command("chown", &["-R", &format!("{ROOT}:{ROOT}"), &path]).ok();
    }
    shim.run();
    shim
}

/// CRIU creates the network namespace, since a given one would not belong to the
/// container's user namespace. It opens the images as a user of that namespace.
#[test]
fn a_container_with_its_own_user_and_network_namespace_is_restored() {
    is_restored(&in_user_namespace("userns", &["--memory", "4"]));
}

/// CRIU creates the network namespace, and its loopback is down while CRIU restores
/// connections.
#[test]
fn connections_within_a_user_namespace_are_closed() {
    let shim = in_user_namespace("userns-tcp", &["--memory", "4", "--tcp"]);
    let before = shim.report();
    let images = Folder::new("images");
    checkpoint_and_exit(&shim, &images).unwrap_or_else(|refused| panic!("{refused}"));
    let next = restored(&shim, &images);
    let after = next.report_into(&shim);
    assert_eq!(after.nonce(), before.nonce());
    assert_eq!(after.get("memory"), "ok");
    assert_ne!(after.get("tcp"), "ok");
}

/// Whether `runc exec` enters the container's time namespace: from 1.2 on.
#[track_caller]
fn exec_enters_time_namespace() -> bool {
    let said = command("runc", &["--version"]).ok().stdout;
    let version = said.strip_prefix("runc version ").and_then(|rest| {
        let (major, rest) = rest.split_once('.')?;
        let (minor, _) = rest.split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    });
    version.unwrap_or_else(|| panic!("runc's version: {said}")) >= (1, 2)
}

/// CRIU restores a container in a new time namespace. A daemon that `runc exec` leaves
/// there is in the same one, or in the host's.
#[test]
fn a_daemon_in_another_time_namespace_is_refused() {
    let first = Run::new("before").workload(&[]).detach();
    let image = first.checkpoint(&["--rw"]);
    first.end_task();
    let container = first.restore(&image, &["--rw"]);
    let before = container.report();
    container.exec(&[PATH, "--leave-daemon"]).ok();

    let namespace = |pid: u32| {
        let link = format!("/proc/{pid}/ns/time");
        fs::read_link(&link).unwrap_or_else(|e| panic!("{link}: {e}"))
    };
    let pids = container.task().pids();
    let pids = pids.unwrap_or_else(|refused| panic!("{refused}")).processes;
    assert_eq!(pids.len(), 2, "init and the daemon: {pids:?}");
    let init = namespace(container.pid());
    assert_ne!(init, namespace(std::process::id()), "init is in the host's");
    let outside = pids.iter().any(|process| namespace(process.pid) != init);
    assert_eq!(outside, !exec_enters_time_namespace(), "{pids:?}");

    let images = Folder::new("images");
    let exit = CheckpointOptions {
        exit: true,
        ..Default::default()
    };
    let answer = container.task().checkpoint(&images.0, Some(exit));
    if outside {
        let refused = answer.expect_err("a checkpoint that cannot be restored");
        for word in ["time namespace", "could never be restored"] {
            assert!(refused.message.contains(word), "no {word:?} in: {refused}");
        }
        is_empty(&images);
        container.report().continues(&before);
    } else {
        answer.unwrap_or_else(|refused| panic!("{refused}"));
        let checkpointed = Checkpointed::ended(container, before, images);
        checkpointed
            .restore("cedana-runc", &checkpointed.images)
            .ok();
        checkpointed.is_restored_intact();
    }
}

#[test]
fn with_doubtful_warn_the_checkpoint_is_taken_and_a_warning_logged() {
    for flag in ["--program-in-memory", "--deleted-directory-first"] {
        let shim = BareShim::start_with("may", &[flag], &[WARN]);
        shim.run();
        let images = Folder::new("images");
        checkpoint_and_exit(&shim, &images).unwrap_or_else(|refused| panic!("{flag}: {refused}"));
        assert!(images.file(MANIFEST).exists(), "{flag}");
        eventually("the shim logs the warning", || {
            let logged = shim.logged();
            match logged.contains("can't be restored") {
                true => Ok(()),
                false => Err(logged),
            }
        });
    }
}

#[test]
fn an_annotation_does_not_turn_the_refusal_off() {
    let shim = BareShim::start("asks", &["--program-in-memory"]);
    change_spec(&shim, |spec| {
        spec["annotations"]["io.cedana.checkpoint.doubtful"] = json!("warn");
    });
    shim.run();
    let images = Folder::new("images");
    let refused = checkpoint_and_exit(&shim, &images).expect_err("a doubtful checkpoint");
    assert!(
        refused.message.contains("could never be restored"),
        "{refused}"
    );
    is_empty(&images);
    shim.report().intact();
}
