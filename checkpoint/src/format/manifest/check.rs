//! Checks of a manifest's entries.

use std::collections::BTreeSet;

use cedana_store::catalogue::CheckpointId;
use cedana_store::list;

use super::schema::{Entry, Frames, Kind, Manifest, NAME, PARENT, Pages, WITH_STORE};
use crate::format::pages::{FRAME, MAX_FRAME, MAX_FRAMES};
use crate::format::streams;

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
            (Kind::Pages | Kind::Plain | Kind::Chunks, None) => {
                wrong("a page file without the size of its memory")
            }
            (Kind::Pages | Kind::Plain | Kind::Chunks, Some(pages)) => {
                match self.check_pages(pages) {
                    Ok(()) => Ok(()),
                    Err(why) => wrong(why),
                }
            }
            (_, Some(_)) => wrong("memory in a file that is not a page file"),
            (_, None) => Ok(()),
        }
    }

    /// Checks the name and the memory of a page file.
    fn check_pages(&self, pages: &Pages) -> Result<(), &'static str> {
        let is_stored = self.raw_name() != self.name;
        if !is_pages(self.raw_name()) || is_stored != (self.kind != Kind::Plain) {
            return Err("not the name of a page file");
        }
        match (self.kind, &pages.frames) {
            (Kind::Chunks, Some(_)) => return Err("frames in a list of chunks"),
            (Kind::Chunks, None) if self.size > list::MAX_BYTES => {
                return Err("larger than any list of chunks");
            }
            (Kind::Chunks, None) => {}
            (_, None) => return Err("a page file without frames"),
            (_, Some(frames)) => frames.check(pages.raw_size)?,
        }
        if self.kind == Kind::Plain && pages.raw_size != self.size {
            return Err("its raw size differs from its size");
        }
        Ok(())
    }
}

impl Frames {
    fn check(&self, raw_size: u64) -> Result<(), &'static str> {
        if self.frame_size == 0
            || self.frame_size > MAX_FRAME
            || !self.frame_size.is_multiple_of(4096)
        {
            return Err("invalid frame size");
        }
        if self.count != raw_size.div_ceil(u64::from(self.frame_size)) {
            return Err("the number of frames does not match the size");
        }
        Ok(())
    }
}

impl Pages {
    /// The number of its frames. Chunks count as frames of the default size, so that both
    /// have the same limit of memory.
    fn count(&self) -> u64 {
        match &self.frames {
            Some(frames) => frames.count,
            None => self.raw_size.div_ceil(FRAME.into()),
        }
    }
}

impl Manifest {
    /// Checks the names, digests and sizes of the files.
    pub(super) fn check(&self) -> Result<(), String> {
        let pages = self.files.iter().filter_map(|entry| entry.pages);
        let frames = pages.fold(0, |sum: u64, pages| sum.saturating_add(pages.count()));
        if frames > MAX_FRAMES as u64 {
            return Err("it has more memory than any container".to_owned());
        }
        match Self::format_of(&self.files) {
            needed if needed <= self.format => {}
            WITH_STORE => return Err(format!("format {} has no lists of chunks", self.format)),
            _ => return Err(format!("format {} has no {}", self.format, streams::NAME)),
        }
        let has_chunks = self.files.iter().any(|entry| entry.kind == Kind::Chunks);
        match &self.store {
            Some(_) if !has_chunks => return Err("a store without lists of chunks".to_owned()),
            None if has_chunks => return Err("lists of chunks without a store".to_owned()),
            Some(store) if CheckpointId::parse(&store.id).is_none() => {
                return Err(format!("{:?} is not an ID of a store", store.id));
            }
            _ => {}
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
