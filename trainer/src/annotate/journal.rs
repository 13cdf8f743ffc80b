//! Annotations on their way: every record is on disk before the next is asked for, so that nothing is asked for twice.
//!
//! `CACHE.partial`: a header, then records of length, CRC-32C and content. A record that a crash cut short is dropped.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cache::Annotations;
use super::record::{CacheInfo, Record};
use crate::data::RowKey;
use crate::error::{Error, ErrorKind, Result};

/// Requests and tokens that were paid for.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Spent {
    /// Requests answered.
    pub requests: u64,
    /// Tokens read by the server.
    pub tokens_in: u64,
    /// Tokens written by the server.
    pub tokens_out: u64,
}

impl std::ops::AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.tokens_in += other.tokens_in;
        self.tokens_out += other.tokens_out;
    }
}

/// The file of records under way.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    cache: PathBuf,
    info: CacheInfo,
    done: HashSet<RowKey>,
    spent: Spent,
}

/// What a record is on disk.
#[derive(Serialize, Deserialize)]
struct Entry {
    key: [u8; 16],
    hits: Vec<bool>,
    ids: Vec<u32>,
    /// Bits, so that what is read is what was written.
    values: Vec<u32>,
    answer: Option<String>,
    spent: Spent,
}

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    info: CacheInfo,
    source: String,
}

const VERSION: u32 = 1;
/// No record is longer; a length that says so is damage.
const MAX_RECORD: usize = 256 << 20;

impl Journal {
    /// Opens the journal of a cache, with what an earlier process left in it.
    ///
    /// `source` names the large model: a journal of another one is not gone on with.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; [`ErrorKind::Config`] when it belongs to other options or another large model.
    pub fn open(cache: &Path, info: &CacheInfo, source: &str) -> Result<Self> {
        let path = partial(cache);
        let header = Header { version: VERSION, info: info.clone(), source: source.into() };
        let header = serde_json::to_vec(&header).map_err(|e| Error::io("write", &path, e.into()))?;
        let (mut done, mut spent, mut length) = (HashSet::new(), Spent::default(), 0);
        if path.exists() {
            let mut records = Records::open(&path)?;
            match records.next()? {
                Some(bytes) if bytes == header => length = records.length,
                Some(_) => {
                    let message = format!(
                        "{} was begun with other options, data format or large model; remove it to begin anew",
                        path.display()
                    );
                    return Err(Error::new(ErrorKind::Config, message));
                }
                None => {}
            }
            while length > 0 {
                let Some(bytes) = records.next()? else { break };
                let Some(entry) = entry(&bytes) else { break };
                done.insert(RowKey(entry.key));
                spent += entry.spent;
                length = records.length;
            }
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|e| Error::io("open", &path, e))?;
        file.set_len(length).map_err(|e| Error::io("cut", &path, e))?;
        drop(file);
        let file = OpenOptions::new().append(true).open(&path).map_err(|e| Error::io("open", &path, e))?;
        let mut journal = Self { file, path, cache: cache.into(), info: info.clone(), done, spent };
        if length == 0 {
            journal.put(&header)?;
        }
        Ok(journal)
    }

    /// Whether a row is annotated.
    #[must_use]
    pub fn has(&self, key: RowKey) -> bool {
        self.done.contains(&key)
    }

    /// Rows annotated.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.done.len()
    }

    /// What all records cost, those of earlier processes included.
    #[must_use]
    pub fn spent(&self) -> Spent {
        self.spent
    }

    /// Keeps a record and what it cost.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when it cannot be written.
    pub fn append(&mut self, record: &Record, spent: Spent) -> Result<()> {
        let entry = Entry {
            key: record.key.0,
            hits: record.hits.clone(),
            ids: record.top_ids.clone(),
            values: record.top_log_probabilities.iter().map(|value| value.to_bits()).collect(),
            answer: record.answer.clone(),
            spent,
        };
        let bytes = serde_json::to_vec(&entry).map_err(|e| Error::io("write", &self.path, e.into()))?;
        self.put(&bytes)?;
        self.done.insert(record.key);
        self.spent += spent;
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let mut framed = Vec::with_capacity(bytes.len() + 8);
        framed.extend((bytes.len() as u32).to_le_bytes());
        framed.extend(crc32c::crc32c(bytes).to_le_bytes());
        framed.extend(bytes);
        self.file.write_all(&framed).map_err(|e| Error::io("write", &self.path, e))
    }

    /// Makes the cache from all records, and removes the journal.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], or what [`Annotations::from_records`] refuses; the journal stays then.
    pub fn finish(self) -> Result<Annotations> {
        self.file.sync_all().map_err(|e| Error::io("flush", &self.path, e))?;
        let mut records = Records::open(&self.path)?;
        records.next()?;
        let mut all = Vec::with_capacity(self.done.len());
        while let Some(bytes) = records.next()? {
            let Some(entry) = entry(&bytes) else { break };
            all.push(Record {
                key: RowKey(entry.key),
                hits: entry.hits,
                top_ids: entry.ids,
                top_log_probabilities: entry.values.into_iter().map(f32::from_bits).collect(),
                answer: entry.answer,
            });
        }
        Annotations::from_records(&self.info, all)?.save(&self.cache)?;
        fs::remove_file(&self.path).map_err(|e| Error::io("remove", &self.path, e))?;
        Annotations::open(&self.cache)
    }
}

fn entry(bytes: &[u8]) -> Option<Entry> {
    serde_json::from_slice(bytes).ok()
}

/// `CACHE.partial`.
fn partial(cache: &Path) -> PathBuf {
    let mut name = cache.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// Whole records from the beginning on.
struct Records {
    reader: BufReader<File>,
    path: PathBuf,
    /// Bytes up to the end of the last whole record.
    length: u64,
}

impl Records {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        Ok(Self { reader: BufReader::new(file), path: path.into(), length: 0 })
    }

    /// The next record; `None` at the end, and where a record is cut or damaged.
    fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let mut head = [0; 8];
        if !self.fill(&mut head)? {
            return Ok(None);
        }
        let [a, b, c, d, crc @ ..] = head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > MAX_RECORD {
            return Ok(None);
        }
        let mut bytes = vec![0; length];
        if !self.fill(&mut bytes)? || crc32c::crc32c(&bytes) != u32::from_le_bytes(crc) {
            return Ok(None);
        }
        self.length += 8 + length as u64;
        Ok(Some(bytes))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<bool> {
        match self.reader.read_exact(bytes) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(Error::io("read", &self.path, e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> CacheInfo {
        CacheInfo { k: 1, vocabulary: 9, tokenizer: [1; 32], template: [2; 32], flops_per_token: 3.0 }
    }

    fn record(n: u8) -> Record {
        let answer = n.is_multiple_of(2).then(|| format!("answer \u{1F408} {n}"));
        Record {
            key: RowKey([n; 16]),
            hits: vec![true, n > 3],
            top_ids: vec![1, 8],
            top_log_probabilities: vec![-0.1, -70_000.0],
            answer,
        }
    }

    #[test]
    fn a_journal_cut_anywhere_goes_on_from_its_last_whole_record() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        let spent = Spent { requests: 1, tokens_in: 5, tokens_out: 2 };
        let mut journal = Journal::open(&cache, &info(), "large").unwrap();
        for n in [5, 2, 7] {
            journal.append(&record(n), spent).unwrap();
        }
        drop(journal);
        let whole = fs::read(partial(&cache)).unwrap();
        for cut in 0..=whole.len() {
            fs::write(partial(&cache), &whole[..cut]).unwrap();
            let mut journal = Journal::open(&cache, &info(), "large").unwrap();
            assert_eq!(journal.spent().requests as usize, journal.rows());
            for n in [5, 2, 7] {
                if !journal.has(RowKey([n; 16])) {
                    journal.append(&record(n), spent).unwrap();
                }
            }
            let made = journal.finish().unwrap();
            assert_eq!(made.rows(), 3);
            assert_eq!(made, Annotations::from_records(&info(), [5, 2, 7].map(record).into()).unwrap());
            assert!(!partial(&cache).exists());
        }
    }

    #[test]
    fn the_journal_of_another_model_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        Journal::open(&cache, &info(), "large").unwrap();
        assert_eq!(Journal::open(&cache, &info(), "larger").unwrap_err().kind(), ErrorKind::Config);
        let other = CacheInfo { k: 2, ..info() };
        assert!(Journal::open(&cache, &other, "large").unwrap_err().to_string().contains("remove it to begin anew"));
    }
}
