//! The digest of a frame, and its comparison before the frame is used.

/// Digest of a frame's stored bytes: the first 128 bits of their BLAKE3, which is
/// enough to find damage and to be practically collision-free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub [u8; 16]);

impl Digest {
    /// The digest of a frame's stored bytes.
    #[must_use]
    pub fn of(stored: &[u8]) -> Self {
        let hash = blake3::hash(stored);
        let mut digest = [0; 16];
        digest.copy_from_slice(&hash.as_bytes()[..16]);
        Self(digest)
    }

    /// Whether `stored` has this digest.
    pub(super) fn matches(self, stored: &[u8]) -> bool {
        self == Self::of(stored)
    }
}
