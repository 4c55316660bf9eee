//! A directory of packs.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;

use super::{Listed, Object, Place};

/// A directory, on the file system of the drafts.
#[derive(Debug, Clone)]
pub struct Local {
    dir: PathBuf,
}

impl Local {
    /// The directory, which exists.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }
}

impl Place for Local {
    fn put(&self, name: &str, draft: &Path) -> io::Result<()> {
        File::open(draft)?.sync_all()?;
        fs::rename(draft, self.dir.join(name))?;
        File::open(&self.dir)?.sync_all()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Object>> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = options.open(self.dir.join(name))?;
        match file.metadata()?.is_file() {
            true => Ok(Box::new(file)),
            false => Err(io::Error::other("it is no regular file")),
        }
    }

    fn list(&self) -> io::Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            // One that was deleted meanwhile.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                listed.push(Listed {
                    name,
                    bytes: metadata.len(),
                    since: metadata.ctime(),
                });
            }
        }
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_put_read_listed_and_deleted() {
        let dir = tempfile::tempdir().expect("a directory");
        let draft = dir.path().join("draft");
        fs::create_dir(dir.path().join("packs")).expect("a directory");
        let place = Local::new(dir.path().join("packs"));
        fs::write(&draft, "content").expect("write");
        place.put("a", &draft).expect("put");
        assert!(!draft.exists());
        let object = place.open("a").expect("open");
        let listed = place.list().expect("list");
        assert_eq!((&*listed[0].name, listed[0].bytes), ("a", 7));
        place.delete("a").expect("delete");
        place.delete("a").expect("it is deleted");
        let mut out = [0; 4];
        object.read_exact_at(&mut out, 3).expect("still open");
        assert_eq!(&out, b"tent");
        let end = object.read_exact_at(&mut out, 4).expect_err("the end");
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(
            place.open("a").expect_err("deleted").kind(),
            io::ErrorKind::NotFound
        );
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("packs/b")).expect("a link");
        place.open("b").expect_err("a link");
    }
}
