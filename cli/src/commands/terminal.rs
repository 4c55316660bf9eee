//! The user's terminal.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use cedana_api::v1::TerminalSize;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::error::{Error, Result};

mod window {
    nix::ioctl_read_bad!(size, nix::libc::TIOCGWINSZ, nix::libc::winsize);
}

/// The size of the terminal on stdin or stdout; zeros, for the usual size, without one.
pub(super) fn size() -> TerminalSize {
    use std::os::fd::AsRawFd;
    let mut size = nix::libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    for fd in [io::stdin().as_raw_fd(), io::stdout().as_raw_fd()] {
        // SAFETY: TIOCGWINSZ writes one winsize, which outlives the call.
        if unsafe { window::size(fd, &raw mut size) }.is_ok() {
            break;
        }
    }
    TerminalSize {
        rows: size.ws_row.into(),
        columns: size.ws_col.into(),
    }
}

/// Passes every key to the job while it lives. Without a terminal on stdin it does
/// nothing.
pub(super) struct Raw(Option<Termios>);

impl Raw {
    /// # Errors
    /// The terminal's.
    pub(super) fn enter() -> Result<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(Self(None));
        }
        let set = || {
            let before = tcgetattr(stdin.as_fd())?;
            let mut raw = before.clone();
            cfmakeraw(&mut raw);
            tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw)?;
            nix::Result::Ok(before)
        };
        set()
            .map(|before| Self(Some(before)))
            .map_err(|error| Error::other("set up the terminal", error))
    }

    /// Whether stdin is a terminal.
    pub(super) fn is_terminal(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // A terminal that is gone needs no reset.
            let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, before);
        }
    }
}
