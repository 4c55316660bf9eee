//! A job's files. All directories belong to root and have the mode 0700.
//!
//! ```text
//! /var/lib/cedana/jobs/UID/ID/  spec.json   what the job is made of
//!                               output.log  what it wrote
//!                               exit.json   how it ended
//!                               checkpoints its checkpoints, a line each
//! /run/cedana/jobs/UID/ID/      socket      its supervisor's socket, while it runs
//!                               restore.json  what the supervisor is to restore
//! ```
//!
//! A file is whole or missing: it is written under another name, synced and renamed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::id::JobId;
use super::spec::{Ended, Spec};
use crate::worker::{Restore, Stored};

/// The paths of a job's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFiles {
    /// The directory that survives a reboot.
    pub state: PathBuf,
    /// The directory that does not.
    pub run: PathBuf,
}

impl JobFiles {
    /// The files of a job, below the daemon's two directories.
    #[must_use]
    pub fn new(state_dir: &Path, run_dir: &Path, uid: u32, id: &JobId) -> Self {
        let place = |root: &Path| root.join("jobs").join(uid.to_string()).join(&**id);
        Self {
            state: place(state_dir),
            run: place(run_dir),
        }
    }

    /// The supervisor's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run.join("socket")
    }

    /// The job's output.
    #[must_use]
    pub fn output(&self) -> PathBuf {
        self.state.join("output.log")
    }

    /// The record of the job's checkpoints: a [`Stored`] in JSON a line.
    #[must_use]
    pub fn checkpoints(&self) -> PathBuf {
        self.state.join("checkpoints")
    }

    /// Locks the record. It is replaced when it is written anew, so the lock is the
    /// directory's.
    ///
    /// # Errors
    /// The system's.
    pub fn lock(&self) -> io::Result<Flock<File>> {
        lock(&self.state)
    }

    /// The checkpoints in the record, oldest first. A line that was cut off is left out.
    #[must_use]
    pub fn recorded(&self) -> Vec<Stored> {
        let text = fs::read(self.checkpoints()).unwrap_or_default();
        text.split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect()
    }

    /// Writes the record anew.
    ///
    /// # Errors
    /// The system's.
    pub fn rewrite_record(&self, stored: &[Stored]) -> io::Result<()> {
        let mut text = Vec::new();
        for stored in stored {
            serde_json::to_writer(&mut text, stored)?;
            text.push(b'\n');
        }
        write_text(&self.checkpoints(), &text)
    }

    /// Prepares the files of a job that exists for a supervisor that restores it.
    ///
    /// # Errors
    /// The system's.
    pub fn prepare_restore(&self, restore: &Restore) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.run)?;
        write(&self.restore(), restore)
    }

    /// Reads what is to be restored, once.
    ///
    /// # Errors
    /// The system's, or that of JSON.
    pub fn take_restore(&self) -> io::Result<Option<Restore>> {
        let path = self.restore();
        match read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Ok(restore) => fs::remove_file(path).map(|()| Some(restore)),
            Err(error) => Err(error),
        }
    }

    fn restore(&self) -> PathBuf {
        self.run.join("restore.json")
    }

    /// Removes what says how the job ended.
    ///
    /// # Errors
    /// The system's.
    pub fn forget_end(&self) -> io::Result<()> {
        match fs::remove_file(self.state.join("exit.json")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Creates both directories, empty, and writes the spec.
    ///
    /// # Errors
    /// The system's.
    pub fn create(&self, spec: &Spec) -> io::Result<()> {
        self.remove()?;
        for directory in [&self.state, &self.run] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)?;
        }
        write(&self.state.join("spec.json"), spec)
    }

    /// Reads the spec.
    ///
    /// # Errors
    /// The system's, or that of JSON.
    pub fn spec(&self) -> io::Result<Spec> {
        read(&self.state.join("spec.json"))
    }

    /// Reads how the job ended; None if no supervisor has written that.
    ///
    /// # Errors
    /// The system's, or that of JSON.
    pub fn ended(&self) -> io::Result<Option<Ended>> {
        match read(&self.state.join("exit.json")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }

    /// Writes how the job ended.
    ///
    /// # Errors
    /// The system's.
    pub fn write_ended(&self, ended: &Ended) -> io::Result<()> {
        write(&self.state.join("exit.json"), ended)
    }

    /// Removes both directories, and those of the user if they are empty.
    ///
    /// # Errors
    /// The system's.
    pub fn remove(&self) -> io::Result<()> {
        for directory in [&self.run, &self.state] {
            match fs::remove_dir_all(directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // Fails while the user has other jobs.
            let _ = directory.parent().map(fs::remove_dir);
        }
        Ok(())
    }
}

/// Appends a line to a record, which the job's directory has.
///
/// # Errors
/// The system's.
pub fn append_record(file: &Path, stored: &Stored) -> io::Result<()> {
    let mut line = serde_json::to_vec(stored)?;
    line.push(b'\n');
    let _lock = file.parent().map(lock).transpose()?;
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(file)?;
    file.write_all(&line)?;
    file.sync_all()
}

fn lock(directory: &Path) -> io::Result<Flock<File>> {
    let mut opened = File::open(directory)?;
    loop {
        match Flock::lock(opened, FlockArg::LockExclusive) {
            Err((again, Errno::EINTR)) => opened = again,
            locked => return locked.map_err(|(_, error)| error.into()),
        }
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let text = fs::read(path)?;
    serde_json::from_slice(&text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    write_text(path, &serde_json::to_vec(value)?)
}

fn write_text(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::Exit;
    use super::*;

    #[test]
    fn an_exit_status_is_whole_or_missing() {
        let dir = tempfile::tempdir().expect("a directory");
        let id = JobId::parse("job").expect("an ID");
        let files = JobFiles::new(dir.path(), &dir.path().join("run"), 7, &id);
        fs::create_dir_all(&files.state).expect("a directory");
        assert_eq!(files.ended().expect("readable"), None);
        let ended = Ended {
            exit: Exit::Code(3),
            at: 5,
            restarts: 0,
            checkpointed: false,
        };
        files.write_ended(&ended).expect("written");
        assert_eq!(files.ended().expect("readable"), Some(ended));
        fs::write(files.state.join("exit.json"), "{").expect("damaged");
        assert_eq!(
            files.ended().expect_err("damaged").kind(),
            io::ErrorKind::InvalidData
        );
        files.remove().expect("removed");
        files.remove().expect("removed twice");
        assert!(!dir.path().join("jobs/7").exists());
    }
}
