//! Outcomes in memory, column by column: a text that many rows share is held once, a column that no row has takes nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

use super::names::Names;
use super::{Format, JsonLinesReader, JsonLinesWriter, MAX_ROWS, Outcome, Reader, Row, RowSource, Writer, parquet};
use crate::error::{Error, ErrorKind, Result};
use crate::file::write_atomically;

/// An outcome table in memory: checked rows, at most one for each query and model.
///
/// A row takes some 20 bytes and 8 more for each number that is recorded; a query's name is held once.
#[derive(Debug, Clone, Default)]
pub struct Table {
    queries: Names,
    models: Names,
    labels: Names,
    digests: Names,
    query: Vec<u32>,
    model: Vec<u32>,
    qualities: Vec<f64>,
    tasks: Column<u32>,
    splits: Column<u32>,
    answers: Column<u32>,
    pub(super) scores: Column<f64>,
    pub(super) tokens_in: Column<u64>,
    pub(super) tokens_out: Column<u64>,
    pub(super) costs: Column<f64>,
    pub(super) latencies_ms: Column<f64>,
    pub(super) flops: Column<f64>,
    pub(super) signals: BTreeMap<String, Column<f64>>,
    seen: HashSet<(u32, u32)>,
}

/// An optional column; empty up to the first row that has a value.
#[derive(Debug, Clone, Default)]
pub(super) struct Column<T>(Vec<T>);

/// A number with a value that means "not recorded", and that no row can have.
pub(super) trait Gap: Copy + PartialEq {
    const GAP: Self;

    fn is_gap(self) -> bool {
        self == Self::GAP
    }
}

impl Gap for u32 {
    const GAP: Self = Self::MAX;
}

impl Gap for u64 {
    const GAP: Self = Self::MAX;
}

impl Gap for f64 {
    const GAP: Self = Self::NAN;

    fn is_gap(self) -> bool {
        self.is_nan()
    }
}

impl<T: Gap> Column<T> {
    pub(super) fn value(&self, at: usize) -> Option<T> {
        self.0.get(at).copied().filter(|value| !value.is_gap())
    }

    /// Takes the value of the row `at`, which is past all that it has.
    fn take(&mut self, at: usize, value: Option<T>) {
        if let Some(value) = value {
            self.0.resize(at, T::GAP);
            self.0.push(value);
        }
    }
}

impl Table {
    /// The table in a file: Parquet, JSON Lines or CSV by the ending of its name ([`Format::of`]).
    ///
    /// # Errors
    /// [`ErrorKind::Io`], or what is wrong with the table, with path, row and column.
    pub fn read(path: &Path) -> Result<Self> {
        Self::read_all([path])
    }

    /// The table whose rows lie in several files, in the order given: shards of one log, or a file for each model.
    ///
    /// # Errors
    /// As [`Table::read`], for the file at fault; a query and model that two files have are a duplicate in the second.
    pub fn read_all<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Result<Self> {
        let mut table = Self::default();
        for path in paths {
            let path = path.as_ref();
            table.append(path).map_err(|error| error.at_path(path))?;
        }
        Ok(table)
    }

    fn append(&mut self, path: &Path) -> Result<()> {
        let file = File::open(path).map_err(|source| Error::new(ErrorKind::Io, "cannot open").with_source(source))?;
        match Format::of(path) {
            Format::Parquet => parquet::append(self, file),
            Format::JsonLines => self.take_all(JsonLinesReader::new(BufReader::with_capacity(1 << 16, file))),
            Format::Csv => self.take_all(Reader::new(file)?),
        }
    }

    /// The table in a stream of CSV.
    ///
    /// # Errors
    /// What is wrong with the table, with row and column.
    pub fn from_csv(csv: impl Read) -> Result<Self> {
        let mut table = Self::default();
        table.take_all(Reader::new(csv)?)?;
        Ok(table)
    }

    /// The table in a stream of JSON Lines.
    ///
    /// # Errors
    /// What is wrong with the table, with line and column.
    pub fn from_json_lines(lines: impl BufRead) -> Result<Self> {
        let mut table = Self::default();
        table.take_all(JsonLinesReader::new(lines))?;
        Ok(table)
    }

    /// The table in the content of a Parquet file; with the feature `parquet`.
    ///
    /// # Errors
    /// What is wrong with the table, with row and column; rows are counted from 1.
    #[cfg(feature = "parquet")]
    pub fn from_parquet(content: Vec<u8>) -> Result<Self> {
        let mut table = Self::default();
        table.take_all(super::ParquetReader::from_bytes(content)?)?;
        Ok(table)
    }

    pub(super) fn take_all(&mut self, mut rows: impl RowSource) -> Result<()> {
        let mut outcome = Outcome::new("", "", f64::NAN);
        while rows.fill(&mut outcome).map_err(|error| error.at_row(rows.row()))? {
            self.insert(&outcome).map_err(|error| error.at_row(rows.row()))?;
        }
        Ok(())
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`ErrorKind::Value`] for a bad field, [`ErrorKind::Duplicate`] for a query and model that the table has,
    /// [`ErrorKind::TooLarge`] past [`MAX_ROWS`] or [`MAX_TEXT_BYTES`](super::MAX_TEXT_BYTES).
    pub fn push(&mut self, outcome: Outcome) -> Result<()> {
        outcome.check()?;
        self.insert(&outcome)
    }

    /// Adds a row whose fields were checked.
    fn insert(&mut self, outcome: &Outcome) -> Result<()> {
        let at = self.len();
        if at == MAX_ROWS {
            return Err(Error::new(ErrorKind::TooLarge, format!("more than {MAX_ROWS} rows")));
        }
        let number =
            |names: &mut Names, text: &Option<String>| text.as_ref().map(|text| names.number(text)).transpose();
        let (query, model) = (self.queries.number(&outcome.query)?, self.models.number(&outcome.model)?);
        let (task, split) = (number(&mut self.labels, &outcome.task)?, number(&mut self.labels, &outcome.split)?);
        let answer = number(&mut self.digests, &outcome.answer_digest)?;
        if !self.seen.insert((query, model)) {
            let message = format!("a second row for query `{}` and model `{}`", outcome.query, outcome.model);
            return Err(Error::new(ErrorKind::Duplicate, message));
        }
        self.query.push(query);
        self.model.push(model);
        self.qualities.push(outcome.quality);
        self.tasks.take(at, task);
        self.splits.take(at, split);
        self.answers.take(at, answer);
        self.scores.take(at, outcome.score);
        self.tokens_in.take(at, outcome.tokens_in);
        self.tokens_out.take(at, outcome.tokens_out);
        self.costs.take(at, outcome.cost);
        self.latencies_ms.take(at, outcome.latency_ms);
        self.flops.take(at, outcome.flops);
        for (name, signal) in &outcome.signals {
            match self.signals.get_mut(name) {
                Some(column) => column.take(at, Some(*signal)),
                None => self.signals.entry(name.clone()).or_default().take(at, Some(*signal)),
            }
        }
        Ok(())
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.query.len()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.query.is_empty()
    }

    /// The rows, in the order they came.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = Row<'_>> + Clone {
        (0..self.len()).map(|at| Row::of(self, at))
    }

    /// The models that have rows, sorted.
    #[must_use]
    pub fn models(&self) -> Vec<&str> {
        self.models.iter().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The rows of one split.
    pub fn split(&self, split: &str) -> impl Iterator<Item = Row<'_>> + Clone {
        let wanted = self.labels.find(split);
        self.rows()
            .zip(0..)
            .filter(move |(_, at)| wanted.is_some() && self.splits.value(*at) == wanted)
            .map(|(row, _)| row)
    }

    /// The same table with other scores for the rows of one model.
    ///
    /// # Errors
    /// What `score` returns; [`ErrorKind::Value`] for a score that is not finite.
    pub fn rescored(mut self, model: &str, score: impl Fn(Row<'_>) -> Result<f64>) -> Result<Self> {
        let mut scores = Column::default();
        for (at, row) in self.rows().enumerate() {
            let score = if row.model() == model { Some(score(row)?) } else { row.score() };
            if let Some(score) = score {
                super::check_finite(score).map_err(|error| error.at_column("score"))?;
            }
            scores.take(at, score);
        }
        self.scores = scores;
        Ok(self)
    }

    /// Writes the table, in the format that [`Table::read`] expects of the name; the file is wholly there or not at
    /// all.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] with the path; a file that was there before is untouched then.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomically(path, |file| match Format::of(path) {
            Format::Parquet => parquet::write(self, file),
            Format::JsonLines => self.to_json_lines(file),
            Format::Csv => self.to_csv(file),
        })
    }

    /// Writes the table as CSV into a stream.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn to_csv(&self, stream: impl Write) -> Result<()> {
        let mut writer = Writer::new(stream, self.signals.keys())?;
        self.rows().try_for_each(|row| writer.write_row(row))?;
        writer.finish()
    }

    /// Writes the table as JSON Lines into a stream.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn to_json_lines(&self, stream: impl Write) -> Result<()> {
        let mut writer = JsonLinesWriter::new(stream);
        self.rows().try_for_each(|row| writer.write_row(row))?;
        writer.finish()
    }

    /// Writes the table as Parquet into a stream; with the feature `parquet`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    #[cfg(feature = "parquet")]
    pub fn to_parquet(&self, stream: impl Write + Send) -> Result<()> {
        let mut writer = super::ParquetWriter::new(stream, self.signals.keys())?;
        self.rows().try_for_each(|row| writer.write_row(row))?;
        writer.finish()
    }

    pub(super) fn query(&self, at: usize) -> &str {
        self.queries.text(self.query[at])
    }

    pub(super) fn model(&self, at: usize) -> &str {
        self.models.text(self.model[at])
    }

    pub(super) fn quality(&self, at: usize) -> f64 {
        self.qualities[at]
    }

    pub(super) fn task(&self, at: usize) -> Option<&str> {
        self.tasks.value(at).map(|label| self.labels.text(label))
    }

    pub(super) fn split_of(&self, at: usize) -> Option<&str> {
        self.splits.value(at).map(|label| self.labels.text(label))
    }

    pub(super) fn answer_digest(&self, at: usize) -> Option<&str> {
        self.answers.value(at).map(|answer| self.digests.text(answer))
    }
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.rows().eq(other.rows())
    }
}
