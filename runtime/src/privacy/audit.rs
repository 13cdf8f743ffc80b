//! What left the device: when, where to, how much, which bytes - by digest - and what was taken out. Never the text.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::durable::sync_folder;
use crate::error::{Error, ErrorKind, Result};

/// Longest line of an audit file, in bytes: an endpoint of 2 KiB and a hundred labels are a tenth of it.
pub const MAX_AUDIT_LINE: usize = 64 << 10;

/// One body on its way to the cloud. Every attempt is a departure of its own, with the same digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Departure {
    /// When it left, in milliseconds since 1970-01-01 UTC by the device's clock.
    pub unix_ms: u64,
    /// Where to, without query.
    pub endpoint: String,
    /// The idempotency key it was sent under.
    pub key: String,
    /// Size of the body, in bytes.
    pub bytes: u64,
    /// SHA-256 of the body, in lower-case hexadecimal digits.
    pub sha256: String,
    /// What was taken out, by label.
    pub redactions: BTreeMap<String, u64>,
}

impl Departure {
    /// The departure of a body that is about to be sent.
    #[must_use]
    pub fn new(unix_ms: u64, endpoint: String, key: String, body: &[u8], redactions: BTreeMap<String, u64>) -> Self {
        let sha256 = crate::bundle::digest::sha256_hexadecimal(body);
        Self { unix_ms, endpoint, key, bytes: body.len() as u64, sha256, redactions }
    }
}

/// Where departures are written down.
pub trait AuditLog: Send + Sync {
    /// Called before the first byte leaves, off the asynchronous threads. Nothing leaves if it fails.
    ///
    /// # Errors
    /// Whatever keeps the departure from being on record; the request fails with it.
    fn record(&self, departure: &Departure) -> Result<()>;
}

/// An append-only file with a departure in JSON on each line, on the disk before the request leaves.
///
/// A crash leaves at most one line that ends too early, and nothing left under that line. It stays where it is;
/// [`AuditFile::entries`] reports it.
#[derive(Debug)]
pub struct AuditFile {
    path: PathBuf,
    end: Mutex<End>,
}

#[derive(Debug)]
struct End {
    file: File,
    /// Whether the last line is whole.
    whole: bool,
}

impl AuditFile {
    /// Opens the file for appending, or creates it.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let open = || -> std::io::Result<End> {
            let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
            sync_folder(&path)?;
            let whole = match file.seek(SeekFrom::End(0))? {
                0 => true,
                length => {
                    let mut last = [0];
                    file.seek(SeekFrom::Start(length - 1))?;
                    file.read_exact(&mut last)?;
                    last == *b"\n"
                }
            };
            Ok(End { file, whole })
        };
        let end = Mutex::new(open().map_err(|error| unwritable(&path, error))?);
        Ok(Self { path, end })
    }

    /// Everything in an audit file, in order; reads as it goes.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the file cannot be opened.
    pub fn entries(path: impl AsRef<Path>) -> Result<AuditEntries> {
        let path = path.as_ref().to_owned();
        let file = File::open(&path).map_err(|error| unreadable(&path, error))?;
        Ok(AuditEntries { path, reader: BufReader::new(file), line: 0, failed: false })
    }
}

impl AuditLog for AuditFile {
    fn record(&self, departure: &Departure) -> Result<()> {
        let json = serde_json::to_vec(departure)
            .map_err(|error| Error::new(ErrorKind::Io, "a departure is not JSON").with_source(error))?;
        if json.len() >= MAX_AUDIT_LINE {
            return Err(Error::new(ErrorKind::Io, format!("a departure is over {MAX_AUDIT_LINE} bytes")));
        }
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let mut line = if end.whole { Vec::new() } else { vec![b'\n'] };
        line.extend_from_slice(&json);
        line.push(b'\n');
        end.whole = false;
        let written = end.file.write_all(&line).and_then(|()| end.file.sync_data());
        end.whole = written.is_ok();
        written.map_err(|error| unwritable(&self.path, error))
    }
}

/// One line of an audit file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditEntry {
    /// A body that left, or was about to when the device went down.
    Departure(Departure),
    /// A crash cut this line (from one). What it would have recorded did not leave.
    Cut {
        /// Number of the line, from one.
        line: u64,
    },
}

/// The entries of an audit file; see [`AuditFile::entries`]. After an error there are no more.
#[derive(Debug)]
pub struct AuditEntries {
    path: PathBuf,
    reader: BufReader<File>,
    line: u64,
    failed: bool,
}

impl AuditEntries {
    fn read(&mut self) -> Result<Option<AuditEntry>> {
        let mut text = Vec::new();
        self.line += 1;
        let mut limited = self.reader.by_ref().take(MAX_AUDIT_LINE as u64);
        limited.read_until(b'\n', &mut text).map_err(|error| unreadable(&self.path, error))?;
        let malformed = |why: &str| {
            let message = format!("{}, line {}: {why}", self.path.display(), self.line);
            Error::new(ErrorKind::Store, message)
        };
        let cut = AuditEntry::Cut { line: self.line };
        let Some(json) = text.strip_suffix(b"\n") else {
            return match text.len() {
                0 => Ok(None),
                MAX_AUDIT_LINE => Err(malformed(&format!("over {MAX_AUDIT_LINE} bytes"))),
                _ => Ok(Some(cut)),
            };
        };
        match serde_json::from_slice(json) {
            Ok(departure) => Ok(Some(AuditEntry::Departure(departure))),
            Err(error) if error.is_eof() => Ok(Some(cut)),
            Err(error) => Err(malformed("not a departure").with_source(error)),
        }
    }
}

impl Iterator for AuditEntries {
    type Item = Result<AuditEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let entry = self.read();
        self.failed = entry.is_err();
        entry.transpose()
    }
}

fn unwritable(path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot write {}", path.display())).with_source(error)
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot read {}", path.display())).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn departure(body: &str) -> Departure {
        let redactions = [("EMAIL".to_owned(), 2)].into();
        Departure::new(7, "https://example.com/v1".into(), "00ff".into(), body.as_bytes(), redactions)
    }

    fn read(path: &Path) -> Vec<Result<AuditEntry>> {
        AuditFile::entries(path).unwrap().collect()
    }

    #[test]
    fn a_line_says_what_left_without_the_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        AuditFile::open(&path).unwrap().record(&departure("abc")).unwrap();
        // SHA-256 of "abc" is the first example of FIPS 180-4's test vectors.
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "{\"unix_ms\":7,\"endpoint\":\"https://example.com/v1\",\"key\":\"00ff\",\"bytes\":3,\"sha256\":\
             \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\",\"redactions\":{\"EMAIL\":2}}\n"
        );
    }

    #[test]
    fn cut_at_any_byte_the_file_is_read_reported_and_continued() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let file = AuditFile::open(&path).unwrap();
        file.record(&departure("one")).unwrap();
        file.record(&departure("two")).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let first = whole.len() / 2;
        for end in first..=whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            let expected = |after: &[&str]| {
                let mut entries = vec![AuditEntry::Departure(departure("one"))];
                match end {
                    end if end == whole.len() => entries.push(AuditEntry::Departure(departure("two"))),
                    end if end == whole.len() - 1 && !after.is_empty() => {
                        entries.push(AuditEntry::Departure(departure("two")));
                    }
                    end if end > first => entries.push(AuditEntry::Cut { line: 2 }),
                    _ => {}
                }
                entries.extend(after.iter().map(|body| AuditEntry::Departure(departure(body))));
                entries
            };
            let entries = || -> Vec<AuditEntry> { read(&path).into_iter().map(Result::unwrap).collect() };
            assert_eq!(entries(), expected(&[]), "{end}");
            AuditFile::open(&path).unwrap().record(&departure("three")).unwrap();
            assert_eq!(entries(), expected(&["three"]), "{end}");
        }
    }

    #[test]
    fn what_no_crash_explains_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        for line in ["{\"unix_ms\":\"seven\"}\n".to_owned(), "[]\n".into(), "x\n".into(), "x".repeat(MAX_AUDIT_LINE)] {
            std::fs::write(&path, line).unwrap();
            let entries = read(&path);
            assert_eq!(entries.len(), 1);
            assert_eq!(entries[0].as_ref().unwrap_err().kind(), ErrorKind::Store);
        }
    }
}
