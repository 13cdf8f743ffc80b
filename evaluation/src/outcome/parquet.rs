//! Apache Parquet: outcome tables of a fleet, as DataFusion, Spark, DuckDB, pandas and Polars read and write them.

mod reader;
mod writer;

use std::fs::File;
use std::io::Write;

use super::Table;
use crate::error::Result;

pub use reader::ParquetReader;
pub use writer::ParquetWriter;

/// Adds a file's rows to a table.
pub(super) fn append(table: &mut Table, file: File) -> Result<()> {
    table.take_all(ParquetReader::new(file)?)
}

/// Writes a table into a stream.
pub(super) fn write(table: &Table, stream: impl Write + Send) -> Result<()> {
    table.to_parquet(stream)
}
