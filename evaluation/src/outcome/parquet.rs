//! Apache Parquet: outcome tables of a fleet, as DataFusion, Spark, DuckDB, pandas and Polars read and write them.

mod reader;
mod writer;

pub use reader::ParquetReader;
pub use writer::ParquetWriter;
