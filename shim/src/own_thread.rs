//! Runs blocking file work beside the event loop.
//!
//! The shim has one thread, which answers State, Kill, Wait and Pids for all
//! containers of the pod. A read, write or mount that waits for a slow disk, or for a
//! FUSE or NFS server, must not delay these answers. So work on files outside of
//! /proc and /sys runs on a thread of its own.
//!
//! Each call starts a thread, which exits with its work. tokio's pool for blocking work
//! would keep its threads for ten seconds and a stack for each, and a node may run a
//! thousand shims. Starting a thread takes some ten microseconds; the runtime's
//! command that usually follows takes milliseconds.
//!
//! No command is started in such a thread if it is to live longer: the kernel sends
//! the signal of `die_with_parent` when the thread that started the command exits.

use tokio::sync::oneshot;

use crate::error::{Context, Error, Result};

/// Runs `work` on a new thread and waits for its result.
///
/// # Errors
/// Those of `work`; no thread can be started.
pub(crate) async fn on_new_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (done, result) = oneshot::channel();
    std::thread::Builder::new()
        .name("files".into())
        .spawn(move || drop(done.send(work())))
        .context(|| "start a thread")?;
    result
        .await
        .map_err(|_| Error::Runtime("a thread for file work exited without a result".into()))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, OpenOptions};
    use std::time::Duration;

    #[tokio::test(flavor = "current_thread")]
    async fn the_event_loop_goes_on_while_a_file_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let reader = fifo.clone();
        // Opening a fifo blocks until the other end is open.
        let read = tokio::spawn(on_new_thread(move || {
            fs::read_to_string(reader).context(|| "read")
        }));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(!read.is_finished());
        let mut writer = OpenOptions::new().write(true).open(&fifo).unwrap();
        std::io::Write::write_all(&mut writer, b"text").unwrap();
        drop(writer);
        assert_eq!(read.await.unwrap().unwrap(), "text");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn work_without_a_result_is_an_error() {
        let failed = on_new_thread::<()>(|| panic!("a test")).await;
        assert!(failed.unwrap_err().to_string().contains("without a result"));
    }
}
