//! A job as supervisor and daemon both know it: its ID, what it is made of, its files.

pub mod bytes;
pub mod files;
pub mod id;
pub mod quote;
pub mod spec;
