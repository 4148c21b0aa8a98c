//! Secrets come from files only: a value in a file or an environment variable ends up in process lists and logs.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Longest secret read, in bytes. A larger file is a wrong path, not a secret.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// The path of a file that holds a secret; in a configuration, a string. The contents are read on demand, so that a
/// rotated secret is picked up by whoever loads it again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretFile(PathBuf);

/// A loaded secret. It has no `Display`, and its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// A secret could not be loaded. The file was only read; its contents are never part of the message.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file is missing or not readable for this user.
    #[error("secret file {path}: {source}", path = path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// Nothing but line ends in it: signing with an empty key would look like it worked.
    #[error("secret file {path} is empty", path = path.display())]
    Empty { path: PathBuf },
    /// Larger than 64 KiB.
    #[error("secret file {path} is larger than {SECRET_BYTES_MAX} bytes", path = path.display())]
    TooLarge { path: PathBuf },
}

impl SecretFile {
    /// Names a file; it is not opened.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The same file, a relative path taken from `folder`.
    #[must_use]
    pub fn located(&self, folder: &Path) -> Self {
        Self(folder.join(&self.0))
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Reads the secret, without the line ends editors add.
    ///
    /// # Errors
    /// See [`SecretError`].
    pub fn load(&self) -> Result<Secret, SecretError> {
        let unreadable = |source| SecretError::Unreadable { path: self.0.clone(), source };
        let mut bytes = Vec::new();
        let file = File::open(&self.0).map_err(unreadable)?;
        file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > SECRET_BYTES_MAX {
            return Err(SecretError::TooLarge { path: self.0.clone() });
        }
        let length = bytes.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |last| last + 1);
        bytes.truncate(length);
        if bytes.is_empty() {
            return Err(SecretError::Empty { path: self.0.clone() });
        }
        Ok(Secret(bytes))
    }
}

impl fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretFile({})", self.0.display())
    }
}

impl Secret {
    /// The bytes, for a signature or a comparison in constant time.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
