//! Progress of a checkpoint, for display.

/// A phase of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// CRIU is writing; the application is frozen.
    Dump,
    /// CRIU is done; the rest of its page images is being compressed.
    Compress,
    /// The checkpoint is being synced and published.
    Sync,
}

/// Progress within a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The current phase.
    pub phase: Phase,
    /// Bytes of memory that CRIU has written so far.
    pub raw: u64,
    /// Bytes of `raw` that have been read and stored.
    pub done: u64,
    /// Bytes that `done` takes as stored.
    pub stored: u64,
}

/// Callback for progress. Workers call it from any thread and wait for it, so it
/// must return at once.
pub type Observer = dyn Fn(Progress) + Send + Sync;
