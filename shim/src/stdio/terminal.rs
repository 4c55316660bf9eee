//! A terminal's master as the source of a process's output.
//!
//! Reading a pty whose other end has closed fails with EIO (a hang-up in
//! tty_ioctl(2)). On an error a copy discards its buffer, so a slow reader would lose
//! the last output of the process. So the hang-up is reported as EOF.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use containerd_shim::asynchronous::io::Pty;
use nix::libc::EIO;
use tokio::io::{AsyncRead, ReadBuf};

/// The output of a terminal; ends when the terminal hangs up.
pub(super) struct TerminalOutput(pub(super) Pty);

impl AsyncRead for TerminalOutput {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(context, buffer) {
            Poll::Ready(Err(e)) if e.raw_os_error() == Some(EIO) => Poll::Ready(Ok(())),
            other => other,
        }
    }
}
