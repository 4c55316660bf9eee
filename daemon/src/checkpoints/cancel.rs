//! Cancelling a call without leaving anything behind.
//!
//! The service cancels a call by dropping its future. What a call has begun in containerd
//! is undone by more calls, so the work itself runs in a task that is not dropped
//! ([`to_the_end`]). It sees the end of the future, and ends what it does. A call about a
//! container of runc is dropped, and a task undoes it.
//!
//! A daemon that ends cancels all calls, and waits until they are undone.

use std::future::Future;
use std::sync::LazyLock;

use tokio::sync::watch;

use crate::checkpoints::{Failure, Kind};

/// The number of calls that have not come to their end.
static RUNNING: LazyLock<watch::Sender<usize>> = LazyLock::new(|| watch::Sender::new(0));

/// Whether the daemon ends.
static STOPPING: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::Sender::new(false));

/// A call that the daemon waits for before it ends.
#[derive(Debug)]
pub(super) struct Running;

impl Running {
    pub(super) fn begin() -> Self {
        RUNNING.send_modify(|calls| *calls += 1);
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.send_modify(|calls| *calls -= 1);
    }
}

/// Cancels all calls, and those to come.
pub(crate) fn cancel_all() {
    STOPPING.send_replace(true);
}

/// Returns when all calls have come to their end. The daemon must not end before: a
/// container would stay frozen, or lose its bundle.
pub(crate) async fn all_ended() {
    // The sender is never dropped.
    let _ = RUNNING.subscribe().wait_for(|calls| *calls == 0).await;
}

/// Whether the call is cancelled: its caller has dropped it, or the daemon ends.
pub(super) struct Cancel(watch::Receiver<()>);

impl Cancel {
    /// # Errors
    /// The call is cancelled.
    pub(super) fn check(&self) -> Result<(), Failure> {
        match self.0.has_changed().is_err() || *STOPPING.borrow() {
            true => Err(cancelled()),
            false => Ok(()),
        }
    }

    /// Returns when the call is cancelled.
    pub(super) async fn happens(&self) {
        let mut alive = self.0.clone();
        let mut stopping = STOPPING.subscribe();
        let dropped = async { while alive.changed().await.is_ok() {} };
        tokio::select! {
            () = dropped => {}
            // The sender is never dropped.
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    }

    /// Returns the result of one call to containerd.
    ///
    /// The call is never dropped: containerd would go on with it in the shim, but remove
    /// the directory that the shim writes to.
    ///
    /// # Errors
    /// The call's, or it is cancelled. Then `meanwhile` has run beside the rest
    /// of the call.
    pub(super) async fn or<T>(
        &self,
        call: impl Future<Output = Result<T, Failure>>,
        meanwhile: impl Future<Output = ()>,
    ) -> Result<T, Failure> {
        tokio::pin!(call);
        tokio::select! {
            biased;
            result = &mut call => return result,
            () = self.happens() => {}
        }
        let _ = tokio::join!(call, meanwhile);
        Err(cancelled())
    }
}

/// Returns the result of a call. The call is dropped when the daemon ends.
pub(super) async fn until_stopped<T>(
    call: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut stopping = STOPPING.subscribe();
    tokio::select! {
        biased;
        // The sender is never dropped.
        _ = stopping.wait_for(|stopping| *stopping) => Err(cancelled()),
        result = call => result,
    }
}

pub(super) fn cancelled() -> Failure {
    Failure::new(Kind::Cancelled, "cancelled")
}

/// Does work that runs to its end even if this future is dropped.
pub(super) async fn to_the_end<T, F>(work: impl FnOnce(Cancel) -> F) -> Result<T, Failure>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Failure>> + Send + 'static,
{
    let (alive, cancel) = watch::channel(());
    let running = Running::begin();
    let work = work(Cancel(cancel));
    let result = tokio::spawn(async move {
        let _running = running;
        work.await
    });
    let result = result.await;
    drop(alive);
    result.unwrap_or_else(|error| {
        Err(Failure::new(
            Kind::System,
            format!("the call ended early: {error}; see the daemon's log"),
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn a_dropped_call_is_told_and_runs_to_its_end() {
        let (started, starts) = oneshot::channel();
        let (ended, ends) = oneshot::channel();
        let call = to_the_end(|cancel| async move {
            let _ = started.send(());
            let call = async {
                cancel.happens().await;
                Ok(1)
            };
            let result = cancel.or(call, async {}).await;
            let _ = ended.send(cancel.check().is_err());
            result
        });
        tokio::select! {
            biased;
            _ = call => panic!("it ended by itself"),
            started = starts => started.expect("started"),
        }
        assert!(ends.await.expect("ended"));
    }

    #[tokio::test]
    async fn a_call_that_is_not_dropped_has_a_result() {
        let result = to_the_end(|cancel| async move { cancel.or(async { Ok(7) }, async {}).await });
        assert_eq!(result.await, Ok(7));
    }
}
