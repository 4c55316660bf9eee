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

/// A text of the container with its control characters in Rust's notation, so that
/// it can't move a terminal's cursor or look like another row.
pub(super) fn printable(text: &str) -> String {
    // Unicode's controls, and the characters that change the direction of writing.
    let hidden = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if hidden(letter) {
            out.extend(letter.escape_default());
        } else {
            out.push(letter);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_sizes() {
        assert_eq!(stored(100, 100), "");
        assert_eq!(stored(2048, 1024), ", stored in 1.00 KiB (50 %)");
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(
            printable("a\x1b[31m\nb\u{202e}ä"),
            "a\\u{1b}[31m\\nb\\u{202e}ä"
        );
    }
}
