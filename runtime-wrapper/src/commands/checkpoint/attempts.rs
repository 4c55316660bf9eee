//! A checkpoint that fails for something that passes is tried again.
//!
//! ```text
//! look ─► attempt ─► whole                                        done
//!  ▲         └─────► failed for a passing cause ─► container runs ─┐
//!  └───────────────── until 2 s after the first failure ───────────┘
//! ```
//!
//! A connection that is not accepted yet, unread data in a netlink socket and a
//! process that is made while the cgroup is being frozen are gone a moment later,
//! if the container runs. So between two attempts it runs, each time a little
//! longer, and while there is more than one attempt left CRIU gets only a second
//! for freezing. A container that needs longer than that (on an overloaded node) has
//! one attempt with the whole of `checkpoint.timeout` at the end, unless its freezes
//! fail because CRIU meets processes within vfork, which takes for ever.
//!
//! **A paused container.** Nothing passes in it, and the client or the owner that
//! paused it may count on its files: `ctr container checkpoint` has copied the writable layer before it
//! asks for the memory, and an owner may be copying a volume. So it stays as it is
//! and there is one attempt, unless the shim says that the client paused it for
//! nothing but this checkpoint and has read nothing of it yet
//! ([`MAY_RUN_VARIABLE`]). Then it runs between attempts, and is frozen again before
//! the next, so that the client finds it as it left it.

use std::env;
use std::thread;
use std::time::{Duration, Instant};

use cedana_checkpoint::criu::Cause;
use cedana_config::MAY_RUN_VARIABLE;

use crate::commands::checkpoint::unseizable::{self, PATIENCE};
use crate::host::cgroup::Cgroup;
use crate::host::child::{Outcome, Signals};
use crate::host::procfs::Init;
use crate::oci::state::Container;
use crate::output::report::Reporter;

/// How long CRIU may take to freeze the container while it has another attempt.
/// CRIU counts in whole seconds.
const SHORT: Duration = Duration::from_secs(1);

/// With more threads than these CRIU may well need longer than that, at some
/// hundred microseconds for each on a loaded node, and gets all of its time at once.
const MANY_THREADS: usize = 1000;

/// How long the container runs after the first failure; twice as long after each
/// further one, up to [`LONGEST`]. A server accepts its connections within it.
const SHORTEST: Duration = Duration::from_millis(25);
const LONGEST: Duration = Duration::from_millis(200);

/// A freezer that has not stopped the processes within this time is set anew, as
/// runc does: on v1 a process that was being made can have missed it.
const SET_ANEW: Duration = Duration::from_millis(500);

/// How long a container is frozen again before the user is told that it runs.
const FREEZE: Duration = Duration::from_secs(10);

/// Which program paused the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// It runs.
    None,
    /// The client's, for this checkpoint alone.
    Clients,
    /// Its owner's, or that of a client that counts on it.
    Owners,
}

/// The attempts at one checkpoint.
pub(super) struct Trials<'a> {
    signals: &'a Signals,
    cgroup: Option<&'a Cgroup>,
    init: Init,
    pause: Pause,
    setting: Duration,
    first_failure: Option<Instant>,
    failures: u32,
    /// Processes of the container were seen within vfork.
    vforks: bool,
    /// CRIU gets all the time that the setting gives: the next attempt is the last
    /// one for a slow freeze.
    last: bool,
}

impl<'a> Trials<'a> {
    /// Before the first. `setting` is how long CRIU may take to freeze at most.
    pub(super) fn new(
        signals: &'a Signals,
        container: &Container,
        cgroup: Option<&'a Cgroup>,
        setting: Duration,
    ) -> Self {
        let pause = match cgroup.is_some_and(Cgroup::is_frozen) {
            false => Pause::None,
            true if env::var_os(MAY_RUN_VARIABLE).is_some() => Pause::Clients,
            true => Pause::Owners,
        };
        Self {
            signals,
            cgroup,
            init: Init::now(container.init),
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

    /// The application starts programs by vfork. A freeze that meets one is not slow
    /// but hopeless, since CRIU has stopped the child that the parent waits for.
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

    /// Whether an attempt that failed so is followed by another.
    pub(super) fn again(&mut self, cause: Option<&Cause>, outcome: &Outcome) -> bool {
        // A caller that ends the runtime by a signal wants no other.
        let ended_by_itself = outcome.status.code().is_some() && !outcome.signalled;
        match cause {
            Some(cause) if ended_by_itself && self.is_unharmed() => self.passes(cause),
            Some(_) => false,
            None => {
                self.first_failure = None;
                false
            }
        }
    }

    fn passes(&mut self, cause: &Cause) -> bool {
        if !cause.passes_by_itself() {
            // The attempts before were about something else.
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

    /// Whether init is the process that it was.
    fn is_unharmed(&self) -> bool {
        !self.init.has_ended()
    }

    /// Lets the container run for a moment, then has it as it was. False if a
    /// signal came meanwhile.
    pub(super) fn let_run(&self, reporter: &Reporter) -> bool {
        let doublings = self.failures.saturating_sub(1).min(8);
        let moment = (SHORTEST * (1 << doublings)).min(LONGEST);
        self.while_it_runs(reporter, || unseizable::pause(self.signals, moment))
    }

    /// Does something while the container runs, if it may, and has it as it was
    /// afterwards.
    pub(super) fn while_it_runs<T>(&self, reporter: &Reporter, run: impl FnOnce() -> T) -> T {
        let paused = self.cgroup.filter(|_| self.pause == Pause::Clients);
        let Some(cgroup) = paused else { return run() };
        if let Err(error) = cgroup.thaw() {
            reporter.warning(&format!("cannot let the container run: {error}"));
            return run();
        }
        let result = run();
        if !freeze_again(cgroup) {
            // On v1 some processes stand still by now.
            let _ = cgroup.thaw();
            reporter.warning(
                &"the container was paused by its client and could not be frozen again: it runs",
            );
        }
        result
    }

    /// What the attempts were, as the end of a reason; nothing if there was only
    /// one and there could be no other.
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

/// Freezes and waits until every process stands still.
fn freeze_again(cgroup: &Cgroup) -> bool {
    let begun = Instant::now();
    let mut set = Instant::now();
    let mut asked = cgroup.freeze();
    while !cgroup.has_frozen() {
        if asked.is_err() || begun.elapsed() > FREEZE {
            return false;
        }
        // The kernel tells of v2's end by inotify and of v1's not at all; it takes
        // microseconds.
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

    fn trials(signals: &Signals, pause: Pause) -> Trials<'_> {
        Trials {
            signals,
            cgroup: None,
            init: Init::now(std::process::id().cast_signed()),
            pause,
            setting: Duration::from_secs(60),
            first_failure: None,
            failures: 0,
            vforks: false,
            last: pause == Pause::Owners,
        }
    }

    fn passed(trials: &mut Trials<'_>) {
        trials.first_failure = Instant::now().checked_sub(PATIENCE);
    }

    #[test]
    fn what_passes_is_tried_again_until_patience_ends() {
        let signals = Signals::block().expect("signals");
        let mut trials = trials(&signals, Pause::None);
        assert_eq!(trials.account(), "");
        assert!(!trials.passes(&Cause::IoUring));
        assert!(trials.passes(&Cause::InFlight));
        // What follows is another matter.
        assert!(!trials.passes(&Cause::IoUring));
        assert_eq!(trials.account(), "");
        assert!(trials.passes(&Cause::InFlight));
        assert!(trials.passes(&Cause::NetlinkUnread));
        assert_eq!(trials.freeze_timeout(), SHORT);
        passed(&mut trials);
        assert!(!trials.passes(&Cause::InFlight));
        assert!(trials.account().starts_with(" (tried 3 times within 2."));
    }

    #[test]
    fn a_slow_freeze_gets_its_whole_time_once() {
        let signals = Signals::block().expect("signals");
        let mut trials = trials(&signals, Pause::Clients);
        assert!(trials.passes(&Cause::FreezeTimeout));
        passed(&mut trials);
        assert!(trials.passes(&Cause::FreezeTimeout));
        assert_eq!(trials.freeze_timeout(), trials.setting);
        assert!(!trials.passes(&Cause::FreezeTimeout));
    }

    #[test]
    fn a_freeze_that_meets_vforks_stays_short() {
        let signals = Signals::block().expect("signals");
        let mut trials = trials(&signals, Pause::None);
        trials.saw_vforks();
        assert!(trials.passes(&Cause::FreezeTimeout));
        passed(&mut trials);
        assert_eq!(trials.freeze_timeout(), SHORT);
        assert!(!trials.passes(&Cause::FreezeTimeout));
        assert!(trials.account().contains("starts programs"));
    }

    #[test]
    fn a_pause_of_the_owners_is_left_alone() {
        let signals = Signals::block().expect("signals");
        let mut trials = trials(&signals, Pause::Owners);
        assert_eq!(trials.freeze_timeout(), trials.setting);
        assert!(!trials.passes(&Cause::InFlight));
        assert!(trials.account().contains("paused"));
    }

    #[test]
    fn a_container_that_has_ended_is_harmed() {
        let signals = Signals::block().expect("signals");
        let mut trials = trials(&signals, Pause::None);
        assert!(trials.is_unharmed());
        trials.init.started = Some(1);
        assert!(!trials.is_unharmed());
    }
}
