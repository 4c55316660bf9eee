//! A new archive of a checkpoint: a file `NAME_DATETIME.tar` that appears whole
//! ([`NewFile`]).
//!
//! CRIU's own files are in a hidden directory beside it that is this process's alone
//! ([`Scratch`]): whose memory the archive has is checked at the end.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::error::{Error, at};
use super::new_file::{FilePlace, NewFile, Taken, open_directory};
use super::scratch::Scratch;
use crate::opened::OpenedDir;
use crate::output::file_name::file_name;
use crate::output::timestamp;

/// An open directory with an empty file for an archive.
#[derive(Debug)]
pub struct ArchivePlace {
    file: FilePlace,
    above: File,
}

/// An archive that is being written. Dropping it before [`NewArchive::publish`] removes
/// everything.
#[derive(Debug)]
pub struct NewArchive {
    file: NewFile,
    shown: PathBuf,
    scratch: Scratch,
    name: String,
}

/// The name of a new archive. What no file should have in its name is replaced.
#[must_use]
pub fn archive_name(name: &str) -> String {
    let time = timestamp::compact(OffsetDateTime::now_utc());
    format!("{}_{time}.tar", file_name(name))
}

impl ArchivePlace {
    /// Opens a directory, and makes a file of mode 0600 in it that has no name yet. Links
    /// in the path, which the caller chose, are followed.
    ///
    /// # Errors
    /// The directory can't be opened or written to.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let file = FilePlace::open(dir)?;
        let above = File::from(open_directory(dir)?);
        Ok(Self { file, above })
    }
}

impl NewArchive {
    /// Begins an archive. `name` is the beginning of its name ([`archive_name`]). `owner` is
    /// the user and the group that the archive will belong to, if not to this process.
    ///
    /// # Errors
    /// There can be no directory for CRIU's files.
    pub fn begin(
        place: ArchivePlace,
        name: &str,
        owner: Option<(u32, u32)>,
    ) -> Result<Self, Error> {
        let ArchivePlace { file, above } = place;
        let shown = file.shown.clone();
        let file = NewFile::begin(file, owner)?;
        let above = OpenedDir::of_file(above, &shown).map_err(at("open", &shown))?;
        let scratch = Scratch::create(above)?;
        let name = archive_name(name);
        Ok(Self {
            file,
            shown: shown.join(&name),
            scratch,
            name,
        })
    }

    /// The file, for a capture.
    #[must_use]
    pub fn file(&self) -> &File {
        self.file.file()
    }

    /// The directory of CRIU's own files.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The path that it will have, unless another file has it.
    #[must_use]
    pub fn shown(&self) -> &Path {
        &self.shown
    }

    /// Syncs the archive and gives it its name. Returns its path. CRIU's files stay until
    /// this is dropped.
    ///
    /// # Errors
    /// It can't be synced or linked. Then it has no name.
    pub fn publish(&mut self) -> io::Result<PathBuf> {
        self.file.publish(&self.name, Taken::Number)
    }

    /// Removes the archive again that was published at `path`, because something that
    /// belongs to it failed.
    pub fn withdraw(&self, path: &Path) {
        self.file.withdraw(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    fn archive(dir: &Path) -> NewArchive {
        let place = ArchivePlace::open(dir).expect("open");
        NewArchive::begin(place, "a b/c", None).expect("begin")
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).expect("list").flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn an_archive_appears_whole() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut new = archive(dir.path());
        new.file().write_all(b"content").expect("write");
        assert!(!names(dir.path()).iter().any(|name| name.ends_with(".tar")));
        new.name = "a_b_c_T.tar".to_owned();
        new.shown = dir.path().join(&new.name);
        std::fs::write(&new.shown, "another").expect("write");
        let path = new.publish().expect("publish");
        drop(new);
        assert_eq!(path, dir.path().join("a_b_c_T-2.tar"));
        assert_eq!(path.metadata().expect("status").mode() & 0o777, 0o600);
        assert_eq!(std::fs::read(&path).expect("read"), b"content");
        assert_eq!(names(dir.path()).len(), 2);
        let mut withdrawn = archive(dir.path());
        let path = withdrawn.publish().expect("publish");
        withdrawn.withdraw(&path);
        assert!(!path.exists());
        drop(withdrawn);
        drop(archive(dir.path()));
        assert_eq!(names(dir.path()).len(), 2);
    }
}
