//! CRIU, the program that dumps and restores: its version ([`version`]), its
//! configuration file ([`config`]), its log ([`log`]) and the causes that the log
//! names ([`cause`]), and copies of the logs of failures ([`log_archive`]). Its
//! remote procedure calls ([`rpc`]).

pub mod cause;
pub mod config;
pub mod log;
pub mod log_archive;
pub mod rpc;
pub mod version;

pub use cause::Cause;
pub use config::{DumpOptions, RestoreOptions};
pub use log::Diagnosis;
pub use version::Version;
