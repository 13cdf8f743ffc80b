//! Outcomes to Parquet: text as UTF-8, numbers as doubles, counts as 64-bit integers, in pages packed with Zstandard.

use std::io::Write;
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;

use crate::error::{Error, ErrorKind, Result};
use crate::outcome::{Outcome, Row, SIGNAL_PREFIX};

/// Rows of a row group: what is held until it is written.
const GROUP: usize = 1 << 17;

/// Writes an outcome table as Parquet. Call [`ParquetWriter::finish`] at the end, without which there is no file.
///
/// Like [`Writer`](crate::outcome::Writer) it checks each row but not that a query and model come only once.
pub struct ParquetWriter<W: Write + Send> {
    file: SerializedFileWriter<W>,
    columns: Vec<Column>,
    rows: usize,
}

struct Column {
    name: String,
    read: Read,
    /// 1 where there is a value; empty for a column in which there always is.
    levels: Vec<i16>,
    values: Values,
}

/// How a column is read off a row.
#[derive(Clone, Copy)]
enum Read {
    Text(for<'a> fn(&Row<'a>) -> Option<&'a str>),
    Number(fn(&Row<'_>) -> Option<f64>),
    Count(fn(&Row<'_>) -> Option<u64>),
    /// The signal of the column's name.
    Signal,
}

enum Values {
    Texts(Vec<ByteArray>),
    Numbers(Vec<f64>),
    Counts(Vec<i64>),
}

impl<W: Write + Send> ParquetWriter<W> {
    /// Begins a file with all required and optional columns, and one for each of `signals`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn new<S: Into<String>>(stream: W, signals: impl IntoIterator<Item = S>) -> Result<Self> {
        let mut columns = vec![
            Column::new("query", Read::Text(|row| Some(row.query()))),
            Column::new("model", Read::Text(|row| Some(row.model()))),
            Column::new("quality", Read::Number(|row| Some(row.quality()))),
            Column::new("task", Read::Text(|row| row.task())),
            Column::new("split", Read::Text(|row| row.split())),
            Column::new("score", Read::Number(|row| row.score())),
        ];
        columns.extend(signals.into_iter().map(|name| Column::new(name, Read::Signal)));
        columns.extend([
            Column::new("tokens_in", Read::Count(|row| row.tokens_in())),
            Column::new("tokens_out", Read::Count(|row| row.tokens_out())),
            Column::new("cost", Read::Number(|row| row.cost())),
            Column::new("latency_ms", Read::Number(|row| row.latency_ms())),
            Column::new("flops", Read::Number(|row| row.flops())),
            Column::new("answer_digest", Read::Text(|row| row.answer_digest())),
        ]);
        let fields = columns.iter().map(|column| column.field().map(Arc::new)).collect::<Result<_, _>>();
        let schema = fields.and_then(|fields| Type::group_type_builder("outcomes").with_fields(fields).build());
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
        let file = schema.and_then(|schema| SerializedFileWriter::new(stream, Arc::new(schema), Arc::new(properties)));
        Ok(Self { file: file.map_err(write_error)?, columns, rows: 0 })
    }

    /// Writes one row.
    ///
    /// # Errors
    /// [`ErrorKind::Value`] for a bad field, [`ErrorKind::Columns`] for a signal that the file has no column for,
    /// [`ErrorKind::Io`].
    pub fn write(&mut self, outcome: &Outcome) -> Result<()> {
        outcome.check()?;
        let has = |name: &String| self.columns.iter().any(|column| column.is_signal(name));
        if let Some(name) = outcome.signals.keys().find(|name| !has(name)) {
            let column = format!("{SIGNAL_PREFIX}{name}");
            return Err(Error::new(ErrorKind::Columns, "is not in the schema written").at_column(column));
        }
        self.write_row(outcome.into())
    }

    /// Writes a row that was checked, all of whose signals have a column.
    pub(in crate::outcome) fn write_row(&mut self, row: Row<'_>) -> Result<()> {
        for column in &mut self.columns {
            column.take(&row);
        }
        self.rows += 1;
        if self.rows == GROUP { self.write_group() } else { Ok(()) }
    }

    /// Writes what is held and the end of the file.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn finish(mut self) -> Result<()> {
        if self.rows > 0 {
            self.write_group()?;
        }
        self.file.close().map(drop).map_err(write_error)
    }

    fn write_group(&mut self) -> Result<()> {
        let mut group = self.file.next_row_group().map_err(write_error)?;
        for column in &mut self.columns {
            let Some(mut writer) = group.next_column().map_err(write_error)? else { break };
            let levels = Some(column.levels.as_slice()).filter(|levels| !levels.is_empty());
            let written = match &column.values {
                Values::Texts(texts) => writer.typed::<ByteArrayType>().write_batch(texts, levels, None),
                Values::Numbers(numbers) => writer.typed::<DoubleType>().write_batch(numbers, levels, None),
                Values::Counts(counts) => writer.typed::<Int64Type>().write_batch(counts, levels, None),
            };
            written.map_err(write_error)?;
            writer.close().map_err(write_error)?;
            column.clear();
        }
        self.rows = 0;
        group.close().map(drop).map_err(write_error)
    }
}

impl Column {
    fn new(name: impl Into<String>, read: Read) -> Self {
        let values = match read {
            Read::Text(_) => Values::Texts(Vec::new()),
            Read::Number(_) | Read::Signal => Values::Numbers(Vec::new()),
            Read::Count(_) => Values::Counts(Vec::new()),
        };
        Self { name: name.into(), read, levels: Vec::new(), values }
    }

    fn is_signal(&self, name: &str) -> bool {
        matches!(self.read, Read::Signal) && self.name == name
    }

    fn is_required(&self) -> bool {
        !matches!(self.read, Read::Signal) && crate::outcome::REQUIRED_COLUMNS.contains(&self.name.as_str())
    }

    fn field(&self) -> Result<Type, ParquetError> {
        let (physical, logical) = match self.read {
            Read::Text(_) => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Read::Number(_) | Read::Signal => (Physical::DOUBLE, None),
            Read::Count(_) => (Physical::INT64, None),
        };
        let name = match self.read {
            Read::Signal => format!("{SIGNAL_PREFIX}{}", self.name),
            _ => self.name.clone(),
        };
        let repetition = if self.is_required() { Repetition::REQUIRED } else { Repetition::OPTIONAL };
        Type::primitive_type_builder(&name, physical).with_repetition(repetition).with_logical_type(logical).build()
    }

    fn take(&mut self, row: &Row<'_>) {
        let there = match (self.read, &mut self.values) {
            (Read::Text(read), Values::Texts(texts)) => push(texts, read(row).map(ByteArray::from)),
            (Read::Number(read), Values::Numbers(numbers)) => push(numbers, read(row)),
            (Read::Signal, Values::Numbers(numbers)) => push(numbers, row.signal(&self.name)),
            // A count is at most `MAX_TOKENS`.
            (Read::Count(read), Values::Counts(counts)) => push(counts, read(row).map(|count| count as i64)),
            _ => false,
        };
        if !self.is_required() {
            self.levels.push(i16::from(there));
        }
    }

    fn clear(&mut self) {
        self.levels.clear();
        match &mut self.values {
            Values::Texts(texts) => texts.clear(),
            Values::Numbers(numbers) => numbers.clear(),
            Values::Counts(counts) => counts.clear(),
        }
    }
}

fn push<T>(values: &mut Vec<T>, value: Option<T>) -> bool {
    let there = value.is_some();
    values.extend(value);
    there
}

fn write_error(source: ParquetError) -> Error {
    Error::new(ErrorKind::Io, "cannot write").with_source(source)
}
