//! References to the checkpoints in the node's store of memory.
//!
//! ```text
//! survey     looks where checkpoints can be: Docker's directories, containerd's content,
//!            the paths that they were written to
//!   ├─► collection   removes what nothing refers to
//!   ├─► one          whether a person may remove a checkpoint
//!   └─► found        for a catalogue that is made again
//! timer      the daemon's collections
//! ```
//!
//! A place that can't be looked at, such as a disk that is not mounted or a containerd that
//! does not answer, keeps its checkpoints. The commands `cedana store` do the same without
//! a daemon.

mod docker;
mod found;
mod one;
mod path;
mod subject;
mod survey;
pub(crate) mod timer;

use cedana_store::collect::{self, Report};
use cedana_store::{Error, Store};

pub use found::{default_places, find_checkpoints};
pub use one::{look_for, place};
use survey::Survey;

/// Removes what nothing refers to from the store with these settings.
///
/// # Errors
/// The store can't be read or changed.
pub async fn collect(settings: &cedana_config::Store, dry_run: bool) -> Result<Report, Error> {
    let store = Store::open(&settings.path)?;
    let options = collect::Options {
        grace: settings.grace,
        dry_run,
    };
    let (rows, known) = off_loop({
        let store = store.clone();
        move || {
            let mut catalogue = store.catalogue()?;
            Ok((catalogue.rows()?, catalogue.blobs()?))
        }
    })
    .await?;
    let mut survey = Survey::of(&rows, &known).await;
    off_loop(move || {
        if let (false, Some(blobs)) = (dry_run, survey.blobs()) {
            store.catalogue()?.set_blobs(blobs)?;
        }
        collect::collect(&store, &mut survey, options)
    })
    .await
}

/// Runs what waits for disks and other processes on a thread with low priority.
async fn off_loop<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let (send, receive) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("collection".to_owned());
    let started = thread.spawn(move || {
        crate::sys::lower_priority();
        // The receiver is gone when the program ends.
        let _ = send.send(run());
    });
    let failed = |source| Error::File {
        what: "start a thread for",
        path: "the collection".into(),
        source,
    };
    started.map_err(failed)?;
    let ended = receive.await;
    ended.unwrap_or_else(|_| Err(failed(std::io::Error::other("it has panicked"))))
}
