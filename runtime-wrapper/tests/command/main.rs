//! Runs `cedana-runc` with shell scripts as runc and CRIU, and checks their arguments
//! and its output.

mod checkpoint;
mod core_dumps;
mod imitated;
mod inspect;
mod output;
mod passthrough;
mod restore;
mod stage;
mod stalled;
