//! The signature of a manifest. It proves that a node with the same key wrote it.
//!
//! Digests show damage only: an attacker who edits a file edits its digest, too. A keyed
//! hash needs the node's key. It covers all of the manifest, with the files' digests and the
//! container's configuration. It does not cover the files of an earlier pre-dump, which
//! have no digests.
//!
//! ```text
//! /etc/cedana/key  64 hexadecimal digits, root's, mode 0600
//! signature        BLAKE3, keyed, of the manifest's JSON without this value
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

use super::schema::Manifest;

/// A node's key.
#[derive(Clone)]
pub struct Key([u8; blake3::KEY_LEN]);

/// The reason that a key can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file can't be read.
    #[error("the key {} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: std::path::PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Other users can read or write the file.
    #[error("the key {} is not root's alone: run chown root and chmod 600 on it", path.display())]
    Shared {
        /// The file.
        path: std::path::PathBuf,
    },
    /// The file's content is no key.
    #[error("the key {} has no 64 hexadecimal digits: make another with `make install`", path.display())]
    Malformed {
        /// The file.
        path: std::path::PathBuf,
    },
}

impl Key {
    /// Reads a key; `None` if there is no file.
    ///
    /// # Errors
    /// It can't be read, is not this user's alone, or is no key.
    pub fn read(path: &Path) -> Result<Option<Self>, KeyError> {
        let unreadable = |source| KeyError::Read {
            path: path.to_owned(),
            source,
        };
        let mut options = File::options();
        options.read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK);
        let file = match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(unreadable)?,
        };
        let metadata = file.metadata().map_err(unreadable)?;
        let own = nix::unistd::geteuid().as_raw();
        if !metadata.is_file() || metadata.uid() != own || metadata.mode() & 0o077 != 0 {
            return Err(KeyError::Shared {
                path: path.to_owned(),
            });
        }
        let mut text = String::new();
        file.take(256)
            .read_to_string(&mut text)
            .map_err(unreadable)?;
        let malformed = || KeyError::Malformed {
            path: path.to_owned(),
        };
        // A digest has the length of a key.
        let key = blake3::Hash::from_hex(text.trim()).map_err(|_| malformed())?;
        Ok(Some(Self(*key.as_bytes())))
    }
}

impl Manifest {
    /// Signs the manifest. It must not change afterwards.
    ///
    /// # Errors
    /// It exceeds the size limit.
    pub fn sign(&mut self, key: &Key) -> io::Result<()> {
        self.signature = None;
        let signature = self.keyed_hash(key)?;
        self.signature = Some(signature.to_hex().to_string());
        Ok(())
    }

    /// Whether the manifest has a signature of this key.
    #[must_use]
    pub fn is_signed_by(&self, key: &Key) -> bool {
        let signature = self.signature.as_deref();
        let signature = signature.and_then(|text| blake3::Hash::from_hex(text).ok());
        let unsigned = Self {
            signature: None,
            ..self.clone()
        };
        // Hashes are compared in constant time.
        signature.is_some_and(|signature| {
            unsigned
                .keyed_hash(key)
                .is_ok_and(|expected| expected == signature)
        })
    }

    fn keyed_hash(&self, key: &Key) -> io::Result<blake3::Hash> {
        Ok(blake3::keyed_hash(&key.0, &self.render()?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::manifest;
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn key(byte: u8) -> Key {
        Key([byte; blake3::KEY_LEN])
    }

    #[test]
    fn a_signature_is_of_the_key_and_of_the_whole_manifest() {
        let mut signed = manifest();
        assert!(!signed.is_signed_by(&key(1)));
        signed.sign(&key(1)).expect("small");
        assert!(signed.is_signed_by(&key(1)));
        assert!(!signed.is_signed_by(&key(2)));
        // Signing again changes nothing, and reading keeps the signature.
        let text = signed.render().expect("small");
        let read: Manifest = serde_json::from_slice(&text).expect("a manifest");
        assert!(read.is_signed_by(&key(1)));
        let mut changed = signed.clone();
        changed.files[0].digest = blake3::hash(b"edited").to_hex().to_string();
        assert!(!changed.is_signed_by(&key(1)));
        let mut changed = signed.clone();
        changed.container.spec = Some(serde_json::json!({"process": {}}));
        assert!(!changed.is_signed_by(&key(1)));
        signed.signature = Some("x".to_owned());
        assert!(!signed.is_signed_by(&key(1)));
    }

    #[test]
    fn a_key_is_one_users_alone() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("key");
        assert!(Key::read(&path).is_ok_and(|key| key.is_none()));
        let write = |text: &str, mode: u32| {
            fs::write(&path, text).expect("write");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod");
            Key::read(&path)
        };
        let digits = "0a".repeat(32);
        assert!(write(&format!("{digits}\n"), 0o600).is_ok_and(|key| key.is_some()));
        assert!(matches!(
            write(&digits, 0o640),
            Err(KeyError::Shared { .. })
        ));
        assert!(matches!(
            write("0a", 0o600),
            Err(KeyError::Malformed { .. })
        ));
        fs::remove_file(&path).expect("remove");
        std::os::unix::fs::symlink("/dev/null", &path).expect("symlink");
        assert!(matches!(Key::read(&path), Err(KeyError::Read { .. })));
    }
}
