//! A model on disk, in the layout that Hugging Face transformers reads: `config.json`, `model.safetensors`,
//! `tokenizer.json`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot, PyTorchToBurnAdapter, SafetensorsStore};
use burn::tensor::Device;
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::architecture::Architecture;
use crate::error::{Error, ErrorKind, Result};
use crate::files::write_atomically;
use crate::model::CausalLm;
use crate::tokenizer::Tokenizer;

/// `config.json`: the architecture, and what transformers wants to know beside it.
#[derive(Debug, Serialize, Deserialize)]
struct Config {
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(flatten)]
    architecture: Architecture,
    hidden_act: String,
    #[serde(default)]
    eos_token_id: Option<u32>,
}

/// A checkpoint folder.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    folder: PathBuf,
    architecture: Architecture,
}

impl Checkpoint {
    /// Writes model and tokenizer into `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when a file cannot be written, [`ErrorKind::Checkpoint`] when a tensor cannot be.
    pub fn save(folder: &Path, architecture: &Architecture, model: &CausalLm, tokenizer: &Tokenizer) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, e))?;
        let weights = folder.join(WEIGHTS);
        let mut store = SafetensorsStore::from_file(&weights).with_to_adapter(BurnToPyTorchAdapter).overwrite(true);
        model.valid().save_into(&mut store).map_err(|e| malformed(&weights, &e.to_string()))?;
        let config = Config {
            architectures: vec!["LlamaForCausalLM".into()],
            architecture: architecture.clone(),
            hidden_act: "silu".into(),
            eos_token_id: Some(tokenizer.end()),
        };
        let json = serde_json::to_vec_pretty(&config).map_err(|e| malformed(&folder.join(CONFIG), &e.to_string()))?;
        write_atomically(&folder.join(TOKENIZER), tokenizer.to_json()?.as_bytes())?;
        write_atomically(&folder.join(CONFIG), &json)?;
        Ok(Self { folder: folder.to_owned(), architecture: architecture.clone() })
    }

    /// Opens a folder: reads `config.json` and nothing else yet.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when it cannot be read, [`ErrorKind::Checkpoint`] or [`ErrorKind::Config`] when it is not a model we know.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG);
        let json = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        let config: Config =
            serde_json::from_slice(&json).map_err(|e| malformed(&path, &e.to_string()).with_source(e))?;
        config.architecture.validate()?;
        if config.hidden_act != "silu" {
            return Err(malformed(
                &path,
                &format!("hidden_act: `{}` is not supported, only `silu`", config.hidden_act),
            ));
        }
        Ok(Self { folder: folder.to_owned(), architecture: config.architecture })
    }

    /// What the model is made of.
    #[must_use]
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// The tokenizer beside the weights.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`] when it cannot be read.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::open(&self.folder.join(TOKENIZER))
    }

    /// The model, on a device.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] when a tensor is missing or has another shape.
    pub fn model(&self, device: &Device) -> Result<CausalLm> {
        let path = self.folder.join(WEIGHTS);
        let mut model = CausalLm::random(&self.architecture, 0, device)?;
        let mut store = SafetensorsStore::from_file(&path).with_from_adapter(PyTorchToBurnAdapter);
        model.load_from(&mut store).map_err(|e| malformed(&path, &e.to_string()))?;
        Ok(model)
    }

    /// The weights as they lie in the file, mapped into memory.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the file cannot be opened, [`ErrorKind::Checkpoint`] when it is malformed.
    pub fn weights(&self) -> Result<Weights> {
        Weights::open(&self.folder.join(WEIGHTS))
    }
}

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const TOKENIZER: &str = "tokenizer.json";

/// A mapped safetensors file. Matrices are `[outputs, inputs]`, as PyTorch lays them out.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    map: Mmap,
}

impl Weights {
    #[expect(unsafe_code, reason = "mapping a file is unsafe: another process may change it under us")]
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        // SAFETY: the map is only read, as bytes; a file changed meanwhile gives wrong numbers, which the
        // export's verification finds, and never an invalid value of a type.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
        let weights = Self { path: path.to_owned(), map };
        weights.parse()?;
        Ok(weights)
    }

    /// One tensor's shape and values.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] when there is no such tensor or it is not of 32-bit floats.
    pub fn tensor(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let tensors = self.parse()?;
        let view = tensors.tensor(name).map_err(|e| malformed(&self.path, &format!("{name}: {e}")))?;
        if view.dtype() != Dtype::F32 {
            return Err(malformed(&self.path, &format!("{name}: {:?} is not supported, only F32", view.dtype())));
        }
        let values = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        Ok((view.shape().to_vec(), values))
    }

    fn parse(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.map).map_err(|e| malformed(&self.path, &e.to_string()).with_source(e))
    }
}

fn malformed(path: &Path, what: &str) -> Error {
    Error::new(ErrorKind::Checkpoint, format!("{}: {what}", path.display()))
}
