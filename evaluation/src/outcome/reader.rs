//! CSV to outcomes, one row at a time, in memory bounded by the longest row allowed.

use std::io::{self, Read};
use std::str::FromStr;

use csv::{ReaderBuilder, StringRecord};

use super::{MAX_COLUMNS, MAX_ROW_BYTES, OPTIONAL_COLUMNS, Outcome, REQUIRED_COLUMNS, SIGNAL_PREFIX};
use crate::error::{Error, ErrorKind, Result};

/// Reads an outcome table from CSV, row by row. After an error the iterator ends.
pub struct Reader<R> {
    csv: csv::Reader<Budgeted<R>>,
    columns: Vec<Column>,
    record: StringRecord,
    row: u64,
    failed: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`ErrorKind::Columns`] for a header that lacks a required column or has an unknown or repeated one,
    /// [`ErrorKind::TooLarge`] past a size cap, [`ErrorKind::Io`].
    pub fn new(stream: R) -> Result<Self> {
        let mut csv = ReaderBuilder::new().from_reader(Budgeted { stream, left: MAX_ROW_BYTES });
        let header = csv.headers().map_err(|error| csv_error(error).at_row(1))?;
        let columns = parse_header(header).map_err(|error| error.at_row(1))?;
        Ok(Self { csv, columns, record: StringRecord::new(), row: 1, failed: false })
    }

    /// The row read last, counted as a spreadsheet does: the header is row 1.
    #[must_use]
    pub fn row(&self) -> u64 {
        self.row
    }

    fn read(&mut self) -> Result<Option<Outcome>> {
        self.csv.get_mut().left = MAX_ROW_BYTES;
        self.row += 1;
        if !self.csv.read_record(&mut self.record).map_err(csv_error)? {
            return Ok(None);
        }
        let mut outcome = Outcome::new("", "", f64::NAN);
        for (column, field) in self.columns.iter().zip(&self.record) {
            column.store(field, &mut outcome).map_err(|error| error.at_column(column.name()))?;
        }
        outcome.check()?;
        Ok(Some(outcome))
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Outcome>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let outcome = self.read().map_err(|error| error.at_row(self.row));
        self.failed = outcome.is_err();
        outcome.transpose()
    }
}

/// Where a field goes.
enum Column {
    Fixed(&'static str),
    Signal(String),
}

impl Column {
    fn name(&self) -> String {
        match self {
            Self::Fixed(name) => (*name).to_owned(),
            Self::Signal(name) => format!("{SIGNAL_PREFIX}{name}"),
        }
    }

    fn store(&self, field: &str, outcome: &mut Outcome) -> Result<()> {
        let name = match self {
            Self::Fixed(name) => *name,
            Self::Signal(name) => {
                if let Some(signal) = number(field)? {
                    outcome.signals.insert(name.clone(), signal);
                }
                return Ok(());
            }
        };
        let text = || (!field.is_empty()).then(|| field.to_owned());
        match name {
            "query" => outcome.query = field.to_owned(),
            "model" => outcome.model = field.to_owned(),
            "quality" => outcome.quality = number(field)?.ok_or_else(|| Error::new(ErrorKind::Value, "is empty"))?,
            "task" => outcome.task = text(),
            "split" => outcome.split = text(),
            "score" => outcome.score = number(field)?,
            "tokens_in" => outcome.tokens_in = count(field)?,
            "tokens_out" => outcome.tokens_out = count(field)?,
            "cost" => outcome.cost = number(field)?,
            "latency_ms" => outcome.latency_ms = number(field)?,
            "flops" => outcome.flops = number(field)?,
            _ => outcome.answer_digest = text(),
        }
        Ok(())
    }
}

fn parse_header(header: &StringRecord) -> Result<Vec<Column>> {
    if header.len() > MAX_COLUMNS {
        let message = format!("{} columns are over the cap of {MAX_COLUMNS}", header.len());
        return Err(Error::new(ErrorKind::TooLarge, message));
    }
    let mut columns = Vec::with_capacity(header.len());
    for (index, name) in header.iter().enumerate() {
        if header.iter().take(index).any(|earlier| earlier == name) {
            return Err(Error::new(ErrorKind::Columns, "is there twice").at_column(name));
        }
        let fixed = REQUIRED_COLUMNS.iter().chain(&OPTIONAL_COLUMNS).find(|known| **known == name);
        columns.push(match (fixed, name.strip_prefix(SIGNAL_PREFIX)) {
            (Some(known), _) => Column::Fixed(known),
            (None, Some(signal)) if !signal.is_empty() => Column::Signal(signal.to_owned()),
            _ => {
                let known = [&REQUIRED_COLUMNS[..], &OPTIONAL_COLUMNS[..]].concat().join(", ");
                let message = format!("is not one of {known}, {SIGNAL_PREFIX}<name>");
                return Err(Error::new(ErrorKind::Columns, message).at_column(name));
            }
        });
    }
    for required in REQUIRED_COLUMNS {
        if !header.iter().any(|name| name == required) {
            return Err(Error::new(ErrorKind::Columns, "is required and missing").at_column(required));
        }
    }
    Ok(columns)
}

fn number(field: &str) -> Result<Option<f64>> {
    parse(field, "a number")
}

fn count(field: &str) -> Result<Option<u64>> {
    parse(field, "a whole number of at least 0")
}

/// The field's value; nothing for an empty field.
fn parse<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(field: &str, what: &str) -> Result<Option<T>> {
    if field.is_empty() {
        return Ok(None);
    }
    field.parse().map(Some).map_err(|source| {
        let message = format!("`{}` is not {what}", excerpt(field));
        Error::new(ErrorKind::Value, message).with_source(source)
    })
}

/// As much of a bad field as a message can bear.
fn excerpt(field: &str) -> String {
    let mut excerpt: String = field.chars().take(40).collect();
    if excerpt.len() < field.len() {
        excerpt.push('…');
    }
    excerpt
}

fn csv_error(error: csv::Error) -> Error {
    match error.kind() {
        csv::ErrorKind::Io(io) if io.get_ref().is_some_and(|inner| inner.is::<OverBudget>()) => {
            Error::new(ErrorKind::TooLarge, format!("is over the cap of {MAX_ROW_BYTES} bytes"))
        }
        csv::ErrorKind::Io(_) => Error::new(ErrorKind::Io, "cannot read").with_source(error),
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            let message = format!("has {len} fields where the header has {expected_len}");
            Error::new(ErrorKind::Value, message)
        }
        csv::ErrorKind::Utf8 { .. } => Error::new(ErrorKind::Value, "is not UTF-8").with_source(error),
        _ => Error::new(ErrorKind::Value, "is not CSV").with_source(error),
    }
}

/// A stream that gives at most so many bytes for one row, so that a missing quote cannot fill the memory.
struct Budgeted<R> {
    stream: R,
    left: usize,
}

impl<R: Read> Read for Budgeted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::Error::other(OverBudget));
        }
        let read = self.stream.read(buffer)?;
        self.left = self.left.saturating_sub(read);
        Ok(read)
    }
}

#[derive(Debug)]
struct OverBudget;

impl std::fmt::Display for OverBudget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the row is too long")
    }
}

impl std::error::Error for OverBudget {}
