//! Options of a capture, and the division of its memory.

use crate::format::pages::{Compression, FRAME};

use super::memory::Expected;

/// Options of a capture.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The form in which frames are stored.
    pub compression: Compression,
    /// Limit of the workers' buffers in bytes. There is always one worker with a
    /// buffer for one frame.
    pub memory: u64,
    /// Whether stored data is written to disk at once, because it will be synced. Page
    /// images in memory are large, so their stored data always is.
    pub flush: bool,
    /// The expected output of CRIU; `None` if unknown.
    pub expected: Option<Expected>,
}

/// Maximum length of a worker's piece in bytes: long enough that taking it and
/// punching its hole cost little, short enough that the last one is stored quickly.
const PIECE: u64 = 2 << 20;

/// Number of pieces per worker that may be in memory. Pieces take different times,
/// and a worker that is not scheduled delays the writing of later pieces.
const AHEAD: usize = 8;

/// The division of the memory setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) workers: usize,
    /// Maximum number of raw bytes of a piece. Frames are not split.
    pub(super) piece: u64,
    /// Maximum number of pieces that are being stored or wait for their turn.
    pub(super) in_memory: usize,
}

impl Share {
    /// Divides the memory setting. A worker holds one raw piece, and each piece in
    /// memory has a stored form, which may be as long.
    pub(super) fn of(memory: u64, cores: usize) -> Self {
        let frame = u64::from(FRAME);
        let frames = memory / frame;
        let workers = usize::try_from(frames / 2).unwrap_or(cores).clamp(1, cores);
        let piece = (frames / (2 * workers as u64)).clamp(1, PIECE / frame) * frame;
        let pieces = usize::try_from(memory / piece).unwrap_or(usize::MAX);
        Self {
            workers,
            piece,
            in_memory: (pieces - workers.min(pieces)).clamp(workers, AHEAD * workers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_setting_is_divided() {
        let frame = u64::from(FRAME);
        let share = |memory, cores| {
            let share = Share::of(memory, cores);
            (share.workers, share.piece, share.in_memory)
        };
        assert_eq!(share(0, 4), (1, frame, 1));
        assert_eq!(share(2 * frame, 4), (1, frame, 1));
        assert_eq!(share(8 * frame, 2), (2, 2 * frame, 2));
        assert_eq!(share(128 << 20, 2), (2, PIECE, 16));
        assert_eq!(share(1 << 40, 64), (64, PIECE, 512));
        for (memory, cores) in [(5 * frame, 3), (100 * frame, 7), (63 * frame, 64)] {
            let (workers, piece, in_memory) = share(memory, cores);
            assert!((workers + in_memory) as u64 * piece <= memory);
            assert!(in_memory >= workers && piece.is_multiple_of(frame));
        }
    }
}
