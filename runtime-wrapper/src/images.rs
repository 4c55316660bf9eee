//! The image directory of a checkpoint that is being taken.
//!
//! CRIU truncates and rewrites images of the same name one by one, and writes
//! inventory.img last. Over an older checkpoint that would be a mixture which
//! looks whole for as long as the old inventory.img stands. So an older one is
//! set aside first, in a directory within, and comes back if the new one fails:
//!
//! ```text
//! DIR/*.img                  ─ rename ─►  DIR/.cedana-previous/*.img
//! DIR/*.img                  the new checkpoint; inventory.img last
//! DIR/.cedana-previous       removed (success), or moved back (failure)
//! ```
//!
//! If we are killed in between there is no inventory.img, so nobody takes DIR
//! for a checkpoint, and the next checkpoint or restore moves the older one
//! back before anything else.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const PREVIOUS: &str = ".cedana-previous";
const INVENTORY: &str = "inventory.img";

/// A directory, ready for a checkpoint.
pub(crate) struct Images {
    pub(crate) dir: PathBuf,
    existed: bool,
    was_empty: bool,
    holds_previous: bool,
}

impl Images {
    /// Looks at the directory, makes it if it isn't there, and sets an older
    /// checkpoint in it aside.
    pub(crate) fn prepare(dir: PathBuf) -> io::Result<Self> {
        put_back(&dir)?;
        let entries = fs::read_dir(&dir);
        let existed = entries.is_ok();
        let was_empty = entries.is_ok_and(|mut entries| entries.next().is_none());
        if !existed {
            DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        }
        let holds_previous = dir.join(INVENTORY).exists();
        if holds_previous {
            let previous = dir.join(PREVIOUS);
            DirBuilder::new().mode(0o700).create(&previous)?;
            // The inventory first: without it nothing here is a checkpoint.
            let mut files = images_in(&dir)?;
            files.sort_by_key(|path| !path.ends_with(INVENTORY));
            move_into(files, &previous)?;
        }
        Ok(Self {
            dir,
            existed,
            was_empty,
            holds_previous,
        })
    }

    /// The new checkpoint is whole: the older one goes.
    pub(crate) fn keep_new(&self) -> io::Result<()> {
        match self.holds_previous {
            true => fs::remove_dir_all(self.dir.join(PREVIOUS)),
            false => Ok(()),
        }
    }

    /// Removes what a failed dump left, so that nobody takes it for a
    /// checkpoint, and puts an older one back. Files that were there before and
    /// are no images stay.
    pub(crate) fn remove_new(&self) -> io::Result<()> {
        if !self.existed {
            return match fs::remove_dir_all(&self.dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        if self.was_empty {
            for entry in fs::read_dir(&self.dir)? {
                remove(&entry?.path())?;
            }
        }
        if self.holds_previous {
            for image in images_in(&self.dir)? {
                fs::remove_file(image)?;
            }
        }
        put_back(&self.dir)
    }
}

/// Moves a checkpoint that a killed run had set aside back to its place. If the
/// newer one is whole after all, that one counts.
pub(crate) fn put_back(dir: &Path) -> io::Result<()> {
    let previous = dir.join(PREVIOUS);
    if !previous.is_dir() {
        return Ok(());
    }
    let set_aside_whole = previous.join(INVENTORY).exists();
    if dir.join(INVENTORY).exists() {
        // Either the newer is whole, or the older was moved back up to its
        // inventory, which is the last to move.
        return fs::remove_dir_all(previous);
    }
    if set_aside_whole {
        // What the killed run wrote under names that the older one lacks.
        let older = images_in(&previous)?;
        for image in images_in(dir)? {
            if image
                .file_name()
                .is_none_or(|name| !older.iter().any(|old| old.file_name() == Some(name)))
            {
                fs::remove_file(image)?;
            }
        }
    }
    let mut files = images_in(&previous)?;
    files.sort_by_key(|path| path.ends_with(INVENTORY));
    move_into(files, dir)?;
    fs::remove_dir_all(previous)
}

fn move_into(files: Vec<PathBuf>, to: &Path) -> io::Result<()> {
    for file in files {
        let name = file.file_name().unwrap_or_default();
        fs::rename(&file, to.join(name))?;
    }
    Ok(())
}

/// What belongs to a checkpoint: CRIU's images and statistics, and the note
/// that runc leaves of the container's descriptors.
fn images_in(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".img") || name == "descriptors.json" || name == "stats-dump" {
            images.push(path);
        }
    }
    Ok(images)
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::PermissionsExt;

    fn write(dir: &Path, names: &[&str], text: &str) {
        for name in names {
            fs::write(dir.join(name), text).expect("write");
        }
    }

    fn contents(dir: &Path) -> Vec<(String, String)> {
        let mut found: Vec<_> = fs::read_dir(dir)
            .expect("dir")
            .map(|entry| {
                let path = entry.expect("entry").path();
                let name = path.file_name().expect("name").to_string_lossy();
                let text = fs::read_to_string(&path).unwrap_or_default();
                (name.into_owned(), text)
            })
            .collect();
        found.sort();
        found
    }

    fn pair(name: &str, text: &str) -> (String, String) {
        (name.to_owned(), text.to_owned())
    }

    #[test]
    fn only_new_images_are_removed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let new = Images::prepare(dir.path().join("new")).expect("images");
        let mode = fs::metadata(&new.dir).expect("made").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        write(&new.dir, &["core-1.img"], "");
        new.remove_new().expect("remove");
        assert!(!new.dir.exists());
        new.remove_new().expect("nothing to remove");

        let empty = Images::prepare(dir.path().to_owned()).expect("images");
        write(dir.path(), &["core-1.img"], "");
        fs::create_dir(dir.path().join("d")).expect("mkdir");
        empty.remove_new().expect("remove");
        assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 0);

        write(dir.path(), &["precious"], "");
        let full = Images::prepare(dir.path().to_owned()).expect("images");
        write(dir.path(), &["core-1.img"], "");
        full.remove_new().expect("nothing");
        assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 2);
    }

    #[test]
    fn an_older_checkpoint_is_replaced_or_comes_back() {
        let dir = tempfile::tempdir().expect("tempdir");
        write(dir.path(), &["inventory.img", "core-1.img", "note"], "old");
        let images = Images::prepare(dir.path().to_owned()).expect("images");
        assert!(!dir.path().join(INVENTORY).exists());
        write(dir.path(), &["core-1.img", "core-2.img"], "half");
        images.remove_new().expect("remove");
        let old = [
            pair("core-1.img", "old"),
            pair("inventory.img", "old"),
            pair("note", "old"),
        ];
        assert_eq!(contents(dir.path()), old);

        let images = Images::prepare(dir.path().to_owned()).expect("images");
        write(dir.path(), &["inventory.img", "core-9.img"], "new");
        images.keep_new().expect("keep");
        let new = [
            pair("core-9.img", "new"),
            pair("inventory.img", "new"),
            pair("note", "old"),
        ];
        assert_eq!(contents(dir.path()), new);
    }

    #[test]
    fn a_killed_run_is_undone_by_the_next() {
        let dir = tempfile::tempdir().expect("tempdir");
        write(dir.path(), &["inventory.img", "core-1.img"], "old");
        drop(Images::prepare(dir.path().to_owned()).expect("images"));
        write(dir.path(), &["core-1.img", "core-2.img"], "half");
        put_back(dir.path()).expect("put back");
        let old = [pair("core-1.img", "old"), pair("inventory.img", "old")];
        assert_eq!(contents(dir.path()), old);
    }
}
