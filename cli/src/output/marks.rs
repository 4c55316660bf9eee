//! The signs before a line of a check: in ASCII where the locale has no others.

use std::env;

/// How a line is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Yes,
    No,
    Warning,
    Absent,
    Unknown,
}

/// A set of signs of one width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marks {
    Unicode,
    Ascii,
}

impl Marks {
    /// Those that the locale's character set has (locale(7): the first of these variables
    /// that is set and not empty decides).
    pub(crate) fn of_locale() -> Self {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .filter_map(|name| env::var(name).ok())
            .find(|value| !value.is_empty());
        Self::in_locale(&locale.unwrap_or_default())
    }

    fn in_locale(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        match name.contains("utf-8") || name.contains("utf8") {
            true => Self::Unicode,
            false => Self::Ascii,
        }
    }

    /// The sign.
    pub(crate) fn of(self, mark: Mark) -> &'static str {
        match (self, mark) {
            (Self::Unicode, Mark::Yes) => "✔",
            (Self::Unicode, Mark::No) => "✘",
            (Self::Unicode, Mark::Warning) => "!",
            (Self::Unicode, Mark::Absent) => "-",
            (Self::Unicode, Mark::Unknown) => "?",
            (Self::Ascii, Mark::Yes) => "ok",
            (Self::Ascii, Mark::No) => "NO",
            (Self::Ascii, Mark::Warning) => "! ",
            (Self::Ascii, Mark::Absent) => "- ",
            (Self::Ascii, Mark::Unknown) => "? ",
        }
    }

    /// The columns that a sign takes.
    pub(crate) fn width(self) -> usize {
        match self {
            Self::Unicode => 1,
            Self::Ascii => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_fit_the_locale() {
        for name in ["C.UTF-8", "de_DE.utf8", "en_US.UTF-8@euro"] {
            assert_eq!(Marks::in_locale(name), Marks::Unicode);
        }
        for name in ["", "C", "POSIX", "de_DE", "de_DE.ISO-8859-1"] {
            assert_eq!(Marks::in_locale(name), Marks::Ascii);
        }
    }

    #[test]
    fn signs_of_a_set_have_one_width() {
        let all = [
            Mark::Yes,
            Mark::No,
            Mark::Warning,
            Mark::Absent,
            Mark::Unknown,
        ];
        for marks in [Marks::Unicode, Marks::Ascii] {
            for mark in all {
                assert_eq!(marks.of(mark).chars().count(), marks.width());
            }
        }
    }
}
