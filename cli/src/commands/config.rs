//! `cedana bootstrap`, `cedana config show`.
//!
//! The user is the one behind sudo, if there is one: a file of theirs must not belong to
//! root. Root writes nothing into a directory of another user: it becomes that user
//! first, so a link there leads nowhere that the user could not go.

use std::env;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cedana_config::{Config, USER_FILE};
use nix::unistd::{Uid, User, geteuid, initgroups, setgid, setuid};
use serde_json::json;

use crate::error::{Error, Result};
use crate::output::table::Table;
use crate::output::{to_stderr, to_stdout};

/// Writes the user's own file.
///
/// # Errors
/// It exists, and `force` is not set; the system's.
pub(crate) fn bootstrap(force: bool) -> Result<()> {
    let text = Config::user_template()?;
    let home = become_user()?;
    let path = home.join(USER_FILE);
    if let Some(directory) = path.parent() {
        let created = DirBuilder::new().mode(0o700).create(directory);
        match created {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::file("create", directory)(error));
            }
            _ => {}
        }
    }
    write(&path, &text, force).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Error::Other(format!(
            "{} exists; edit it, or replace it with `cedana bootstrap --force`",
            path.display()
        )),
        _ => Error::file("write", &path)(error),
    })?;
    to_stdout(format!("wrote {}\n", path.display()));
    Ok(())
}

/// Writes a new file whole, or not at all.
fn write(path: &Path, text: &str, force: bool) -> io::Result<()> {
    let new = path.with_extension(format!("new.{}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all());
    let placed = written.and_then(|()| match force {
        true => fs::rename(&new, path),
        // Unlike a rename it never replaces a file.
        false => fs::hard_link(&new, path),
    });
    if !force || placed.is_err() {
        // It has another name now, or is not whole.
        let _ = fs::remove_file(&new);
    }
    placed
}

/// Shows all settings.
///
/// # Errors
/// A mistake in them.
pub(crate) fn show(as_json: bool) -> Result<()> {
    let (_, shown) = Config::for_user(home().as_deref(), |exceeded| {
        to_stderr(&format!("cedana: warning: {exceeded}\n"));
    })?;
    if as_json {
        for setting in shown {
            let line = json!({"key": setting.key, "value": setting.value, "source": setting.source.to_string()});
            to_stdout(format!("{line}\n"));
        }
        return Ok(());
    }
    let mut table = Table::new(&["KEY", "VALUE", "SOURCE"]);
    for setting in shown {
        let value = match setting.value.is_empty() {
            true => "-".to_owned(),
            false => setting.value,
        };
        table.push(vec![
            setting.key.to_owned(),
            value,
            setting.source.to_string(),
        ]);
    }
    to_stdout(table.text());
    Ok(())
}

/// The home directory of the user, or of the one behind sudo.
pub(crate) fn home() -> Option<PathBuf> {
    user_behind().map_or_else(own_home, |user| Some(user.dir))
}

/// The user behind sudo.
fn user_behind() -> Option<User> {
    if !geteuid().is_root() {
        return None;
    }
    let uid = env::var("SUDO_UID").ok()?.parse().ok()?;
    User::from_uid(Uid::from_raw(uid)).ok().flatten()
}

fn own_home() -> Option<PathBuf> {
    env::var_os("HOME")
        .map(PathBuf::from)
        .filter(|home| home.is_absolute())
        .or_else(|| Some(User::from_uid(geteuid()).ok().flatten()?.dir))
}

/// Becomes the user behind sudo, if there is one. Returns the home directory.
fn become_user() -> Result<PathBuf> {
    if let Some(user) = user_behind() {
        let name = std::ffi::CString::new(user.name.clone()).unwrap_or_default();
        initgroups(&name, user.gid)
            .and_then(|()| setgid(user.gid))
            .and_then(|()| setuid(user.uid))
            .map_err(|error| Error::other(&format!("become user {}", user.name), error))?;
        return Ok(user.dir);
    }
    own_home().ok_or_else(|| Error::Other("the home directory is unknown; set HOME".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_only_by_force() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("cedana_config.json");
        write(&path, "1", false).expect("written");
        let error = write(&path, "2", false).expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).expect("read"), "1");
        write(&path, "2", true).expect("replaced");
        assert_eq!(fs::read_to_string(&path).expect("read"), "2");
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
    }
}
