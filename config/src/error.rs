//! Errors of the settings. Each names the file and line, the variable or the
//! annotation.

use std::fmt;
use std::path::PathBuf;

use crate::suggestion::suggestion;

/// An error in the settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The settings file can't be read.
    #[error("cannot read the settings file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The settings file is larger than the limit.
    #[error("the settings file {} is larger than {limit} bytes: is CEDANA_CONFIG right?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// The settings file is not TOML.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// The TOML parser's message.
        message: String,
    },
    /// An unknown name.
    #[error("{}\"{name}\"{}", place.unknown(), did_you_mean(.suggestion))]
    Unknown {
        /// The place.
        place: Place,
        /// The name as written.
        name: String,
        /// The most similar known name, if one is similar enough.
        suggestion: Option<String>,
    },
    /// A setting with an invalid value.
    #[error("{place}{name}: {reason}")]
    Value {
        /// The place.
        place: Place,
        /// The name as written.
        name: String,
        /// The fault, and the valid values.
        reason: String,
    },
    /// An annotation that names a setting of the node.
    #[error(
        "annotation {name}: \"{key}\" belongs to the node and cannot be chosen by a container; set it in config.toml"
    )]
    NotByAnnotation {
        /// The annotation.
        name: String,
        /// The setting.
        key: &'static str,
    },
    /// A request to the daemon that names a setting of the node.
    #[error(
        "setting \"{key}\" belongs to the node and cannot be chosen by a request; set it in config.toml"
    )]
    NotByCall {
        /// The setting.
        key: &'static str,
    },
    /// A user's file that names a setting of the node.
    #[error(
        "{}: \"{key}\" belongs to the node and cannot be chosen by a user; remove it here, and set it in /etc/cedana/config.toml", path.display()
    )]
    NotByUser {
        /// The user's file.
        path: PathBuf,
        /// The setting.
        key: &'static str,
    },
}

/// The place where a setting is set.
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
    /// A user's own file, which is JSON.
    User {
        /// The file.
        path: PathBuf,
    },
    /// The environment.
    Environment,
    /// A container's annotations.
    Annotation,
    /// A request to the daemon.
    Call,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}: ", path.display()),
            Self::User { path } => write!(f, "{}: ", path.display()),
            Self::Environment => f.write_str("environment variable "),
            Self::Annotation => f.write_str("annotation "),
            Self::Call => f.write_str("setting "),
        }
    }
}

impl Place {
    fn unknown(&self) -> String {
        match self {
            Self::File { .. } | Self::User { .. } => format!("{self}unknown setting "),
            Self::Environment | Self::Annotation | Self::Call => format!("unknown {self}"),
        }
    }
}

fn did_you_mean(suggestion: &Option<String>) -> String {
    suggestion
        .as_ref()
        .map(|name| format!("; did you mean \"{name}\"?"))
        .unwrap_or_default()
}

impl Error {
    /// The warning of a command that goes on without the settings.
    #[must_use]
    pub fn warning(&self) -> String {
        format!(
            "a mistake in the settings, until it is corrected checkpoints and restores are refused: {self}"
        )
    }

    pub(crate) fn unknown(
        place: Place,
        name: &str,
        known: impl IntoIterator<Item = String>,
    ) -> Self {
        Self::Unknown {
            place,
            name: name.to_owned(),
            suggestion: suggestion(name, known),
        }
    }

    pub(crate) fn value(place: Place, name: &str, reason: String) -> Self {
        Self::Value {
            place,
            name: name.to_owned(),
            reason,
        }
    }
}
