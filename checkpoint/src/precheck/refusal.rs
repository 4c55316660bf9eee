//! Differences between a checkpoint and a configuration.

use std::fmt;

use super::process::Process;

/// The most refusals that are collected. One is enough to refuse a restore.
const MAX_REFUSALS: usize = 8;

/// A difference between a checkpoint and a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The process, mount or file, or the checkpoint itself.
    pub subject: String,
    /// What the checkpoint says of it.
    pub wants: String,
    /// What the configuration gives.
    pub gives: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            subject,
            wants,
            gives,
        } = self;
        write!(f, "{subject} {wants}, but {gives}")
    }
}

/// The differences found so far.
#[derive(Debug, Default)]
pub(super) struct Refusals(pub(super) Vec<Refusal>);

impl Refusals {
    fn add(&mut self, subject: String, wants: &str, gives: &str) {
        if self.0.len() < MAX_REFUSALS {
            self.0.push(Refusal {
                subject,
                wants: wants.to_owned(),
                gives: gives.to_owned(),
            });
        }
    }

    pub(super) fn process(&mut self, process: &Process, wants: &str, gives: &str) {
        let subject = format!("process {} ({})", process.pid, process.leader.comm);
        self.add(subject, wants, gives);
    }

    pub(super) fn mount(&mut self, mountpoint: &str, wants: &str, gives: &str) {
        self.add(format!("the mount on {mountpoint}"), wants, gives);
    }

    pub(super) fn file(&mut self, path: &str, wants: &str, gives: &str) {
        self.add(format!("the file {path}"), wants, gives);
    }

    pub(super) fn checkpoint(&mut self, wants: &str, gives: &str) {
        self.add("the checkpoint".to_owned(), wants, gives);
    }
}
