//! The hook by which entries of the outbox are made unreadable for everybody else.

use crate::error::Result;

/// Makes what lies in the file unreadable for everybody else: an authenticated cipher, with a key from the platform's key store.
///
/// Unless one is given, prompts lie there as they are, and the file is as private as the folder it is in.
pub trait Cipher: Send + Sync {
    /// The sealed form of an entry. `place` says which entry it is, and is to be authenticated with it.
    ///
    /// # Errors
    /// Whatever keeps it from being sealed; it is then not queued.
    fn seal(&self, place: &[u8], plain: &[u8]) -> Result<Vec<u8>>;

    /// The entry again.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`] if it was sealed with another key, for another place, or was changed.
    fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Vec<u8>>;
}
