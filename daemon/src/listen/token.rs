//! The token that clients send over TCP: 256 bits in a file that only root reads.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::error::Error;

/// A secret.
#[derive(Clone)]
pub(crate) struct Token(String);

impl Token {
    /// Reads the file, or creates it.
    ///
    /// # Errors
    /// The system's; a file that others can read.
    pub(crate) fn load_or_create(path: &Path) -> Result<Self, Error> {
        match fs::read_to_string(path) {
            Ok(text) => {
                let metadata = fs::metadata(path).map_err(Error::file("read", path))?;
                if metadata.mode() & 0o077 != 0 || text.trim().len() < 32 {
                    return Err(Error::Other(format!(
                        "the token {} can be read by other users or is too short; remove it, and the daemon makes a new one",
                        path.display()
                    )));
                }
                Ok(Self(text.trim().to_owned()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(path).map_err(Error::file("create", path))
            }
            Err(error) => Err(Error::file("read", path)(error)),
        }
    }

    /// Whether a client sent this token. The time does not tell where two differ.
    pub(crate) fn is(&self, sent: &[u8]) -> bool {
        let own = self.0.as_bytes();
        let differing = own
            .iter()
            .zip(sent)
            .fold(0, |differing, (a, b)| differing | (a ^ b));
        std::hint::black_box(differing) == 0 && own.len() == sent.len()
    }
}

fn create(path: &Path) -> io::Result<Token> {
    let mut bytes = [0_u8; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let new = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    Ok(Token(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_is_made_once_and_is_for_root_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("token");
        let token = Token::load_or_create(&path).expect("made");
        let again = Token::load_or_create(&path).expect("read");
        assert!(token.is(again.0.as_bytes()));
        assert!(!token.is(&again.0.as_bytes()[1..]));
        assert!(!token.is(b""));
        assert_eq!(token.0.len(), 64);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("changed");
        assert!(Token::load_or_create(&path).is_err());
    }
}
