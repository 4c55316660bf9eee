//! The size of frames, and the form in which they are stored.

/// Default number of raw bytes per frame. A larger frame compresses better, but a random
/// read decodes at least one frame.
pub const FRAME: u32 = 256 << 10;

/// Maximum number of raw bytes per frame. It limits a reader's memory, because a file,
/// which is untrusted, sets the number.
pub const MAX_FRAME: u32 = 16 << 20;

/// The form in which frames are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Uncompressed.
    None,
    /// As zstd frames.
    Zstd {
        /// zstd's level; a negative one is faster and compresses less.
        level: i32,
    },
}
