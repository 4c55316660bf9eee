//! Names of files that begin with the name of a container or a process.
//!
//! A caller chooses that name, which may have slashes: joined to a directory of root's it
//! would lead elsewhere.

/// The longest beginning of a name: with a time and an ending it is a file's name.
const MAX: usize = 200;

/// A name that is one plain component of a path, and not hidden.
#[must_use]
pub(crate) fn file_name(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name: String = name
        .chars()
        .map(|c| if plain(c) { c } else { '_' })
        .take(MAX)
        .collect();
    match name.trim_start_matches('.') {
        "" => "process".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_component() {
        assert_eq!(file_name("web-1.0"), "web-1.0");
        assert_eq!(file_name("../../etc/x"), "_.._etc_x");
        assert_eq!(file_name("/etc/x"), "_etc_x");
        for hidden in ["", ".", ".."] {
            assert_eq!(file_name(hidden), "process");
        }
        assert_eq!(file_name(&"é".repeat(300)).len(), MAX);
    }
}
