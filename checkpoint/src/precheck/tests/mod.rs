//! Hostile checkpoints, each with an honest one beside it.

mod credentials;
mod dumped;
mod files;
mod honest;
mod mounts;
mod own;
mod paths;
mod tree;
mod user;

use honest::Case;

#[test]
fn an_honest_checkpoint_passes() {
    Case::honest().passes();
}
