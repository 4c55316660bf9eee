//! Why the database can't be used. It is never replaced by an empty one.

use std::path::PathBuf;

/// The database can't be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("it has version {found}, and this daemon knows versions up to {known}")]
    Newer { found: i64, known: i64 },
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// The database can't be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It can't be opened.
    #[error("cannot open the database {}: {reason}; {remedy}", path.display())]
    Open {
        /// The database.
        path: PathBuf,
        /// Why.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A query failed.
    #[error("the database: {0}")]
    Query(#[from] rusqlite::Error),
    /// The job exists.
    #[error("a job of that ID exists")]
    Exists,
}

impl OpenError {
    pub(super) fn at(self, path: PathBuf) -> StoreError {
        let damaged = matches!(&self, Self::Damaged(_))
            || matches!(&self, Self::Sqlite(error) if matches!(
                error.sqlite_error_code(),
                Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt)
            ));
        let remedy = match &self {
            Self::Newer { .. } => {
                "it was left unchanged; start the cedana that wrote it, or a newer one"
            }
            _ if damaged => {
                "it was left unchanged; restore it from a backup, or move it away: running jobs are found without it, and the files of ended ones stay in the directory jobs beside it"
            }
            _ => "is the disk full or read-only?",
        };
        StoreError::Open {
            path,
            reason: self.to_string(),
            remedy,
        }
    }
}
