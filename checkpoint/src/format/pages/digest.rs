//! The digest of a frame.

/// What a frame's stored bytes are known by: the beginning of their BLAKE3. It
/// is to find damage and to be as good as collision-free; 128 bits are.
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
}
