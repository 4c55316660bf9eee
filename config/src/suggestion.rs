//! Suggestions for mistyped names.

/// Length limit of a name, in bytes: the time for an edit distance grows with the
/// product of both lengths.
const MAX_LENGTH: usize = 128;

/// The name in `known` with the smallest edit distance to `name`. `None` if more
/// than a third of its letters differ.
pub(crate) fn suggestion(name: &str, known: impl IntoIterator<Item = String>) -> Option<String> {
    if name.len() > MAX_LENGTH {
        return None;
    }
    known
        .into_iter()
        .map(|candidate| (strsim::levenshtein(name, &candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_similar_names_are_suggested() {
        let known = || ["log_dir".to_owned(), "log_keep".to_owned()];
        assert_eq!(suggestion("logdir", known()).as_deref(), Some("log_dir"));
        assert_eq!(suggestion("colour", known()), None);
        assert_eq!(suggestion(&"l".repeat(10_000), known()), None);
    }
}
