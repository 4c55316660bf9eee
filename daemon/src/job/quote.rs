//! A command as people read it.

use super::bytes::Bytes;

/// Joins arguments as a shell would need them, without control characters. What ran in a
/// shell (`/bin/sh -c STRING`) is that string.
#[must_use]
pub fn command(arguments: &[Bytes]) -> String {
    if let [shell, flag, text] = arguments
        && shell.0 == b"/bin/sh"
        && flag.0 == b"-c"
    {
        return printable(&String::from_utf8_lossy(&text.0));
    }
    let quoted: Vec<_> = arguments
        .iter()
        .map(|argument| quote(&String::from_utf8_lossy(&argument.0)))
        .collect();
    quoted.join(" ")
}

fn quote(argument: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_-./=:,+@%".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        return argument.to_owned();
    }
    format!("'{}'", printable(argument).replace('\'', r"'\''"))
}

/// Escapes control characters, which would change the reader's terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|letter| match letter.is_control() {
            true => letter.escape_default().to_string(),
            false => letter.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_read() {
        let words =
            |words: &[&str]| command(&words.iter().copied().map(Bytes::from).collect::<Vec<_>>());
        assert_eq!(words(&["/bin/sh", "-c", "a | b"]), "a | b");
        assert_eq!(
            words(&["python3", "my file.py", ""]),
            "python3 'my file.py' ''"
        );
        assert_eq!(words(&["it's"]), r"'it'\''s'");
        assert!(!words(&["a\x1b[2J\n"]).contains(char::is_control));
    }
}
