//! How far a checkpoint is, for whoever wants to show it.

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// CRIU is writing, and the application stands still.
    Dump,
    /// CRIU is done; what it wrote is being compressed.
    Compress,
    /// Everything is being brought to disk and to its place.
    Sync,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is going on.
    pub phase: Phase,
    /// Bytes of memory that CRIU has written so far.
    pub raw: u64,
    /// How many of them have been read and stored.
    pub done: u64,
    /// Bytes that those take as stored.
    pub stored: u64,
}

/// Is told now and then, from any thread, and must return at once: a thread
/// that tells does nothing else meanwhile.
pub type Observer = dyn Fn(Progress) + Send + Sync;
