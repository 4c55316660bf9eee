//! The packs that a session writes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::fcntl::{Flock, FlockArg};

use super::OpenSink;
use crate::catalogue::NewPack;
use crate::chunk::{Name, PageDigest};
use crate::error::file;
use crate::pack::{FULL, PackId, PackWriter};
use crate::{Error, Store};

/// See the module's documentation. Dropped, it removes what is not published.
pub(crate) struct Drafts {
    dir: PathBuf,
    shown: PathBuf,
    open: Box<OpenSink>,
    packs: Vec<Draft>,
    current: Option<PackWriter>,
    quota: Option<u64>,
    /// The bytes of the store without the pack that is being written.
    used: u64,
    published: Vec<(PackId, Store)>,
}

struct Draft {
    id: PackId,
    path: PathBuf,
    bytes: u64,
    digest: [u8; 32],
    /// Tells a collection that the writer lives.
    _lock: Flock<File>,
}

impl Drafts {
    pub(crate) fn new(
        store: &Store,
        quota: Option<u64>,
        used: u64,
        open: Box<OpenSink>,
    ) -> Result<Self, Error> {
        let drafts = Self {
            dir: store.incoming(),
            shown: store.path().to_owned(),
            open,
            packs: Vec::new(),
            current: None,
            quota,
            used,
            published: Vec::new(),
        };
        // Room for one chunk is no room for a checkpoint, but its size is not known yet.
        drafts.check(1)?;
        Ok(drafts)
    }

    fn check(&self, more: u64) -> Result<(), Error> {
        let current = self.current.as_ref().map_or(0, PackWriter::bytes);
        match self.quota {
            Some(quota) if self.used + current + more > quota => Err(Error::Quota {
                path: self.shown.clone(),
                used: (self.used + current) >> 20,
                quota: quota >> 20,
            }),
            _ => Ok(()),
        }
    }

    /// Adds a chunk, and returns its pack's number and its offset.
    pub(crate) fn add(
        &mut self,
        name: Name,
        base: Option<Name>,
        pages: &[PageDigest],
        frame: &[u8],
    ) -> Result<(u32, u64), Error> {
        self.check(frame.len() as u64)?;
        if self
            .current
            .as_ref()
            .is_some_and(|pack| pack.bytes() >= FULL)
        {
            self.end()?;
        }
        if self.current.is_none() {
            let writer = self.begin()?;
            self.current = Some(writer);
        }
        let number = self.packs.len() as u32 - 1;
        let (Some(writer), Some(draft)) = (&mut self.current, self.packs.last()) else {
            unreachable!("a pack was begun")
        };
        let offset = writer.add(name, base, pages, frame);
        Ok((number, offset.map_err(file("write", &draft.path))?))
    }

    fn begin(&mut self) -> Result<PackWriter, Error> {
        let failed = |source| Error::File {
            what: "write to",
            path: self.dir.clone(),
            source,
        };
        let id = PackId::random().map_err(failed)?;
        let path = self.dir.join(id.file_name());
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create_new(true).mode(0o600);
        let draft = options.open(&path).map_err(file("make", &path))?;
        let begun = || -> io::Result<_> {
            let sink = (self.open)(draft.try_clone()?, &path)?;
            let lock = Flock::lock(draft, FlockArg::LockExclusiveNonblock);
            Ok((sink, lock.map_err(|(_, error)| error)?))
        };
        let (sink, lock) = begun().map_err(file("write", &path))?;
        self.packs.push(Draft {
            id,
            path,
            bytes: 0,
            digest: [0; 32],
            _lock: lock,
        });
        Ok(PackWriter::new(sink))
    }

    /// Ends the current pack.
    pub(crate) fn end(&mut self) -> Result<(), Error> {
        if let (Some(writer), Some(draft)) = (self.current.take(), self.packs.last_mut()) {
            let ended = writer.finish();
            (draft.bytes, draft.digest) = ended.map_err(file("write", &draft.path))?;
            self.used += draft.bytes;
        }
        Ok(())
    }

    pub(crate) fn id(&self, pack: u32) -> PackId {
        self.packs[pack as usize].id
    }

    /// The bytes of the packs that have ended.
    pub(crate) fn bytes(&self) -> u64 {
        self.packs.iter().map(|draft| draft.bytes).sum()
    }

    /// Moves the packs to their place.
    pub(crate) fn publish(&mut self, store: &Store) -> Result<Vec<NewPack>, Error> {
        let mut packs = Vec::new();
        for draft in &self.packs {
            let found = fs::metadata(&draft.path).map_err(file("read", &draft.path))?;
            if found.len() != draft.bytes {
                let source = io::Error::other("it has another length than was written");
                return Err(file("keep", &draft.path)(source));
            }
            let name = draft.id.file_name();
            let put = store.place().put(&name, &draft.path);
            put.map_err(file("publish", &draft.path))?;
            self.published.push((draft.id, store.clone()));
            packs.push(NewPack {
                id: draft.id,
                bytes: draft.bytes,
                digest: draft.digest,
            });
        }
        Ok(packs)
    }

    /// Leaves all files, as a writer does that is killed.
    #[cfg(test)]
    pub(crate) fn abandon(&mut self) {
        self.keep();
    }

    /// Keeps what was published.
    pub(crate) fn keep(&mut self) {
        self.published.clear();
        self.packs.clear();
    }
}

impl Drop for Drafts {
    fn drop(&mut self) {
        // A collection removes what can't be removed now.
        self.current = None;
        for draft in &self.packs {
            let _ = fs::remove_file(&draft.path);
        }
        for (id, store) in &self.published {
            let _ = store.place().delete(&id.file_name());
        }
    }
}
