//! The page source's [`State`], readable after its end.
//!
//! ```text
//! memfd:  selector │ slot 0: length, JSON │ slot 1: length, JSON
//! ```
//!
//! A memory file that source and watchdog both have open. The source can be killed
//! at any instruction, so a state goes into the slot that is not selected, and
//! one byte selects it: the watchdog, which reads only after the source's end, finds
//! the last state or the one before it, and never half of one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::state::{Effect, Event, State};

/// The size of a slot: a few paths and an error text.
const SLOT: u64 = 64 << 10;

/// The offset of the first slot.
const SLOTS: u64 = 8;

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(super) struct Ledger(Arc<File>);

impl Ledger {
    /// A ledger that holds [`State::START`].
    pub(super) fn new() -> io::Result<Self> {
        let file = File::from(memfd_create(c"cedana-pages", MFdFlags::MFD_CLOEXEC)?);
        file.set_len(SLOTS + 2 * SLOT)?;
        let ledger = Self(Arc::new(file));
        ledger.write(&State::START);
        Ok(ledger)
    }

    /// The state that was written last.
    pub(super) fn read(&self) -> State {
        // Unreadable, the ledger says as little as one that was just made.
        self.slot(self.selected()).unwrap_or(State::START)
    }

    /// Writes a state. One that is too long, because of its reason, is left out.
    fn write(&self, state: &State) {
        let Ok(text) = serde_json::to_vec(state) else {
            return;
        };
        if text.len() as u64 > SLOT - 8 {
            return;
        }
        let free = 1 - self.selected();
        let at = SLOTS + u64::from(free) * SLOT;
        self.put(at, &(text.len() as u64).to_ne_bytes());
        self.put(at + 8, &text);
        self.put(0, &[free]);
    }

    fn selected(&self) -> u8 {
        let mut byte = [0];
        let _ = self.0.read_exact_at(&mut byte, 0);
        byte[0] & 1
    }

    fn slot(&self, number: u8) -> Option<State> {
        let at = SLOTS + u64::from(number) * SLOT;
        let mut length = [0; 8];
        self.0.read_exact_at(&mut length, at).ok()?;
        let length = u64::from_ne_bytes(length).min(SLOT - 8);
        let mut text = vec![0; length as usize];
        self.0.read_exact_at(&mut text, at + 8).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// It can't fail: the file is memory, and has its size.
    fn put(&self, at: u64, bytes: &[u8]) {
        let _ = self.0.write_all_at(bytes, at);
    }
}

/// The source's own view: a state, each change of which is in the ledger when
/// [`Self::apply`] returns.
#[derive(Debug)]
pub(super) struct Life {
    state: State,
    ledger: Ledger,
}

impl Life {
    /// The life of a source that starts.
    pub(super) fn new(ledger: Ledger) -> Self {
        Self {
            state: ledger.read(),
            ledger,
        }
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Applies an event, and returns what the source has to do.
    pub(super) fn apply(&mut self, event: Event) -> Option<Effect> {
        let before = self.state.clone();
        let (state, effect) = before.clone().after(event);
        if state != before {
            self.ledger.write(&state);
            self.state = state;
        }
        effect
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::procfs::pid;
    use crate::lazy::Phase;
    use crate::session::messages::Container;
    use crate::session::state::Remains;

    #[test]
    fn the_watchdog_reads_the_last_state() {
        let ledger = Ledger::new().expect("memfd");
        let watchdogs = ledger.clone();
        assert_eq!(watchdogs.read(), State::START);
        let mut life = Life::new(ledger);
        life.apply(Event::CriuConnected(7));
        assert!(matches!(
            watchdogs.read(),
            State::Restoring { criu: Some(7), .. }
        ));
        life.apply(Event::RestoreFinished);
        assert!(matches!(watchdogs.read(), State::Released { .. }));
        life.apply(Event::Reached(Phase::Running));
        let container = Container {
            init: pid(5),
            started: Some(6),
            cgroup: Some("/sys/fs/cgroup/c".into()),
            members: Vec::new(),
            pidfd: Some(9),
        };
        life.apply(Event::ContainerFound(container.clone()));
        assert_eq!(watchdogs.read(), *life.state());
        life.apply(Event::Failed("why".to_owned()));
        let failed = State::Failed {
            reason: "why".to_owned(),
            remains: Remains::Container(Some(container)),
        };
        assert_eq!(watchdogs.read(), failed);
    }

    #[test]
    fn a_state_that_is_half_written_or_too_long_is_not_read() {
        let ledger = Ledger::new().expect("memfd");
        let before = ledger.read();
        let free = u64::from(1 - ledger.selected());
        ledger.put(SLOTS + free * SLOT, &[9; 100]);
        assert_eq!(ledger.read(), before);
        let mut life = Life::new(ledger.clone());
        life.apply(Event::Failed("x".repeat(1 << 20)));
        assert_eq!(ledger.read(), before);
    }
}
