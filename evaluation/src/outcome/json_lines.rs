//! JSON Lines to outcomes and back: one object per line, the same columns and rules as CSV.

use std::fmt;
use std::io::{BufRead, Read as _, Write};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::Value;

use super::columns::{self, Field};
use super::{MAX_ROW_BYTES, Outcome, Row, RowSource, SIGNAL_PREFIX};
use crate::error::{Error, ErrorKind, Result};

/// Reads an outcome table from JSON Lines, row by row. Blank lines are passed over; after an error the iterator ends.
pub struct JsonLinesReader<R> {
    stream: R,
    line: u64,
    bytes: Vec<u8>,
    failed: bool,
}

impl<R: BufRead> JsonLinesReader<R> {
    /// A reader at the first line.
    #[must_use]
    pub fn new(stream: R) -> Self {
        Self { stream, line: 0, bytes: Vec::new(), failed: false }
    }

    /// The line read last, from 1: what errors call the row.
    #[must_use]
    pub fn line(&self) -> u64 {
        self.line
    }
}

impl<R: BufRead> RowSource for JsonLinesReader<R> {
    fn fill(&mut self, outcome: &mut Outcome) -> Result<bool> {
        loop {
            self.bytes.clear();
            self.line += 1;
            // One byte more than allowed, to tell a line that just fits from one that does not.
            let mut capped = self.stream.by_ref().take(MAX_ROW_BYTES as u64 + 1);
            capped
                .read_until(b'\n', &mut self.bytes)
                .map_err(|source| Error::new(ErrorKind::Io, "cannot read").with_source(source))?;
            if self.bytes.is_empty() {
                return Ok(false);
            }
            if self.bytes.len() > MAX_ROW_BYTES {
                return Err(Error::new(ErrorKind::TooLarge, format!("is over the cap of {MAX_ROW_BYTES} bytes")));
            }
            if !self.bytes.trim_ascii().is_empty() {
                break;
            }
        }
        // What some editors begin a file with, and the reader of CSV passes over too.
        let object = self.bytes.strip_prefix(b"\xef\xbb\xbf").filter(|_| self.line == 1).unwrap_or(&self.bytes);
        let Fields(fields) = serde_json::from_slice(object)
            .map_err(|source| Error::new(ErrorKind::Value, "is not a JSON object").with_source(source))?;
        columns::check(fields.iter().map(|(name, _)| name.as_str()))?;
        *outcome = Outcome::new("", "", f64::NAN);
        for (name, value) in &fields {
            columns::store(name, value, outcome).map_err(|error| error.at_column(name))?;
        }
        outcome.check()?;
        Ok(true)
    }

    fn row(&self) -> u64 {
        self.line
    }
}

impl<R: BufRead> Iterator for JsonLinesReader<R> {
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

/// Writes an outcome table as JSON Lines, row by row, only what is recorded. Call [`JsonLinesWriter::finish`] at the
/// end.
///
/// Like [`Writer`](super::Writer) it checks each row but not that a query and model come only once.
pub struct JsonLinesWriter<W: Write> {
    stream: W,
}

impl<W: Write> JsonLinesWriter<W> {
    /// A writer that has written nothing: the format has no header.
    #[must_use]
    pub fn new(stream: W) -> Self {
        Self { stream }
    }

    /// Writes one row.
    ///
    /// # Errors
    /// [`ErrorKind::Value`] for a bad field, [`ErrorKind::Io`].
    pub fn write(&mut self, outcome: &Outcome) -> Result<()> {
        outcome.check()?;
        self.write_row(outcome.into())
    }

    /// Writes a row that was checked.
    pub(super) fn write_row(&mut self, row: Row<'_>) -> Result<()> {
        serde_json::to_writer(&mut self.stream, &Line(row)).map_err(|source| io_error(source.into()))?;
        self.stream.write_all(b"\n").map_err(io_error)
    }

    /// Flushes what is buffered.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn finish(mut self) -> Result<()> {
        self.stream.flush().map_err(io_error)
    }
}

/// The fields of an object in their order, so that one given twice is seen.
struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl Field for Value {
    /// Text; nothing for `null` and, as in CSV, for empty text.
    fn text(&self) -> Result<Option<&str>> {
        match self {
            Self::Null => Ok(None),
            Self::String(text) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            other => Err(is_not(other, "text")),
        }
    }

    fn number(&self) -> Result<Option<f64>> {
        typed(self, Self::as_f64, "a number")
    }

    fn count(&self) -> Result<Option<u64>> {
        typed(self, Self::as_u64, "a whole number of at least 0")
    }
}

fn typed<T>(value: &Value, read: fn(&Value) -> Option<T>, what: &str) -> Result<Option<T>> {
    if value.is_null() {
        return Ok(None);
    }
    read(value).map(Some).ok_or_else(|| is_not(value, what))
}

fn is_not(value: &Value, what: &str) -> Error {
    let kind = match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(_) => "text".to_owned(),
        other => format!("`{other}`"),
    };
    Error::new(ErrorKind::Value, format!("{kind} is not {what}"))
}

fn io_error(source: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, "cannot write").with_source(source)
}

/// A row as an object, in the order of a CSV's columns.
struct Line<'a>(Row<'a>);

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let row = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("query", row.query())?;
        map.serialize_entry("model", row.model())?;
        map.serialize_entry("quality", &row.quality())?;
        for (name, text) in [("task", row.task()), ("split", row.split())] {
            text.map_or(Ok(()), |text| map.serialize_entry(name, text))?;
        }
        row.score().map_or(Ok(()), |score| map.serialize_entry("score", &score))?;
        for (name, signal) in row.signals() {
            map.serialize_entry(&format!("{SIGNAL_PREFIX}{name}"), &signal)?;
        }
        for (name, count) in [("tokens_in", row.tokens_in()), ("tokens_out", row.tokens_out())] {
            count.map_or(Ok(()), |count| map.serialize_entry(name, &count))?;
        }
        for (name, amount) in [("cost", row.cost()), ("latency_ms", row.latency_ms()), ("flops", row.flops())] {
            amount.map_or(Ok(()), |amount| map.serialize_entry(name, &amount))?;
        }
        row.answer_digest().map_or(Ok(()), |digest| map.serialize_entry("answer_digest", digest))?;
        map.end()
    }
}
