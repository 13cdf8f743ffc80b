//! The annotation cache: a file that is mapped and never read as a whole. `trainer/DATA.md` has the layout.

use std::fs::File;
use std::path::Path;

use half::f16;
use memmap2::Mmap;
use sha2::{Digest, Sha256};

use super::record::{CacheInfo, Record};
use crate::data::RowKey;
use crate::error::{Error, ErrorKind, Result};

/// The large model's view of a data set, row by row in the order of the rows' keys.
pub struct Annotations {
    bytes: Bytes,
    layout: Layout,
    info: CacheInfo,
}

enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

/// Where the sections are.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Layout {
    rows: usize,
    tokens: usize,
    k: usize,
    id_bytes: usize,
    hits: usize,
    ids: usize,
    values: usize,
    answers: usize,
    end: usize,
}

const MAGIC: &[u8; 8] = b"MARGAYAN";
const VERSION: u32 = 2;
const HEADER: usize = 160;
/// Key, first token, tokens, length of the answer, its offset.
const ROW: usize = 40;
const NO_ANSWER: u32 = u32::MAX;
/// No cache is larger; a header that says so is damaged.
const MAX_BYTES: u64 = 1 << 42;

impl Layout {
    /// `None` when the sizes are beyond [`MAX_BYTES`].
    fn new(rows: u64, tokens: u64, k: u64, id_bytes: u64, answers: u64) -> Option<Self> {
        let aligned = |size: u64| size.checked_next_multiple_of(8);
        let hits = (HEADER as u64).checked_add(rows.checked_mul(ROW as u64)?)?;
        let ids = hits.checked_add(aligned(tokens.div_ceil(8))?)?;
        let values = ids.checked_add(aligned(tokens.checked_mul(k)?.checked_mul(id_bytes)?)?)?;
        let answers_at = values.checked_add(aligned(tokens.checked_mul(k)?.checked_mul(2)?)?)?;
        let end = answers_at.checked_add(answers)?;
        (end <= MAX_BYTES).then_some(Self {
            rows: rows as usize,
            tokens: tokens as usize,
            k: k as usize,
            id_bytes: id_bytes as usize,
            hits: hits as usize,
            ids: ids as usize,
            values: values as usize,
            answers: answers_at as usize,
            end: end as usize,
        })
    }
}

impl Annotations {
    /// Puts records together in memory. Of rows with the same key the first counts.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when a record does not have `k` ids and values per target token, or there is too much.
    pub fn from_records(info: &CacheInfo, mut records: Vec<Record>) -> Result<Self> {
        records.sort_by_key(|record| record.key);
        records.dedup_by_key(|record| record.key);
        let refuse = |message: &str| Error::new(ErrorKind::Config, format!("annotations: {message}"));
        let tokens: usize = records.iter().map(|record| record.hits.len()).sum();
        let answers: usize = records.iter().filter_map(|record| record.answer.as_ref()).map(String::len).sum();
        let id_bytes = if info.vocabulary <= 1 << 16 { 2 } else { 4 };
        let (k, count) = (info.k as u64, records.len() as u64);
        let layout = Layout::new(count, tokens as u64, k, id_bytes, answers as u64);
        let layout = layout.ok_or_else(|| refuse("more than a cache can hold"))?;
        let mut bytes = vec![0_u8; layout.end];
        let (mut token, mut answer) = (0, 0);
        for (row, record) in records.iter().enumerate() {
            let count = record.hits.len();
            if record.top_ids.len() != count * info.k || record.top_log_probabilities.len() != count * info.k {
                return Err(refuse("a record does not have k likeliest tokens for each target token"));
            }
            if record.top_ids.iter().any(|&id| id as usize >= info.vocabulary) {
                return Err(refuse("a token is outside the vocabulary"));
            }
            let length = record.answer.as_ref().map_or(NO_ANSWER, |answer| answer.len() as u32);
            let mut at = Cursor { bytes: &mut bytes, at: HEADER + row * ROW };
            at.put(&record.key.0);
            at.put(&(token as u64).to_le_bytes());
            at.put(&(count as u32).to_le_bytes());
            at.put(&length.to_le_bytes());
            at.put(&(answer as u64).to_le_bytes());
            for (i, _) in record.hits.iter().enumerate().filter(|(_, hit)| **hit) {
                bytes[layout.hits + (token + i) / 8] |= 1 << ((token + i) % 8);
            }
            let first = token * info.k;
            let mut ids = Cursor { bytes: &mut bytes, at: layout.ids + first * layout.id_bytes };
            record.top_ids.iter().for_each(|id| ids.put(&id.to_le_bytes()[..layout.id_bytes]));
            let mut values = Cursor { bytes: &mut bytes, at: layout.values + first * 2 };
            record.top_log_probabilities.iter().for_each(|&value| values.put(&stored(value).to_le_bytes()));
            if let Some(text) = &record.answer {
                bytes[layout.answers + answer..][..text.len()].copy_from_slice(text.as_bytes());
                answer += text.len();
            }
            token += count;
        }
        let mut header = Cursor { bytes: &mut bytes, at: 0 };
        header.put(MAGIC);
        for word in [VERSION, info.k as u32] {
            header.put(&word.to_le_bytes());
        }
        for word in [count, tokens as u64] {
            header.put(&word.to_le_bytes());
        }
        for word in [info.vocabulary as u32, layout.id_bytes as u32] {
            header.put(&word.to_le_bytes());
        }
        header.put(&(answers as u64).to_le_bytes());
        header.put(&info.flops_per_token.to_le_bytes());
        header.put(&info.tokenizer);
        header.put(&info.template);
        let mut digest = Sha256::new();
        records.iter().for_each(|record| digest.update(record.key.0));
        header.put(&digest.finalize());
        Ok(Self { bytes: Bytes::Owned(bytes), layout, info: info.clone() })
    }

    /// Maps a cache and checks that every row of it is inside.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when it cannot be read, [`ErrorKind::Checkpoint`] when it is malformed.
    #[expect(unsafe_code, reason = "mapping a file is unsafe: another process may change it under us")]
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        // SAFETY: the map is only read, as bytes, and every offset into it is checked here; a file changed meanwhile
        // gives wrong numbers, never an invalid value of a type.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
        let malformed = || format!("{} is not an annotation cache of this version, or is damaged", path.display());
        let parsed = Self::parse(&map).ok_or_else(|| Error::new(ErrorKind::Checkpoint, malformed()));
        let (layout, info) = parsed?;
        Ok(Self { bytes: Bytes::Mapped(map), layout, info })
    }

    fn parse(bytes: &[u8]) -> Option<(Layout, CacheInfo)> {
        let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let long = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        if bytes.get(..8)? != MAGIC || word(8)? != VERSION {
            return None;
        }
        let (k, vocabulary, id_bytes) = (word(12)?, word(32)? as usize, word(36)?);
        if id_bytes != 2 && id_bytes != 4 {
            return None;
        }
        let layout = Layout::new(long(16)?, long(24)?, k.into(), id_bytes.into(), long(40)?)?;
        if bytes.len() != layout.end {
            return None;
        }
        let info = CacheInfo {
            k: k as usize,
            vocabulary,
            flops_per_token: f64::from_le_bytes(*bytes.get(48..)?.first_chunk()?),
            tokenizer: *bytes.get(56..)?.first_chunk()?,
            template: *bytes.get(88..)?.first_chunk()?,
        };
        let (mut token, mut last) = (0, None);
        for row in 0..layout.rows {
            let at = HEADER + row * ROW;
            let key: [u8; 16] = *bytes.get(at..)?.first_chunk()?;
            if last.is_some_and(|last| last >= key) || long(at + 16)? != token {
                return None;
            }
            last = Some(key);
            token += u64::from(word(at + 24)?);
            let length = word(at + 28)?;
            if length != NO_ANSWER {
                let from = usize::try_from(long(at + 32)?).ok()?.checked_add(layout.answers)?;
                std::str::from_utf8(bytes.get(from..from.checked_add(length as usize)?)?).ok()?;
            }
        }
        (token == layout.tokens as u64).then_some((layout, info))
    }

    /// What the cache says about itself.
    #[must_use]
    pub fn info(&self) -> &CacheInfo {
        &self.info
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.layout.rows
    }

    /// Number of target tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.layout.tokens
    }

    /// Likeliest tokens per target token; 0 where only hits are known.
    #[must_use]
    pub fn k(&self) -> usize {
        self.layout.k
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }

    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        self.bytes().get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
    }

    pub(super) fn key(&self, row: usize) -> RowKey {
        RowKey(self.field(HEADER + row * ROW))
    }

    fn first_token(&self, row: usize) -> usize {
        u64::from_le_bytes(self.field(HEADER + row * ROW + 16)) as usize
    }

    pub(super) fn row_tokens(&self, row: usize) -> usize {
        u32::from_le_bytes(self.field(HEADER + row * ROW + 24)) as usize
    }

    pub(super) fn row_hits(&self, row: usize) -> impl Iterator<Item = bool> {
        let first = self.first_token(row);
        let hits = &self.bytes()[self.layout.hits..self.layout.ids];
        (first..first + self.row_tokens(row)).map(move |token| hits[token / 8] & (1 << (token % 8)) != 0)
    }

    pub(super) fn row_tops(&self, row: usize, ids: &mut Vec<u32>, values: &mut Vec<f32>) {
        let Layout { k, id_bytes, .. } = self.layout;
        let (first, count) = (self.first_token(row) * k, self.row_tokens(row) * k);
        let bytes = self.bytes();
        for id in bytes[self.layout.ids + first * id_bytes..][..count * id_bytes].chunks_exact(id_bytes) {
            let mut word = [0; 4];
            word[..id_bytes].copy_from_slice(id);
            ids.push(u32::from_le_bytes(word));
        }
        let stored = &bytes[self.layout.values + first * 2..][..count * 2];
        values.extend(stored.as_chunks().0.iter().map(|&value| f16::from_le_bytes(value).to_f32()));
    }

    pub(super) fn row_answer(&self, row: usize) -> Option<&str> {
        let length = u32::from_le_bytes(self.field(HEADER + row * ROW + 28));
        if length == NO_ANSWER {
            return None;
        }
        let from = self.layout.answers + u64::from_le_bytes(self.field(HEADER + row * ROW + 32)) as usize;
        std::str::from_utf8(self.bytes().get(from..from + length as usize)?).ok()
    }
}

impl std::fmt::Debug for Annotations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Annotations").field("info", &self.info).field("rows", &self.rows()).finish_non_exhaustive()
    }
}

impl PartialEq for Annotations {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

/// A log-probability in 16 bits; what is below their range is their smallest number, not minus infinity.
fn stored(value: f32) -> f16 {
    f16::from_f32(value.max(f16::MIN.to_f32()))
}

/// Writes one field after the other.
struct Cursor<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Cursor<'_> {
    fn put(&mut self, field: &[u8]) {
        self.bytes[self.at..][..field.len()].copy_from_slice(field);
        self.at += field.len();
    }
}
