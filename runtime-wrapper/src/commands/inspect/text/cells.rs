//! Cells of the tables.

use cedana_checkpoint::inspect::Share;

use crate::output::units::bytes;

pub(super) fn absent() -> String {
    "-".to_owned()
}

/// The bytes of a share that are in the checkpoint and in its parent.
pub(super) fn in_image(share: Share) -> String {
    match share.parent_bytes {
        0 => bytes(share.image_bytes),
        parent => format!("{} + {} in parent", bytes(share.image_bytes), bytes(parent)),
    }
}

pub(super) fn stored(raw: u64, stored: u64) -> String {
    if raw == stored || raw == 0 {
        return String::new();
    }
    let percent = stored as f64 / raw as f64 * 100.0;
    format!(", stored in {} ({percent:.0} %)", bytes(stored))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_sizes() {
        assert_eq!(stored(100, 100), "");
        assert_eq!(stored(2048, 1024), ", stored in 1.00 KiB (50 %)");
    }
}
