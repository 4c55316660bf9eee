//! The time between two runs of a program.

use std::time::Duration;

/// After the first failure.
const FIRST: Duration = Duration::from_secs(1);

/// At most.
const LONGEST: Duration = Duration::from_secs(60);

/// A program that ran for so long has not failed at its start.
const STABLE: Duration = Duration::from_secs(60);

/// Doubles the wait each time that the program ends early.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    early_ends: u32,
}

impl Backoff {
    /// The wait after a run of that length.
    pub(super) fn after(&mut self, run: Duration) -> Duration {
        if run >= STABLE {
            self.early_ends = 0;
        }
        let wait = FIRST
            .saturating_mul(1 << self.early_ends.min(6))
            .min(LONGEST);
        self.early_ends = self.early_ends.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_a_minute_and_begins_anew_after_a_long_run() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..8)
            .map(|_| backoff.after(Duration::ZERO).as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.after(STABLE).as_secs(), 1);
        assert_eq!(backoff.after(Duration::ZERO).as_secs(), 2);
    }
}
