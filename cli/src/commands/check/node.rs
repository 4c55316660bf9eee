//! What Cedana itself has on this machine: settings, key, directories, daemon.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use cedana_api::places::STATE_DIR;
use cedana_api::v1::GetInfoRequest;
use cedana_checkpoint::format::manifest::{Key, KeyError};
use cedana_config::{Accept, DEFAULT_PATH};
use cedana_contract::files::KEY;
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};
use tokio::time::timeout;

use super::finding::Finding;
use super::program::PATIENCE;
use super::{Context, Machine};
use crate::error::Error;
use crate::output::units;

pub(super) fn settings(machine: &Machine) -> Finding {
    const CHECK: &str = "settings";
    match &machine.config {
        Ok(_) if Path::new(DEFAULT_PATH).exists() => Finding::fit(CHECK, DEFAULT_PATH),
        Ok(_) => Finding::fit(CHECK, format!("the defaults: there is no {DEFAULT_PATH}")),
        Err(error) => Finding::missing(CHECK, error, "correct it, and see `cedana config show`"),
    }
    .needed_for("every command")
}

pub(super) fn key(machine: &Machine) -> Finding {
    const CHECK: &str = "key";
    const MAKE: &str = "run `make install` in the sources of Cedana, which makes one";
    if !machine.is_root {
        return Finding::hidden(CHECK);
    }
    let is_required = machine.config().restore.accept == Accept::Signed;
    match Key::read(Path::new(KEY)) {
        Ok(Some(_)) => Finding::fit(CHECK, KEY),
        Ok(None) if is_required => Finding::missing(
            CHECK,
            format!("there is no {KEY}, and the setting restore.accept is \"signed\""),
            MAKE,
        ),
        Ok(None) => Finding::lesser(
            CHECK,
            format!("there is no {KEY}; checkpoints are not signed"),
            MAKE,
        ),
        Err(KeyError::Shared { path }) => Finding::missing(
            CHECK,
            format!("others than root may read {}", path.display()),
            format!("chown root {0} && chmod 600 {0}", path.display()),
        ),
        Err(KeyError::Malformed { path }) => Finding::missing(
            CHECK,
            format!("{} has no 64 hexadecimal digits", path.display()),
            format!("restore it from a backup, or remove it and {MAKE}"),
        ),
        Err(error) => Finding::missing(CHECK, error.to_string(), "check the file and its disk"),
    }
    .needed_for("signed checkpoints")
}

/// Less than this is hardly enough for one checkpoint.
const LITTLE: u64 = 1 << 30;

/// The room of the daemon's own directory, and of that for dumps without `-d`.
pub(super) fn room(machine: &Machine) -> Vec<Finding> {
    let own = Path::new(STATE_DIR).join("checkpoints");
    // The daemon makes it when it is needed.
    let mut findings = vec![free("room", &own, &existing(&own)).needed_for("checkpoints of jobs")];
    let config = machine.config();
    let directory = machine.directory.clone();
    if let Some(path) = directory.or(config.shared_storage.dump_storage_dir) {
        findings.push(of_dumps(&path).needed_for("checkpoints"));
    }
    findings
}

fn of_dumps(path: &Path) -> Finding {
    const CHECK: &str = "dump-directory";
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => Finding::missing(
            CHECK,
            format!("{} is not a directory", path.display()),
            "name another one, with -d or in the setting shared_storage.dump_storage_dir",
        ),
        Ok(_) => match access(path, AccessFlags::W_OK | AccessFlags::X_OK) {
            Ok(()) => free(CHECK, path, path),
            Err(error) => Finding::missing(
                CHECK,
                format!("you can't write to {}: {}", path.display(), error.desc()),
                "name another one, or change its permissions",
            ),
        },
        Err(error) => Finding::missing(
            CHECK,
            format!("{}: {error}", path.display()),
            match error.kind() {
                ErrorKind::NotFound => format!("mkdir -p {}", path.display()),
                _ => "name another one, or change its permissions".to_owned(),
            },
        ),
    }
}

/// The nearest directory that exists, as far as this user sees.
fn existing(path: &Path) -> PathBuf {
    let mut nearest = path.ancestors().filter(|path| statvfs(*path).is_ok());
    nearest.next().unwrap_or(Path::new("/")).to_owned()
}

fn free(check: &'static str, path: &Path, measured: &Path) -> Finding {
    match statvfs(measured) {
        Ok(stat) => {
            let free = stat.blocks_available().saturating_mul(stat.fragment_size());
            let found = format!("{} free for {}", units::size(free), path.display());
            match free < LITTLE {
                true => Finding::lesser(
                    check,
                    found,
                    "a checkpoint may take as much as the memory of its processes; free room, or use another disk",
                ),
                false => Finding::fit(check, found),
            }
        }
        Err(error) => Finding::missing(
            check,
            format!(
                "the room in {} is unknown: {}",
                path.display(),
                error.desc()
            ),
            "check the directory and its disk",
        ),
    }
}

pub(super) async fn daemon(context: &Context) -> Finding {
    const CHECK: &str = "daemon";
    let asked = timeout(PATIENCE, async {
        let daemon = context.daemon().await?;
        let info = daemon.daemon().get_info(GetInfoRequest {}).await?;
        Ok::<_, Error>(info.into_inner())
    });
    let start = "start it: sudo systemctl start cedana, or sudo cedana daemon start";
    match asked.await {
        Ok(Ok(info)) => {
            let found = format!("{} runs as process {}", info.version, info.pid);
            match info.version == env!("CARGO_PKG_VERSION") {
                true => Finding::fit(CHECK, found),
                false => Finding::lesser(
                    CHECK,
                    format!("{found}, and this command is {}", env!("CARGO_PKG_VERSION")),
                    "restart the daemon: sudo systemctl restart cedana; jobs go on",
                ),
            }
        }
        Ok(Err(Error::NoDaemon { address, reason })) => Finding::missing(
            CHECK,
            format!("does not answer at {address}: {reason}"),
            start,
        ),
        Ok(Err(Error::NotAllowed(socket))) => Finding::missing(
            CHECK,
            format!("you may not use {}", socket.display()),
            "sudo usermod -aG cedana $USER, and log in again",
        ),
        Ok(Err(error)) => Finding::missing(CHECK, error.to_string(), start),
        Err(_) => Finding::missing(
            CHECK,
            format!("gives no answer in {} s", PATIENCE.as_secs()),
            "see its log: journalctl -u cedana",
        ),
    }
    .needed_for("jobs, and cedana dump and restore")
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn a_directory_for_dumps_exists_and_has_room() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_ne!(of_dumps(dir.path()).verdict, Verdict::Missing);
        let missing = of_dumps(&dir.path().join("no"));
        assert_eq!(missing.verdict, Verdict::Missing);
        assert!(
            missing.remedy.starts_with("mkdir -p /"),
            "{}",
            missing.remedy
        );
        let file = dir.path().join("file");
        fs::write(&file, "").expect("written");
        assert!(of_dumps(&file).found.contains("not a directory"));
        assert_eq!(existing(&dir.path().join("a/b/c")), dir.path());
    }
}
