//! The daemon's connections to a supervisor.
//!
//! Nothing blocks: what a client can't take yet is queued. A client that is attached and
//! reads slowly slows the terminal down (the supervisor reads no more of it while a
//! queue is full), so that no output is lost. A client that reads nothing for
//! [`PATIENCE`] is disconnected, because the program must not wait for it.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use super::protocol::{Answer, Decoder, Frame, Request, put_data, put_message};

/// The queue's length from which on the terminal waits.
const FULL: usize = 64 << 10;

/// How long a client may read nothing while its queue is full.
const PATIENCE: Duration = Duration::from_secs(5);

/// One connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) stream: UnixStream,
    pub(super) role: Role,
    id: u64,
    decoder: Decoder,
    queue: Vec<u8>,
    full_since: Option<Instant>,
    gone: bool,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Single requests.
    Control,
    /// It gets each change of the state.
    Watching,
    /// It gets the terminal's output, and its data is typed there.
    Attached,
}

impl Client {
    fn new(id: u64, stream: UnixStream) -> Self {
        Self {
            id,
            stream,
            role: Role::Control,
            decoder: Decoder::default(),
            queue: Vec::new(),
            full_since: None,
            gone: false,
        }
    }

    /// The events to poll for.
    pub(super) fn interest(&self, typing_allowed: bool) -> PollFlags {
        let mut interest = PollFlags::empty();
        interest.set(
            PollFlags::POLLIN,
            typing_allowed || self.role != Role::Attached,
        );
        interest.set(PollFlags::POLLOUT, !self.queue.is_empty());
        interest
    }

    /// What tells it from other connections, of before and after, too.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Queues an answer.
    pub(super) fn answer(&mut self, answer: &Answer) {
        put_message(&mut self.queue, answer);
        self.flush();
    }

    /// Reads what has arrived; no more than one buffer, so that no client keeps the
    /// supervisor busy.
    pub(super) fn read(&mut self) -> Vec<Frame<Request>> {
        let mut buffer = [0; 16 << 10];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.gone = true,
            Ok(n) => self.decoder.push(&buffer[..n]),
            Err(error) => self.failed(&error),
        }
        let mut frames = Vec::new();
        loop {
            match self.decoder.take_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return frames,
                Err(_) => {
                    self.gone = true;
                    return frames;
                }
            }
        }
    }

    /// Writes what the client takes.
    pub(super) fn flush(&mut self) {
        while !self.queue.is_empty() {
            match self.stream.write(&self.queue) {
                Ok(n) => {
                    self.queue.drain(..n);
                    self.full_since = None;
                }
                Err(error) => return self.failed(&error),
            }
        }
        // A burst must not keep its memory.
        self.queue.shrink_to(4096);
    }

    fn failed(&mut self, error: &io::Error) {
        if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) {
            self.gone = true;
        }
    }
}

/// All connections.
#[derive(Debug, Default)]
pub(super) struct Clients(pub(super) Vec<Client>, u64);

impl Clients {
    /// Accepts a connection.
    pub(super) fn accept(&mut self, listener: &UnixListener) {
        // A client that has already left, or no free descriptor: the daemon tries again.
        if let Ok((stream, _)) = listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            self.1 += 1;
            self.0.push(Client::new(self.1, stream));
        }
    }

    /// Whether this connection is there.
    pub(super) fn has(&self, id: u64) -> bool {
        self.0.iter().any(|client| client.id == id && !client.gone)
    }

    /// Queues an answer, if this connection is there.
    pub(super) fn answer(&mut self, id: u64, answer: &Answer) {
        if let Some(client) = self.0.iter_mut().find(|client| client.id == id) {
            client.answer(answer);
        }
    }

    /// Sends a status to watching clients, and the last one to attached clients, too.
    pub(super) fn announce(&mut self, status: &Answer, last: bool) {
        for client in &mut self.0 {
            if client.role == Role::Watching || (last && client.role == Role::Attached) {
                client.answer(status);
            }
        }
    }

    /// Sends the terminal's output to attached clients.
    pub(super) fn show(&mut self, output: &[u8]) {
        for client in self.attached() {
            put_data(&mut client.queue, output);
            client.flush();
        }
    }

    /// Whether the terminal has to wait for a client.
    pub(super) fn are_full(&mut self) -> bool {
        let now = Instant::now();
        let mut full = false;
        for client in self.attached().filter(|client| client.queue.len() > FULL) {
            let since = *client.full_since.get_or_insert(now);
            client.gone |= now.duration_since(since) > PATIENCE;
            full |= !client.gone;
        }
        full
    }

    /// Whether a client has not read everything yet.
    pub(super) fn are_behind(&self) -> bool {
        self.0
            .iter()
            .any(|client| !client.gone && !client.queue.is_empty())
    }

    /// Removes clients that have disconnected.
    pub(super) fn sweep(&mut self) {
        self.0.retain(|client| !client.gone);
    }

    fn attached(&mut self) -> impl Iterator<Item = &mut Client> {
        self.0
            .iter_mut()
            .filter(|client| client.role == Role::Attached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_reads_nothing_fills_its_queue_and_loses_nothing_until_then() {
        let (ours, mut theirs) = UnixStream::pair().expect("sockets");
        ours.set_nonblocking(true).expect("nonblocking");
        let mut clients = Clients(vec![Client::new(1, ours)], 1);
        clients.0[0].role = Role::Attached;
        let mut sent = 0;
        while !clients.are_full() {
            clients.show(&[b'x'; 4096]);
            sent += 4096;
            assert!(sent < 64 << 20, "the queue is never full");
        }
        let mut decoder = Decoder::default();
        let mut received = 0;
        let mut buffer = vec![0; 64 << 10];
        while received < sent {
            let n = theirs.read(&mut buffer).expect("data");
            decoder.push(&buffer[..n]);
            while let Some(frame) = decoder.take_frame::<Answer>().expect("frames") {
                match frame {
                    Frame::Data(data) => received += data.len(),
                    other => panic!("{other:?}"),
                }
            }
            clients.0[0].flush();
        }
        assert!(!clients.are_behind());
        drop(theirs);
        clients.show(b"x");
        clients.sweep();
        assert!(clients.0.is_empty());
    }
}
