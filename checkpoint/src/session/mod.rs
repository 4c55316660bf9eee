//! Lazy restore: the processes that take part, and what happens when one ends.
//!
//! A program that restores dispatches [`PAGE_SOURCE`](cedana_contract::flags::PAGE_SOURCE),
//! its only argument, to [`serve`]. "The container" is whatever was restored, a process
//! tree too.
//!
//! ```text
//! cedana-runc restore ── runc ── CRIU ──► the container
//!    │   ▲  control         │  lazy-pages.socket   ▲ ▲
//!    │   └─────────┐        ▼                      │ │ pages
//!    └── starts ── page source (`cedana-pages`) ───┘ │
//!                     ╎ same descriptors             │ SIGKILL
//!                     watchdog (`cedana-watchdog`) ──┘
//! ```
//!
//! The page source outlives the restore: it ends when no page is missing, or when
//! the container has ended. The *watchdog* is there for its untimely end. When the
//! last descriptor of a userfaultfd closes, the kernel lets all processes that wait
//! for pages go on, with zeros. So the watchdog shares the source's descriptor
//! table, which keeps the source's descriptors open until the watchdog has ended,
//! too. The source's states are drawn in [`state`].
//!
//! | what ends | what happens |
//! |---|---|
//! | the source, while CRIU is at work | the watchdog hangs up on CRIU, which fails |
//! | the source, later | the watchdog kills the container and reports why |
//! | the watchdog | the source kills the container: the source's own death would corrupt its memory unnoticed |
//! | `cedana-runc restore` | the runtime ends with it; the caller's cleanup kills the container, and the source ends |
//! | the container | the kernel tells the source, which ends |
//!
//! The reason for a kill is in the log and in a file of the directory that the restore
//! names, for the shim the bundle ([`kill`]). A checkpoint needs complete memory, so it waits
//! ([`finish`]).

mod complete_memory;
mod completion_socket;
mod control;
mod criu_process;
mod decision;
pub mod history;
mod kill;
mod ledger;
mod messages;
mod page_source;
mod progress;
#[allow(clippy::module_inception, reason = "a session is one of the parts")]
mod session;
mod state;
mod touch_cache;
mod watchdog;

pub use complete_memory::{Error as Incomplete, finish};
pub use decision::{is_small, possible};
pub use messages::Container;
pub use page_source::serve;
pub use session::{Session, Settings};
