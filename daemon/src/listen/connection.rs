//! A connection to the unix socket, with its caller.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::server::Connected;

use crate::caller::Caller;

/// A connection and its caller.
pub(crate) struct Connection {
    stream: UnixStream,
    caller: Arc<Caller>,
}

/// The caller at the other end of a unix socket.
#[derive(Clone)]
pub(crate) struct Peer(pub(crate) Arc<Caller>);

/// The connections to a socket. One whose caller the kernel doesn't name is dropped.
pub(crate) fn incoming(
    listener: UnixListener,
) -> impl tokio_stream::Stream<Item = io::Result<Connection>> {
    UnixListenerStream::new(listener).filter_map(|stream| match stream.and_then(Connection::new) {
        Ok(connection) => Some(Ok(connection)),
        Err(error) => {
            log::warn!("a connection was refused: {error}");
            None
        }
    })
}

impl Connection {
    fn new(stream: UnixStream) -> io::Result<Self> {
        let caller = Arc::new(Caller::of_socket(&stream)?);
        Ok(Self { stream, caller })
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer(Arc::clone(&self.caller))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
