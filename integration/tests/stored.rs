//! A checkpoint on disk: compressed, described by a manifest, verified before a restore,
//! and convertible to files that stock runc restores.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;

use cedana_integration::checkpointed::{Checkpointed, ROOT};
use cedana_integration::folder::{Folder, MANIFEST, flip, json, read, size};
use cedana_integration::{Gate, Output, Run, command};
use serde_json::Value;

#[test]
fn a_checkpoint_is_compressed_flat_private_and_described() {
    let workload = [
        "--memory",
        "16",
        "--compressible-memory",
        "64",
        "--children",
        "2",
    ];
    let checkpointed = Checkpointed::of("described", &[], &workload);
    let mut stored = 0;
    for name in checkpointed.images.names() {
        let meta = fs::symlink_metadata(checkpointed.images.file(&name)).expect("it was listed");
        assert!(meta.is_file(), "{name} is no regular file");
        assert_eq!(
            meta.permissions().mode() & 0o077,
            0,
            "{name} is not private"
        );
        let plain = name.starts_with("pages-") && name.ends_with(".img");
        assert!(!plain, "{name} is not compressed");
        stored += meta.len();
    }
    let manifest = checkpointed.images.manifest();
    assert_eq!(manifest["format"], 1);
    let cost = &manifest["cost"];
    let number = |key: &str| {
        cost[key]
            .as_u64()
            .unwrap_or_else(|| panic!("no {key}: {cost}"))
    };
    let raw = number("raw_bytes");
    assert!(
        raw > 64 << 20,
        "64 MiB of memory are in {raw} bytes: {cost}"
    );
    assert!(number("frozen_us") > 0, "{cost}");
    // 64 MiB of it compress well.
    assert!(stored < raw - (32 << 20), "{stored} bytes of {raw}");

    let said = command(
        "cedana-runc",
        &["inspect", "--json", &checkpointed.images.text()],
    )
    .ok();
    let seen = json(&said.stdout);
    let processes = seen["processes"].as_array().map_or(0, Vec::len);
    assert!(processes > 2, "the workload and its children: {processes}");
    let said = command("cedana-runc", &["inspect", &checkpointed.images.text()]).ok();
    assert!(said.stdout.contains("workload"), "{said}");

    assert_eq!(
        checkpointed
            .restore("cedana-runc", &checkpointed.images)
            .ok()
            .code,
        0
    );
    checkpointed.is_restored_intact();
}

#[test]
fn an_unpacked_checkpoint_is_restored_by_stock_runc() {
    let checkpointed = Checkpointed::new("unpacked", &[]);
    let stock = Folder::new("stock");
    let to = stock.file("images");
    let (from, to) = (checkpointed.images.text(), to.display().to_string());
    command("cedana-runc", &["unpack", &from, "--to", &to]).ok();
    let unpacked = Folder(stock.file("images"));
    let names = unpacked.names();
    assert!(
        !names.iter().any(|n| n == MANIFEST || n.ends_with(".zst")),
        "{names:?}"
    );
    checkpointed.restore("runc", &unpacked).ok();
    checkpointed.is_restored_intact();
    // cedana-runc restores a checkpoint without a manifest.
    checkpointed.restore("cedana-runc", &unpacked).ok();
    checkpointed.is_restored_intact();
    // Unpacks in place.
    command("cedana-runc", &["unpack", &from]).ok();
    checkpointed.restore("runc", &checkpointed.images).ok();
    checkpointed.is_restored_intact();
}

#[test]
fn compression_can_be_turned_off() {
    let flags = ["--annotation", "io.cedana.checkpoint.compression=none"];
    let checkpointed = Checkpointed::new("plain", &flags);
    let names = checkpointed.images.names();
    assert!(
        !names.iter().any(|name| name.ends_with(".zst")),
        "{names:?}"
    );
    assert_eq!(checkpointed.images.manifest()["format"], 1);
    checkpointed
        .restore("cedana-runc", &checkpointed.images)
        .ok();
    checkpointed.is_restored_intact();
    checkpointed.restore("runc", &checkpointed.images).ok();
    checkpointed.is_restored_intact();
}

/// A quarter of the available memory in bytes: too much to stay in the page cache without
/// writeback, but little enough to allocate.
fn much() -> String {
    let text = read(Path::new("/proc/meminfo"));
    let available = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.strip_suffix("kB"))
        .and_then(|kib| kib.trim().parse::<u64>().ok())
        .unwrap_or_else(|| panic!("{text}"));
    (available * 1024 / 4).to_string()
}

/// Takes a checkpoint by a wrapper that expects a large one.
fn large_dump(checkpointed: &Checkpointed, runtime: &Path, images: &Folder) -> Output {
    let line = format!(
        "CEDANA_TEST_EXPECTED={} CEDANA_RUNTIME={} exec cedana-runc --root {ROOT} checkpoint \
         --leave-running --image-path {} --work-path {} {}",
        much(),
        runtime.display(),
        images.text(),
        checkpointed.bundle.text(),
        checkpointed.id
    );
    command("sh", &["-c", &line])
}

#[test]
fn a_large_checkpoint_is_kept_in_memory_first_and_leaves_nothing_behind() {
    let checkpointed = Checkpointed::new("large", &[]);
    checkpointed
        .restore("cedana-runc", &checkpointed.images)
        .ok();
    let images = Folder::new("images");
    let new = images.file(".cedana-new");
    // The first wrapper is killed before CRIU runs.
    for killed in [true, false] {
        let gate = Gate::before("checkpoint");
        let output = thread::scope(|scope| {
            let dump = scope.spawn(|| large_dump(&checkpointed, &gate.program(), &images));
            gate.arrived();
            let first = fs::read_link(new.join("pages-1.img"));
            let first =
                first.unwrap_or_else(|error| panic!("the pages are not in memory: {error}"));
            if killed {
                // The process that holds the descriptor.
                let pid = first.components().nth(2).expect("/proc/PID/fd/N");
                let pid = pid.as_os_str().to_string_lossy();
                command("kill", &["-KILL", &pid]).ok();
            } else {
                gate.open();
            }
            dump.join().unwrap_or_else(|_| panic!("the checkpoint"))
        });
        assert_eq!(output.code == 0, !killed, "{output}");
    }
    let names = images.names();
    assert!(names.contains(&"pages-3.img.zst".to_owned()), "{names:?}");
    for name in &names {
        let meta = fs::symlink_metadata(images.file(name)).expect("it was listed");
        assert!(meta.is_file(), "{name} is no regular file");
        let raw = name.starts_with("pages-") && name.ends_with(".img");
        assert!(!raw, "{name} is left");
    }
    checkpointed.is_intact();
    checkpointed.end();
    checkpointed.restore("cedana-runc", &images).ok();
    checkpointed.is_restored_intact();
}

#[test]
fn a_flipped_bit_is_found_and_named() {
    // A lazy restore finds it later; see `lazy.rs`.
    let eager = ["--annotation", "io.cedana.restore.mode=eager"];
    let checkpointed = Checkpointed::new("flipped", &eager);
    let pages = checkpointed.images.largest_pages();
    let name = pages
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_default();
    for name in [&name, "pstree.img"] {
        let damaged = checkpointed.images.copy("damaged");
        flip(&damaged.file(name));
        checkpointed.is_refused(&damaged, &[name]);
    }
    let short = checkpointed.images.copy("short");
    let file = fs::File::options().write(true).open(short.file(&name));
    let cut = file.and_then(|file| file.set_len(size(&pages) / 2));
    cut.unwrap_or_else(|error| panic!("{name}: {error}"));
    checkpointed.is_refused(&short, &[&name]);
    // The original is unchanged.
    checkpointed
        .restore("cedana-runc", &checkpointed.images)
        .ok();
    checkpointed.is_restored_intact();
}

#[test]
fn a_checkpoint_of_another_format_or_architecture_is_refused_with_the_reason() {
    let checkpointed = Checkpointed::new("unfit", &[]);
    let change = |change: &dyn Fn(&mut Value)| {
        let changed = checkpointed.images.copy("changed");
        let mut manifest = changed.manifest();
        change(&mut manifest);
        fs::write(changed.file(MANIFEST), manifest.to_string()).expect("the copy's manifest");
        changed
    };
    let newer = change(&|manifest| manifest["format"] = 99.into());
    checkpointed.is_refused(&newer, &["format 99", "update"]);
    let elsewhere = change(&|manifest| manifest["machine"]["architecture"] = "riscv64".into());
    checkpointed.is_refused(&elsewhere, &["riscv64"]);
}

/// A file system that can't punch holes, unmounted when dropped.
struct WithoutHoles(Folder);

impl WithoutHoles {
    fn mount() -> Self {
        let folder = Folder::new("ramfs");
        command("mount", &["-t", "ramfs", "ramfs", &folder.text()]).ok();
        Self(folder)
    }
}

impl Drop for WithoutHoles {
    fn drop(&mut self) {
        command("umount", &[&self.0.text()]);
    }
}

#[test]
fn a_checkpoint_works_on_a_file_system_without_holes() {
    let container = Run::new("solid").workload(&["--memory", "64"]).detach();
    let before = container.report();
    let solid = WithoutHoles::mount();
    let work = Folder::new("work");
    let to = solid.0.file("images").display().to_string();
    let options = ["--root", "/run/containerd/runc/default", "checkpoint"];
    let paths = ["--image-path", &to, "--work-path", &work.text()];
    let flags = [&options[..], &paths, &["--leave-running", container.id()]].concat();
    let said = command("cedana-runc", &flags).ok();
    assert!(said.stderr.contains("cannot punch holes"), "{said}");
    container.report().continues(&before);
    let images = Folder(solid.0.file("images"));
    let names = images.names();
    assert!(
        !names.iter().any(|name| name == "pages-1.img"),
        "CRIU's uncompressed file is left: {names:?}"
    );
    // `unpack` reads and verifies every byte.
    let whole = work.file("whole").display().to_string();
    command("cedana-runc", &["unpack", &to, "--to", &whole]).ok();
}

#[test]
fn progress_is_written_to_the_descriptor_of_the_caller() {
    let container = Run::new("progress").workload(&["--memory", "64"]).detach();
    let images = Folder::new("images");
    let line = format!(
        "cedana-runc --root /run/containerd/runc/default checkpoint --leave-running \
         --image-path {0}/c --work-path {0} --progress-fd 3 {1} 3>{0}/progress",
        images.text(),
        container.id()
    );
    command("sh", &["-c", &line]).ok();
    let told = read(&images.file("progress"));
    let last = told.lines().last().map(json);
    let last = last.unwrap_or_else(|| panic!("no progress was written"));
    assert!(last["raw_bytes"].as_u64() > Some(64 << 20), "{told}");
    container.report().intact();
}
