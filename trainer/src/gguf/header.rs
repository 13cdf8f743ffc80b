//! A GGUF file, mapped: its metadata and where each tensor lies, checked against the file's size when it is opened.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Cursor;
use std::ops::Range;
use std::path::Path;

use gguf_rs_lib::format::{GGUFTensorType, Metadata, MetadataValue};
use gguf_rs_lib::reader::GGUFFileReader;
use memmap2::Mmap;

use super::dequantize::Block;
use crate::error::{Error, Result};
use crate::weights::malformed;

/// What the file says of itself, and its bytes.
#[derive(Debug)]
pub(super) struct Header {
    map: Mmap,
    metadata: Metadata,
    tensors: BTreeMap<String, Stored>,
}

/// One tensor of the file.
#[derive(Debug)]
struct Stored {
    kind: GGUFTensorType,
    /// The fastest dimension last.
    shape: Vec<u64>,
    bytes: Range<usize>,
}

impl Header {
    #[expect(unsafe_code, reason = "mapping a file is unsafe: another process may change it under us")]
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        // SAFETY: the map is only read, as bytes; a file changed meanwhile gives wrong numbers, which the
        // export's verification finds, and never an invalid value of a type.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
        let reader = GGUFFileReader::new(Cursor::new(&map[..]));
        let reader = reader.map_err(|e| malformed(path, &e.to_string()).with_source(e))?;
        let mut tensors = BTreeMap::new();
        for info in reader.tensor_infos() {
            let out_of_bounds = || malformed(path, &format!("{}: lies outside the file", info.name()));
            let size = info.checked_expected_data_size().map_err(|e| malformed(path, &e.to_string()))?;
            let begin = reader.tensor_data_offset().checked_add(info.data_offset()).ok_or_else(out_of_bounds)?;
            let end = begin.checked_add(size).filter(|end| *end <= map.len() as u64).ok_or_else(out_of_bounds)?;
            let shape = info.shape().dims().iter().rev().copied().collect();
            let stored = Stored { kind: info.tensor_type(), shape, bytes: begin as usize..end as usize };
            tensors.insert(info.name().to_owned(), stored);
        }
        let metadata = reader.metadata().clone();
        Ok(Self { map, metadata, tensors })
    }

    pub(super) fn value(&self, key: &str) -> Option<&MetadataValue> {
        self.metadata.get(key)
    }

    /// A text, if it is there and one.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.value(key)?.as_str()
    }

    /// A whole number of at least zero, if it is there.
    pub(super) fn whole(&self, key: &str) -> Result<Option<usize>, String> {
        let number = |value: &MetadataValue| {
            let number = value.as_u64().or_else(|| value.as_i64().and_then(|number| number.try_into().ok()));
            number.and_then(|number| usize::try_from(number).ok())
        };
        let read = |value| number(value).ok_or_else(|| format!("{key}: is not one number of at least zero"));
        self.value(key).map(read).transpose()
    }

    /// The same, which must be there.
    pub(super) fn count(&self, key: &str) -> Result<usize, String> {
        self.whole(key)?.ok_or_else(|| format!("{key}: missing"))
    }

    /// A number, if it is there.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, String> {
        match self.value(key).map(MetadataValue::as_f64) {
            Some(Some(number)) => Ok(Some(number)),
            _ => Ok(self.whole(key)?.map(|number| number as f64)),
        }
    }

    /// What the elements of an array are, all of one kind; empty if there is no such array.
    pub(super) fn list<'a, T>(
        &'a self,
        key: &str,
        element: impl Fn(&'a MetadataValue) -> Option<T>,
    ) -> Result<Vec<T>, String> {
        let Some(value) = self.value(key) else { return Ok(vec![]) };
        let MetadataValue::Array(array) = value else { return Err(format!("{key}: is not an array")) };
        let wrong = || format!("{key}: has an element of another kind");
        array.iter().map(|value| element(value).ok_or_else(wrong)).collect()
    }

    pub(super) fn has(&self, tensor: &str) -> bool {
        self.tensors.contains_key(tensor)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Dimensions of a tensor, the fastest last.
    pub(super) fn shape(&self, tensor: &str) -> Result<&[u64], String> {
        self.tensors.get(tensor).map(|stored| &stored.shape[..]).ok_or_else(|| format!("{tensor}: missing"))
    }

    /// Values of a tensor that must have this shape.
    pub(super) fn values(&self, tensor: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        let stored = self.tensors.get(tensor).ok_or_else(|| format!("{tensor}: missing"))?;
        if !stored.shape.iter().copied().eq(shape.iter().map(|&size| size as u64)) {
            let found = &stored.shape;
            return Err(format!("{tensor}: has the shape {found:?}, the metadata says {shape:?}"));
        }
        let block =
            Block::of(stored.kind).ok_or_else(|| format!("{tensor}: {} is not supported", stored.kind.name()))?;
        if !shape.last().is_some_and(|&row| row.is_multiple_of(block.weights)) {
            return Err(format!("{tensor}: its rows are not whole blocks of {}", block.weights));
        }
        let values = block.dequantize(&self.map[stored.bytes.clone()]);
        match values.len() == shape.iter().product::<usize>() {
            true => Ok(values),
            false => Err(format!("{tensor}: has {} values for the shape {shape:?}", values.len())),
        }
    }
}
