//! The directories in which runtimes keep their containers.
//!
//! ```text
//! runc, by itself                 /run/runc/ID
//! containerd, and cedana's shim   /run/containerd/runc/NAMESPACE/ID
//! Docker, a runtime by path       /run/docker/runtime-NAME/NAMESPACE/ID
//! ```
//!
//! Docker's own runc is one by path, also if daemon.json does not name it
//! (moby, daemon/runtime_unix.go). A runtime by type has containerd's directory.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Container, Failure, Kind};

/// runc's own directory, in which a restored container is by default.
pub(super) const RUNC: &str = "/run/runc";

/// Docker's containers, by ID.
const DOCKER: &str = "/var/lib/docker/containers";

/// The directory of a container, of runc or crun.
///
/// # Errors
/// It is in none, or in several.
pub(super) fn find(container: &Container) -> Result<PathBuf, Failure> {
    let roots = match &container.root {
        Some(root) => vec![root.clone()],
        None => known(Path::new("/run")),
    };
    let has = |root: &PathBuf| exists(root, &container.id);
    let found: Vec<PathBuf> = roots.iter().filter(|root| has(root)).cloned().collect();
    match found.as_slice() {
        [root] => Ok(root.clone()),
        [] => Err(Failure::new(
            Kind::NotFound,
            format!(
                "there is no container {} in {}{}",
                container.id,
                list(&roots),
                advice(container)
            ),
        )),
        several => Err(Failure::new(
            Kind::Invalid,
            format!(
                "there are containers {} in {}; choose one with --root",
                container.id,
                list(several)
            ),
        )),
    }
}

/// Whether a runtime has a record of the container in this directory.
pub(super) fn exists(root: &Path, id: &str) -> bool {
    let dir = root.join(id);
    // runc's record, or crun's.
    dir.join("state.json").exists() || dir.join("status").exists()
}

/// The known directories below /run that exist, and runc's own.
fn known(run: &Path) -> Vec<PathBuf> {
    let mut roots = vec![run.join("runc"), run.join("crun")];
    roots.extend(subdirectories(&run.join("containerd/runc")));
    for runtime in subdirectories(&run.join("docker")) {
        let name = runtime.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("runtime-") {
            roots.extend(subdirectories(&runtime));
        }
    }
    roots.retain(|root| root.is_dir());
    if roots.is_empty() {
        roots.push(run.join("runc"));
    }
    roots
}

fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    found.retain(|path| path.is_dir());
    found.sort();
    found
}

fn list(roots: &[PathBuf]) -> String {
    let shown: Vec<String> = roots
        .iter()
        .map(|root| root.display().to_string())
        .collect();
    shown.join(", ")
}

/// What to do about an ID that no runtime knows.
fn advice(container: &Container) -> String {
    let id = &container.id;
    if container.root.is_some() {
        return "; leave --root out to search the known directories".to_owned();
    }
    let entries = fs::read_dir(DOCKER).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names = names.peekable();
    if names.peek().is_none() {
        return "; name another directory with --root, or see `runc list`".to_owned();
    }
    if names.any(|name| name == *id) {
        return "; Docker has it, but it does not run".to_owned();
    }
    format!(
        "; if it is the name or the beginning of the ID of a container of Docker, take the whole ID: docker inspect --format '{{{{.Id}}}}' {id}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, root: Option<&Path>) -> Container {
        Container {
            id: id.to_owned(),
            root: root.map(Path::to_owned),
        }
    }

    #[test]
    fn a_container_is_in_one_directory() {
        let run = tempfile::tempdir().expect("tempdir");
        let make = |path: &str| {
            let dir = run.path().join(path);
            fs::create_dir_all(&dir).expect("mkdir");
            fs::write(dir.join("state.json"), "{}").expect("write");
        };
        for path in [
            "runc/one",
            "containerd/runc/moby/two",
            "docker/runtime-runc/moby/three",
            "docker/netns/moby/none",
        ] {
            make(path);
        }
        let roots = known(run.path());
        let names = |id: &str| roots.iter().filter(|root| exists(root, id)).count();
        assert_eq!(["one", "two", "three", "none"].map(names), [1, 1, 1, 0]);
        let root = run.path().join("runc");
        assert_eq!(find(&container("one", Some(&root))), Ok(root.clone()));
        let missing = find(&container("two", Some(&root))).expect_err("elsewhere");
        assert_eq!(missing.kind, Kind::NotFound);
        assert!(missing.text.contains("--root"), "{missing}");
    }
}
