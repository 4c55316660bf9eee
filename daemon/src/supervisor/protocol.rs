//! The protocol between the daemon and a job's supervisor, on the supervisor's socket.
//!
//! ```text
//! daemon ── Watch ────────► supervisor ── Status at once and after each change ──► daemon
//!        ── Signal ───────►            ── Done or Failed ──►
//!        ── Attach, Resize, data ─►    ── data, then the last Status ──►
//!        ── Dump ─────────►            ── Told, until the result ──►
//! ```
//!
//! A frame is a kind (one byte), a length (four bytes, little endian) and that many
//! bytes: a message as JSON, or data of the terminal. Either side may be of another
//! version, since supervisors outlive an upgrade of the daemon: messages and fields are
//! only added, and an unknown request is answered with `Failed`.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::job::spec::{Exit, TerminalSize};
use crate::worker::{Dump, Failure, Restored, Told};

/// The largest payload of a frame.
pub const MAX_PAYLOAD: usize = 64 << 10;

const HEADER: usize = 5;
const MESSAGE: u8 = 1;
const DATA: u8 = 2;

/// What the daemon asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Report the state now and after each change.
    Watch,
    /// Send a signal to the program's process group.
    Signal(i32),
    /// Connect this connection to the terminal.
    Attach(TerminalSize),
    /// Change the terminal's size.
    Resize(TerminalSize),
    /// Dump the program, and tell the progress and the result. The supervisor fills in
    /// what it knows. The end of the connection cancels it.
    Dump(Box<Dump>),
}

/// What the supervisor answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The state.
    Status(Status),
    /// The request was carried out.
    Done,
    /// It was not; the reason, for people.
    Failed(String),
    /// What a dump tells.
    Told(Told),
}

/// The state of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What the program does.
    pub phase: Phase,
    /// Microseconds since 1970 at which that began.
    pub since: i64,
    /// Number of times that the program was started again.
    pub restarts: u32,
    /// Process ID of the supervisor.
    pub supervisor: u32,
}

/// What a job's program does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It runs, with this process ID.
    Running(i32),
    /// It has ended and will be started again.
    Restarting(Exit),
    /// It has ended, and `exit.json` is written.
    Ended(Exit),
    /// A checkpoint has ended it, and `exit.json` is written.
    Checkpointed,
}

/// The first line that a supervisor writes to its stdout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Started {
    /// The program runs, and the socket is open.
    Running(Status),
    /// The program could not be started; the reason, for people.
    Failed(String),
    /// The program was restored, and the socket is open.
    Restored(Status, Restored),
    /// It could not be restored.
    NotRestored(Failure),
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<M> {
    /// A message.
    Message(M),
    /// A message that this version doesn't know.
    Unknown,
    /// Data of the terminal.
    Data(Vec<u8>),
}

/// The peer sent something that is no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer does not speak the supervisor's protocol")]
pub struct NotAFrame;

/// Appends a message's frame.
pub fn put_message(out: &mut Vec<u8>, message: &impl Serialize) {
    let payload = serde_json::to_vec(message).unwrap_or_default();
    put(out, MESSAGE, &payload);
}

/// Appends data, in as many frames as it needs.
pub fn put_data(out: &mut Vec<u8>, data: &[u8]) {
    for part in data.chunks(MAX_PAYLOAD) {
        put(out, DATA, part);
    }
}

fn put(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    out.push(kind);
    // A payload is at most MAX_PAYLOAD bytes.
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(payload);
}

/// Cuts a stream of bytes into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    /// Takes bytes that were read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, if it is complete.
    ///
    /// # Errors
    /// An unknown kind, or a length beyond [`MAX_PAYLOAD`].
    pub fn take_frame<M: DeserializeOwned>(&mut self) -> Result<Option<Frame<M>>, NotAFrame> {
        let Some((header, rest)) = self.buffer.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [kind, length @ ..] = *header;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_PAYLOAD {
            return Err(NotAFrame);
        }
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        let frame = match kind {
            MESSAGE => serde_json::from_slice(payload).map_or(Frame::Unknown, Frame::Message),
            DATA => Frame::Data(payload.to_vec()),
            _ => return Err(NotAFrame),
        };
        self.buffer.drain(..HEADER + length);
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut() {
        let mut bytes = Vec::new();
        put_message(&mut bytes, &Request::Signal(9));
        put_data(&mut bytes, &vec![b'x'; MAX_PAYLOAD + 1]);
        put_message(&mut bytes, &"of a later version");
        for step in [1, 7, 4096, bytes.len()] {
            let mut decoder = Decoder::default();
            let mut frames = Vec::new();
            for part in bytes.chunks(step) {
                decoder.push(part);
                while let Some(frame) = decoder.take_frame::<Request>().expect("frames") {
                    frames.push(frame);
                }
            }
            let expected = [
                Frame::Message(Request::Signal(9)),
                Frame::Data(vec![b'x'; MAX_PAYLOAD]),
                Frame::Data(vec![b'x']),
                Frame::Unknown,
            ];
            assert_eq!(frames, expected);
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_before_it_is_stored() {
        for bytes in [&[9, 1, 0, 0, 0, 0][..], &[DATA, 1, 0, 1, 0]] {
            let mut decoder = Decoder::default();
            decoder.push(bytes);
            assert_eq!(decoder.take_frame::<Request>(), Err(NotAFrame));
        }
    }
}
