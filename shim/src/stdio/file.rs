//! Copies output into a regular file (`file:///path`), and from a terminal into a
//! logger's pipe. The shim crate lacks these copies.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use log::warn;
use tokio::{
    fs::OpenOptions,
    io::{AsyncRead, AsyncWrite},
    task::JoinHandle,
};

use crate::error::{Context, Result, at};

/// The time limit for a deleted process's remaining output, the same as for fifos.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Copies that end with their source.
#[derive(Default)]
pub(super) struct FileCopies(Mutex<Vec<JoinHandle<()>>>);

impl FileCopies {
    /// Appends everything from `sources` to the file at `path`, which is created,
    /// with its directories, if it is missing. The blocking pool writes, so a slow
    /// disk delays no other container.
    ///
    /// # Errors
    /// When the file can't be opened.
    pub(super) async fn copy<R>(
        &self,
        sources: impl IntoIterator<Item = R>,
        path: &Path,
    ) -> Result<()>
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        if let Some(folder) = path.parent() {
            tokio::fs::create_dir_all(folder)
                .await
                .context(|| at("create", folder))?;
        }
        for from in sources {
            let file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o644)
                .open(path)
                .await
                .context(|| at("open", path))?;
            self.copy_into(from, file);
        }
        Ok(())
    }

    /// Copies `from` into `to` until either ends.
    pub(super) fn copy_into<R, W>(&self, mut from: R, mut to: W)
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let copy = tokio::spawn(async move {
            let copied = tokio::io::copy(&mut from, &mut to).await;
            if let Err(e) = copied {
                warn!("output is no longer written: {e}");
                // Reads on, because the process must not block on a full pipe.
                let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
            }
        });
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(copy);
    }

    /// Waits for the copies to end, for `DRAIN_TIMEOUT` at most.
    pub(super) async fn finish(self) {
        let copies = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let deadline = tokio::time::Instant::now() + DRAIN_TIMEOUT;
        for mut copy in copies {
            if tokio::time::timeout_at(deadline, &mut copy).await.is_err() {
                warn!("output did not end within {DRAIN_TIMEOUT:?}; the rest is dropped");
                copy.abort();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn both_streams_are_appended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/folder/log");
        let copies = FileCopies::default();
        copies
            .copy([&b"one\n"[..], &b"two\n"[..]], &path)
            .await
            .unwrap();
        copies.finish().await;
        let mut lines: Vec<_> = std::fs::read_to_string(&path)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect();
        lines.sort();
        assert_eq!(lines, ["one", "two"]);
    }
}
