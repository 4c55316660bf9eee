//! The daemon's end of a connection to a supervisor.

use std::io::{self, ErrorKind};
use std::path::Path;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::supervisor::protocol::{Answer, Decoder, Frame, put_data, put_message};

/// The half that reads.
#[derive(Debug)]
pub(crate) struct Reader {
    stream: OwnedReadHalf,
    decoder: Decoder,
}

/// The half that writes.
#[derive(Debug)]
pub(crate) struct Writer(OwnedWriteHalf);

/// Connects to a supervisor.
///
/// # Errors
/// ENOENT or ECONNREFUSED if there is none.
pub(crate) async fn connect(socket: &Path) -> io::Result<(Reader, Writer)> {
    let (stream, writer) = UnixStream::connect(socket).await?.into_split();
    let reader = Reader {
        stream,
        decoder: Decoder::default(),
    };
    Ok((reader, Writer(writer)))
}

impl Reader {
    /// The next frame; None when the supervisor has closed the connection.
    ///
    /// # Errors
    /// The socket's, or that of the protocol.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Frame<Answer>>> {
        loop {
            let frame = self.decoder.take_frame();
            match frame.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))? {
                Some(Frame::Unknown) => {}
                Some(frame) => return Ok(Some(frame)),
                None => {
                    let mut buffer = [0; 4096];
                    match self.stream.read(&mut buffer).await {
                        Ok(0) => return Ok(None),
                        Ok(n) => self.decoder.push(&buffer[..n]),
                        // The supervisor was killed.
                        Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                            return Ok(None);
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }
}

impl Writer {
    /// Sends a message.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) async fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let mut bytes = Vec::new();
        put_message(&mut bytes, message);
        self.0.write_all(&bytes).await
    }

    /// Sends what was typed.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) async fn send_data(&mut self, data: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::new();
        put_data(&mut bytes, data);
        self.0.write_all(&bytes).await
    }
}
