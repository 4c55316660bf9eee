//! The time, and how long ago something was.
//!
//! Collection removes what is old, and clocks go wrong: a machine without a battery starts
//! in 1970, another one is set years ahead and back. So each moment has the time since the
//! machine's start, too, which tells the age as long as the machine runs. After a restart
//! the clock decides; a moment that is in the future then counts as new.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// A moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// Seconds since 1970.
    pub seconds: i64,
    /// The machine's run, by its random ID.
    pub boot: String,
    /// Seconds since its start, with those that it slept.
    pub since_boot: i64,
}

impl Moment {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| time.tv_sec());
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            seconds: seconds.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0)),
            boot: boot.trim().to_owned(),
            since_boot,
        }
    }

    /// The time from this moment to a later one.
    #[must_use]
    pub fn until(&self, later: &Self) -> Duration {
        let seconds = match self.boot == later.boot && !self.boot.is_empty() {
            true => later.since_boot.saturating_sub(self.since_boot),
            false => later.seconds.saturating_sub(self.seconds),
        };
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_clock_makes_nothing_old() {
        let moment = |seconds, boot: &str, since_boot| Moment {
            seconds,
            boot: boot.to_owned(),
            since_boot,
        };
        let age = |before: Moment, after: Moment| before.until(&after).as_secs();
        assert_eq!(age(moment(0, "a", 10), moment(1_000_000, "a", 15)), 5);
        assert_eq!(age(moment(1_000_000, "a", 10), moment(0, "a", 15)), 5);
        assert_eq!(
            age(moment(1_000_000, "a", 10), moment(1_000_100, "b", 2)),
            100
        );
        assert_eq!(age(moment(1_000_000, "a", 10), moment(0, "b", 2)), 0);
        let now = Moment::now();
        assert!(now.seconds > 1_600_000_000 && now.boot.len() == 36);
    }
}
