//! `tokenizer.json` without detours: byte-pair encodings, which nearly all are, go straight into their tables.
//!
//! The library itself reads a model by way of a JSON value, in several times the time and memory. What is not a byte-pair
//! encoding, or not as expected, is left to it, and so are its errors.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use tokenizers::models::bpe::{BPE, BpeBuilder, Vocab};
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PaddingParams, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer,
    TokenizerBuilder, TruncationParams,
};

/// The tokenizer that `json` describes.
pub(super) fn read(json: &[u8]) -> tokenizers::Result<Tokenizer> {
    match serde_json::from_slice::<BytePairs>(json) {
        Ok(pairs) => pairs.build().or_else(|_| Tokenizer::from_bytes(json)),
        Err(_) => Tokenizer::from_bytes(json),
    }
}

#[derive(Deserialize)]
struct BytePairs {
    version: Version,
    truncation: Option<TruncationParams>,
    padding: Option<PaddingParams>,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    post_processor: Option<PostProcessorWrapper>,
    decoder: Option<DecoderWrapper>,
    model: Model,
}

#[derive(Deserialize)]
enum Version {
    #[serde(rename = "1.0")]
    One,
}

#[derive(Deserialize)]
struct Model {
    r#type: Type,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    vocab: Vocab,
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
enum Type {
    #[serde(rename = "BPE")]
    BytePairs,
}

/// Two tokens that become one: `["a", "b"]`, or, in older files, `"a b"`.
struct Merge(String, String);

impl BytePairs {
    fn build(self) -> tokenizers::Result<Tokenizer> {
        let Self { version: Version::One, model, .. } = self;
        let mut tokenizer = TokenizerBuilder::new()
            .with_model(model.build()?)
            .with_normalizer(self.normalizer)
            .with_pre_tokenizer(self.pre_tokenizer)
            .with_post_processor(self.post_processor)
            .with_decoder(self.decoder)
            .with_truncation(self.truncation)
            .with_padding(self.padding)
            .build()?;
        tokenizer.add_tokens(&self.added_tokens);
        Ok(tokenizer.into())
    }
}

impl Model {
    fn build(self) -> tokenizers::Result<BPE> {
        let Self { r#type: Type::BytePairs, .. } = self;
        let merges = self.merges.into_iter().map(|Merge(first, second)| (first, second)).collect();
        let mut builder = BpeBuilder::new()
            .vocab_and_merges(self.vocab, merges)
            .fuse_unk(self.fuse_unk.unwrap_or_default())
            .byte_fallback(self.byte_fallback.unwrap_or_default())
            .ignore_merges(self.ignore_merges.unwrap_or_default());
        if let Some(dropout) = self.dropout {
            builder = builder.dropout(dropout);
        }
        if let Some(token) = self.unk_token {
            builder = builder.unk_token(token);
        }
        if let Some(prefix) = self.continuing_subword_prefix {
            builder = builder.continuing_subword_prefix(prefix);
        }
        if let Some(suffix) = self.end_of_word_suffix {
            builder = builder.end_of_word_suffix(suffix);
        }
        builder.build()
    }
}

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("two tokens")
            }

            fn visit_str<E: serde::de::Error>(self, both: &str) -> Result<Merge, E> {
                match both.split_once(' ') {
                    Some((first, second)) if !second.contains(' ') => Ok(Merge(first.to_owned(), second.to_owned())),
                    _ => Err(E::custom("not two tokens with a blank between them")),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut tokens: A) -> Result<Merge, A::Error> {
                let mut next = || tokens.next_element()?.ok_or_else(|| A::Error::custom("fewer than two tokens"));
                Ok(Merge(next()?, next()?))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokenizer_is_what_the_library_reads() {
        let toy = include_str!("../../tests/fixtures/toy/tokenizer.json");
        let added = r#"{"version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [{"id": 3, "content": "<end>", "single_word": false, "lstrip": true, "rstrip": false,
                "normalized": false, "special": true}],
            "normalizer": {"type": "Lowercase"}, "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": {"type": "BPE", "dropout": null, "unk_token": "a", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": true,
                "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}}"#;
        assert!(serde_json::from_str::<BytePairs>(toy).is_ok() && serde_json::from_str::<BytePairs>(added).is_ok());
        let of_lines = added.replace(r#"[["a", "b"]]"#, r#"["a b"]"#);
        let words = r#"{"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}"#;
        for json in [toy, added, &of_lines, words] {
            let (ours, theirs) = (read(json.as_bytes()).unwrap(), Tokenizer::from_bytes(json).unwrap());
            assert_eq!(ours.to_string(false).unwrap(), theirs.to_string(false).unwrap());
        }
        for wrong in ["{}", &added.replace("1.0", "2.0"), &added.replace(r#"[["a", "b"]]"#, r#"[["a", "c"]]"#)] {
            assert!(read(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
