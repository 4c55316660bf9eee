//! The checkpoint engine: reads, stores and serves the files of CRIU's checkpoints. It
//! does not depend on containerd, Docker or runc, so that every front end (the runtime
//! wrapper today) can use it.
//!
//! ```text
//! attributes/  what CRIU leaves out of processes
//! criu/      the program: its version, its configuration, the causes in its log
//! images/    the files that CRIU writes
//! format/    the files that Cedana stores in their place: manifest, pages, layout
//! archive/   a checkpoint in one file: a tar, and its index
//! inspect/   the contents of a checkpoint, for people and programs
//! capture/   storing page images while CRIU writes them
//! fuse/      a stored checkpoint as a directory that CRIU reads
//! precheck/  what a checkpoint says, compared with a configuration
//! transfer/  a checkpoint in one file for other machines and engines, and back
//! lazy/      the page source: memory for a container that is already running
//! session/   the page source as a process, its watchdog, and a restore's session with it
//! view/      the directory from which CRIU restores
//! host/      processes, cgroups, system calls
//! output/    reports, units, text that a terminal may show
//! opened/    a directory as a descriptor: no links, no pipes, no path out of it
//! progress   progress of a checkpoint
//! sys        system calls that neither the standard library nor nix offers
//! ```
//!
//! `capture`, `fuse`, `lazy` and `inspect` build on `format`, which builds on
//! `images` and `opened`; `criu` needs none of them. The engine runs no dump and no
//! restore.
//! CRIU's images and logs are untrusted input: they are read with a bound, and no
//! content can make a reader panic.

pub mod archive;
pub mod attributes;
pub mod capture;
pub mod criu;
pub mod format;
pub mod fuse;
pub mod host;
pub mod images;
pub mod inspect;
pub mod lazy;
pub mod opened;
pub mod output;
pub mod precheck;
pub mod progress;
pub mod session;
mod sys;
pub mod transfer;
pub mod view;
