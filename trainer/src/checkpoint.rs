//! A model on disk, in the layout that Hugging Face transformers reads and writes: `config.json`, safetensors,
//! `tokenizer.json` and how a conversation is put to it.

use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot, SafetensorsStore};
use burn::tensor::Device;

use crate::architecture::Architecture;
use crate::config::{self, WrittenConfig};
use crate::conversation::Conversation;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::model::CausalLm;
use crate::parameters::{MatrixHook, Read};
use crate::tokenizer::Tokenizer;
use crate::weights::{CONFIG, WEIGHTS, Weights, malformed};

/// A checkpoint folder.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    folder: PathBuf,
    architecture: Architecture,
    /// What `config.json` says ends a text.
    stop_tokens: Vec<u32>,
}

impl Checkpoint {
    /// Writes model and tokenizer into `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when a file cannot be written,
    /// [`ErrorKind::Checkpoint`](crate::ErrorKind::Checkpoint) when a tensor cannot be.
    pub fn save(folder: &Path, architecture: &Architecture, model: &CausalLm, tokenizer: &Tokenizer) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, e))?;
        let weights = folder.join(WEIGHTS);
        let mut store = SafetensorsStore::from_file(&weights).with_to_adapter(BurnToPyTorchAdapter).overwrite(true);
        model.valid().save_into(&mut store).map_err(|e| malformed(&weights, &e.to_string()))?;
        let conversation = tokenizer.conversation()?;
        conversation.save(folder)?;
        let config = WrittenConfig::new(architecture, &conversation.stop_tokens);
        let json = serde_json::to_vec_pretty(&config).map_err(|e| malformed(&folder.join(CONFIG), &e.to_string()))?;
        write_atomically(&folder.join(TOKENIZER), tokenizer.to_json()?.as_bytes())?;
        write_atomically(&folder.join(CONFIG), &json)?;
        let (folder, architecture) = (folder.to_owned(), architecture.clone());
        Ok(Self { folder, architecture, stop_tokens: conversation.stop_tokens })
    }

    /// Opens a folder, ours or one of Hugging Face transformers': reads `config.json` and nothing else yet.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when it cannot be read,
    /// [`ErrorKind::Checkpoint`](crate::ErrorKind::Checkpoint), naming file and field, when it is not a model we know.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG);
        let json = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        let (architecture, stop_tokens) = config::parse(&json).map_err(|what| malformed(&path, &what))?;
        Ok(Self { folder: folder.to_owned(), architecture, stop_tokens })
    }

    /// What the model is made of.
    #[must_use]
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// The tokenizer beside the weights.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`](crate::ErrorKind::Tokenizer) when it cannot be read.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::open(&self.folder.join(TOKENIZER))
    }

    /// How a conversation is put to the model.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`](crate::ErrorKind::Checkpoint) when a file is malformed or none says what ends an answer.
    pub fn conversation(&self, tokenizer: &Tokenizer) -> Result<Conversation> {
        Conversation::open(&self.folder, tokenizer, &self.stop_tokens)
    }

    /// The model, on a device.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`](crate::ErrorKind::Checkpoint) when a tensor is missing, has another shape or is one too
    /// many.
    pub fn model(&self, device: &Device) -> Result<CausalLm> {
        self.model_through(device, &mut |_, _, _| ())
    }

    /// [`Checkpoint::model`] with a hook that may change every matrix on its way.
    ///
    /// # Errors
    /// As [`Checkpoint::model`].
    pub fn model_through(&self, device: &Device, through: MatrixHook<'_>) -> Result<CausalLm> {
        let weights = self.weights()?;
        let mut read = Read::new(&weights, device, through);
        let model = CausalLm::assemble(&self.architecture, &mut read)?;
        read.finish()?;
        Ok(model)
    }

    /// The weights as they lie on disk, mapped into memory.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when a file cannot be opened,
    /// [`ErrorKind::Checkpoint`](crate::ErrorKind::Checkpoint) when one is malformed.
    pub fn weights(&self) -> Result<Weights> {
        Weights::open(&self.folder)
    }
}

const TOKENIZER: &str = "tokenizer.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_read_back() {
        let tokenizer = Tokenizer::train(["what is my balance"].into_iter(), 300).unwrap();
        let llama = Architecture::llama(tokenizer.vocabulary_size(), 32, 48, 2, 2, 1);
        for (family, tied) in [("llama", true), ("qwen2", false), ("qwen3", true)] {
            let folder = tempfile::tempdir().unwrap();
            let architecture = Architecture { model_type: family.into(), tie_word_embeddings: tied, ..llama.clone() };
            let model = CausalLm::random(&architecture, 7, &Device::flex()).unwrap();
            let saved = Checkpoint::save(folder.path(), &architecture, &model, &tokenizer).unwrap();
            let opened = Checkpoint::open(folder.path()).unwrap();
            assert_eq!(opened.architecture(), saved.architecture());
            assert_eq!(opened.conversation(&tokenizer).unwrap(), tokenizer.conversation().unwrap());
            let ids = tokenizer.prompt("balance").unwrap();
            assert_eq!(opened.model(&Device::flex()).unwrap().logits(&ids), model.logits(&ids), "{family}");
        }
    }
}
