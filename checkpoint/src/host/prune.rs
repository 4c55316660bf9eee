//! Limits the number of files in a directory.

use std::path::Path;
use std::{fs, io};

/// Removes all but the newest `keep` of the files that `is_ours` accepts by name.
pub fn prune(dir: &Path, keep: usize, is_ours: impl Fn(&str) -> bool) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let ours = is_ours(&entry.file_name().to_string_lossy());
        if ours && entry.file_type()?.is_file() {
            files.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    files.sort();
    let surplus = files.len().saturating_sub(keep);
    for (_, path) in files.into_iter().take(surplus) {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::SystemTime;

    #[test]
    fn the_oldest_files_are_removed() {
        let dir = tempfile::tempdir().expect("tempdir");
        for number in 0..5u64 {
            let file = File::create(dir.path().join(number.to_string())).expect("a file");
            let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number);
            file.set_modified(at).expect("a time");
        }
        prune(dir.path(), 2, |name| name != "0").expect("pruned");
        let left = |name: &str| dir.path().join(name).exists();
        // Not ours.
        assert!(left("0"));
        assert!(left("3") && left("4") && !left("1") && !left("2"));
    }
}
