#![doc = include_str!("../OUTCOMES.md")]

mod columns;
mod json_lines;
mod names;
#[cfg(feature = "parquet")]
mod parquet;
#[cfg(not(feature = "parquet"))]
#[path = "outcome/no_parquet.rs"]
mod parquet;
mod reader;
mod row;
mod table;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};

#[cfg(feature = "parquet")]
pub use self::parquet::{ParquetReader, ParquetWriter};
pub use json_lines::{JsonLinesReader, JsonLinesWriter};
pub use reader::Reader;
pub use row::Row;
pub use table::Table;
pub use writer::Writer;

pub(crate) use names::Names;

/// Longest text field (query, model, task, ...), in bytes. Long prompts are named by a digest or an id instead.
pub const MAX_FIELD_BYTES: usize = 64 << 10;
/// Longest row, in bytes. More is a missing closing quote or not an outcome table.
pub const MAX_ROW_BYTES: usize = 1 << 20;
/// Most columns, so most signals. Models give tens.
pub const MAX_COLUMNS: usize = 512;
/// Most rows held in memory as a [`Table`]; a [`Reader`] has no such limit.
pub const MAX_ROWS: usize = 16 << 20;
/// Most bytes of distinct texts of one kind (queries, digests, ...) held in memory.
pub const MAX_TEXT_BYTES: usize = 2 << 30;
/// Most tokens of a prompt or an answer: what a signed 64-bit integer, as Parquet has them, holds.
pub const MAX_TOKENS: u64 = i64::MAX as u64;

/// Columns that every table has, in the order written.
pub const REQUIRED_COLUMNS: [&str; 3] = ["query", "model", "quality"];
/// Columns that a table may have, in the order written; `signal.<name>` columns stand after `score`.
pub const OPTIONAL_COLUMNS: [&str; 9] =
    ["task", "split", "score", "tokens_in", "tokens_out", "cost", "latency_ms", "flops", "answer_digest"];
/// What the name of a signal's column begins with.
pub const SIGNAL_PREFIX: &str = "signal.";

/// What one model made of one query: a row of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Which query; the key that joins the models' rows. Not empty.
    pub query: String,
    /// Which model, or which cascade. Not empty.
    pub model: String,
    /// How good the answer was, in [0, 1]; 1 is right.
    pub quality: f64,
    /// Which task the query belongs to.
    pub task: Option<String>,
    /// Which split of the data the query belongs to, e.g. `calibration` or `test`.
    pub split: Option<String>,
    /// The deferral rule's score, finite; higher means keep.
    pub score: Option<f64>,
    /// Confidence signals by name, finite.
    pub signals: BTreeMap<String, f64>,
    /// Length of the prompt, in tokens.
    pub tokens_in: Option<u64>,
    /// Length of the answer, in tokens.
    pub tokens_out: Option<u64>,
    /// Money, in one currency throughout a table, at least 0.
    pub cost: Option<f64>,
    /// Time from question to whole answer, in milliseconds, at least 0.
    pub latency_ms: Option<f64>,
    /// Floating-point operations spent on this query by this model, at least 0.
    pub flops: Option<f64>,
    /// A digest of the answer's text, for comparing answers without storing them.
    pub answer_digest: Option<String>,
}

impl Outcome {
    /// A row with the required columns and no other.
    #[must_use]
    pub fn new(query: impl Into<String>, model: impl Into<String>, quality: f64) -> Self {
        Self {
            query: query.into(),
            model: model.into(),
            quality,
            task: None,
            split: None,
            score: None,
            signals: BTreeMap::new(),
            tokens_in: None,
            tokens_out: None,
            cost: None,
            latency_ms: None,
            flops: None,
            answer_digest: None,
        }
    }

    /// # Errors
    /// [`ErrorKind::Value`] or [`ErrorKind::TooLarge`] with the column when a field breaks its column's rule.
    pub fn check(&self) -> Result<()> {
        let texts = [
            ("query", Some(&self.query)),
            ("model", Some(&self.model)),
            ("task", self.task.as_ref()),
            ("split", self.split.as_ref()),
            ("answer_digest", self.answer_digest.as_ref()),
        ];
        for (column, text) in texts {
            let Some(text) = text else { continue };
            if text.is_empty() {
                return Err(Error::new(ErrorKind::Value, "is empty").at_column(column));
            }
            check_length(text).map_err(|error| error.at_column(column))?;
        }
        if !(0.0..=1.0).contains(&self.quality) {
            let message = format!("{} is not a quality: a number in [0, 1]", self.quality);
            return Err(Error::new(ErrorKind::Value, message).at_column("quality"));
        }
        if let Some(score) = self.score {
            check_finite(score).map_err(|error| error.at_column("score"))?;
        }
        for (name, signal) in &self.signals {
            let at = |error: Error| error.at_column(format!("{SIGNAL_PREFIX}{name}"));
            check_length(name).map_err(at)?;
            check_finite(*signal).map_err(at)?;
        }
        for (column, amount) in [("cost", self.cost), ("latency_ms", self.latency_ms), ("flops", self.flops)] {
            let Some(amount) = amount else { continue };
            check_finite(amount).map_err(|error| error.at_column(column))?;
            if amount < 0.0 {
                return Err(Error::new(ErrorKind::Value, format!("{amount} is less than 0")).at_column(column));
            }
        }
        for (column, tokens) in [("tokens_in", self.tokens_in), ("tokens_out", self.tokens_out)] {
            if let Some(tokens) = tokens.filter(|tokens| *tokens > MAX_TOKENS) {
                let message = format!("{tokens} is over the cap of {MAX_TOKENS}");
                return Err(Error::new(ErrorKind::Value, message).at_column(column));
            }
        }
        Ok(())
    }
}

/// How a table is written in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values with a header.
    Csv,
    /// One JSON object per line.
    JsonLines,
    /// Apache Parquet; reading and writing it needs the feature `parquet`.
    Parquet,
}

impl Format {
    /// By the ending of a file's name: `.parquet`, `.jsonl` or `.ndjson`; anything else is CSV.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("parquet") => Self::Parquet,
            Some("jsonl" | "ndjson") => Self::JsonLines,
            _ => Self::Csv,
        }
    }
}

/// Rows one after the other, each checked, into a row that is used again.
trait RowSource {
    /// Reads the next row over what is in `outcome`; false at the end, and then `outcome` is anything.
    fn fill(&mut self, outcome: &mut Outcome) -> Result<bool>;

    /// The row read last, as errors count it.
    fn row(&self) -> u64;

    /// The next row as one of its own; an error names it.
    fn next_row(&mut self) -> Option<Result<Outcome>> {
        let mut outcome = Outcome::new("", "", f64::NAN);
        let read = self.fill(&mut outcome).map_err(|error| error.at_row(self.row()));
        read.map(|found| found.then_some(outcome)).transpose()
    }
}

fn check_length(text: &str) -> Result<()> {
    if text.len() > MAX_FIELD_BYTES {
        let message = format!("{} bytes are over the cap of {MAX_FIELD_BYTES}", text.len());
        return Err(Error::new(ErrorKind::TooLarge, message));
    }
    Ok(())
}

fn check_finite(number: f64) -> Result<()> {
    if !number.is_finite() {
        return Err(Error::new(ErrorKind::Value, format!("{number} is not a finite number")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
