//! Lazy restore: a container runs while its memory is still on disk.
//!
//! CRIU restores everything but the pages that it may leave for later, registers
//! their addresses with a userfaultfd per process, and hands those to whoever
//! listens at `lazy-pages.socket`: to us.
//!
//! ```text
//! CRIU ── pid, userfaultfd ──► source ── epoll ── faults: decode the frame, give its pages
//!                                │                fork, remap, remove: follow
//!                                └── threads: decode and give the rest, frame by frame
//! ```
//!
//! The kernel lets a process go on as soon as its event (fork, unmap, remap,
//! remove) has been *read*. Whoever then gives it a page on the strength of what
//! was known before gives it a wrong one. So each address space has a gate
//! ([`space`]): events are read, and what is missing ([`pending`]) is brought up
//! to date, with the gate closed; pages are given with it open, each time after
//! another look at what is still missing. Decoding, which takes long, happens
//! outside.
//!
//! No byte is given before its frame's digest has been compared. What can't be
//! given is an error of [`Source::step`], and from then on the container must
//! not go on: a page that is missing when the descriptors close reads as zeros.
//!
//! Who waits for whom: the processes wait for the source; the source waits for
//! nobody but the kernel. Prefetching threads wait for the disk and for work.

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

/// Why memory can't be given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The checkpoint is damaged, or can't be read.
    #[error(transparent)]
    Damage(#[from] crate::format::pages::Damage),
    /// The kernel refuses.
    #[error("cannot give a process its memory: {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no room within the container's limit, and none is made.
    #[error(
        "the container's memory limit leaves no room for the memory of its checkpoint; raise the limit"
    )]
    NoRoom,
    /// CRIU is gone, and hasn't said that it is done.
    #[error("CRIU ended before the restore was finished")]
    Unfinished,
    /// CRIU asks for what is not there.
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
