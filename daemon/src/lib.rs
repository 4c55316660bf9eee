//! daemon

pub mod job;
pub mod supervisor;
