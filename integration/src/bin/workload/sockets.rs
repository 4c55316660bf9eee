//! Connections that must still be open after a restore.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

/// The time without an answer after which a connection counts as broken.
const PATIENCE: Duration = Duration::from_secs(5);

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A client that never reconnects, and a server thread that sums up what it receives.
pub(crate) struct Conversation {
    stream: Box<dyn Stream>,
    said: u64,
}

impl Conversation {
    pub(crate) fn tcp() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        client.set_read_timeout(Some(PATIENCE))?;
        let (server, _) = listener.accept()?;
        Self::start(client, server, listener)
    }

    pub(crate) fn unix() -> io::Result<Self> {
        let path = format!("/tmp/socket-{}", std::process::id());
        let listener = UnixListener::bind(&path)?;
        let client = UnixStream::connect(&path)?;
        client.set_read_timeout(Some(PATIENCE))?;
        let (server, _) = listener.accept()?;
        Self::start(client, server, listener)
    }

    /// Connects the two. The listener stays open, as a server's does.
    fn start(
        client: impl Stream + 'static,
        mut server: impl Stream + 'static,
        listener: impl Send + 'static,
    ) -> io::Result<Self> {
        thread::spawn(move || {
            let _listener = listener;
            let mut heard: u64 = 0;
            let mut message = [0; 8];
            while server.read_exact(&mut message).is_ok() {
                heard += u64::from_ne_bytes(message);
                if server.write_all(&heard.to_ne_bytes()).is_err() {
                    break;
                }
            }
        });
        let mut conversation = Self {
            stream: Box::new(client),
            said: 0,
        };
        conversation.verify().map_err(io::Error::other)?;
        Ok(conversation)
    }

    /// Fails unless the server's sum covers everything sent over the connection.
    pub(crate) fn verify(&mut self) -> Result<(), String> {
        let mut answer = [0; 8];
        self.stream
            .write_all(&7u64.to_ne_bytes())
            .and_then(|()| self.stream.read_exact(&mut answer))
            .map_err(|e| e.to_string())?;
        self.said += 7;
        match u64::from_ne_bytes(answer) {
            sum if sum == self.said => Ok(()),
            sum => Err(format!("sent {}, the other end received {sum}", self.said)),
        }
    }
}
