//! Opens lists of chunks, whose memory is in the node's store.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use cedana_store::list::List;
use cedana_store::memory::Opener;
use cedana_store::{Store, list};

use super::damage::Damage;
use super::reader::{Content, Reader};
use super::stored::Stored;

/// The store that has the memory of a checkpoint's lists. It is opened with the first
/// list, and packs are opened once for all of them. While this lives, no chunk is removed
/// from the store.
#[derive(Debug)]
pub struct ChunkStore {
    path: PathBuf,
    opener: Option<Opener>,
}

impl ChunkStore {
    /// The store in this directory, which need not exist.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            opener: None,
        }
    }

    /// Opens the memory of a list, all of which is in the store then. `size` and `digest`
    /// are the list's, from the manifest.
    ///
    /// # Errors
    /// The list can't be read or is another one, or a chunk is missing.
    pub fn open(
        &mut self,
        stored: Stored,
        size: u64,
        digest: Option<blake3::Hash>,
    ) -> Result<Reader, Damage> {
        let list = read_list(&stored, size, digest)?;
        let Stored { path, file } = stored;
        let memory = match self.opener()?.open(&list) {
            Ok(memory) => memory,
            Err(error) => return Err(unusable(path, error)),
        };
        Ok(Reader {
            file,
            path,
            content: Content::Chunks(memory),
        })
    }

    fn opener(&mut self) -> Result<&mut Opener, Damage> {
        let opener = match self.opener.take() {
            Some(opener) => opener,
            None => match Store::open(&self.path) {
                Ok(store) => Opener::new(&store),
                Err(cedana_store::Error::File { source, .. })
                    if source.kind() == io::ErrorKind::NotFound =>
                {
                    let path = self.path.clone();
                    return Err(Damage::NoStore { path });
                }
                Err(error) => return Err(unusable(self.path.clone(), error)),
            },
        };
        Ok(self.opener.insert(opener))
    }
}

fn unusable(file: PathBuf, error: cedana_store::Error) -> Damage {
    Damage::Store {
        file,
        source: Box::new(error),
    }
}

/// Reads a list of this size, which the manifest says, and compares it with its digest.
///
/// # Errors
/// It can't be read, is another one, or is none.
pub fn read_list(
    Stored { path, file }: &Stored,
    size: u64,
    digest: Option<blake3::Hash>,
) -> Result<List, Damage> {
    let mut bytes = Vec::new();
    let size = size.min(list::MAX_BYTES);
    // The buffer grows with the bytes that are read.
    let read = file.take(size + 1).read_to_end(&mut bytes);
    read.map_err(|source| Damage::Read {
        file: path.clone(),
        source,
    })?;
    if bytes.len() as u64 != size || digest.is_some_and(|digest| digest != blake3::hash(&bytes)) {
        return Err(Damage::Foreign { file: path.clone() });
    }
    List::parse(&bytes).map_err(|why| Damage::List {
        file: path.clone(),
        why,
    })
}

#[cfg(test)]
pub(crate) mod tests;
