//! Checkpoints in one GGUF file, as llama.cpp's tools write them: weights in their many quantized types, dimensions,
//! tokenizer and chat template as metadata.

mod architecture;
mod dequantize;
mod header;
mod tensors;
mod tokenizer;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::architecture::Architecture;
use crate::conversation::Conversation;
use crate::error::Result;
use crate::tokenizer::Tokenizer;
use crate::weights::malformed;
use header::Header;
use tokenizer::Words;

/// An open GGUF file; tensors stay mapped.
#[derive(Debug, Clone)]
pub(crate) struct Gguf {
    path: PathBuf,
    header: Arc<Header>,
    architecture: Architecture,
}

impl Gguf {
    /// Whether this path is taken for a GGUF file.
    pub(crate) fn is_one(path: &Path) -> bool {
        path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
    }

    /// Reads header and metadata. What they promise and the file does not hold is refused here.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let header = Header::open(path)?;
        let architecture = architecture::read(&header).map_err(|what| malformed(path, &what))?;
        Ok(Self { path: path.to_owned(), header: Arc::new(header), architecture })
    }

    pub(crate) fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Values of a tensor in Hugging Face's name and layout.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        tensors::read(&self.header, &self.architecture, name, shape).map_err(|what| malformed(&self.path, &what))
    }

    /// Refuses a file that has more than was `read`, in Hugging Face's names: what it computes is not what we do.
    pub(crate) fn all_read(&self, read: &BTreeSet<String>) -> Result<()> {
        match tensors::left_over(&self.header, &self.architecture, read) {
            Some(name) => {
                let what = format!("{name}: the metadata describes a model that has no such tensor");
                Err(malformed(&self.path, &what))
            }
            None => Ok(()),
        }
    }

    /// The tokenizer that the metadata describes.
    pub(crate) fn tokenizer(&self) -> Result<Tokenizer> {
        let json = tokenizer::json(&self.vocabulary()?).map_err(|what| malformed(&self.path, &what))?;
        Tokenizer::parse(&json)
    }

    /// How a conversation is put to the model.
    pub(crate) fn conversation(&self, tokenizer: &Tokenizer) -> Result<Conversation> {
        let words = self.vocabulary()?;
        let named = [
            ("bos_token", words.bos),
            ("eos_token", words.eos),
            ("unk_token", words.unknown),
            ("pad_token", words.padding),
        ];
        let text = |id: usize| words.tokens.get(id).cloned();
        let special_tokens: BTreeMap<String, String> =
            named.into_iter().filter_map(|(name, id)| Some((name.to_owned(), text(id?)?))).collect();
        // Ids inside the vocabulary, which has fewer than 2^24 tokens.
        let known = |id: &usize| *id < words.tokens.len();
        let ends = [words.eos, words.end_of_turn].into_iter().flatten().filter(known).map(|id| id as u32);
        let ends: BTreeSet<u32> = ends.collect();
        if ends.is_empty() {
            return Err(malformed(&self.path, "tokenizer.ggml.eos_token_id: nothing says what ends an answer"));
        }
        Conversation::new(words.chat_template, special_tokens, ends, tokenizer)
    }

    fn vocabulary(&self) -> Result<Words> {
        Words::read(&self.header).map_err(|what| malformed(&self.path, &what))
    }
}
