//! Tensors of a checkpoint folder, mapped: one safetensors file, or several with an index.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::weights::{CONFIG, WEIGHTS, malformed};

/// The safetensors of a folder.
#[derive(Debug)]
pub(crate) struct Shards {
    shards: Vec<Shard>,
    /// Where each tensor is.
    tensors: BTreeMap<String, Place>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    map: Mmap,
}

#[derive(Debug)]
struct Place {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Bytes of the shard, checked to be inside it when it was opened.
    begin: usize,
    end: usize,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Shards {
    /// Maps what is in the folder: `model.safetensors`, or the files that `model.safetensors.index.json` names.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let (single, index) = (folder.join(WEIGHTS), folder.join(INDEX));
        let mut shards = Self { shards: vec![], tensors: BTreeMap::new() };
        if single.exists() || !index.exists() {
            shards.add(single)?;
            return Ok(shards);
        }
        let json = fs::read(&index).map_err(|e| Error::io("read", &index, e))?;
        let Index { weight_map } =
            serde_json::from_slice(&json).map_err(|e| malformed(&index, &e.to_string()).with_source(e))?;
        for name in weight_map.values().collect::<BTreeSet<_>>() {
            // A file of this folder, not a path to somewhere else.
            if Path::new(name).file_name().is_none_or(|file| file != name.as_str()) {
                return Err(malformed(&index, &format!("weight_map: `{name}` is not the name of a file")));
            }
            shards.add(folder.join(name))?;
        }
        match weight_map.keys().find(|name| !shards.tensors.contains_key(*name)) {
            Some(name) => Err(malformed(&index, &format!("weight_map: {name} is in none of the files"))),
            None => Ok(shards),
        }
    }

    #[expect(unsafe_code, reason = "mapping a file is unsafe: another process may change it under us")]
    fn add(&mut self, path: PathBuf) -> Result<()> {
        let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        // SAFETY: the map is only read, as bytes; a file changed meanwhile gives wrong numbers, which the
        // export's verification finds, and never an invalid value of a type.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", &path, e))?;
        let (header, metadata) =
            SafeTensors::read_metadata(&map).map_err(|e| malformed(&path, &e.to_string()).with_source(e))?;
        let data = size_of::<u64>() + header;
        for (name, info) in metadata.tensors() {
            let (begin, end) = (data + info.data_offsets.0, data + info.data_offsets.1);
            let place = Place { shard: self.shards.len(), dtype: info.dtype, shape: info.shape.clone(), begin, end };
            if self.tensors.insert(name.clone(), place).is_some() {
                return Err(malformed(&path, &format!("{name}: is in another file of this checkpoint too")));
            }
        }
        self.shards.push(Shard { path, map });
        Ok(())
    }

    /// Names of all tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Values of a tensor that must have this shape.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let Some(place) = self.tensors.get(name) else {
            let path = self.shards.first().map(|shard| shard.path.as_path()).unwrap_or(Path::new(WEIGHTS));
            return Err(malformed(path, &format!("{name}: missing")));
        };
        let Shard { path, map } = &self.shards[place.shard];
        if place.shape != shape {
            let found = &place.shape;
            return Err(malformed(path, &format!("{name}: has the shape {found:?}, {CONFIG} says {shape:?}")));
        }
        let bytes = &map[place.begin..place.end];
        Ok(match place.dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect(),
            Dtype::BF16 => bytes.as_chunks().0.iter().map(|&bytes| bf16::from_le_bytes(bytes).to_f32()).collect(),
            other => return Err(malformed(path, &format!("{name}: {other:?} is not supported, only F32, F16, BF16"))),
        })
    }

    /// Refuses a checkpoint that has more than was `read`: what it computes is not what we do.
    pub(crate) fn all_read(&self, read: &BTreeSet<String>) -> Result<()> {
        // Frequencies that old files keep, and the head that some write beside a tied embedding.
        let idle = |name: &str| name.ends_with(".rotary_emb.inv_freq") || name == "lm_head.weight";
        match self.names().find(|name| !read.contains(*name) && !idle(name)) {
            Some(name) => {
                let path = &self.shards[self.tensors[name].shard].path;
                Err(malformed(path, &format!("{name}: {CONFIG} describes a model that has no such tensor")))
            }
            None => Ok(()),
        }
    }
}

const INDEX: &str = "model.safetensors.index.json";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use safetensors::tensor::{TensorView, serialize_to_file};

    fn shard(folder: &Path, file: &str, name: &str, dtype: Dtype, bytes: &[u8]) {
        let view = TensorView::new(dtype, vec![2], bytes).unwrap();
        serialize_to_file([(name, view)], None, &folder.join(file)).unwrap();
    }

    fn index(folder: &Path, map: &str) {
        fs::write(folder.join(INDEX), format!("{{\"weight_map\": {map}}}")).unwrap();
    }

    #[test]
    fn shards_of_every_float_type_read_as_32_bits() {
        let folder = tempfile::tempdir().unwrap();
        // 1.5 and -2 in IEEE 754's three sizes.
        shard(folder.path(), "a", "x", Dtype::F32, &[0, 0, 0xC0, 0x3F, 0, 0, 0, 0xC0]);
        shard(folder.path(), "b", "y", Dtype::BF16, &[0xC0, 0x3F, 0, 0xC0]);
        shard(folder.path(), "c", "z", Dtype::F16, &[0, 0x3E, 0, 0xC0]);
        index(folder.path(), r#"{"x": "a", "y": "b", "z": "c"}"#);
        let weights = Shards::open(folder.path()).unwrap();
        for name in ["x", "y", "z"] {
            assert_eq!(weights.tensor(name, &[2]).unwrap(), [1.5, -2.0], "{name}");
        }
        let error = weights.tensor("x", &[2, 1]).unwrap_err().to_string();
        assert!(error.contains("x: has the shape [2]"), "{error}");
        let read = ["x", "y"].map(String::from).into();
        assert!(weights.all_read(&read).unwrap_err().to_string().contains("z: "), "what is left over is refused");
    }

    #[test]
    fn an_index_that_lies_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        shard(folder.path(), "a", "x", Dtype::I32, &[0; 8]);
        for (map, message) in [
            (r#"{"x": "../a"}"#, "not the name of a file"),
            (r#"{"x": "/a"}"#, "not the name of a file"),
            (r#"{"x": "a", "y": "a"}"#, "y is in none of the files"),
        ] {
            index(folder.path(), map);
            let error = Shards::open(folder.path()).unwrap_err();
            assert!(error.kind() == ErrorKind::Checkpoint && error.to_string().contains(message), "{error}");
        }
        index(folder.path(), r#"{"x": "a"}"#);
        let error = Shards::open(folder.path()).unwrap().tensor("x", &[2]).unwrap_err().to_string();
        assert!(error.contains("x: I32 is not supported"), "{error}");
        fs::write(folder.path().join("a"), [0; 20]).unwrap();
        assert_eq!(Shards::open(folder.path()).unwrap_err().kind(), ErrorKind::Checkpoint);
    }
}
