//! A connection to the unix socket, with its caller.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::server::Connected;

use crate::caller::Caller;

/// A connection and its caller.
pub(crate) struct Connection {
    stream: UnixStream,
    caller: Peer,
    _counted: Counted,
}

/// The caller at the other end of a unix socket, or why it is refused.
#[derive(Clone)]
pub(crate) struct Peer(pub(crate) Result<Arc<Caller>, Arc<str>>);

/// The most connections of one user other than root: the command opens one.
const MAX_CONNECTIONS: usize = 64;

/// How long no connection is accepted after a failure: without a free descriptor the next
/// one fails, too, until a connection ends.
const PAUSE: Duration = Duration::from_millis(100);

/// The number of connections by user.
type Counts = Arc<Mutex<HashMap<u32, usize>>>;

/// A user's connection among those that are counted.
struct Counted {
    uid: u32,
    counts: Counts,
}

impl Counted {
    /// Counts a connection; None if the user has too many.
    fn new(uid: u32, counts: &Counts) -> Option<Self> {
        let mut open = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(uid).or_default();
        if uid != 0 && *count >= MAX_CONNECTIONS {
            return None;
        }
        *count += 1;
        Some(Self {
            uid,
            counts: Arc::clone(counts),
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.uid);
            }
        }
    }
}

/// The connections to a socket.
pub(crate) fn incoming(
    listener: UnixListener,
) -> impl tokio_stream::Stream<Item = io::Result<Connection>> {
    let counts = Counts::default();
    let accepted = UnixListenerStream::new(listener).then(async |stream| {
        if stream.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
        stream
    });
    let mut failing = false;
    accepted.filter_map(move |stream| {
        // A failure that repeats itself is said once.
        let is_new = stream.is_ok() || !failing;
        failing = stream.is_err();
        match stream.and_then(|stream| Connection::new(stream, &counts)) {
            Ok(connection) => Some(Ok(connection)),
            Err(error) => {
                if is_new {
                    log::warn!("a connection was refused: {error}");
                }
                None
            }
        }
    })
}

impl Connection {
    fn new(stream: UnixStream, counts: &Counts) -> io::Result<Self> {
        let uid = getsockopt(&stream, PeerCredentials)?.uid();
        // The reason is the answer to the first request.
        let caller = match Caller::of_socket(&stream) {
            Ok(caller) => Ok(Arc::new(caller)),
            Err(error) => Err(error.to_string().into()),
        };
        let counted = Counted::new(uid, counts).ok_or_else(|| {
            let many = format!("user {uid} has {MAX_CONNECTIONS} connections already");
            io::Error::other(many)
        })?;
        Ok(Self {
            stream,
            caller: Peer(caller),
            _counted: counted,
        })
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.caller.clone()
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
