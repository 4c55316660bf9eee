//! Lazy restore: a container runs while its memory is still on disk.
//!
//! CRIU restores everything but lazy pages. It registers their addresses with a
//! userfaultfd per process and sends the userfaultfds to the listener at
//! `lazy-pages.socket`, the page source.
//!
//! ```text
//! CRIU ── pid, userfaultfd ──► source ── epoll ── faults: decode the frame, give its pages
//!                                │                fork, remap, remove: follow
//!                                └── threads: decode and give the rest, frame by frame
//! ```
//!
//! The kernel lets a process continue as soon as its event (fork, unmap, remap,
//! remove) has been *read*. A page that is given according to the state before that
//! event is a wrong page. So each address space has a lock ([`space`]). Events are read, and the
//! map of missing pages ([`pending`]) is updated, with the lock held alone. Pages are
//! given with the lock held shared, each time after another look at the map. Decoding,
//! which takes long, happens without the lock.
//!
//! No byte is given before its frame's digest has been compared. A page that can't be
//! given is an error of [`Source::step`]. The container must not continue then: a page
//! that is missing when the descriptors close reads as zeros.
//!
//! The processes wait for the source; the source waits for the kernel only.
//! Prefetching threads wait for the disk and for work.

pub mod layout;
mod metrics;
mod pending;
mod prefetch;
mod protocol;
mod source;
mod space;
mod touches;
mod uffd;

pub use metrics::Metrics;
pub use protocol::ends_with_last_word;
pub use source::{Phase, Source};
pub use touches::{MAX_BYTES as MAX_TOUCHES_BYTES, Touches};
pub use uffd::{available, is_gone};

/// The name of the socket, in CRIU's working directory.
pub const SOCKET: &str = "lazy-pages.socket";

/// The reason that memory can't be given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The checkpoint is damaged, or can't be read.
    #[error(transparent)]
    Damage(#[from] crate::format::pages::Damage),
    /// A system call failed.
    #[error("cannot give a process its memory: {what}: {source}")]
    System {
        /// The operation.
        what: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
    /// The container's memory limit has no room, and the kernel makes none.
    #[error(
        "the container's memory limit leaves no room for the memory of its checkpoint; raise the limit"
    )]
    NoRoom,
    /// CRIU has exited without RSTF.
    #[error("CRIU ended before the restore was finished")]
    Unfinished,
    /// CRIU sent a process that the checkpoint does not have.
    #[error("CRIU asks for the memory of process {pid}, which is not in the checkpoint")]
    UnknownProcess {
        /// Its number in the checkpoint.
        pid: i32,
    },
}

impl Failure {
    fn system(what: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}
