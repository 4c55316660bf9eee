//! CRIU, the program that freezes and thaws: its version, its configuration
//! file, and its log.

pub mod cause;
pub mod config;
pub mod follow;
pub mod lazy;
pub mod log;
pub mod serve;
pub mod version;

pub use cause::Cause;
pub use config::{DumpOptions, RestoreOptions};
pub use log::Diagnosis;
pub use version::Version;
