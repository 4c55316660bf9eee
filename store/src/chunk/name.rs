//! Names of chunks, and digests of their pages.

use std::fmt;

use super::PAGE;

/// The BLAKE3 of a page.
pub type PageDigest = [u8; 32];

/// The name of a chunk: the BLAKE3 of its pages' digests, one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(pub [u8; 32]);

impl Name {
    /// The name of a chunk with these pages.
    #[must_use]
    pub fn of(pages: &[PageDigest]) -> Self {
        Self(*blake3::hash(pages.as_flattened()).as_bytes())
    }
}

/// The digests of a chunk's pages.
#[derive(Debug, Clone, Default)]
pub struct Pages(pub Vec<PageDigest>);

impl Pages {
    /// Computes them.
    ///
    /// # Panics
    /// The bytes are no whole pages.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut pages = Self::default();
        pages.set(bytes);
        pages
    }

    /// Computes them in place of others.
    ///
    /// # Panics
    /// The bytes are no whole pages.
    pub fn set(&mut self, bytes: &[u8]) {
        assert!(bytes.len().is_multiple_of(PAGE), "whole pages");
        let digests = bytes.chunks_exact(PAGE);
        self.0.clear();
        self.0
            .extend(digests.map(|page| *blake3::hash(page).as_bytes()));
    }

    /// The name of their chunk.
    #[must_use]
    pub fn name(&self) -> Name {
        Name::of(&self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
