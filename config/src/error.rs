//! What can be wrong with settings, said so that the person who wrote them
//! finds the spot: file and line, variable, or annotation.

use std::fmt;
use std::path::PathBuf;

use crate::nearest;

/// Why settings could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The settings file exists or was asked for but cannot be read.
    #[error("cannot read the settings file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The settings file is larger than any real one.
    #[error("the settings file {} is larger than {limit} bytes: is CEDANA_CONFIG right?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The largest size that is read.
        limit: u64,
    },
    /// The settings file is not TOML.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// What the TOML parser said.
        message: String,
    },
    /// A name that no setting has.
    #[error("{}\"{name}\"{}", place.unknown(), did_you_mean(.nearest))]
    Unknown {
        /// Where it stands.
        place: Place,
        /// The name as written.
        name: String,
        /// The known name that is most like it.
        nearest: Option<String>,
    },
    /// A known setting with a value it cannot take.
    #[error("{place}{name}: {why}")]
    Value {
        /// Where it stands.
        place: Place,
        /// The name as written.
        name: String,
        /// What is wrong and what would be right.
        why: String,
    },
    /// A setting of the node, tried by a container.
    #[error(
        "annotation {name}: \"{key}\" belongs to the node and cannot be chosen by a container; set it in config.toml"
    )]
    NotByAnnotation {
        /// The annotation.
        name: String,
        /// The setting.
        key: &'static str,
    },
}

/// Where a setting stands.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Place {
    /// A line of the settings file.
    File {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
    },
    /// The environment.
    Environment,
    /// A container's annotations.
    Annotation,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}: ", path.display()),
            Self::Environment => f.write_str("environment variable "),
            Self::Annotation => f.write_str("annotation "),
        }
    }
}

impl Place {
    fn unknown(&self) -> String {
        match self {
            Self::File { .. } => format!("{self}unknown setting "),
            Self::Environment | Self::Annotation => format!("unknown {self}"),
        }
    }
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest
        .as_ref()
        .map(|name| format!("; did you mean \"{name}\"?"))
        .unwrap_or_default()
}

impl Error {
    pub(crate) fn unknown(
        place: Place,
        name: &str,
        known: impl IntoIterator<Item = String>,
    ) -> Self {
        Self::Unknown {
            place,
            name: name.to_owned(),
            nearest: nearest::nearest(name, known),
        }
    }

    pub(crate) fn value(place: Place, name: &str, why: String) -> Self {
        Self::Value {
            place,
            name: name.to_owned(),
            why,
        }
    }
}
