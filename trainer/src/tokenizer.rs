//! The small and the large model's shared tokenizer: byte-level BPE, and the conversation's three marks.

use std::path::Path;

use sha2::{Digest, Sha256};
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::decoders::sequence::Sequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerBuilder};

use crate::conversation::Conversation;
use crate::error::{Error, ErrorKind, Result};

/// Stands before what the person says.
pub(crate) const USER: &str = "<|user|>";
/// Stands between the person's words and the model's.
pub(crate) const ASSISTANT: &str = "<|assistant|>";
/// Ends an answer.
pub(crate) const END: &str = "<|end|>";

/// Jinja form of the conversation, as Hugging Face's `chat_template` defines it.
pub const CHAT_TEMPLATE: &str = "{% for message in messages %}\
    {% if message.role == 'assistant' %}<|assistant|>{{ message.content }}<|end|>\
    {% else %}<|user|>{{ message.content }}{% endif %}\
    {% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";

/// A Hugging Face tokenizer. Ours have the special tokens `<|user|>`, `<|assistant|>` and `<|end|>`, which training
/// needs.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    marks: Option<Marks>,
}

/// Ids of the conversation's marks.
#[derive(Debug, Clone, Copy)]
struct Marks {
    user: u32,
    assistant: u32,
    end: u32,
}

impl Tokenizer {
    /// Trains byte-level BPE on the given texts (Sennrich et al., arXiv 1508.07909, over bytes).
    ///
    /// `vocabulary` counts every token, the 256 bytes and three marks included. A space is put before each
    /// text, so that a word is the same token at the start of a text and inside it; decoding takes it away again.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`] when training fails.
    pub fn train<'a>(texts: impl Iterator<Item = &'a str> + Send, vocabulary: usize) -> Result<Self> {
        let byte_level = || ByteLevel::new(true, true, true);
        let mut tokenizer = TokenizerBuilder::default()
            .with_model(BPE::default())
            .with_normalizer(None::<tokenizers::NormalizerWrapper>)
            .with_pre_tokenizer(Some(byte_level()))
            .with_post_processor(Some(byte_level()))
            .with_decoder(Some(Sequence::new(vec![ByteLevelDecoder::default().into(), Strip::new(' ', 1, 0).into()])))
            .build()
            .map_err(|e| failed("assemble the tokenizer", e))?;
        let mut trainer = BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(vocabulary)
            .min_frequency(2)
            .special_tokens([USER, ASSISTANT, END].map(|mark| AddedToken::from(mark, true)).to_vec())
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        tokenizer.train(&mut trainer, texts).map_err(|e| failed("train the tokenizer", e))?;
        Ok(Self::new(tokenizer.into()))
    }

    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`] when the file cannot be read or is malformed.
    pub fn open(path: &Path) -> Result<Self> {
        let read = tokenizers::Tokenizer::from_file(path);
        Ok(Self::new(read.map_err(|e| failed(&format!("read the tokenizer {}", path.display()), e))?))
    }

    /// Reads the content of a `tokenizer.json`.
    pub(crate) fn parse(json: &str) -> Result<Self> {
        Ok(Self::new(json.parse().map_err(|e| failed("assemble the tokenizer", e))?))
    }

    fn new(inner: tokenizers::Tokenizer) -> Self {
        let id = |mark: &str| inner.token_to_id(mark);
        let marks = || Some(Marks { user: id(USER)?, assistant: id(ASSISTANT)?, end: id(END)? });
        Self { marks: marks(), inner }
    }

    /// Whether this is one of ours, which [`Tokenizer::prompt`] and [`Tokenizer::answer`] need.
    #[must_use]
    pub fn has_marks(&self) -> bool {
        self.marks.is_some()
    }

    fn marks(&self) -> Result<Marks> {
        let missing = || format!("the tokenizer lacks one of the tokens `{USER}`, `{ASSISTANT}`, `{END}`");
        self.marks.ok_or_else(|| Error::new(ErrorKind::Tokenizer, missing()))
    }

    /// Content of `tokenizer.json`.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`] when it cannot be serialised.
    pub fn to_json(&self) -> Result<String> {
        self.inner.to_string(false).map_err(|e| failed("write the tokenizer", e))
    }

    /// Digest of what decides how a text is encoded.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`] when it cannot be serialised.
    pub fn fingerprint(&self) -> Result<[u8; 32]> {
        let mut bare = self.inner.clone();
        bare.with_padding(None);
        bare.with_truncation(None).map_err(|e| failed("copy the tokenizer", e))?;
        let json = bare.to_string(false).map_err(|e| failed("write the tokenizer", e))?;
        Ok(Sha256::digest(json).into())
    }

    /// Number of tokens.
    #[must_use]
    pub fn vocabulary_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// How conversations look that [`Tokenizer::prompt`] and [`Tokenizer::answer`] encode.
    pub(crate) fn conversation(&self) -> Result<Conversation> {
        Ok(Conversation {
            chat_template: CHAT_TEMPLATE.into(),
            special_tokens: [("eos_token".to_owned(), END.to_owned())].into(),
            stop_tokens: vec![self.marks()?.end],
        })
    }

    /// Id of the token with this text.
    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Text of the special tokens that the tokenizer's post-processor puts around every text.
    pub(crate) fn opening(&self) -> Result<String> {
        let encoding = self.inner.encode("", true).map_err(|e| failed("encode a text", e))?;
        Ok(encoding.get_tokens().concat())
    }

    /// Ids of the special tokens that the tokenizer's post-processor puts before every text.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`] when the text that they are cannot be encoded.
    pub fn opening_ids(&self) -> Result<Vec<u32>> {
        self.encode(&self.opening()?)
    }

    /// Ids of a bare text, without marks.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`] when the text cannot be encoded.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode(text, false).map_err(|e| failed("encode a text", e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Which bytes of a bare text each of its tokens covers; tokens that split a character each cover all of it.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`] when the text cannot be encoded.
    pub fn spans(&self, text: &str) -> Result<Vec<std::ops::Range<usize>>> {
        let encoding = self.inner.encode(text, false).map_err(|e| failed("encode a text", e))?;
        Ok(encoding.get_offsets().iter().map(|&(from, to)| from..to).collect())
    }

    /// Text of ids, marks left out.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`] when an id is not in the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(|e| failed("decode ids", e))
    }

    /// Ids of [`CHAT_TEMPLATE`] for one message of the person.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`], and when the tokenizer is not one of ours.
    pub fn prompt(&self, input: &str) -> Result<Vec<u32>> {
        let Marks { user, assistant, .. } = self.marks()?;
        let mut ids = vec![user];
        ids.extend(self.encode(input)?);
        ids.push(assistant);
        Ok(ids)
    }

    /// Ids of an answer, its end included.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`], and when the tokenizer is not one of ours.
    pub fn answer(&self, target: &str) -> Result<Vec<u32>> {
        let mut ids = self.encode(target)?;
        ids.push(self.marks()?.end);
        Ok(ids)
    }
}

fn failed(action: &str, cause: tokenizers::Error) -> Error {
    Error::new(ErrorKind::Tokenizer, format!("cannot {action}: {cause}")).with_source(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        let texts = ["what is my balance", "transfer money to my savings", "what is the weather"];
        Tokenizer::train(texts.into_iter(), 300).unwrap()
    }

    #[test]
    fn any_text_survives_the_round_trip() {
        let tokenizer = tokenizer();
        for text in ["what is my balance", "Überweisung: 5 €", "\u{1F408} \u{200D}x", "a  b\tc\n"] {
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
    }

    #[test]
    fn training_twice_gives_the_same_tokenizer() {
        assert_eq!(tokenizer().to_json().unwrap(), tokenizer().to_json().unwrap());
    }

    #[test]
    fn ids_stay_inside_the_vocabulary_asked_for() {
        let tokenizer = tokenizer();
        assert!(tokenizer.vocabulary_size() <= 300);
        assert!(tokenizer.answer("my balance").unwrap().ends_with(&[tokenizer.id(END).unwrap()]));
    }
}
