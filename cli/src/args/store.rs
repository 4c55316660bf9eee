//! `cedana store`: the memory that checkpoints share.

use std::path::PathBuf;

use clap::{Args, Subcommand};

const AFTER_CHECK: &str = "\
Exit codes:
  0  nothing is damaged, or all of it was repaired
  1  something is damaged; with --repair: memory is lost, and its checkpoints are named

With --repair, a damaged or lost catalogue is made again from the packs and from the
checkpoints in /var/lib/docker and in each --directory. Damaged chunks are forgotten: a
checkpoint with the same memory stores them again.";

/// The memory that checkpoints share: store.path in config.toml
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Compare all that the store holds with its digests
    #[command(after_help = AFTER_CHECK)]
    Check(StoreCheck),
    /// Show how much the store holds, and how much it saves
    Stats {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove memory that no checkpoint needs any more
    Gc(StoreGc),
}

#[derive(Debug, Args)]
pub(crate) struct StoreCheck {
    /// Repair what is damaged
    #[arg(long)]
    pub(crate) repair: bool,
    /// Where checkpoints are, if the catalogue is made again: a checkpoint, a directory of
    /// checkpoints, or Docker's data root; may be given more than once
    #[arg(short, long, value_name = "DIR", requires = "repair")]
    pub(crate) directory: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StoreGc {
    /// Show what would be removed, and remove nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Remove also what a repair kept for checkpoints that it did not find
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) recovered: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
