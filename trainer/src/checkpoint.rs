//! A model on disk: in the layout that Hugging Face transformers reads and writes (`config.json`, safetensors,
//! `tokenizer.json` and how a conversation is put to it), or as a GGUF file, which has all of these inside.

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
use crate::gguf::Gguf;
use crate::model::CausalLm;
use crate::parameters::{MatrixHook, Read};
use crate::tokenizer::Tokenizer;
use crate::weights::{CONFIG, WEIGHTS, Weights, malformed};

/// A checkpoint: a folder, or a GGUF file.
#[derive(Debug, Clone)]
pub struct Checkpoint(Place);

#[derive(Debug, Clone)]
enum Place {
    Folder {
        folder: PathBuf,
        architecture: Box<Architecture>,
        /// What `config.json` says ends a text.
        stop_tokens: Vec<u32>,
    },
    Gguf(Box<Gguf>),
}

impl Checkpoint {
    /// Writes model and tokenizer into `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when a file cannot be written,
    /// [`ErrorKind::Checkpoint`](crate::ErrorKind::Checkpoint) when a tensor cannot be.
    pub fn save(folder: &Path, architecture: &Architecture, model: &CausalLm, tokenizer: &Tokenizer) -> Result<Self> {
        Self::save_as(folder, architecture, model, tokenizer, &tokenizer.conversation()?)
    }

    /// [`Checkpoint::save`] with a conversation that is not that of a tokenizer of ours.
    ///
    /// # Errors
    /// As [`Checkpoint::save`].
    pub fn save_as(
        folder: &Path,
        architecture: &Architecture,
        model: &CausalLm,
        tokenizer: &Tokenizer,
        conversation: &Conversation,
    ) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, e))?;
        let weights = folder.join(WEIGHTS);
        let mut store = SafetensorsStore::from_file(&weights).with_to_adapter(BurnToPyTorchAdapter).overwrite(true);
        model.valid().save_into(&mut store).map_err(|e| malformed(&weights, &e.to_string()))?;
        conversation.save(folder)?;
        let config = WrittenConfig::new(architecture, &conversation.stop_tokens);
        let json = serde_json::to_vec_pretty(&config).map_err(|e| malformed(&folder.join(CONFIG), &e.to_string()))?;
        write_atomically(&folder.join(TOKENIZER), tokenizer.to_json()?.as_bytes())?;
        write_atomically(&folder.join(CONFIG), &json)?;
        let (folder, architecture) = (folder.to_owned(), Box::new(architecture.clone()));
        Ok(Self(Place::Folder { folder, architecture, stop_tokens: conversation.stop_tokens.clone() }))
    }

    /// Opens a folder, ours or one of Hugging Face transformers', or a file that ends with `.gguf`: reads what the model is
    /// made of, and no weights yet.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when it cannot be read,
    /// [`ErrorKind::Checkpoint`](crate::ErrorKind::Checkpoint), naming file and field, when it is not a model we know.
    pub fn open(place: &Path) -> Result<Self> {
        if Gguf::is_one(place) {
            return Ok(Self(Place::Gguf(Box::new(Gguf::open(place)?))));
        }
        let path = place.join(CONFIG);
        let json = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        let (architecture, stop_tokens) = config::parse(&json).map_err(|what| malformed(&path, &what))?;
        Ok(Self(Place::Folder { folder: place.to_owned(), architecture: Box::new(architecture), stop_tokens }))
    }

    /// What the model is made of.
    #[must_use]
    pub fn architecture(&self) -> &Architecture {
        match &self.0 {
            Place::Folder { architecture, .. } => architecture,
            Place::Gguf(file) => file.architecture(),
        }
    }

    /// The tokenizer beside the weights.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`](crate::ErrorKind::Tokenizer) when it cannot be read,
    /// [`ErrorKind::Checkpoint`](crate::ErrorKind::Checkpoint) when a GGUF file describes one that is not known here.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        match &self.0 {
            Place::Folder { folder, .. } => Tokenizer::open(&folder.join(TOKENIZER)),
            Place::Gguf(file) => file.tokenizer(),
        }
    }

    /// How a conversation is put to the model.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`](crate::ErrorKind::Checkpoint) when a file is malformed or none says what ends an answer.
    pub fn conversation(&self, tokenizer: &Tokenizer) -> Result<Conversation> {
        match &self.0 {
            Place::Folder { folder, stop_tokens, .. } => Conversation::open(folder, tokenizer, stop_tokens),
            Place::Gguf(file) => file.conversation(tokenizer),
        }
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
        let model = CausalLm::assemble(self.architecture(), &mut read)?;
        read.finish()?;
        Ok(model)
    }

    /// The weights as they lie on disk, mapped into memory.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when a file cannot be opened,
    /// [`ErrorKind::Checkpoint`](crate::ErrorKind::Checkpoint) when one is malformed.
    pub fn weights(&self) -> Result<Weights> {
        match &self.0 {
            Place::Folder { folder, .. } => Weights::open(folder),
            Place::Gguf(file) => Ok(Weights::gguf(Gguf::clone(file))),
        }
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
