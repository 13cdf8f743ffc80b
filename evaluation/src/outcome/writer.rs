//! Outcomes to CSV, one row at a time, columns always in the same order.

use std::io::Write;

use super::{Outcome, Row, SIGNAL_PREFIX};
use crate::error::{Error, ErrorKind, Result};

/// Writes an outcome table as CSV, row by row. Call [`Writer::finish`] at the end.
///
/// It checks each row but not that a query and model come only once: that needs the whole table in memory, which
/// [`Table`](super::Table) has.
pub struct Writer<W: Write> {
    csv: csv::Writer<W>,
    signals: Vec<String>,
}

impl<W: Write> Writer<W> {
    /// Writes the header: all required and optional columns, and one for each of `signals`, in this order.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn new<S: Into<String>>(stream: W, signals: impl IntoIterator<Item = S>) -> Result<Self> {
        let signals: Vec<String> = signals.into_iter().map(Into::into).collect();
        let mut csv = csv::Writer::from_writer(stream);
        let before = ["query", "model", "quality", "task", "split", "score"].map(str::to_owned);
        let after = ["tokens_in", "tokens_out", "cost", "latency_ms", "flops", "answer_digest"].map(str::to_owned);
        let header = before.into_iter().chain(signals.iter().map(|name| format!("{SIGNAL_PREFIX}{name}"))).chain(after);
        csv.write_record(header).map_err(io_error)?;
        Ok(Self { csv, signals })
    }

    /// Writes one row.
    ///
    /// # Errors
    /// [`ErrorKind::Value`] for a bad field, [`ErrorKind::Columns`] for a signal that the header does not have,
    /// [`ErrorKind::Io`].
    pub fn write(&mut self, outcome: &Outcome) -> Result<()> {
        outcome.check()?;
        if let Some(name) = outcome.signals.keys().find(|name| !self.signals.contains(name)) {
            let column = format!("{SIGNAL_PREFIX}{name}");
            return Err(Error::new(ErrorKind::Columns, "is not in the header written").at_column(column));
        }
        self.write_row(outcome.into())
    }

    /// Writes a row that was checked, all of whose signals have a column.
    pub(super) fn write_row(&mut self, row: Row<'_>) -> Result<()> {
        let Self { csv, signals } = self;
        let mut put = |field: &str| csv.write_field(field).map_err(io_error);
        put(row.query())?;
        put(row.model())?;
        put(&row.quality().to_string())?;
        put(row.task().unwrap_or_default())?;
        put(row.split().unwrap_or_default())?;
        put(&field(row.score()))?;
        signals.iter().try_for_each(|name| put(&field(row.signal(name))))?;
        put(&field(row.tokens_in()))?;
        put(&field(row.tokens_out()))?;
        put(&field(row.cost()))?;
        put(&field(row.latency_ms()))?;
        put(&field(row.flops()))?;
        put(row.answer_digest().unwrap_or_default())?;
        csv.write_record(None::<&[u8]>).map_err(io_error)
    }

    /// Flushes what is buffered.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn finish(mut self) -> Result<()> {
        self.csv.flush().map_err(|source| Error::new(ErrorKind::Io, "cannot write").with_source(source))
    }
}

/// The shortest decimal text that reads back as the same number; nothing for nothing.
fn field(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn io_error(error: csv::Error) -> Error {
    Error::new(ErrorKind::Io, "cannot write").with_source(error)
}
