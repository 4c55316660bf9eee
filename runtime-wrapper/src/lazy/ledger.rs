//! What the guard must know when the source is gone.
//!
//! A memory file that both have open: a phase, and two JSON values. The guard
//! reads it only after the source's end, so nothing needs to be atomic but the
//! order: what a phase relies on is written before it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::Value;

/// How far the source came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// CRIU is at work: it fails when it is hung up on.
    Restoring = 0,
    /// The container runs, and memory is missing.
    Running = 1,
    /// Nothing is missing, or the container is dealt with.
    Over = 2,
}

/// Room for each of the values.
const ROOM: u64 = 64 << 10;
const CRIU: u64 = 8;
const CONTAINER: u64 = ROOM;
const REASON: u64 = 2 * ROOM;

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(super) struct Ledger(Arc<File>);

impl Ledger {
    pub(super) fn new() -> io::Result<Self> {
        let file = File::from(memfd_create(c"cedana-pages", MFdFlags::MFD_CLOEXEC)?);
        file.set_len(3 * ROOM)?;
        Ok(Self(Arc::new(file)))
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        self.write(0, &[phase as u8]);
    }

    pub(super) fn phase(&self) -> Phase {
        match self.read::<1>(0) {
            [0] => Phase::Restoring,
            [1] => Phase::Running,
            _ => Phase::Over,
        }
    }

    /// The number of the connection to CRIU.
    pub(super) fn set_criu(&self, fd: i32) {
        self.write(CRIU, &fd.to_ne_bytes());
    }

    pub(super) fn criu(&self) -> Option<i32> {
        let fd = i32::from_ne_bytes(self.read(CRIU));
        (fd > 0).then_some(fd)
    }

    /// Whom to kill.
    pub(super) fn set_container(&self, container: &Value) {
        self.put(CONTAINER, container);
    }

    pub(super) fn container(&self) -> Option<Value> {
        self.get(CONTAINER)
    }

    /// Why.
    pub(super) fn set_reason(&self, reason: &str) {
        self.put(REASON, &Value::from(reason));
    }

    pub(super) fn reason(&self) -> Option<String> {
        self.get(REASON)?.as_str().map(str::to_owned)
    }

    fn put(&self, at: u64, value: &Value) {
        let text = value.to_string();
        if text.len() as u64 <= ROOM - 8 {
            self.write(at + 8, text.as_bytes());
            self.write(at, &(text.len() as u64).to_ne_bytes());
        }
    }

    fn get(&self, at: u64) -> Option<Value> {
        let length = u64::from_ne_bytes(self.read(at));
        if length == 0 || length > ROOM - 8 {
            return None;
        }
        let mut text = vec![0; length as usize];
        self.0.read_exact_at(&mut text, at + 8).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// It is memory of a fixed size that is there already.
    fn write(&self, at: u64, bytes: &[u8]) {
        let _ = self.0.write_all_at(bytes, at);
    }

    fn read<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        let _ = self.0.read_exact_at(&mut bytes, at);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let ledger = Ledger::new().expect("memfd");
        let guards = ledger.clone();
        assert_eq!(guards.phase(), Phase::Restoring);
        assert_eq!((guards.criu(), guards.reason()), (None, None));
        ledger.set_criu(7);
        ledger.set_container(&serde_json::json!({"init": 5}));
        ledger.set_reason("why");
        ledger.set_phase(Phase::Running);
        assert_eq!(guards.phase(), Phase::Running);
        assert_eq!(guards.criu(), Some(7));
        assert_eq!(guards.container().expect("one")["init"], 5);
        assert_eq!(guards.reason().as_deref(), Some("why"));
        ledger.set_reason(&"x".repeat(1 << 20));
        assert_eq!(guards.reason().as_deref(), Some("why"));
    }
}
