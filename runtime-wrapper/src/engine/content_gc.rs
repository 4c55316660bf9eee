//! Waits until containerd has garbage-collected the container's previous checkpoint.
//!
//! With every checkpoint that it packs, containerd stores the container's spec. Docker
//! drops both at once, and containerd's garbage collection removes them a quarter of a
//! second or more after the previous collection. Until then, containerd before 2.0
//! refuses to store the same spec again ("content sha256:... already exists",
//! `services/tasks/local.go`, `writeContent`). It refuses after the second checkpoint
//! was taken, so a container that the checkpoint ended would be lost. So Docker's
//! checkpoints wait for the collection before CRIU starts. The container stands still
//! meanwhile if its client has paused it, as containerd's client does.
//!
//! With containerd 2 they don't wait: the shim knows its version. Other clients keep
//! their checkpoints, so theirs don't wait either.

use std::env;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cedana_contract::variables;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use sha2::{Digest, Sha256};

use crate::cli::Request;
use crate::engine::checkpoint_dir;
use crate::engine::docker;
use crate::host::child::Signals;
use crate::oci::state::Container;

/// The longest wait. Collections are 49 times as far apart as they take, and at least
/// 245 ms (`gc/scheduler`, `pause_threshold`); one of 200 ms would be very long.
const PATIENCE: Duration = Duration::from_secs(10);

/// The type of a spec as containerd stores it (`typeurl`).
const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// Returns once containerd can store the spec of a container that Docker checkpoints,
/// or after [`PATIENCE`].
///
/// # Errors
/// A signal arrived ([`io::ErrorKind::Interrupted`]), or the file can't be watched.
pub(crate) fn wait(request: &Request, container: &Container, signals: &Signals) -> io::Result<()> {
    let is_needed = env::var_os(variables::CONTAINERD_2).is_none()
        && docker::is_caller(request)
        && checkpoint_dir::is_packed(request);
    if !is_needed {
        return Ok(());
    }
    match container.config.as_deref().and_then(blob) {
        Some(blob) => wait_for_removal(&blob, PATIENCE, signals),
        None => Ok(()),
    }
}

/// The file in containerd's content store that holds the spec in `config`. The
/// bundle's `work` links to `<root>/io.containerd.runtime.v2.task/<namespace>/<id>`.
fn blob(config: &Path) -> Option<PathBuf> {
    let work = fs::read_link(config.parent()?.join("work")).ok()?;
    let spec = fs::read(config).ok()?;
    let digest = Sha256::digest(any(SPEC, &spec));
    let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(
        work.ancestors()
            .nth(3)?
            .join("io.containerd.content.v1.content/blobs/sha256")
            .join(name),
    )
}

/// A `google.protobuf.Any`: two length-delimited fields.
fn any(url: &str, value: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(url.len() + value.len() + 16);
    for (tag, bytes) in [(0x0a, url.as_bytes()), (0x12, value)] {
        message.push(tag);
        let mut length = bytes.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(bytes);
    }
    message
}

fn wait_for_removal(file: &Path, patience: Duration, signals: &Signals) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    // For a file that is open, inotify reports the removal as a change of its links.
    let removal = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_ATTRIB;
    match inotify.add_watch(file, removal) {
        Err(Errno::ENOENT) => return Ok(()),
        watched => watched?,
    };
    while file.try_exists()? {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut ready = [
            PollFd::new(inotify.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(
            &mut ready,
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
        ) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if ready[1].any().unwrap_or(false) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match inotify.read_events() {
            Ok(_) | Err(Errno::EAGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn the_blob_has_containerds_name() {
        let dir = tempfile::tempdir().expect("tempdir");
        let root = dir.path().join("root");
        symlink(
            root.join("io.containerd.runtime.v2.task/moby/id"),
            dir.path().join("work"),
        )
        .expect("symlink");
        let config = dir.path().join("config.json");
        fs::write(&config, "x".repeat(300)).expect("write");
        // printf '\x0a\x36types...Spec\x12\xac\x02xxx...' | sha256sum
        assert_eq!(
            blob(&config),
            Some(
                root.join("io.containerd.content.v1.content/blobs/sha256")
                    .join("90720c6cc171c627cedb0bdedabaee20da6d65cbf80bf96394765e0745848a45")
            )
        );
    }

    #[test]
    fn a_removal_ends_the_wait() {
        let signals = Signals::block().expect("signals");
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("blob");
        wait_for_removal(&file, LONG, &signals).expect("no file");
        let open = File::create(&file).expect("create");
        let removed = thread::scope(|scope| {
            let waiting = scope.spawn(|| wait_for_removal(&file, LONG, &signals));
            fs::remove_file(&file).expect("remove");
            waiting.join().expect("join")
        });
        removed.expect("removed");
        drop(open);
    }

    #[test]
    fn the_wait_ends_after_a_time_out() {
        let signals = Signals::block().expect("signals");
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("blob");
        File::create(&file).expect("create");
        wait_for_removal(&file, Duration::from_millis(1), &signals).expect("time-out");
        assert!(file.exists());
    }
}
