//! Parquet to outcomes: a batch of each column at a time, so that memory is bounded by the pages of one row group.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use parquet::basic::{ConvertedType, LogicalType, Type};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

use crate::error::{Error, ErrorKind, Result};
use crate::outcome::columns::{self, Field};
use crate::outcome::{Outcome, RowSource};

/// Rows decoded at a time.
const BATCH: usize = 4096;

/// Most bytes of one column in one row group, unpacked. Writers make row groups of some 100 MB.
const MAX_COLUMN_BYTES: i64 = 1 << 30;

/// Reads an outcome table from Parquet, row by row, counted from 1. After an error the iterator ends.
///
/// Text columns are byte arrays in UTF-8; numbers are doubles, floats or integers; `quality` and signals may be booleans.
/// A null is "not recorded", as an empty field of CSV is.
pub struct ParquetReader {
    file: Box<dyn FileReader>,
    names: Vec<String>,
    /// The row group that is read next.
    group: usize,
    columns: Vec<Column>,
    /// Rows of the batch, and how many of them were given out.
    batch: usize,
    given: usize,
    row: u64,
    failed: bool,
}

struct Column {
    reader: ColumnReader,
    unsigned: bool,
    nullable: bool,
    levels: Vec<i16>,
    values: Values,
    /// The value of the row that is read next.
    next: usize,
}

enum Values {
    Texts(Vec<ByteArray>),
    Doubles(Vec<f64>),
    Floats(Vec<f32>),
    Longs(Vec<i64>),
    Ints(Vec<i32>),
    Bools(Vec<bool>),
}

/// A field as the file has it.
enum Cell<'a> {
    Null,
    Bytes(&'a [u8]),
    Number(f64),
    Signed(i64),
    Unsigned(u64),
}

impl ParquetReader {
    /// Reads the schema.
    ///
    /// # Errors
    /// [`ErrorKind::Columns`] for a file that lacks a required column or has an unknown or nested one,
    /// [`ErrorKind::Value`] for one that is no Parquet or has a column of another type, [`ErrorKind::TooLarge`] past a size
    /// cap, [`ErrorKind::Io`].
    pub fn new(file: File) -> Result<Self> {
        Self::of(file)
    }

    /// The same of a file's content in memory.
    ///
    /// # Errors
    /// As [`ParquetReader::new`].
    pub fn from_bytes(content: Vec<u8>) -> Result<Self> {
        Self::of(Bytes::from(content))
    }

    fn of(file: impl ChunkReader + 'static) -> Result<Self> {
        let file = guarded(|| SerializedFileReader::new(file).map_err(parquet_error))?;
        let metadata = file.metadata();
        let schema = metadata.file_metadata().schema_descr_ptr();
        // A nested column's path is longer than its name, so it is not among those known.
        let paths: Vec<String> = schema.columns().iter().map(|column| column.path().parts().join("/")).collect();
        columns::check(paths.iter().map(String::as_str))?;
        for column in schema.columns() {
            check_type(column).map_err(|error| error.at_column(column.name()))?;
        }
        for column in metadata.row_groups().iter().flat_map(|group| group.columns()) {
            let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
            if start < 0 || column.compressed_size() < 0 {
                let message = "is said to lie at a negative place of the file";
                return Err(Error::new(ErrorKind::Value, message).at_column(column.column_path().string()));
            }
            if column.uncompressed_size() > MAX_COLUMN_BYTES {
                let message = format!("a row group is over the cap of {MAX_COLUMN_BYTES} bytes: write smaller ones");
                return Err(Error::new(ErrorKind::TooLarge, message).at_column(column.column_path().string()));
            }
        }
        let file = Box::new(file);
        Ok(Self { file, names: paths, group: 0, columns: Vec::new(), batch: 0, given: 0, row: 0, failed: false })
    }

    /// Decodes the next rows of every column; false after the last row group.
    fn decode(&mut self) -> Result<bool> {
        loop {
            (self.batch, self.given) = (0, 0);
            for (at, (column, name)) in self.columns.iter_mut().zip(&self.names).enumerate() {
                let rows = column.decode().map_err(|error| error.at_column(name))?;
                if at > 0 && rows != self.batch {
                    let message =
                        format!("ends {} rows before the column `{}`", self.batch.abs_diff(rows), self.names[0]);
                    return Err(Error::new(ErrorKind::Value, message).at_column(name));
                }
                self.batch = rows;
            }
            if self.batch > 0 {
                return Ok(true);
            }
            if self.group == self.file.num_row_groups() {
                return Ok(false);
            }
            let group = self.file.get_row_group(self.group).map_err(parquet_error)?;
            self.group += 1;
            let schema = group.metadata().schema_descr_ptr();
            let column = |at| {
                let reader = group.get_column_reader(at).map_err(parquet_error)?;
                Ok(Column::new(reader, &schema.column(at)))
            };
            self.columns = (0..self.names.len()).map(column).collect::<Result<_>>()?;
        }
    }
}

/// The library that decodes panics on some damage; a table of others must not end this program.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let damaged = |_| Err(Error::new(ErrorKind::Value, "is damaged: its pages cannot be decoded"));
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(damaged)
}

impl RowSource for ParquetReader {
    fn fill(&mut self, outcome: &mut Outcome) -> Result<bool> {
        self.row += 1;
        if self.given == self.batch && !guarded(|| self.decode())? {
            return Ok(false);
        }
        for (column, name) in self.columns.iter_mut().zip(&self.names) {
            columns::store(name, &column.cell(self.given), outcome).map_err(|error| error.at_column(name))?;
        }
        self.given += 1;
        outcome.check()?;
        Ok(true)
    }

    fn row(&self) -> u64 {
        self.row
    }
}

impl Iterator for ParquetReader {
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

impl Column {
    fn new(reader: ColumnReader, descriptor: &ColumnDescriptor) -> Self {
        let values = match reader {
            ColumnReader::ByteArrayColumnReader(_) | ColumnReader::FixedLenByteArrayColumnReader(_) => {
                Values::Texts(Vec::new())
            }
            ColumnReader::DoubleColumnReader(_) => Values::Doubles(Vec::new()),
            ColumnReader::FloatColumnReader(_) => Values::Floats(Vec::new()),
            ColumnReader::Int32ColumnReader(_) => Values::Ints(Vec::new()),
            ColumnReader::Int64ColumnReader(_) | ColumnReader::Int96ColumnReader(_) => Values::Longs(Vec::new()),
            ColumnReader::BoolColumnReader(_) => Values::Bools(Vec::new()),
        };
        let unsigned = matches!(
            descriptor.converted_type(),
            ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32 | ConvertedType::UINT_64
        );
        let nullable = descriptor.max_def_level() > 0;
        Self { reader, unsigned, nullable, levels: Vec::new(), values, next: 0 }
    }

    /// Decodes a batch and says how many rows it has.
    fn decode(&mut self) -> Result<usize> {
        fn read<T: DataType>(
            reader: &mut ColumnReaderImpl<T>,
            levels: &mut Vec<i16>,
            values: &mut Vec<T::T>,
        ) -> Result<usize> {
            values.clear();
            let (rows, _, _) = reader.read_records(BATCH, Some(levels), None, values).map_err(parquet_error)?;
            Ok(rows)
        }
        self.levels.clear();
        self.next = 0;
        let levels = &mut self.levels;
        match (&mut self.reader, &mut self.values) {
            (ColumnReader::ByteArrayColumnReader(reader), Values::Texts(values)) => read(reader, levels, values),
            (ColumnReader::DoubleColumnReader(reader), Values::Doubles(values)) => read(reader, levels, values),
            (ColumnReader::FloatColumnReader(reader), Values::Floats(values)) => read(reader, levels, values),
            (ColumnReader::Int32ColumnReader(reader), Values::Ints(values)) => read(reader, levels, values),
            (ColumnReader::Int64ColumnReader(reader), Values::Longs(values)) => read(reader, levels, values),
            (ColumnReader::BoolColumnReader(reader), Values::Bools(values)) => read(reader, levels, values),
            _ => Err(Error::new(ErrorKind::Value, "has a physical type that no column of a table has")),
        }
    }

    /// The field of the row, which is the one after that of the last call.
    fn cell(&mut self, row: usize) -> Cell<'_> {
        if self.nullable && self.levels.get(row).is_none_or(|level| *level == 0) {
            return Cell::Null;
        }
        let at = self.next;
        self.next += 1;
        let cell = match &self.values {
            Values::Texts(texts) => texts.get(at).map(|text| Cell::Bytes(text.data())),
            Values::Doubles(numbers) => numbers.get(at).map(|number| Cell::Number(*number)),
            Values::Floats(numbers) => numbers.get(at).map(|number| Cell::Number(f64::from(*number))),
            Values::Longs(numbers) if self.unsigned => numbers.get(at).map(|number| Cell::Unsigned(*number as u64)),
            Values::Longs(numbers) => numbers.get(at).map(|number| Cell::Signed(*number)),
            Values::Ints(numbers) if self.unsigned => {
                numbers.get(at).map(|number| Cell::Unsigned(u64::from(*number as u32)))
            }
            Values::Ints(numbers) => numbers.get(at).map(|number| Cell::Signed(i64::from(*number))),
            Values::Bools(truths) => truths.get(at).map(|truth| Cell::Signed(i64::from(*truth))),
        };
        cell.unwrap_or(Cell::Null)
    }
}

impl Field for Cell<'_> {
    fn text(&self) -> Result<Option<&str>> {
        match self {
            Self::Bytes([]) | Self::Null => Ok(None),
            Self::Bytes(bytes) => std::str::from_utf8(bytes)
                .map(Some)
                .map_err(|source| Error::new(ErrorKind::Value, "is not UTF-8").with_source(source)),
            Self::Number(_) | Self::Signed(_) | Self::Unsigned(_) => Err(is_not("a number", "text")),
        }
    }

    fn number(&self) -> Result<Option<f64>> {
        match self {
            Self::Null => Ok(None),
            Self::Number(number) => {
                crate::outcome::check_finite(*number)?;
                Ok(Some(*number))
            }
            Self::Signed(number) => Ok(Some(*number as f64)),
            Self::Unsigned(number) => Ok(Some(*number as f64)),
            Self::Bytes(_) => Err(is_not("text", "a number")),
        }
    }

    /// Doubles too, if they are whole: what pandas makes of integers among which some are missing.
    fn count(&self) -> Result<Option<u64>> {
        const WHAT: &str = "a whole number of at least 0";
        match self {
            Self::Null => Ok(None),
            Self::Unsigned(number) => Ok(Some(*number)),
            Self::Signed(number) => u64::try_from(*number).map(Some).map_err(|_| is_not(&format!("`{number}`"), WHAT)),
            Self::Number(number) if number.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(number) => {
                Ok(Some(*number as u64))
            }
            Self::Number(number) => Err(is_not(&format!("`{number}`"), WHAT)),
            Self::Bytes(_) => Err(is_not("text", WHAT)),
        }
    }
}

fn is_not(what: &str, wanted: &str) -> Error {
    Error::new(ErrorKind::Value, format!("{what} is not {wanted}"))
}

/// Refuses what has the right storage and another meaning, such as a date.
fn check_type(column: &ColumnDescriptor) -> Result<()> {
    let (physical, converted) = (column.physical_type(), column.converted_type());
    let plain = match physical {
        Type::BYTE_ARRAY => {
            matches!(converted, ConvertedType::NONE | ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON)
        }
        Type::INT32 | Type::INT64 => matches!(
            converted,
            ConvertedType::NONE
                | ConvertedType::INT_8
                | ConvertedType::INT_16
                | ConvertedType::INT_32
                | ConvertedType::INT_64
                | ConvertedType::UINT_8
                | ConvertedType::UINT_16
                | ConvertedType::UINT_32
                | ConvertedType::UINT_64
        ),
        Type::BOOLEAN | Type::FLOAT | Type::DOUBLE => true,
        Type::INT96 | Type::FIXED_LEN_BYTE_ARRAY => false,
    };
    // Newer files say what they mean in these words alone.
    let logical = column.logical_type_ref();
    // `Unknown` is a column in which everything is null.
    let said = match logical {
        None | Some(LogicalType::String | LogicalType::Enum | LogicalType::Json | LogicalType::Unknown) => true,
        Some(LogicalType::Integer { .. }) => true,
        Some(_) => false,
    };
    if plain && said && column.max_rep_level() == 0 && column.max_def_level() <= 1 {
        return Ok(());
    }
    let meaning = match (logical, converted) {
        (Some(logical), _) => format!(" ({logical:?})"),
        (None, ConvertedType::NONE) => String::new(),
        (None, converted) => format!(" ({converted})"),
    };
    Err(Error::new(ErrorKind::Value, format!("is {physical}{meaning}: a column is text, a number or a truth value")))
}

fn parquet_error(error: ParquetError) -> Error {
    match error {
        ParquetError::External(source) if source.is::<std::io::Error>() => {
            Error::new(ErrorKind::Io, "cannot read").with_source(source)
        }
        error => Error::new(ErrorKind::Value, format!("is not Parquet that can be read: {error}")).with_source(error),
    }
}
