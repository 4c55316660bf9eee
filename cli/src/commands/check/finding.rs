//! One line of the result of `cedana check`.

use cedana_checkpoint::output::printable::printable;
use serde_json::{Value, json};

use crate::output::marks::{Mark, Marks};

/// What was found out about one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// The thing: letters and hyphens.
    pub(super) check: &'static str,
    pub(super) verdict: Verdict,
    /// What was found.
    pub(super) found: String,
    /// What to do, if anything.
    pub(super) remedy: String,
    /// What does not work, or worse, without it.
    pub(super) needed_for: &'static str,
}

/// How good that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it should be.
    Fit,
    /// Missing or unusable, and needed.
    Missing,
    /// Missing or unusable, and something works less well.
    Lesser,
    /// Not installed, and not needed.
    Absent,
    /// This user can't see it.
    Hidden,
}

/// The width of the names. The longest is "containerd-shim".
const WIDTH: usize = 15;

impl Finding {
    pub(super) fn fit(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            verdict: Verdict::Fit,
            found: found.into(),
            remedy: String::new(),
            needed_for: "",
        }
    }

    pub(super) fn missing(
        check: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            verdict: Verdict::Missing,
            remedy: remedy.into(),
            ..Self::fit(check, found)
        }
    }

    pub(super) fn lesser(
        check: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            verdict: Verdict::Lesser,
            ..Self::missing(check, found, remedy)
        }
    }

    pub(super) fn absent(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Absent,
            ..Self::fit(check, found)
        }
    }

    /// Only root sees it.
    pub(super) fn hidden(check: &'static str) -> Self {
        Self {
            verdict: Verdict::Hidden,
            remedy: "run this as root".to_owned(),
            ..Self::fit(check, "only root can see it")
        }
    }

    pub(super) fn needed_for(self, needed_for: &'static str) -> Self {
        Self { needed_for, ..self }
    }

    /// A line, and a second one with the remedy.
    pub(super) fn text(&self, marks: Marks) -> String {
        let mark = marks.of(match self.verdict {
            Verdict::Fit => Mark::Yes,
            Verdict::Missing => Mark::No,
            Verdict::Lesser => Mark::Warning,
            Verdict::Absent => Mark::Absent,
            Verdict::Hidden => Mark::Unknown,
        });
        let found = printable(&self.found);
        let mut text = format!("{mark} {:WIDTH$}  {found}\n", self.check);
        if matches!(self.verdict, Verdict::Missing | Verdict::Lesser) {
            let indent = " ".repeat(marks.width() + 1 + WIDTH + 2);
            let remedy = printable(&self.remedy);
            text += &match self.needed_for {
                "" => format!("{indent}{remedy}\n"),
                needed_for => format!("{indent}{remedy} (needed for {needed_for})\n"),
            };
        }
        text
    }

    /// An object. The keys are documented in docs/cedana.md.
    pub(super) fn json(&self) -> Value {
        let ok = match self.verdict {
            Verdict::Fit | Verdict::Lesser => Some(true),
            Verdict::Missing => Some(false),
            Verdict::Absent | Verdict::Hidden => None,
        };
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        json!({
            "check": self.check,
            "ok": ok,
            "found": self.found,
            "remedy": text(&self.remedy),
            "needed_for": text(self.needed_for),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_remedy_below() {
        let finding = Finding::missing("criu", "not \u{1b}[2J installed", "install it")
            .needed_for("every checkpoint");
        assert_eq!(
            finding.text(Marks::Ascii),
            "NO criu             not \\u{1b}[2J installed\n                    install it (needed for every checkpoint)\n"
        );
        let fit = Finding::fit("criu", "4.2").needed_for("every checkpoint");
        assert_eq!(fit.text(Marks::Unicode), "✔ criu             4.2\n");
    }

    #[test]
    fn ok_is_false_for_what_is_needed_and_missing_alone() {
        let ok = |finding: Finding| finding.json()["ok"].clone();
        assert_eq!(ok(Finding::fit("x", "")), true);
        assert_eq!(ok(Finding::missing("x", "", "")), false);
        assert_eq!(ok(Finding::lesser("x", "", "")), true);
        assert_eq!(ok(Finding::absent("x", "")), Value::Null);
        assert_eq!(ok(Finding::hidden("x")), Value::Null);
        let json = Finding::lesser("x", "y", "z").json();
        assert_eq!(
            (&json["remedy"], &json["needed_for"]),
            (&json!("z"), &Value::Null)
        );
    }
}
