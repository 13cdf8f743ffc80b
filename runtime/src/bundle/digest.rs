//! SHA-256 of files, and the digest that binds a threshold to a model.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::manifest::{FileEntry, Manifest};
use super::{POLICY_FILE, REPORT_FILE, VARIANTS_FOLDER, unreadable};
use crate::error::{Error, ErrorKind, Result};

/// Digest of everything that decides what a model answers.
///
/// It covers the size and SHA-256 of every file of the bundle but the policy, the report behind it and other variants,
/// and the manifest's `model` and `prompt` sections. Calibrating a model, renaming its bundle, noting its provenance or
/// adding a variant leaves it as it is; quantizing, retraining or changing the chat template does not.
///
/// It is the SHA-256 of these lines, each ended by a newline: `margay model 1`; for each file in the order of
/// the manifest `SHA256 SIZE PATH`; `model JSON`; `prompt JSON`, where JSON is the section as this crate writes it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelDigest([u8; 32]);

impl ModelDigest {
    /// The digest of the model that `manifest` describes. Reads no file.
    #[must_use]
    pub fn compute(manifest: &Manifest) -> Self {
        let mut hasher = Sha256::new();
        hasher.update("margay model 1\n");
        for FileEntry { path, size, sha256 } in &manifest.files {
            if is_of_model(path, &manifest.model.graph) {
                hasher.update(format!("{sha256} {size} {path}\n"));
            }
        }
        hasher.update(format!("model {}\n", json(&manifest.model)));
        hasher.update(format!("prompt {}\n", json(&manifest.prompt)));
        Self(hasher.finalize().into())
    }
}

/// Whether a file is part of the model with this graph: neither about it, nor of another variant.
pub(super) fn is_of_model(path: &str, graph: &str) -> bool {
    let (variant, inside) = in_variant(path);
    let own = variant.is_none() || variant == in_variant(graph).0;
    own && inside != POLICY_FILE && inside != REPORT_FILE
}

/// The variant whose folder a path is in, and the path from there on.
pub(super) fn in_variant(path: &str) -> (Option<&str>, &str) {
    match path.strip_prefix(VARIANTS_FOLDER).and_then(|path| path.split_once('/')) {
        Some((variant, inside)) => (Some(variant), inside),
        None => (None, path),
    }
}

/// The section with its fields in the order of the type, without white space.
fn json(section: &impl Serialize) -> String {
    // The sections are plain structures of text and integers, for which JSON has no failure.
    serde_json::to_string(section).unwrap_or_default()
}

impl fmt::Display for ModelDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hexadecimal(&self.0))
    }
}

impl fmt::Debug for ModelDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ModelDigest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.strip_prefix("sha256:").and_then(parse_hexadecimal).map(Self).ok_or_else(|| {
            Error::new(
                ErrorKind::Bundle,
                format!("`{text}` is not a model digest: `sha256:` and 64 lower-case hexadecimal digits"),
            )
        })
    }
}

impl Serialize for ModelDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ModelDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Size and SHA-256 of a file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDigest {
    /// Length in bytes.
    pub size: u64,
    /// SHA-256, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// Reads the file at `path` once, in pieces.
///
/// # Errors
/// [`ErrorKind::Io`] if it cannot be read.
pub fn sha256_file(path: &Path) -> Result<FileDigest> {
    let mut file = File::open(path).map_err(|error| unreadable(path, error))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let mut size = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(FileDigest { size, sha256: hexadecimal(&hasher.finalize()) }),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                size += count as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(path, error)),
        }
    }
}

impl FileEntry {
    /// The manifest's line for the file `path` (with `/` between components) inside the folder `root`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if it cannot be read.
    pub fn of(root: &Path, path: impl Into<String>) -> Result<Self> {
        let path = path.into();
        let FileDigest { size, sha256 } = sha256_file(&root.join(&path))?;
        Ok(Self { path, size, sha256 })
    }
}

/// SHA-256 of `bytes`, 64 lower-case hexadecimal digits.
pub(crate) fn sha256_hexadecimal(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// `N` bytes from `2 N` lower-case digits.
pub(super) fn parse_hexadecimal<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_of_the_standards_examples() {
        // FIPS 180-2, appendix B: "abc", the 56-byte message, and a million times "a".
        let cases: [(&[u8], &str); 3] = [
            (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
            ),
            (&[b'a'; 1_000_000], "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
        ];
        let file = tempfile::NamedTempFile::new().unwrap();
        for (content, sha256) in cases {
            std::fs::write(file.path(), content).unwrap();
            let digest = sha256_file(file.path()).unwrap();
            assert_eq!(digest, FileDigest { size: content.len() as u64, sha256: sha256.to_owned() });
        }
    }

    #[test]
    fn a_digest_reads_back_what_it_writes_and_nothing_else() {
        let text = format!("sha256:{}", "0123456789abcdef".repeat(4));
        let digest: ModelDigest = text.parse().unwrap();
        assert_eq!(digest.to_string(), text);
        assert_eq!(serde_json::from_str::<ModelDigest>(&serde_json::to_string(&digest).unwrap()).unwrap(), digest);
        for wrong in ["", "sha256:", &text[7..], &text[..70], &(text.clone() + "0"), &text.to_uppercase(), "sha256:é"]
        {
            assert_eq!(wrong.parse::<ModelDigest>().unwrap_err().kind(), ErrorKind::Bundle, "{wrong}");
        }
    }
}
