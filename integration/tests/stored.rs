//! What a checkpoint is on disk: compressed, described, verified before it is
//! used, and no prison.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cedana_integration::protos::shim::oci::CheckpointOptions;
use cedana_integration::{Container, Output, Report, Run, command, eventually, unique};
use serde_json::Value;

const MANIFEST: &str = "cedana-manifest.json";

/// A folder that goes with its story.
struct Folder(PathBuf);

impl Folder {
    fn new(label: &str) -> Self {
        let path = Path::new("/var/tmp/cedana-tests").join(unique(label));
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn text(&self) -> String {
        self.0.display().to_string()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap_or_else(|e| panic!("{}: {e}", self.text()));
        let mut names: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect();
        names.sort();
        names
    }

    /// The page file that takes the most room.
    fn largest_pages(&self) -> PathBuf {
        let pages = self.names().into_iter();
        pages
            .filter(|name| name.starts_with("pages-") && name.ends_with(".img.zst"))
            .map(|name| self.file(&name))
            .max_by_key(|path| size(path))
            .unwrap_or_else(|| panic!("no page file: {:?}", self.names()))
    }

    fn manifest(&self) -> Value {
        json(&read(&self.file(MANIFEST)))
    }

    fn copy(&self, label: &str) -> Self {
        let copy = Self::new(label);
        let from = format!("{}/.", self.text());
        command("cp", &["-a", &from, &copy.text()]).ok();
        copy
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn size(path: &Path) -> u64 {
    path.metadata().map_or(0, |meta| meta.len())
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Changes one bit in the middle of a file.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// A container that has been checkpointed and killed, and what is needed to
/// bring it back without an engine: by a runtime alone.
struct Frozen {
    container: Container,
    before: Report,
    images: Folder,
    bundle: Folder,
    id: String,
}

/// Where the runtimes keep their state here.
const ROOT: &str = "/run/cedana-stored";

impl Frozen {
    /// Lets a workload with enough memory to tell be checkpointed.
    fn new(label: &str, flags: &[&str]) -> Self {
        let run = Run::new(label).flags(flags);
        let workload = [
            "--memory",
            "64",
            "--children",
            "2",
            "--unix",
            "--file",
            "/f",
        ];
        let container = run.workload(&workload).detach();
        let before = container.report();
        let images = Folder::new("images");
        let answer = container
            .task()
            .checkpoint(&images.0, Some(CheckpointOptions::default()));
        answer.unwrap_or_else(|refused| panic!("{refused}"));
        container.report().continues(&before);
        let id = unique("alone");
        let bundle = Folder::new("bundle");
        container.kill("SIGKILL");
        container.stopped();
        command("ip", &["netns", "add", &id]).ok();
        let frozen = Self {
            container,
            before,
            images,
            bundle,
            id,
        };
        frozen.furnish();
        frozen
    }

    /// The container's bundle, with its root where the engine still has it.
    fn furnish(&self) {
        let engines = format!(
            "/run/containerd/io.containerd.runtime.v2.task/default/{}",
            self.container.id()
        );
        let mut spec = json(&read(&Path::new(&engines).join("config.json")));
        spec["root"]["path"] = format!("{engines}/rootfs").into();
        let namespaces = spec["linux"]["namespaces"].as_array_mut();
        for namespace in namespaces.into_iter().flatten() {
            if namespace["type"] == "network" {
                namespace["path"] = format!("/run/netns/{}", self.id).into();
            }
        }
        let config = self.bundle.file("config.json");
        fs::write(config, spec.to_string()).unwrap_or_else(|error| panic!("{error}"));
    }

    /// `PROGRAM restore`, detached; its words.
    fn restore(&self, program: &str, images: &Folder) -> Output {
        let said = self.bundle.file("said");
        // A container keeps its streams open, so they can't be pipes to us.
        let line = format!(
            "{program} --root {ROOT} restore --detach --bundle {bundle} --work-path {bundle} \
             --image-path {images} --pid-file {bundle}/pid {id} </dev/null >{said} 2>&1",
            bundle = self.bundle.text(),
            images = images.text(),
            id = self.id,
            said = said.display(),
        );
        let mut output = command("sh", &["-c", &line]);
        output.stderr = read(&said);
        output
    }

    /// It came back as it was; ends it again.
    #[track_caller]
    fn goes_on(&self) {
        let pid = read(&self.bundle.file("pid"));
        self.container
            .report_after("workload", || {
                command("kill", &["-USR1", pid.trim()]).ok();
            })
            .continues(&self.before);
        self.end();
        eventually("it has ended", || {
            match Path::new("/proc").join(pid.trim()).exists() {
                true => Err("it is still there".to_owned()),
                false => Ok(()),
            }
        });
    }

    fn end(&self) {
        command("runc", &["--root", ROOT, "delete", "--force", &self.id]);
    }

    /// The restore fails, says all of `words`, and leaves nothing running.
    #[track_caller]
    fn is_refused(&self, images: &Folder, words: &[&str]) {
        let output = self.restore("cedana-runc", images);
        assert_ne!(output.code, 0, "restored from a bad checkpoint: {output}");
        for word in words {
            assert!(output.stderr.contains(word), "{word:?} is not in: {output}");
        }
        let left = command("runc", &["--root", ROOT, "list", "--quiet"]).ok();
        assert!(!left.stdout.contains(&self.id), "left: {left}");
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.end();
        command("ip", &["netns", "delete", &self.id]);
    }
}

#[test]
fn a_checkpoint_is_compressed_flat_private_and_described() {
    let frozen = Frozen::new("described", &[]);
    let mut stored = 0;
    for name in frozen.images.names() {
        let meta = fs::symlink_metadata(frozen.images.file(&name)).expect("it was listed");
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
    let manifest = frozen.images.manifest();
    assert_eq!(manifest["format"], 1);
    let cost = &manifest["cost"];
    let raw = cost["raw_bytes"].as_u64().unwrap_or_default();
    assert!(
        raw > 64 << 20,
        "64 MiB of memory are in {raw} bytes: {cost}"
    );
    assert!(cost["frozen_us"].as_u64().unwrap_or_default() > 0, "{cost}");
    assert!(stored < raw + (1 << 20), "{stored} bytes of {raw}");

    let said = command("cedana-runc", &["inspect", "--json", &frozen.images.text()]).ok();
    let seen = json(&said.stdout);
    let processes = seen["processes"].as_array().map_or(0, Vec::len);
    assert!(processes > 2, "the workload and its children: {processes}");
    let said = command("cedana-runc", &["inspect", &frozen.images.text()]).ok();
    assert!(said.stdout.contains("workload"), "{said}");

    assert_eq!(frozen.restore("cedana-runc", &frozen.images).ok().code, 0);
    frozen.goes_on();
}

#[test]
fn it_turns_back_into_one_that_stock_runc_restores() {
    let frozen = Frozen::new("unpacked", &[]);
    let stock = Folder::new("stock");
    let to = stock.file("images");
    let (from, to) = (frozen.images.text(), to.display().to_string());
    command("cedana-runc", &["unpack", &from, "--to", &to]).ok();
    let unpacked = Folder(stock.file("images"));
    let names = unpacked.names();
    assert!(
        !names.iter().any(|n| n == MANIFEST || n.ends_with(".zst")),
        "{names:?}"
    );
    frozen.restore("runc", &unpacked).ok();
    frozen.goes_on();
    // And ours restores what has no manifest.
    frozen.restore("cedana-runc", &unpacked).ok();
    frozen.goes_on();
    // In place, too.
    command("cedana-runc", &["unpack", &from]).ok();
    frozen.restore("runc", &frozen.images).ok();
    frozen.goes_on();
}

#[test]
fn compression_can_be_turned_off() {
    let flags = ["--annotation", "io.cedana.checkpoint.compression=none"];
    let frozen = Frozen::new("plain", &flags);
    let names = frozen.images.names();
    assert!(
        !names.iter().any(|name| name.ends_with(".zst")),
        "{names:?}"
    );
    assert_eq!(frozen.images.manifest()["format"], 1);
    frozen.restore("cedana-runc", &frozen.images).ok();
    frozen.goes_on();
    frozen.restore("runc", &frozen.images).ok();
    frozen.goes_on();
}

#[test]
fn a_flipped_bit_is_found_and_named() {
    let frozen = Frozen::new("flipped", &[]);
    let pages = frozen.images.largest_pages();
    let name = pages
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_default();
    for name in [&name, "pstree.img"] {
        let damaged = frozen.images.copy("damaged");
        flip(&damaged.file(name));
        frozen.is_refused(&damaged, &[name]);
    }
    let short = frozen.images.copy("short");
    let file = fs::File::options().write(true).open(short.file(&name));
    let cut = file.and_then(|file| file.set_len(size(&pages) / 2));
    cut.unwrap_or_else(|error| panic!("{name}: {error}"));
    frozen.is_refused(&short, &[&name]);
    // None of it has hurt the original.
    frozen.restore("cedana-runc", &frozen.images).ok();
    frozen.goes_on();
}

#[test]
fn what_this_machine_cannot_run_is_refused_with_the_reason() {
    let frozen = Frozen::new("unfit", &[]);
    let change = |change: &dyn Fn(&mut Value)| {
        let changed = frozen.images.copy("changed");
        let mut manifest = changed.manifest();
        change(&mut manifest);
        fs::write(changed.file(MANIFEST), manifest.to_string()).expect("it is our copy");
        changed
    };
    let newer = change(&|manifest| manifest["format"] = 99.into());
    frozen.is_refused(&newer, &["format 99", "update"]);
    let elsewhere = change(&|manifest| manifest["machine"]["architecture"] = "riscv64".into());
    frozen.is_refused(&elsewhere, &["riscv64"]);
}

/// A file system that can't punch holes, for as long as this lives.
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
fn a_file_system_that_cannot_punch_holes_will_do() {
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
        "CRIU's own file is still there: {names:?}"
    );
    // Reads and checks every byte of it.
    let whole = work.file("whole").display().to_string();
    command("cedana-runc", &["unpack", &to, "--to", &whole]).ok();
}

#[test]
fn progress_is_told_to_whom_it_may_concern() {
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
    let last = last.unwrap_or_else(|| panic!("nothing was told"));
    assert!(last["raw_bytes"].as_u64() > Some(64 << 20), "{told}");
    container.report().intact();
}
