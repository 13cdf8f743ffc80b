//! CSV to outcomes, one row at a time, in memory bounded by the longest row allowed.

use std::io::{self, Read};
use std::str::FromStr;

use csv::{ReaderBuilder, StringRecord};

use super::columns::{self, Field};
use super::{MAX_ROW_BYTES, Outcome, RowSource};
use crate::error::{Error, ErrorKind, Result};

/// Reads an outcome table from CSV, row by row. After an error the iterator ends.
pub struct Reader<R> {
    csv: csv::Reader<Budgeted<R>>,
    columns: Vec<String>,
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
        let names: Vec<&str> = header.iter().collect();
        columns::check(names.iter().copied()).map_err(|error| error.at_row(1))?;
        let columns = names.into_iter().map(str::to_owned).collect();
        Ok(Self { csv, columns, record: StringRecord::new(), row: 1, failed: false })
    }

    /// The row read last, counted as a spreadsheet does: the header is row 1.
    #[must_use]
    pub fn row(&self) -> u64 {
        self.row
    }
}

impl<R: Read> RowSource for Reader<R> {
    fn fill(&mut self, outcome: &mut Outcome) -> Result<bool> {
        self.csv.get_mut().left = MAX_ROW_BYTES;
        self.row += 1;
        if !self.csv.read_record(&mut self.record).map_err(csv_error)? {
            return Ok(false);
        }
        for (column, field) in self.columns.iter().zip(&self.record) {
            columns::store(column, &Text(field), outcome).map_err(|error| error.at_column(column))?;
        }
        outcome.check()?;
        Ok(true)
    }

    fn row(&self) -> u64 {
        self.row
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Outcome>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.next_row();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

/// A field as it stands in the file.
struct Text<'a>(&'a str);

impl Field for Text<'_> {
    fn text(&self) -> Result<Option<&str>> {
        Ok(Some(self.0).filter(|text| !text.is_empty()))
    }

    fn number(&self) -> Result<Option<f64>> {
        parse(self.0, "a number")
    }

    fn count(&self) -> Result<Option<u64>> {
        parse(self.0, "a whole number of at least 0")
    }
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
        csv::ErrorKind::Utf8 { .. } => {
            Error::new(ErrorKind::Value, "is not UTF-8, as a table has to be").with_source(error)
        }
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
