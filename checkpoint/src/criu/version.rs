//! Version of the installed CRIU, and the oldest one that is supported.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A CRIU version, ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number, 0 if there is none.
    pub sublevel: u32,
}

impl Version {
    /// Oldest supported CRIU. 3.17 is the first that dumps restartable sequences,
    /// which glibc 2.35 and later use in every process: after a checkpoint by an
    /// older CRIU the restored processes crash. External network namespaces and
    /// `CRIU_CONFIG_FILE` came earlier (3.11).
    pub const MINIMUM: Self = Self {
        major: 3,
        minor: 17,
        sublevel: 0,
    };

    /// Reads the version out of `criu --version`, or out of the first lines of
    /// a CRIU log: `Version: 4.2.1`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once("Version: ")?;
        let number = rest
            .split(|c: char| !(c.is_ascii_digit() || c == '.'))
            .next()?;
        let mut parts = number.split('.').map(|part| part.parse().ok());
        let major = parts.next()??;
        Some(Self {
            major,
            minor: parts.next().flatten().unwrap_or(0),
            sublevel: parts.next().flatten().unwrap_or(0),
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.sublevel != 0 {
            write!(f, ".{}", self.sublevel)?;
        }
        Ok(())
    }
}

/// The reason that the CRIU of this machine can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such program in `PATH`.
    #[error(
        "CRIU is not installed: no program \"criu\" in PATH ({path}); install CRIU {} or later",
        Version::MINIMUM
    )]
    Missing {
        /// The `PATH` that was searched.
        path: String,
    },
    /// The program can't be started.
    #[error("cannot run {}: {source}; reinstall CRIU", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The program's output has no version.
    #[error("{} --version printed no version ({output:?}): is it CRIU?", program.display())]
    Unreadable {
        /// The program.
        program: PathBuf,
        /// The beginning of its output.
        output: String,
    },
    /// Older than [`Version::MINIMUM`].
    #[error("CRIU {found} ({}) is too old: install CRIU {} or later (4.2 or later on Linux 6.16 and later)", program.display(), Version::MINIMUM)]
    TooOld {
        /// The program.
        program: PathBuf,
        /// Its version.
        found: Version,
    },
}

/// Finds CRIU in `path` (the value of `PATH`), as the runtimes do, and checks
/// its version.
///
/// # Errors
/// No CRIU, one that does not run, or one that is too old.
pub fn find(path: &OsStr) -> Result<(PathBuf, Version), Error> {
    let program = std::env::split_paths(path)
        .map(|dir| dir.join("criu"))
        .find(|candidate| is_program(candidate))
        .ok_or_else(|| Error::Missing {
            path: path.to_string_lossy().into_owned(),
        })?;
    let version = ask(&program)?;
    Ok((program, version))
}

/// Runs one CRIU program with `--version` and checks the answer.
///
/// # Errors
/// A program that does not run, is no CRIU, or is too old.
pub fn ask(program: &Path) -> Result<Version, Error> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Run {
            program: program.to_owned(),
            source,
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found = Version::parse(&text).ok_or_else(|| Error::Unreadable {
        program: program.to_owned(),
        output: text
            .lines()
            .chain(String::from_utf8_lossy(&output.stderr).lines())
            .next()
            .unwrap_or_default()
            .chars()
            .take(80)
            .collect(),
    })?;
    if found < Version::MINIMUM {
        return Err(Error::TooOld {
            program: program.to_owned(),
            found,
        });
    }
    Ok(found)
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    fn version(major: u32, minor: u32, sublevel: u32) -> Version {
        Version {
            major,
            minor,
            sublevel,
        }
    }

    fn fake(dir: &Path, script: &str) {
        let program = dir.join("criu");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("write");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
    }

    #[test]
    fn versions_of_tool_and_log() {
        assert_eq!(Version::parse("Version: 4.2.1\n"), Some(version(4, 2, 1)));
        assert_eq!(
            Version::parse("Version: 3.17.1\nGitID: v3.17.1\n"),
            Some(version(3, 17, 1))
        );
        assert_eq!(
            Version::parse("(00.000022) Version: 4.2 (gitid 0)"),
            Some(version(4, 2, 0))
        );
        assert_eq!(Version::parse("runc version 1.3.6"), None);
        assert!(version(3, 17, 0) < version(4, 0, 0));
        assert_eq!(version(4, 2, 0).to_string(), "4.2");
    }

    #[test]
    fn missing_program_names_path() {
        let dir = tempfile::tempdir().expect("tempdir");
        let error = find(dir.path().as_os_str()).expect_err("nothing there");
        assert!(error.to_string().contains(&*dir.path().to_string_lossy()));
        assert!(error.to_string().contains("not installed"));
    }

    #[test]
    fn old_and_strange_programs_are_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        fake(dir.path(), "echo Version: 3.11");
        let error = find(dir.path().as_os_str()).expect_err("old").to_string();
        assert!(
            error.contains("CRIU 3.11") && error.contains("too old"),
            "{error}"
        );
        fake(dir.path(), "echo hello");
        let error = find(dir.path().as_os_str()).expect_err("strange");
        assert!(matches!(error, Error::Unreadable { .. }));
        fake(dir.path(), "echo Version: 4.2.1");
        assert_eq!(
            find(dir.path().as_os_str()).expect("fit").1,
            version(4, 2, 1)
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(Version: )?\\PC{0,60}") {
            let _ = Version::parse(&text);
        }
    }
}
