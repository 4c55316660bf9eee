//! Text of a container as a terminal and a log may show it.
//!
//! A container chooses the names of its processes and files, and CRIU and the runtime
//! quote them. A control character in a name could move a terminal's cursor, set its
//! title, hide the rest of the line or look like another line. So each text that this
//! program writes to a terminal or to the log comes through here.

use std::fmt::Write as _;
use std::io::{self, Write};

/// Whether a terminal does not show this character but obeys it: Unicode's control
/// characters (C0, DEL and C1), and those that change the direction of writing or
/// separate lines.
fn is_hidden(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// One line of text, with its control characters in Rust's notation.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_hidden(letter) {
            out.extend(letter.escape_default());
        } else {
            out.push(letter);
        }
    }
    out
}

/// Several lines of text, like [`printable`]: line ends and tabs are kept.
pub fn printable_lines(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_hidden(letter) && !matches!(letter, '\n' | '\t') {
            out.extend(letter.escape_default());
        } else {
            out.push(letter);
        }
    }
    out
}

/// JSON with the same value, in which every control character is in JSON's notation.
/// serde_json escapes only those below U+0020.
pub fn printable_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for letter in json.chars() {
        // Line ends are between the values, never in a string.
        if is_hidden(letter) && letter != '\n' {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(letter);
        }
    }
    out
}

/// Writes lines to stderr. A closed stderr is no failure of the command, and can't be
/// reported anywhere: `eprint!` would end the program instead.
pub fn to_stderr(text: &str) {
    let _ = io::stderr().write_all(printable_lines(text).as_bytes());
}

/// Writes lines to stdout. A closed stdout is ignored as in [`to_stderr`].
pub fn to_stdout(text: &str) {
    let _ = io::stdout().write_all(printable_lines(text).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(
            printable("a\x1b[31m\nb\u{202e}\u{9b}ä"),
            "a\\u{1b}[31m\\nb\\u{202e}\\u{9b}ä"
        );
        assert_eq!(printable_lines("a\tb\r\n"), "a\tb\\r\n");
        assert_eq!(
            printable_json("\"\u{9b}\u{feff}\"\n"),
            "\"\\u009b\\ufeff\"\n"
        );
    }

    proptest! {
        #[test]
        fn no_text_reaches_a_terminal_with_a_control_character(text in any::<String>()) {
            let hidden = |text: &str, kept: &[char]| {
                text.chars().any(|c| c.is_control() && !kept.contains(&c))
            };
            prop_assert!(!hidden(&printable(&text), &[]));
            prop_assert!(!hidden(&printable_lines(&text), &['\n', '\t']));
            prop_assert_eq!(printable_lines(&text).lines().count(), text.lines().count());
            // Bytes that are no text, as a name may have.
            let lossy = String::from_utf8_lossy(&[0x1b, 0x9b, 0xff]).into_owned() + &text;
            prop_assert!(!hidden(&printable(&lossy), &[]));
        }

        #[test]
        fn json_keeps_its_value(text in any::<String>(), name in any::<String>()) {
            let value = serde_json::json!({ name: [text] });
            let json = serde_json::to_string_pretty(&value).expect("JSON");
            let shown = printable_json(&json);
            prop_assert!(!shown.chars().any(|c| c.is_control() && c != '\n'));
            let read: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
            prop_assert_eq!(read, value);
        }
    }
}
