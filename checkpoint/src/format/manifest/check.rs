//! Checks of a manifest's entries.

use std::collections::BTreeSet;

use crate::format::pages::{MAX_FRAME, MAX_FRAMES};
use crate::format::streams;

use super::schema::{Entry, Kind, Manifest, NAME, PARENT};

impl Entry {
    fn check(&self) -> Result<(), String> {
        let name = &self.name;
        let wrong = |what: &str| Err(format!("file {name:?}: {what}"));
        if name.is_empty()
            || name.len() > 255
            || name.contains(['/', '\0'])
            || matches!(name.as_str(), "." | ".." | NAME | PARENT)
        {
            return wrong("not a valid file name");
        }
        if self.hash().is_none() {
            return wrong("invalid digest");
        }
        if (self.kind == Kind::Streams) != (name == streams::NAME) {
            return wrong("not the name of a file of this kind");
        }
        match (self.kind, &self.pages) {
            (Kind::Pages | Kind::Plain, Some(pages)) => {
                if !is_pages(self.raw_name())
                    || (self.kind == Kind::Pages) != name.ends_with(".zst")
                {
                    return wrong("not the name of a page file");
                }
                if pages.frame_size == 0
                    || pages.frame_size > MAX_FRAME
                    || !pages.frame_size.is_multiple_of(4096)
                {
                    return wrong("invalid frame size");
                }
                if pages.frames != pages.raw_size.div_ceil(u64::from(pages.frame_size)) {
                    return wrong("the number of frames does not match the size");
                }
                if self.kind == Kind::Plain && pages.raw_size != self.size {
                    return wrong("its raw size differs from its size");
                }
                Ok(())
            }
            (Kind::Pages | Kind::Plain, None) => wrong("a page file without frames"),
            (_, Some(_)) => wrong("frames in a file that is not a page file"),
            (_, None) => Ok(()),
        }
    }
}

impl Manifest {
    /// Checks the names, digests and sizes of the files.
    pub(super) fn check(&self) -> Result<(), String> {
        let frames = self.files.iter().filter_map(|entry| entry.pages);
        let frames = frames.fold(0, |sum: u64, pages| sum.saturating_add(pages.frames));
        if frames > MAX_FRAMES as u64 {
            return Err("it has more memory than any container".to_owned());
        }
        if self.format < Self::format_of(&self.files) {
            return Err(format!("format {} has no {}", self.format, streams::NAME));
        }
        let mut names = BTreeSet::new();
        let mut raw_names = BTreeSet::new();
        for entry in &self.files {
            entry.check()?;
            // Raw names are compared, too, because two files may have the same one.
            if !names.insert(&entry.name) || !raw_names.insert(entry.raw_name()) {
                return Err(format!("it lists {:?} twice", entry.name));
            }
        }
        Ok(())
    }
}

/// Whether this is CRIU's name of a page file: `pages-N.img`.
#[must_use]
pub fn is_pages(name: &str) -> bool {
    name.strip_prefix("pages-")
        .and_then(|rest| rest.strip_suffix(".img"))
        .is_some_and(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))
}
