//! What the service manager (systemd) and the daemon say to each other: sockets that it
//! has opened (sd_listen_fds(3)), and readiness (sd_notify(3)).

use std::env;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::sys;

const FIRST_FD: RawFd = 3;

/// The sockets that the service manager has opened for this process.
///
/// # Errors
/// A descriptor that is not open.
pub(crate) fn sockets() -> io::Result<Vec<OwnedFd>> {
    let number = |name| {
        env::var(name)
            .ok()
            .and_then(|text| text.parse::<u32>().ok())
    };
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(Vec::new());
    }
    let count = number("LISTEN_FDS").unwrap_or(0).min(16).cast_signed();
    (FIRST_FD..FIRST_FD + count)
        // SAFETY: the service manager names this process and the number of descriptors,
        // and this is called once, before the daemon opens anything.
        .map(|fd| unsafe { sys::adopt(fd) })
        .collect()
}

/// Tells the service manager that the daemon answers requests, or stops.
pub(crate) fn notify(state: &str) {
    let Some(address) = env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&address),
    };
    let sent = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        log::warn!("cannot notify the service manager: {error}");
    }
}
