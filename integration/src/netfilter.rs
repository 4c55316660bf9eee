//! The packet filter of a network namespace.

use crate::command;

/// The tables of nftables in a network namespace.
#[track_caller]
pub fn nftables(netns: &str) -> String {
    let enter = format!("--net={netns}");
    command("nsenter", &[&enter, "nft", "list", "tables"])
        .ok()
        .stdout
}
