//! The lazy memory of a checkpoint, open for reading.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::format::contents::{self, Node};
use crate::format::manifest::{Manifest, is_pages};
use crate::format::pages::Reader;
use crate::opened::OpenedDir;

use super::error::NotLazy;
use super::processes::{Layout, total};
use super::runs::Run;

/// The lazy memory, with its page files open, so that the checkpoint may be deleted while
/// they are read.
#[derive(Debug, Default)]
pub struct Memory {
    /// The page files.
    pub files: Vec<Arc<Reader>>,
    /// The runs of each process, by its PID in the checkpoint, in ascending
    /// order.
    pub processes: BTreeMap<i32, Vec<Run>>,
}

impl Memory {
    /// Opens the memory of a checkpoint with a manifest, which may be in `store`.
    ///
    /// # Errors
    /// A file is missing or damaged, or the layout is not understood.
    pub fn open(
        dir: &OpenedDir,
        manifest: &Manifest,
        store: &Path,
        page: u64,
    ) -> Result<Self, NotLazy> {
        let mut memory = Self::default();
        let mut files = BTreeMap::new();
        let contents = contents::open(dir, manifest, store)?;
        for (name, node) in &contents.directory {
            if let Node::Pages { reader, .. } = node
                && is_pages(name)
            {
                if !reader.is_aligned(page) {
                    return Err(NotLazy::Unknown {
                        image: reader.path().to_owned(),
                    });
                }
                files.insert(name, memory.files.len() as u32);
                memory.files.push(reader.clone());
            }
        }
        for (pid, mut runs) in Layout::read(&contents, page)?.processes {
            let truncated = || NotLazy::Unknown {
                image: dir.path().join(format!("pagemap-{pid}.img")),
            };
            for run in &mut runs {
                let name = format!("pages-{}.img", run.file);
                run.file = *files.get(&name).ok_or_else(truncated)?;
            }
            // All runs of a process are in one file, in ascending order.
            if let Some(last) = runs.last()
                && memory.files.get(last.file as usize).is_none_or(|reader| {
                    last.offset.saturating_add(last.length()) > reader.raw_bytes()
                })
            {
                return Err(truncated());
            }
            memory.processes.insert(pid, runs);
        }
        Ok(memory)
    }

    /// Returns the bytes of all runs.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        total(&self.processes)
    }
}
