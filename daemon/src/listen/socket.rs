//! The unix socket: bound by the daemon, or opened by the service manager.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;

use cedana_api::places::GROUP;
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use nix::unistd::Group;

use crate::error::Error;

/// Binds the socket, which the caller has locked, so a file there is a leftover.
///
/// # Errors
/// The system's.
pub(crate) fn bind(path: &Path) -> Result<UnixListener, Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::file("replace", path)(error));
        }
        _ => {}
    }
    // The daemon's umask makes it root's alone until the next two calls.
    let listener = UnixListener::bind(path).map_err(|source| Error::Listen {
        address: path.display().to_string(),
        source,
        remedy: "choose another path with --socket",
    })?;
    let group = Group::from_name(GROUP).ok().flatten();
    chown(path, None, group.map(|group| group.gid.as_raw()))
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o660)))
        .map_err(Error::file("set the mode of", path))?;
    Ok(listener)
}

/// Creates the directory of a socket, which others may enter.
///
/// # Errors
/// The system's.
pub(crate) fn create_directory(path: &Path) -> Result<(), Error> {
    if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(0o755)))
            .map_err(Error::file("create", directory))?;
    }
    Ok(())
}

/// The unix socket among those that the service manager has opened.
///
/// # Errors
/// There is a socket of another kind.
pub(crate) fn of_service_manager(sockets: Vec<OwnedFd>) -> Result<Option<UnixListener>, Error> {
    let mut found = None;
    for socket in sockets {
        let family =
            getsockname::<SockaddrStorage>(socket.as_raw_fd()).map(|address| address.family());
        if family != Ok(Some(AddressFamily::Unix)) || found.is_some() {
            return Err(Error::Other(
                "cedana.socket must have one ListenStream= with a path; TCP is set by daemon.tcp in config.toml".to_owned(),
            ));
        }
        found = Some(UnixListener::from(socket));
    }
    Ok(found)
}
