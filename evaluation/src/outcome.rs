#![doc = include_str!("../OUTCOMES.md")]

mod json_lines;
mod reader;
mod writer;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::file::write_atomically;

pub use json_lines::{JsonLinesReader, JsonLinesWriter};
pub use reader::Reader;
pub use writer::Writer;

/// Longest text field (query, model, task, ...), in bytes. Long prompts are named by a digest or an id instead.
pub const MAX_FIELD_BYTES: usize = 64 << 10;
/// Longest row, in bytes. More is a missing closing quote or not an outcome table.
pub const MAX_ROW_BYTES: usize = 1 << 20;
/// Most columns, so most signals. Models give tens.
pub const MAX_COLUMNS: usize = 512;
/// Most rows held in memory as a [`Table`]; a [`Reader`] has no such limit.
pub const MAX_ROWS: usize = 16 << 20;

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
        Ok(())
    }
}

fn is_json_lines(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "jsonl" || extension == "ndjson")
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

/// A field that the question asked needs.
pub(crate) fn recorded(row: &Outcome, column: &str, value: Option<f64>) -> Result<f64> {
    value.ok_or_else(|| {
        let message = format!("is empty for query `{}` and model `{}`", row.query, row.model);
        Error::new(ErrorKind::MissingValue, message).at_column(column)
    })
}

/// An outcome table in memory: checked rows, at most one for each query and model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    rows: Vec<Outcome>,
    seen: HashMap<String, BTreeSet<String>>,
}

impl Table {
    /// The table in a file: JSON Lines if its name ends in `.jsonl` or `.ndjson`, else CSV.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], or what is wrong with the table, with path, row and column.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path)
            .map_err(|source| Error::new(ErrorKind::Io, "cannot open").at_path(path).with_source(source))?;
        let table =
            if is_json_lines(path) { Self::from_json_lines(BufReader::new(file)) } else { Self::from_csv(file) };
        table.map_err(|error| error.at_path(path))
    }

    /// The table in a stream of CSV.
    ///
    /// # Errors
    /// What is wrong with the table, with row and column.
    pub fn from_csv(csv: impl Read) -> Result<Self> {
        let mut table = Self::default();
        let mut reader = Reader::new(csv)?;
        while let Some(outcome) = reader.next().transpose()? {
            table.insert(outcome).map_err(|error| error.at_row(reader.row()))?;
        }
        Ok(table)
    }

    /// The table in a stream of JSON Lines.
    ///
    /// # Errors
    /// What is wrong with the table, with line and column.
    pub fn from_json_lines(lines: impl std::io::BufRead) -> Result<Self> {
        let mut table = Self::default();
        let mut reader = JsonLinesReader::new(lines);
        while let Some(outcome) = reader.next().transpose()? {
            table.insert(outcome).map_err(|error| error.at_row(reader.line()))?;
        }
        Ok(table)
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`ErrorKind::Value`] for a bad field, [`ErrorKind::Duplicate`] for a query and model that the table has,
    /// [`ErrorKind::TooLarge`] past [`MAX_ROWS`].
    pub fn push(&mut self, outcome: Outcome) -> Result<()> {
        outcome.check()?;
        self.insert(outcome)
    }

    /// Adds a row whose fields were checked.
    fn insert(&mut self, outcome: Outcome) -> Result<()> {
        if self.rows.len() == MAX_ROWS {
            return Err(Error::new(ErrorKind::TooLarge, format!("more than {MAX_ROWS} rows")));
        }
        let queries = match self.seen.get_mut(&outcome.model) {
            Some(queries) => queries,
            None => self.seen.entry(outcome.model.clone()).or_default(),
        };
        if !queries.insert(outcome.query.clone()) {
            let message = format!("a second row for query `{}` and model `{}`", outcome.query, outcome.model);
            return Err(Error::new(ErrorKind::Duplicate, message));
        }
        self.rows.push(outcome);
        Ok(())
    }

    /// The rows, in the order they came.
    #[must_use]
    pub fn rows(&self) -> &[Outcome] {
        &self.rows
    }

    /// The rows, without the table.
    #[must_use]
    pub fn into_rows(self) -> Vec<Outcome> {
        self.rows
    }

    /// The models that have rows, sorted.
    #[must_use]
    pub fn models(&self) -> Vec<&str> {
        self.seen.keys().map(String::as_str).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The rows of one split.
    pub fn split<'a>(&'a self, split: &'a str) -> impl Iterator<Item = &'a Outcome> {
        self.rows.iter().filter(move |row| row.split.as_deref() == Some(split))
    }

    /// Writes the table, in the format that [`Table::read`] expects of the name; the file is wholly there or not at
    /// all.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] with the path; a file that was there before is untouched then.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomically(path, |file| if is_json_lines(path) { self.to_json_lines(file) } else { self.to_csv(file) })
    }

    /// Writes the table as JSON Lines into a stream.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn to_json_lines(&self, stream: impl std::io::Write) -> Result<()> {
        let mut writer = JsonLinesWriter::new(stream);
        for row in &self.rows {
            writer.write(row)?;
        }
        writer.finish()
    }

    /// Writes the table as CSV into a stream.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn to_csv(&self, stream: impl std::io::Write) -> Result<()> {
        let signals: BTreeSet<&str> = self.rows.iter().flat_map(|row| row.signals.keys()).map(String::as_str).collect();
        let mut writer = Writer::new(stream, signals)?;
        for row in &self.rows {
            writer.write(row)?;
        }
        writer.finish()
    }
}

#[cfg(test)]
mod tests;
