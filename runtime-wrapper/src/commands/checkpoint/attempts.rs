//! Attempts at one checkpoint: a failure whose cause passes by itself is followed by
//! another attempt.
//!
//! ```text
//! look ─► attempt ─► captured                                     done
//!  ▲         └─────► failed for a passing cause ─► container runs ─┐
//!  └───────────────── until 2 s after the first failure ───────────┘
//! ```
//!
//! A connection that is not accepted yet, unread data in a netlink socket, a process
//! that is made while the cgroup is being frozen: a moment later they have passed if the
//! container runs. So the container runs between two attempts, each time a little
//! longer. CRIU gets one second for freezing while another attempt may follow. On an
//! overloaded node a container can need more; the last attempt has the whole of
//! `checkpoint.timeout`, unless CRIU failed to freeze processes within vfork, which
//! takes forever.
//!
//! **A paused container.** Nothing passes in it, and the client or the owner that
//! paused it may rely on its files: `ctr container checkpoint` has copied the
//! writable layer before it requests the memory, and an owner may be copying a
//! volume. So the container stays paused and there is one attempt. The exception: the
//! shim says that the client paused the container for this checkpoint alone and has
//! read nothing of it yet ([`MAY_RUN_BETWEEN_ATTEMPTS`]). Then the container runs
//! between attempts and is frozen again before the next one.

use std::env;
use std::thread;
use std::time::{Duration, Instant};

use cedana_checkpoint::criu::Cause;
use cedana_contract::variables::MAY_RUN_BETWEEN_ATTEMPTS;

use super::prepared::Prepared;
use crate::commands::checkpoint::unseizable::{self, PATIENCE};
use crate::host::cgroup::Cgroup;
use crate::host::child::{Outcome, Signals};
use crate::host::procfs::Init;
use crate::output::report::Reporter;

/// How long CRIU may take to freeze the container while it has another attempt.
/// CRIU counts in whole seconds.
const SHORT: Duration = Duration::from_secs(1);

/// With more threads CRIU may need longer than [`SHORT`], at some hundred
/// microseconds for each on a loaded node, so the first attempt has the whole time.
const MANY_THREADS: usize = 1000;

/// How long the container runs after the first failure. The time doubles with each
/// failure up to [`LONGEST`]. A server accepts its connections within it.
const SHORTEST: Duration = Duration::from_millis(25);
const LONGEST: Duration = Duration::from_millis(200);

/// How long a freezer gets before it is set again, as runc does: on v1 it misses a
/// process that is being made.
const SET_ANEW: Duration = Duration::from_millis(500);

/// How long freezing the container again may take before a warning says that it runs.
const FREEZE: Duration = Duration::from_secs(10);

/// The program that paused the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// The container runs.
    None,
    /// The client, for this checkpoint alone.
    Clients,
    /// Its owner, or a client that relies on the pause.
    Owners,
}

/// The attempts at one checkpoint.
pub(super) struct Attempts<'a> {
    signals: &'a Signals,
    cgroup: Option<&'a Cgroup>,
    init: Init,
    pause: Pause,
    /// How long CRIU may take to freeze the container at most.
    setting: Duration,
    first_failure: Option<Instant>,
    failures: u32,
    /// Processes of the container were seen within vfork.
    vforks: bool,
    /// CRIU gets all the time that the setting gives: the next attempt is the last
    /// one for a slow freeze.
    last: bool,
}

impl<'a> Attempts<'a> {
    /// Before the first attempt.
    pub(super) fn of(prepared: &'a Prepared<'a>) -> Self {
        let (signals, cgroup) = (prepared.signals, prepared.cgroup.as_ref());
        let setting = prepared.config.checkpoint.timeout;
        let pause = match cgroup.is_some_and(Cgroup::is_frozen) {
            false => Pause::None,
            true if env::var_os(MAY_RUN_BETWEEN_ATTEMPTS).is_some() => Pause::Clients,
            true => Pause::Owners,
        };
        Self {
            signals,
            cgroup,
            init: Init::now(prepared.container.init),
            pause,
            setting,
            first_failure: None,
            failures: 0,
            vforks: false,
            last: pause == Pause::Owners
                || setting <= SHORT
                || cgroup.is_some_and(|cgroup| cgroup.threads() > MANY_THREADS),
        }
    }

    /// Whether the container stood still before the first attempt.
    pub(super) fn was_frozen(&self) -> bool {
        self.pause != Pause::None
    }

    /// Whether the container runs between attempts.
    pub(super) fn may_run(&self) -> bool {
        self.pause != Pause::Owners
    }

    /// Notes that the application starts programs by vfork. CRIU stops the child that
    /// the parent waits for, so a freeze that meets one never ends.
    pub(super) fn saw_vforks(&mut self) {
        self.vforks = true;
    }

    /// How long CRIU may take to freeze the container in the next attempt.
    pub(super) fn freeze_timeout(&self) -> Duration {
        match self.last {
            true => self.setting,
            false => SHORT,
        }
    }

    /// Whether another attempt follows one with this outcome.
    pub(super) fn again(&mut self, cause: Option<&Cause>, outcome: &Outcome) -> bool {
        // The caller that ends the runtime by a signal wants no other attempt.
        let ended_by_itself = outcome.status.code().is_some() && !outcome.signalled;
        match cause {
            Some(cause) if ended_by_itself && self.init_is_alive() => self.passes(cause),
            Some(_) => false,
            None => {
                self.first_failure = None;
                false
            }
        }
    }

    fn passes(&mut self, cause: &Cause) -> bool {
        if !cause.passes_by_itself() {
            // Earlier attempts failed for another cause.
            self.first_failure = None;
            self.failures = 0;
            return false;
        }
        self.failures += 1;
        let since = *self.first_failure.get_or_insert_with(Instant::now);
        if !self.may_run() {
            return false;
        }
        if since.elapsed() < PATIENCE {
            return true;
        }
        let slow = *cause == Cause::FreezeTimeout && !self.last && !self.vforks;
        self.last = true;
        slow
    }

    /// Whether init is still the process of the first attempt.
    pub(super) fn init_is_alive(&self) -> bool {
        !self.init.has_ended()
    }

    /// Lets the container run for a moment, then freezes it again if its client had
    /// paused it. False if a signal arrived meanwhile.
    pub(super) fn let_run(&self, reporter: &Reporter) -> bool {
        let doublings = self.failures.saturating_sub(1).min(8);
        let moment = (SHORTEST * (1 << doublings)).min(LONGEST);
        self.while_it_runs(reporter, || unseizable::pause(self.signals, moment))
    }

    /// Calls `run` while the container runs, if it may, and freezes it again
    /// afterwards if its client had paused it.
    pub(super) fn while_it_runs<T>(&self, reporter: &Reporter, run: impl FnOnce() -> T) -> T {
        let paused = self.cgroup.filter(|_| self.pause == Pause::Clients);
        let Some(cgroup) = paused else { return run() };
        if let Err(error) = cgroup.thaw() {
            reporter.warning(&format!("cannot let the container run: {error}"));
            return run();
        }
        let result = run();
        if !freeze_again(cgroup) {
            // On v1 some processes are frozen by now.
            let _ = cgroup.thaw();
            reporter.warning(
                &"the container was paused by its client and could not be frozen again: it runs",
            );
        }
        result
    }

    /// The number of attempts, as the end of an error message. Empty if there was only
    /// one and no other was possible.
    pub(super) fn account(&self) -> String {
        let Some(since) = self.first_failure else {
            return String::new();
        };
        match (self.pause, self.failures) {
            (Pause::Owners, _) => {
                " (not tried again: the container is paused, so it can't pass)".to_owned()
            }
            (_, failures) => {
                let why = match self.vforks {
                    true => "the application starts programs all the time; ",
                    false => "",
                };
                let time = since.elapsed().as_secs_f64();
                format!(" ({why}tried {failures} times within {time:.1} s)")
            }
        }
    }
}

/// Freezes the cgroup and waits until every process is frozen.
fn freeze_again(cgroup: &Cgroup) -> bool {
    let begun = Instant::now();
    let mut set = Instant::now();
    let mut asked = cgroup.freeze();
    while !cgroup.has_frozen() {
        if asked.is_err() || begun.elapsed() > FREEZE {
            return false;
        }
        // The kernel reports the end on v2 by inotify and on v1 not at all. Freezing
        // takes microseconds.
        thread::sleep(Duration::from_millis(1));
        if set.elapsed() > SET_ANEW {
            let _ = cgroup.thaw();
            asked = cgroup.freeze();
            set = Instant::now();
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use cedana_contract::pid::Pid;

    fn attempts(signals: &Signals, pause: Pause) -> Attempts<'_> {
        Attempts {
            signals,
            cgroup: None,
            init: Init::now(Pid::own()),
            pause,
            setting: Duration::from_secs(60),
            first_failure: None,
            failures: 0,
            vforks: false,
            last: pause == Pause::Owners,
        }
    }

    fn passed(attempts: &mut Attempts<'_>) {
        attempts.first_failure = Instant::now().checked_sub(PATIENCE);
    }

    #[test]
    fn a_passing_cause_is_tried_again_for_two_seconds() {
        let signals = Signals::block().expect("signals");
        let mut attempts = attempts(&signals, Pause::None);
        assert_eq!(attempts.account(), "");
        assert!(!attempts.passes(&Cause::IoUring));
        assert!(attempts.passes(&Cause::InFlight));
        // A cause that does not pass ends the series.
        assert!(!attempts.passes(&Cause::IoUring));
        assert_eq!(attempts.account(), "");
        assert!(attempts.passes(&Cause::InFlight));
        assert!(attempts.passes(&Cause::NetlinkUnread));
        assert_eq!(attempts.freeze_timeout(), SHORT);
        passed(&mut attempts);
        assert!(!attempts.passes(&Cause::InFlight));
        assert!(attempts.account().starts_with(" (tried 3 times within 2."));
    }

    #[test]
    fn a_slow_freeze_gets_the_whole_time_once() {
        let signals = Signals::block().expect("signals");
        let mut attempts = attempts(&signals, Pause::Clients);
        assert!(attempts.passes(&Cause::FreezeTimeout));
        passed(&mut attempts);
        assert!(attempts.passes(&Cause::FreezeTimeout));
        assert_eq!(attempts.freeze_timeout(), attempts.setting);
        assert!(!attempts.passes(&Cause::FreezeTimeout));
    }

    #[test]
    fn a_freeze_that_meets_vforks_stays_short() {
        let signals = Signals::block().expect("signals");
        let mut attempts = attempts(&signals, Pause::None);
        attempts.saw_vforks();
        assert!(attempts.passes(&Cause::FreezeTimeout));
        passed(&mut attempts);
        assert_eq!(attempts.freeze_timeout(), SHORT);
        assert!(!attempts.passes(&Cause::FreezeTimeout));
        assert!(attempts.account().contains("starts programs"));
    }

    #[test]
    fn a_pause_of_the_owner_allows_one_attempt() {
        let signals = Signals::block().expect("signals");
        let mut attempts = attempts(&signals, Pause::Owners);
        assert_eq!(attempts.freeze_timeout(), attempts.setting);
        assert!(!attempts.passes(&Cause::InFlight));
        assert!(attempts.account().contains("paused"));
    }

    #[test]
    fn an_exited_init_is_noticed() {
        let signals = Signals::block().expect("signals");
        let mut attempts = attempts(&signals, Pause::None);
        assert!(attempts.init_is_alive());
        attempts.init.started = Some(1);
        assert!(!attempts.init_is_alive());
    }
}
