//! Weights in a file beside the graph, aligned so that the runtime maps them instead of copying.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use half::f16;

use super::proto::tensor_proto::{DataLocation, DataType};
use super::proto::{StringStringEntryProto, TensorProto};
use crate::error::{Error, Result};

/// The external data file of a graph, written front to back.
pub(crate) struct ExternalData {
    path: PathBuf,
    /// Name of the file as the graph refers to it.
    location: String,
    writer: BufWriter<File>,
    offset: u64,
}

impl ExternalData {
    /// Creates `folder/location`.
    pub(crate) fn create(folder: &Path, location: &str) -> Result<Self> {
        let path = folder.join(location);
        let file = File::create(&path).map_err(|e| Error::io("create", &path, e))?;
        Ok(Self { path, location: location.to_owned(), writer: BufWriter::new(file), offset: 0 })
    }

    /// Appends a tensor and returns the initializer that refers to it.
    pub(crate) fn append(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Result<TensorProto> {
        let offset = self.align(size_of_val(values))?;
        for chunk in values.chunks(1 << 16) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|value| value.to_le_bytes()).collect();
            self.write(&bytes)?;
        }
        Ok(self.initializer(name, shape, DataType::Float, offset))
    }

    /// Appends a tensor of half precision and returns the initializer that refers to it.
    pub(crate) fn append_halves(&mut self, name: &str, shape: &[usize], values: &[f16]) -> Result<TensorProto> {
        let offset = self.align(size_of_val(values))?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.write(&bytes)?;
        Ok(self.initializer(name, shape, DataType::Float16, offset))
    }

    /// Appends a tensor of bytes and returns the initializer that refers to it.
    pub(crate) fn append_bytes(&mut self, name: &str, shape: &[usize], values: &[u8]) -> Result<TensorProto> {
        self.append_raw(name, shape, DataType::Uint8, values)
    }

    /// Appends a tensor in the bytes that ONNX lays such elements out in.
    pub(crate) fn append_raw(
        &mut self,
        name: &str,
        shape: &[usize],
        element: DataType,
        bytes: &[u8],
    ) -> Result<TensorProto> {
        let offset = self.align(bytes.len())?;
        self.write(bytes)?;
        Ok(self.initializer(name, shape, element, offset))
    }

    /// Where a tensor of so many bytes begins.
    fn align(&mut self, bytes: usize) -> Result<u64> {
        let alignment = if bytes < SMALL { CACHE_LINE } else { PAGE };
        let padding = self.offset.next_multiple_of(alignment) - self.offset;
        self.write(&vec![0; padding as usize])?;
        Ok(self.offset)
    }

    /// The initializer for what was written since `offset`.
    fn initializer(&self, name: &str, shape: &[usize], element: DataType, offset: u64) -> TensorProto {
        TensorProto {
            name: Some(name.into()),
            dims: shape.iter().map(|&d| d as i64).collect(),
            data_type: Some(element as i32),
            data_location: Some(DataLocation::External as i32),
            external_data: entries(&self.location, offset, self.offset - offset),
            ..TensorProto::default()
        }
    }

    /// Flushes everything to the disk.
    pub(crate) fn finish(mut self) -> Result<()> {
        let flushed = self.writer.flush().and_then(|()| self.writer.get_ref().sync_all());
        flushed.map_err(|e| Error::io("write", &self.path, e))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.offset += bytes.len() as u64;
        self.writer.write_all(bytes).map_err(|e| Error::io("write", &self.path, e))
    }
}

/// A memory page on every system that maps files in pages of up to 4 KiB; larger pages only cost a copy.
const PAGE: u64 = 4096;

/// For what is small the rest of a page would be a lot: there are hundreds of scales, norms and small matrices. ONNX Runtime maps
/// from the page before.
const SMALL: usize = 1 << 20;
const CACHE_LINE: u64 = 64;

fn entries(location: &str, offset: u64, length: u64) -> Vec<StringStringEntryProto> {
    let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
    vec![
        entry("location", location.to_owned()),
        entry("offset", offset.to_string()),
        entry("length", length.to_string()),
    ]
}

/// Where a tensor lies in its file: offset and length, in bytes.
pub(super) fn place(tensor: &TensorProto) -> Option<(u64, u64)> {
    let number = |key| value(tensor, key)?.parse().ok();
    Some((number("offset")?, number("length")?))
}

/// `length` bytes of the file that `of` lies in, as a tensor of bytes.
pub(super) fn piece(name: String, of: &TensorProto, offset: u64, length: u64) -> TensorProto {
    TensorProto {
        name: Some(name),
        dims: vec![length as i64],
        data_type: Some(DataType::Uint8 as i32),
        data_location: Some(DataLocation::External as i32),
        external_data: entries(value(of, "location").unwrap_or_default(), offset, length),
        ..TensorProto::default()
    }
}

fn value<'a>(tensor: &'a TensorProto, key: &str) -> Option<&'a str> {
    tensor.external_data.iter().find(|entry| entry.key.as_deref() == Some(key))?.value.as_deref()
}
