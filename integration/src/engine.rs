//! The instance's containerd, stopped and started again beneath its containers.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::command;

/// The only user of the instance for as long as it is held.
///
/// Stories that stop containerd, or change the machine beneath it, must not
/// have others beside them: they sit in a test program of their own, and each
/// of them holds this.
pub struct Containerd {
    _alone: MutexGuard<'static, ()>,
}

impl Containerd {
    /// Waits for the other stories of this test program to end.
    pub fn alone() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        Self {
            _alone: ALONE.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Ends it with SIGTERM, does `meanwhile`, and starts it again.
    #[track_caller]
    pub fn restart(&self, meanwhile: impl FnOnce()) {
        self.end_and_start("stop", meanwhile);
    }

    /// Ends it with SIGKILL, does `meanwhile`, and starts it again.
    #[track_caller]
    pub fn crash(&self, meanwhile: impl FnOnce()) {
        self.end_and_start("kill", meanwhile);
    }

    #[track_caller]
    fn end_and_start(&self, how: &str, meanwhile: impl FnOnce()) {
        // `engine` is the testbed's: it returns when containerd is gone, or answers.
        command("engine", &[how, "containerd"]).ok();
        meanwhile();
        command("engine", &["start", "containerd"]).ok();
    }
}
