//! Variables of `exec`: `-e NAME=VALUE`, `-e NAME`, `--env-file FILE`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use cedana_api::v1::EnvironmentVariable;

use crate::error::{Error, Result};

/// Reads a file of variables. Blank lines, and lines that begin with `#`, are skipped;
/// everything after the first `=` is the value, quotes included.
///
/// # Errors
/// The file and the line.
pub(crate) fn read(path: &Path) -> Result<Vec<EnvironmentVariable>> {
    let content = fs::read(path).map_err(Error::file("read", path))?;
    parse(&content)
        .map_err(|(line, reason)| Error::Other(format!("{}:{line}: {reason}", path.display())))
}

fn parse(content: &[u8]) -> std::result::Result<Vec<EnvironmentVariable>, (usize, String)> {
    let mut variables = Vec::new();
    for (number, line) in (1..).zip(content.split(|byte| *byte == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let variable = split(line)
            .filter(|variable| is_name(&variable.name))
            .ok_or_else(|| {
                let line = String::from_utf8_lossy(line);
                (
                    number,
                    format!("{line:?} is not NAME=VALUE, where NAME has letters, digits and \"_\""),
                )
            })?;
        if variable.value.contains(&0) {
            return Err((number, "the value has a NUL byte".to_owned()));
        }
        variables.push(variable);
    }
    Ok(variables)
}

/// The variable of an option `-e`.
///
/// # Errors
/// It is not in this environment either.
pub(crate) fn option(text: &OsStr) -> Result<EnvironmentVariable> {
    if let Some(variable) = split(text.as_bytes()) {
        return Ok(variable);
    }
    let value = std::env::var_os(text).ok_or_else(|| {
        let name = text.display();
        Error::Other(format!(
            "-e {name}: the variable is not set; give its value: -e {name}=VALUE"
        ))
    })?;
    Ok(EnvironmentVariable {
        name: text.as_bytes().to_vec(),
        value: OsString::into_vec(value),
    })
}

fn split(line: &[u8]) -> Option<EnvironmentVariable> {
    let at = line.iter().position(|byte| *byte == b'=')?;
    Some(EnvironmentVariable {
        name: line[..at].to_vec(),
        value: line[at + 1..].to_vec(),
    })
}

fn is_name(name: &[u8]) -> bool {
    let letter = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    !name.is_empty() && !name[0].is_ascii_digit() && name.iter().all(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_variables() {
        let file = b"# a comment\n\nA=1\r\n  B=x=y \"z\"\nC=";
        let variables: Vec<_> = parse(file)
            .expect("valid")
            .into_iter()
            .map(|v| [v.name, v.value].map(|b| String::from_utf8(b).expect("text")))
            .collect();
        assert_eq!(variables, [["A", "1"], ["B", "x=y \"z\""], ["C", ""]]);
    }

    #[test]
    fn mistakes_have_a_line() {
        for (file, line) in [
            (&b"A=1\nB"[..], 2),
            (b"=x", 1),
            (b"\n\nexport A=1", 3),
            (b"1A=x", 1),
            (b"A=\0", 1),
        ] {
            assert_eq!(parse(file).expect_err("a mistake").0, line);
        }
    }
}
