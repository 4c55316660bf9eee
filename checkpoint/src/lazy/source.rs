//! The page source: one thread answers page faults, other threads prefetch.
//!
//! [`Source::step`] handles all pending events and never waits. It is to be called
//! when the source's descriptor (an epoll) is readable or [`Source::timeout`] has
//! passed.

mod answer;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::geteuid;

use super::pending::{Frame, Pending};
use super::prefetch::Prefetch;
use super::protocol::{self, Said};
use super::space::Space;
use super::{Failure, Metrics, Touches, metrics};
use crate::format::pages::Decoder;
use crate::lazy::layout::{Memory, Run};
use answer::Waiting;

/// Tokens of the epoll. Address spaces are numbered from here.
const LISTENER: u64 = 0;
const CRIU: u64 = 1;
const NEWS: u64 = 2;
const FIRST_SPACE: u64 = 3;

/// The number of descriptors that one step handles at most.
const EVENTS: usize = 64;

/// The interval of the check whether forked children have ended. The kernel reports no
/// end, and each child holds a descriptor until the check.
const LOOK: Duration = Duration::from_secs(1);

/// The phase of a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// CRIU restores the processes.
    Restoring,
    /// The processes run, and memory is missing.
    Running,
    /// The restored processes have all of their memory. Children that they forked
    /// meanwhile lack some.
    Restored,
    /// All memory is resident.
    Complete,
}

/// The page source of one restore; see the module's documentation.
pub struct Source {
    epoll: Epoll,
    listener: Option<UnixListener>,
    criu: Option<UnixStream>,
    processes: std::collections::BTreeMap<i32, Vec<Run>>,
    spaces: HashMap<u64, Arc<Space>>,
    next: u64,
    waiting: VecDeque<Waiting>,
    /// The time until the next attempt for one of them.
    retry: Option<Duration>,
    phase: Phase,
    /// The time of the last check of forked children.
    looked: Instant,
    /// The time at which CRIU let the processes run.
    running_since: Option<Instant>,
    touches: Touches,
    about_to_run: Box<dyn FnMut()>,
    prefetch: Prefetch,
    held: bool,
    page: u64,
    decoder: Decoder,
    /// The frame that was decoded last.
    decoded: Option<Frame>,
    bytes: Vec<u8>,
    times: metrics::Times,
    lazy_bytes: u64,
    faulted_bytes: u64,
}

impl Source {
    /// Creates a source for the processes of a checkpoint, with this number of prefetching
    /// threads. CRIU connects to `listener`. The source calls `about_to_run` when CRIU is
    /// about to let the processes run, before it changes its own state.
    ///
    /// # Errors
    /// A limit of descriptors or threads is reached.
    pub fn new(
        memory: Memory,
        listener: UnixListener,
        page: u64,
        threads: usize,
        about_to_run: Box<dyn FnMut()>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let lazy_bytes = memory.bytes();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let prefetch = Prefetch::new(memory.files, threads)?;
        let readable = |token| EpollEvent::new(EpollFlags::EPOLLIN, token);
        epoll.add(&listener, readable(LISTENER))?;
        epoll.add(&prefetch.shared.news, readable(NEWS))?;
        Ok(Self {
            epoll,
            listener: Some(listener),
            criu: None,
            processes: memory.processes,
            spaces: HashMap::new(),
            next: FIRST_SPACE,
            waiting: VecDeque::new(),
            retry: None,
            phase: Phase::Restoring,
            looked: Instant::now(),
            running_since: None,
            touches: Touches::default(),
            about_to_run,
            prefetch,
            held: false,
            page,
            decoder: Decoder::default(),
            decoded: None,
            bytes: Vec::new(),
            times: metrics::Times::default(),
            lazy_bytes,
            faulted_bytes: 0,
        })
    }

    /// Returns the phase of the restore.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Returns the time after which to call [`Self::step`] even without an event.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        let forked = self.spaces.values().any(|space| space.is_forked());
        let look = forked.then(|| LOOK.saturating_sub(self.looked.elapsed()));
        self.retry.into_iter().chain(look).min()
    }

    /// Returns the connection to CRIU while it is open.
    #[must_use]
    pub fn criu(&self) -> Option<BorrowedFd<'_>> {
        self.criu.as_ref().map(AsFd::as_fd)
    }

    /// Returns whether CRIU has connected.
    #[must_use]
    pub fn was_asked(&self) -> bool {
        self.listener.is_none()
    }

    /// Returns the number of missing bytes.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.spaces.values().map(|space| space.missing()).sum()
    }

    /// Returns the number of bytes that are missing in forked children. A checkpoint needs
    /// a copy of them for each child.
    #[must_use]
    pub fn missing_in_children(&self) -> u64 {
        let forked = self.spaces.values().filter(|space| space.is_forked());
        forked.map(|space| space.missing()).sum()
    }

    /// Prefetches the pages of `touches` first.
    pub fn expect(&mut self, touches: &Touches) {
        self.prefetch.expect(touches);
    }

    /// Returns the touches of this restore so far.
    #[must_use]
    pub fn touches(&self) -> &Touches {
        &self.touches
    }

    /// Answers page faults only, until [`Self::begin_prefetch`].
    pub fn hold_prefetch(&mut self) {
        self.held = true;
    }

    /// Starts to prefetch the rest.
    pub fn begin_prefetch(&mut self) {
        self.held = false;
        if self.phase != Phase::Restoring {
            self.prefetch.begin();
        }
    }

    /// Prefetches on all processors, because a checkpoint waits for complete memory.
    pub fn hurry(&mut self) {
        self.begin_prefetch();
        self.prefetch.hurry();
    }

    /// Returns the metrics so far.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        Metrics {
            lazy_bytes: self.lazy_bytes,
            faulted_bytes: self.faulted_bytes,
            prefetched_bytes: self.prefetch.shared.given.load(Ordering::Relaxed),
            expected_bytes: self.prefetch.shared.expected.load(Ordering::Relaxed),
            ..self.times.summary()
        }
    }

    /// Handles all pending events.
    ///
    /// # Errors
    /// The restore has failed, or missing memory can't be given. The container must not
    /// continue then.
    pub fn step(&mut self) -> Result<(), Failure> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(Failure::system("epoll")(error.into())),
        };
        for event in &events[..count] {
            match event.data() {
                LISTENER => self.accept().map_err(Failure::system("accept CRIU"))?,
                CRIU => self.hear()?,
                NEWS => {
                    let _ = self.prefetch.shared.news.read();
                }
                token => self.follow(token)?,
            }
        }
        if let Some(failure) = self.prefetch.failure() {
            return Err(failure);
        }
        self.answer()?;
        self.settle();
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        let Some(listener) = self.listener.take() else {
            return Ok(());
        };
        match listener.accept() {
            // CRIU runs as this process's user. Other users must not get the
            // checkpoint's memory.
            Ok((stream, _)) if peer(&stream)? != geteuid().as_raw() => {
                self.listener = Some(listener);
            }
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                let event = EpollEvent::new(EpollFlags::EPOLLIN, CRIU);
                self.epoll.add(&stream, event)?;
                self.criu = Some(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.listener = Some(listener);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Handles one message of CRIU.
    fn hear(&mut self) -> Result<(), Failure> {
        let Some(criu) = &mut self.criu else {
            return Ok(());
        };
        let hear = Failure::system("hear CRIU");
        if protocol::is_last_word(criu).map_err(&hear)? {
            (self.about_to_run)();
        }
        match protocol::receive(criu).map_err(&hear)? {
            Said::Zombie => {}
            Said::Task { pid, uffd } => {
                let runs = self.processes.remove(&pid);
                let runs = runs.ok_or(Failure::UnknownProcess { pid })?;
                let space = Space::new(Some(pid), uffd, Pending::new(&runs), self.page);
                self.add(space.map_err(Failure::system("userfaultfd"))?)?;
            }
            Said::Finished => {
                self.phase = Phase::Running;
                self.running_since = Some(Instant::now());
                if !self.held {
                    self.prefetch.begin();
                }
                // CRIU has not restored the remaining processes, so their memory is not
                // missing.
                self.processes.clear();
            }
            Said::End if self.phase == Phase::Restoring => return Err(Failure::Unfinished),
            Said::End => {
                let _ = self.epoll.delete(&*criu);
                self.criu = None;
            }
        }
        Ok(())
    }

    fn add(&mut self, space: Space) -> Result<(), Failure> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, self.next);
        self.epoll
            .add(&space, event)
            .map_err(|error| Failure::system("epoll")(error.into()))?;
        let space = Arc::new(space);
        self.spaces.insert(self.next, space.clone());
        self.prefetch.add(space);
        self.next += 1;
        Ok(())
    }

    fn follow(&mut self, token: u64) -> Result<(), Failure> {
        let Some(space) = self.spaces.get(&token).cloned() else {
            return Ok(());
        };
        let seen = space.follow().map_err(Failure::system("userfaultfd"))?;
        let since = Instant::now();
        for address in seen.faults {
            self.waiting.push_back(Waiting {
                space: space.clone(),
                address,
                since,
                refused: 0,
            });
        }
        for child in seen.children {
            self.add(child)?;
        }
        Ok(())
    }

    /// Drops address spaces without missing pages, and updates the phase.
    fn settle(&mut self) {
        if self.phase == Phase::Restoring {
            return;
        }
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            let forked = self.spaces.values().filter(|space| space.is_forked());
            forked.for_each(|space| space.look());
        }
        let prefetch = &self.prefetch;
        let epoll = &self.epoll;
        self.spaces.retain(|_, space| {
            let done = space.is_done();
            if done {
                prefetch.remove(space);
                // A thread may still hold the descriptor for a moment.
                let _ = epoll.delete(&**space);
            }
            !done
        });
        self.waiting.retain(|fault| !fault.space.is_done());
        if self.spaces.is_empty() {
            self.phase = Phase::Complete;
        } else if self.spaces.values().all(|space| space.is_forked()) {
            self.phase = Phase::Restored;
        }
    }
}

/// The user at the other end of a connection.
fn peer(stream: &UnixStream) -> io::Result<u32> {
    Ok(getsockopt(stream, PeerCredentials)?.uid())
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}
