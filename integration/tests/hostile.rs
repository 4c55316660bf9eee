//! Checkpoints that were edited, and files that the container changed after its
//! checkpoint: a restored container gets what its configuration gives it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use cedana_integration::checkpointed::{Checkpointed, ROOT};
use cedana_integration::command;
use cedana_integration::folder::{Folder, MANIFEST, json};
use cedana_integration::images::{edit, edit_text, number};

/// A container with threads, above the size that is restored lazily.
fn checkpointed(label: &str) -> Checkpointed {
    let workload = ["--memory", "16", "--threads", "2", "--file", "/f"];
    Checkpointed::of(label, &[], &workload)
}

/// A copy of a checkpoint as stock CRIU has it, without digests.
fn stock(checkpointed: &Checkpointed) -> Folder {
    let copy = checkpointed.images.copy("edited");
    command("cedana-runc", &["unpack", &copy.text()]).ok();
    assert!(!copy.file(MANIFEST).exists());
    copy
}

/// The image of init's mounts.
fn mounts(images: &Folder) -> std::path::PathBuf {
    let namespace = number(&images.file("ids-1.img"), &[9]);
    images.file(&format!("mountpoints-{namespace}.img"))
}

#[test]
fn an_edited_checkpoint_gives_no_privileges() {
    let checkpointed = checkpointed("privileges");
    let refused = |change: &dyn Fn(&Folder), words: &str| {
        let images = stock(&checkpointed);
        change(&images);
        let words = [words, "config.json", "restore.check"];
        checkpointed.is_refused(&images, &words);
    };
    refused(
        &|images| {
            edit(
                &images.file("core-1.img"),
                &[5, 10, 11],
                &[0xffff_ffff, 0xff],
            )
        },
        "CAP_SYS_ADMIN",
    );
    refused(
        &|images| edit(&images.file("core-1.img"), &[5, 10, 18], &[]),
        "noNewPrivileges",
    );
    refused(
        &|images| {
            let hosts = number(&images.file("inventory.img"), &[3, 5]);
            edit(&images.file("ids-1.img"), &[5], &[hosts]);
        },
        "host's PID namespace",
    );
    // A new mount that binds a directory of the host (MS_BIND and MS_REC).
    refused(
        &|images| edit(&mounts(images), &[17], &[0x5000]),
        "bind or move",
    );
    refused(
        &|images| {
            let cgroups = images.file("cgroup.img");
            edit_text(&cgroups, &[2, 2, 3, 1], "../../../../etc/passwd");
        },
        "plain name",
    );
    refused(
        &|images| {
            edit_text(
                &images.file("files.img"),
                &[3, 6],
                "/proc/self/fd/3/etc/shadow",
            )
        },
        "leads out of proc",
    );
    // Unchanged it is restored, too.
    let images = stock(&checkpointed);
    checkpointed.restore("cedana-runc", &images).ok();
    checkpointed.is_restored_intact();
}

#[test]
fn a_link_that_the_container_made_is_not_followed() {
    let checkpointed = checkpointed("link");
    let config = fs::read_to_string(checkpointed.bundle.file("config.json")).expect("a bundle");
    let root = json(&config)["root"]["path"].as_str().map(str::to_owned);
    let root = root.expect("a root");
    // The workload's open file is in the root's directory, so its name becomes a link.
    let file = Path::new(&root).join("f");
    let moved = Path::new(&root).join("moved");
    fs::rename(&file, &moved).expect("the open file");
    symlink("/proc/self/fd/3", &file).expect("a link");
    checkpointed.is_refused(
        &checkpointed.images,
        &["/f has a symbolic link in its path"],
    );
    fs::remove_file(&file).expect("the link");
    fs::rename(&moved, &file).expect("the file");
    checkpointed
        .restore("cedana-runc", &checkpointed.images)
        .ok();
    checkpointed.is_restored_intact();
}

#[test]
fn the_node_may_restore_with_a_warning_or_without_a_check() {
    let checkpointed = checkpointed("warned");
    let images = stock(&checkpointed);
    edit(&images.file("core-1.img"), &[5, 10, 18], &[]);
    checkpointed.is_refused(&images, &["noNewPrivileges"]);
    for (check, warns) in [("warn", true), ("off", false)] {
        let program = format!("CEDANA_RESTORE_CHECK={check} cedana-runc");
        let output = checkpointed.restore(&program, &images).ok();
        let log = checkpointed.bundle.file("log.json");
        let log = fs::read_to_string(log).unwrap_or_default();
        let said = format!("{log}{output}");
        let found = said.matches("noNewPrivileges").count();
        // The refusal above is in the log, too.
        assert_eq!(found > 1, warns, "{check}: {said}");
        checkpointed.is_restored_intact();
        let _ = fs::remove_file(checkpointed.bundle.file("log.json"));
        assert!(!Path::new(ROOT).join(&checkpointed.id).exists());
    }
}

/// The node's key, which signs the checkpoints that are taken meanwhile.
fn key() -> &'static Path {
    static KEY: std::sync::Once = std::sync::Once::new();
    let path = Path::new("/etc/cedana/key");
    KEY.call_once(|| {
        fs::create_dir_all("/etc/cedana").expect("mkdir");
        let _ = fs::remove_file(path);
        fs::write(path, "0123456789abcdef".repeat(4)).expect("write");
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("chmod");
    });
    path
}

#[test]
fn a_node_may_accept_its_own_checkpoints_only() {
    key();
    let checkpointed = checkpointed("signed");
    let accepting = |accept: &str| format!("CEDANA_RESTORE_ACCEPT={accept} cedana-runc");
    let refused = |accept: &str, images: &Folder, words: &str| {
        let output = checkpointed.restore(&accepting(accept), images);
        assert_ne!(output.code, 0, "{accept}: {output}");
        assert!(
            output.stderr.contains(words),
            "{words:?} is not in {output}"
        );
        assert!(!Path::new(ROOT).join(&checkpointed.id).exists());
    };
    for accept in ["any", "ours", "signed"] {
        checkpointed
            .restore(&accepting(accept), &checkpointed.images)
            .ok();
        checkpointed.is_restored_intact();
    }
    // An edited manifest has sound digests and no signature.
    let edited = checkpointed.images.copy("edited");
    let mut manifest = edited.manifest();
    manifest["container"]["spec"]["process"]["noNewPrivileges"] = false.into();
    fs::write(edited.file(MANIFEST), manifest.to_string()).expect("the manifest");
    refused("signed", &edited, "no signature");
    checkpointed.restore(&accepting("ours"), &edited).ok();
    checkpointed.is_restored_intact();
    // Without a manifest there is nothing to sign.
    let stock = stock(&checkpointed);
    refused("signed", &stock, "no manifest");
    refused("ours", &stock, "no manifest");
    checkpointed.restore(&accepting("any"), &stock).ok();
    checkpointed.is_restored_intact();
}
