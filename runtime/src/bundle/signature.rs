//! `manifest.sig`: who vouches for a bundle. It signs the exact bytes of the manifest, which names every other byte.
//!
//! Signing exact bytes leaves no canonical form to get wrong: nothing is parsed before its signature was verified.
//! Secret keys are the exporter's; here signatures are only checked.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::digest::{hexadecimal, parse_hexadecimal};
use super::{malformed, parse, read_capped};
use crate::error::{Error, ErrorKind, Result};

/// Name of the signatures inside a bundle. Like the manifest, it is not among the files that the manifest lists.
pub const SIGNATURE_FILE: &str = "manifest.sig";

/// Longest signature file, in bytes: many times [`MAX_SIGNATURES`].
pub const MAX_SIGNATURE_BYTES: u64 = 16 << 10;

/// Most signatures: a key, its successor, and a few who countersign. Each costs a curve operation before the bundle is
/// known to be anybody's.
pub const MAX_SIGNATURES: usize = 8;

/// What stands before the manifest's bytes in what is signed, so that a signature of anything else is none of a bundle.
const CONTEXT: &[u8] = b"margay bundle manifest 1\n";

/// The form of the file.
const SCHEMA: u32 = 1;

/// An ed25519 public key. Its text is `ed25519:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// A key from the 32 bytes of RFC 8032.
    ///
    /// # Errors
    /// [`ErrorKind::Signature`] if they are no point of the curve, or one of the few for which anybody can sign.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self> {
        let key = Self(bytes);
        key.verifying_key().map(|_| key)
    }

    /// The public half of a key pair.
    #[must_use]
    pub fn of(key: &VerifyingKey) -> Self {
        Self(key.to_bytes())
    }

    /// The 32 bytes of RFC 8032.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key in a file that holds its text and nothing else.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if it cannot be read, [`ErrorKind::Signature`] if it holds anything else.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = read_capped(path, MAX_SIGNATURE_BYTES)?;
        let text = std::str::from_utf8(&bytes).ok().map(str::trim);
        text.and_then(|text| text.parse().ok())
            .ok_or_else(|| refused(format!("{} is not a public key: {KEY_FORM}", path.display())))
    }

    fn verifying_key(&self) -> Result<VerifyingKey> {
        let key = VerifyingKey::from_bytes(&self.0).ok().filter(|key| !key.is_weak());
        key.ok_or_else(|| refused(format!("{self} is not a key that one person alone can sign with")))
    }
}

const KEY_FORM: &str = "`ed25519:` and 64 lower-case hexadecimal digits";

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519:{}", hexadecimal(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bytes = text.strip_prefix("ed25519:").and_then(parse_hexadecimal);
        Self::from_bytes(bytes.ok_or_else(|| refused(format!("`{text}` is not a public key: {KEY_FORM}")))?)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The content of `manifest.sig`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signatures {
    schema: u32,
    signatures: Vec<Signed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    key: PublicKey,
    /// 128 lower-case hexadecimal digits: the 64 bytes of RFC 8032.
    signature: String,
}

impl Signatures {
    /// Nobody's.
    #[must_use]
    pub fn none() -> Self {
        Self { schema: SCHEMA, signatures: vec![] }
    }

    /// Reads the content of a signature file.
    ///
    /// # Errors
    /// [`ErrorKind::Bundle`] if it is malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() as u64 > MAX_SIGNATURE_BYTES {
            return Err(malformed(format!("{SIGNATURE_FILE} is longer than {MAX_SIGNATURE_BYTES} bytes")));
        }
        let read: Self = parse(Path::new(SIGNATURE_FILE), bytes)?;
        if read.schema != SCHEMA {
            return Err(malformed(format!("{SIGNATURE_FILE} has schema {}, not {SCHEMA}", read.schema)));
        }
        if read.signatures.is_empty() || read.signatures.len() > MAX_SIGNATURES {
            let count = read.signatures.len();
            return Err(malformed(format!("{SIGNATURE_FILE} has {count} signatures, not 1 to {MAX_SIGNATURES}")));
        }
        if !read.signatures.is_sorted_by(|a, b| a.key < b.key) {
            return Err(malformed(format!("{SIGNATURE_FILE} is not sorted by key, or a key signs twice")));
        }
        Ok(read)
    }

    /// The same with one more, which takes the place of an older one by the same key.
    #[must_use]
    pub fn with(mut self, key: PublicKey, signature: [u8; 64]) -> Self {
        self.signatures.retain(|signed| signed.key != key);
        self.signatures.push(Signed { key, signature: hexadecimal(&signature) });
        self.signatures.sort_by_key(|signed| signed.key);
        self
    }

    /// The content of a signature file.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Keys and digits, for which JSON has no failure.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// The keys that signed `manifest`, the exact bytes of the file.
    ///
    /// # Errors
    /// [`ErrorKind::Signature`] if one of the signatures is wrong: a bundle whose manifest was changed is nobody's.
    pub fn verify(&self, manifest: &[u8]) -> Result<Vec<PublicKey>> {
        let message = message(manifest);
        let verified = |Signed { key, signature }: &Signed| {
            let wrong = || refused(format!("{SIGNATURE_FILE}: the signature by {key} is not one of this manifest"));
            let signature =
                parse_hexadecimal(signature).map(|bytes| Signature::from_bytes(&bytes)).ok_or_else(wrong)?;
            key.verifying_key()?.verify_strict(&message, &signature).map_err(|_| wrong())?;
            Ok(*key)
        };
        self.signatures.iter().map(verified).collect()
    }
}

/// What is signed: a line that says what it is, then the manifest as it lies in the bundle.
#[must_use]
pub fn message(manifest: &[u8]) -> Vec<u8> {
    [CONTEXT, manifest].concat()
}

/// Holds those who signed against those who are trusted.
pub(super) fn require(trusted: &[PublicKey], signers: &[PublicKey]) -> Result<()> {
    if signers.iter().any(|key| trusted.contains(key)) {
        return Ok(());
    }
    Err(match (trusted, signers) {
        ([], _) => Error::new(ErrorKind::InvalidRequest, "a signature is required, but no key is trusted"),
        (_, []) => refused("the bundle is not signed"),
        (_, signers) => {
            let signers: Vec<String> = signers.iter().map(PublicKey::to_string).collect();
            refused(format!("the bundle is signed by {}, which is not trusted", signers.join(", ")))
        }
    })
}

fn refused(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Signature, message)
}
