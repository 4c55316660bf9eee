//! Entries planted in a checkpoint's directory: links, pipes and files of another user's
//! making are refused or not read, nothing they lead to is changed, and nothing hangs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use cedana_integration::checkpointed::{Checkpointed, ROOT};
use cedana_integration::folder::{Folder, MANIFEST, json, read};
use cedana_integration::{Output, Run, command};

/// A checkpoint that is restored eagerly: what is planted is found before that.
fn checkpointed(label: &str) -> Checkpointed {
    let flags = ["--annotation", "io.cedana.restore.mode=eager"];
    Checkpointed::of(label, &flags, &["--memory", "16", "--file", "/f"])
}

fn pipe(path: &Path) {
    command("mkfifo", &[&path.display().to_string()]).ok();
}

/// A copy of a checkpoint without a manifest, as a stock runtime takes it.
fn stock(checkpointed: &Checkpointed) -> Folder {
    let copy = checkpointed.images.copy("stock");
    command("cedana-runc", &["unpack", &copy.text()]).ok();
    assert!(!copy.file(MANIFEST).exists());
    copy
}

/// `unpack` and `inspect` of a checkpoint. Both end, and say the same as a restore.
fn is_refused(checkpointed: &Checkpointed, images: &Folder, words: &[&str]) {
    let before = images.names();
    checkpointed.is_refused(images, words);
    let to = Folder::new("to");
    let to = to.file("unpacked").display().to_string();
    let said = command("cedana-runc", &["unpack", &images.text(), "--to", &to]);
    assert_ne!(said.code, 0, "{said}");
    assert_eq!(images.names(), before, "the checkpoint was changed");
}

#[test]
fn a_link_with_the_name_of_a_leftover_moves_no_files() {
    let checkpointed = checkpointed("leftover");
    for name in [".cedana-moving", ".cedana-ready", ".cedana-new"] {
        let images = checkpointed.images.copy("images");
        let elsewhere = Folder::new("elsewhere");
        for file in ["inventory.img", "precious"] {
            fs::write(elsewhere.file(file), "precious").expect("a file");
        }
        symlink(&elsewhere.0, images.file(name)).expect("a link");
        is_refused(&checkpointed, &images, &[name, "link", "remove it"]);
        assert_eq!(elsewhere.names(), ["inventory.img", "precious"]);
        assert_eq!(read(&elsewhere.file("inventory.img")), "precious");
        // A checkpoint to that directory is refused, too, and the one in it stays.
        fs::remove_file(images.file(name)).expect("the link is there");
        assert_eq!(images.names(), checkpointed.images.names());
    }
    checkpointed
        .restore("cedana-runc", &checkpointed.images)
        .ok();
    checkpointed.is_restored_intact();
}

#[test]
fn pipes_and_links_in_place_of_files_are_refused() {
    let checkpointed = checkpointed("kinds");
    let pages = checkpointed.images.largest_pages();
    let pages = pages.file_name().expect("a name").to_string_lossy();
    for name in [MANIFEST, "inventory.img", &pages] {
        let images = checkpointed.images.copy("pipe");
        fs::remove_file(images.file(name)).expect("the file");
        pipe(&images.file(name));
        is_refused(&checkpointed, &images, &[name, "not a regular file"]);

        let images = checkpointed.images.copy("link");
        let moved = Folder::new("moved");
        fs::rename(images.file(name), moved.file(name)).expect("the file");
        symlink(moved.file(name), images.file(name)).expect("a link");
        is_refused(&checkpointed, &images, &[name, "symbolic link"]);

        let images = checkpointed.images.copy("second");
        fs::hard_link(images.file(name), moved.file("second")).expect("a link");
        is_refused(&checkpointed, &images, &[name, "2 hard links"]);
    }
    let images = stock(&checkpointed);
    for name in ["core-1.img", "descriptors.json"] {
        let moved = Folder::new("moved");
        fs::rename(images.file(name), moved.file(name)).expect("the file");
        symlink(moved.file(name), images.file(name)).expect("a link");
        checkpointed.is_refused(&images, &[name, "symbolic link"]);
        fs::rename(moved.file(name), images.file(name)).expect("the file");
    }
    checkpointed.restore("cedana-runc", &images).ok();
    checkpointed.is_restored_intact();
}

#[test]
fn files_that_the_manifest_does_not_list_are_not_read() {
    let checkpointed = checkpointed("unlisted");
    let images = checkpointed.images.copy("images");
    pipe(&images.file("core-9999.img"));
    pipe(&images.file("pagemap-9999.img"));
    symlink("/etc/passwd", images.file("netns-9.img")).expect("a link");
    symlink("../elsewhere", images.file("parent")).expect("a link");
    fs::write(images.file("seccomp-9.img"), "no image").expect("a file");
    let before = images.names();
    checkpointed.restore("cedana-runc", &images).ok();
    checkpointed.is_restored_intact();
    let said = command("cedana-runc", &["inspect", "--json", &images.text()]).ok();
    assert_eq!(json(&said.stdout)["network"], "external");
    let to = Folder::new("to");
    let whole = Folder(to.file("whole"));
    let command_line = ["unpack", &images.text(), "--to", &whole.text()];
    command("cedana-runc", &command_line).ok();
    let unpacked = whole.names();
    for name in ["core-9999.img", "netns-9.img", "parent", "seccomp-9.img"] {
        assert!(!unpacked.iter().any(|other| other == name), "{unpacked:?}");
    }
    assert_eq!(images.names(), before, "they stay");
}

#[test]
fn a_parent_is_beside_its_checkpoint() {
    let checkpointed = checkpointed("parent");
    let images = checkpointed.images.copy("images");
    let mut manifest = images.manifest();
    for parent in ["../../tmp", "/tmp", "..", "../missing/..", "tmp"] {
        manifest["parent"] = parent.into();
        fs::write(images.file(MANIFEST), manifest.to_string()).expect("the manifest");
        let words = [parent, "must be beside this one"];
        is_refused(&checkpointed, &images, &words);
    }
    let images = stock(&checkpointed);
    symlink("/etc", images.file("parent")).expect("a link");
    checkpointed.is_refused(&images, &["/etc", "must be beside this one"]);
}

/// Checkpoints a restored container, which runs on.
fn checkpoint(checkpointed: &Checkpointed, images: &Path, flags: &[&str]) -> Output {
    let images = images.display().to_string();
    let line = ["--root", ROOT, "checkpoint", "--leave-running"];
    let paths = ["--image-path", &images, "--work-path"];
    let work = checkpointed.bundle.text();
    let line = [&line[..], flags, &paths, &[&work, &checkpointed.id]].concat();
    command("cedana-runc", &line)
}

#[test]
fn a_directory_of_others_gets_no_checkpoint() {
    let checkpointed = checkpointed("others");
    checkpointed
        .restore("cedana-runc", &checkpointed.images)
        .ok();
    let above = Folder::new("above");
    let images = above.file("images");
    fs::create_dir(&images).expect("a directory");
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
    };
    let refused = |words: &[&str], flags: &[&str]| {
        let said = checkpoint(&checkpointed, &images, flags);
        assert_ne!(said.code, 0, "{said}");
        for word in words {
            assert!(said.stderr.contains(word), "{word:?} is not in: {said}");
        }
        assert_eq!(fs::read_dir(&images).expect("it stays").count(), 0);
    };
    let shown = images.display().to_string();
    mode(&images, 0o777);
    refused(&[&shown, "0777", "chmod go-w"], &[]);
    mode(&images, 0o755);
    mode(&above.0, 0o777);
    refused(&[&shown, "chmod +t"], &[]);
    mode(&above.0, 0o755);
    command("chown", &["1000", &shown]).ok();
    refused(&[&shown, "user 1000", "chown"], &[]);
    command("chown", &["0", &shown]).ok();
    refused(
        &["../../first", "must be beside this one"],
        &["--pre-dump", "--parent-path", "../../first"],
    );
    checkpointed.is_intact();
    // A directory in one like /tmp is fine.
    mode(&above.0, 0o1777);
    checkpoint(&checkpointed, &images, &[]).ok();
    checkpointed.is_intact();
}

#[test]
fn engines_directories_are_their_own() {
    // The directories that containerd makes for a checkpoint are below its directory for
    // temporary files; `docker.rs` and `podman.rs` have those of the other engines.
    let container = Run::new("engine").workload(&["--memory", "8"]).detach();
    let before = container.report();
    let reference = format!("localhost/planted-{}:latest", container.id());
    let line = ["c", "checkpoint", "--task", container.id(), &reference];
    command("ctr", &line).ok();
    container.report().continues(&before);
    command("ctr", &["images", "rm", &reference]).ok();
}
