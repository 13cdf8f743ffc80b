//! GGUF's tokenizer metadata as the content of a Hugging Face `tokenizer.json`: byte-level BPE with the pre-tokenizer that the
//! metadata names, or SentencePiece's BPE with merges taken from its scores.

use std::collections::HashMap;

use gguf_rs_lib::format::MetadataValue;
use serde_json::{Value, json};

use super::header::Header;

/// The vocabulary and what belongs to it.
pub(super) struct Words {
    /// `gpt2` is byte-level BPE, `llama` SentencePiece's.
    model: String,
    /// Which pre-tokenizer.
    pre: Option<String>,
    pub(super) tokens: Vec<String>,
    scores: Vec<f32>,
    types: Vec<usize>,
    merges: Vec<String>,
    pub(super) bos: Option<usize>,
    pub(super) eos: Option<usize>,
    pub(super) end_of_turn: Option<usize>,
    pub(super) unknown: Option<usize>,
    pub(super) padding: Option<usize>,
    add_bos: Option<bool>,
    add_space: Option<bool>,
    pub(super) chat_template: Option<String>,
}

/// llama.cpp's `llama_token_type`.
mod kind {
    pub(super) const NORMAL: usize = 1;
    pub(super) const UNKNOWN: usize = 2;
    pub(super) const CONTROL: usize = 3;
    pub(super) const USER_DEFINED: usize = 4;
}

impl Words {
    pub(super) fn read(file: &Header) -> Result<Self, String> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let text = |value: &MetadataValue| value.as_str().map(str::to_owned);
        let whole = |value: &MetadataValue| value.as_i64().map_or_else(|| value.as_u64(), |v| u64::try_from(v).ok());
        let id = |name: &str| file.whole(&key(name));
        let truth = |name: &str| file.value(&key(name)).and_then(MetadataValue::as_bool);
        let words = Self {
            model: file.text(&key("model")).ok_or("tokenizer.ggml.model: missing")?.to_owned(),
            pre: file.text(&key("pre")).map(str::to_owned),
            tokens: file.list(&key("tokens"), text)?,
            scores: file.list(&key("scores"), |value| value.as_f64().map(|score| score as f32))?,
            types: file.list(&key("token_type"), |value| usize::try_from(whole(value)?).ok())?,
            merges: file.list(&key("merges"), text)?,
            bos: id("bos_token_id")?,
            eos: id("eos_token_id")?,
            end_of_turn: id("eot_token_id")?,
            unknown: id("unknown_token_id")?,
            padding: id("padding_token_id")?,
            add_bos: truth("add_bos_token"),
            add_space: truth("add_space_prefix"),
            chat_template: file.text("tokenizer.chat_template").map(str::to_owned),
        };
        match words.tokens.is_empty() {
            true => Err("tokenizer.ggml.tokens: missing".into()),
            false => Ok(words),
        }
    }
}

/// The `tokenizer.json` of this vocabulary.
///
/// # Errors
/// What is wrong, beginning with the metadata's key.
pub(super) fn json(words: &Words) -> Result<String, String> {
    let count = words.tokens.len();
    if words.types.len() != count && !words.types.is_empty() {
        return Err(format!("tokenizer.ggml.token_type: has {} entries for {count} tokens", words.types.len()));
    }
    let parts = match words.model.as_str() {
        "gpt2" => byte_level(words)?,
        "llama" => sentence_piece(words)?,
        other => return Err(format!("tokenizer.ggml.model: `{other}` is not supported, only `gpt2` and `llama`")),
    };
    let mut tokenizer = json!({
        "version": "1.0",
        "added_tokens": added_tokens(words),
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": null,
        "decoder": parts.decoder,
        "model": parts.model,
    });
    if let (Some(id), true) = (words.bos, words.add_bos.unwrap_or(words.model == "llama")) {
        let text = words.tokens.get(id).ok_or("tokenizer.ggml.bos_token_id: is outside the vocabulary")?;
        let (first, rest) = (
            json!({"SpecialToken": {"id": text, "type_id": 0}}),
            |id, kind| json!({"Sequence": {"id": id, "type_id": kind}}),
        );
        tokenizer["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [first, rest("A", 0)],
            "pair": [first, rest("A", 0), first, rest("B", 1)],
            "special_tokens": {text: {"id": text, "ids": [id], "tokens": [text]}},
        });
    }
    // serde_json sorts keys or keeps the order in which they came, as whoever else is in the build wishes; a bundle's digest is
    // of these bytes.
    tokenizer.sort_all_objects();
    serde_json::to_string(&tokenizer).map_err(|e| format!("tokenizer.ggml: {e}"))
}

/// What differs between kinds of tokenizers.
struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Value,
}

/// Tokens that are cut out of a text before anything else looks at it.
fn added_tokens(words: &Words) -> Vec<Value> {
    let types = words.tokens.iter().zip(&words.types).enumerate();
    types
        .filter_map(|(id, (text, &of))| {
            let special = match of {
                kind::CONTROL | kind::UNKNOWN => true,
                kind::USER_DEFINED => false,
                _ => return None,
            };
            Some(json!({
                "id": id, "content": text, "special": special, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false,
            }))
        })
        .collect()
}

fn vocabulary(words: &Words) -> HashMap<&str, usize> {
    words.tokens.iter().enumerate().map(|(id, text)| (text.as_str(), id)).collect()
}

fn byte_level(words: &Words) -> Result<Parts, String> {
    let mut merges = Vec::with_capacity(words.merges.len());
    for merge in &words.merges {
        let pair = merge.split_once(' ').ok_or_else(|| format!("tokenizer.ggml.merges: `{merge}` is not a pair"))?;
        merges.push([pair.0, pair.1]);
    }
    let pre = words.pre.as_deref().unwrap_or("default");
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let bytes =
        |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let (normalizer, steps) = match pre {
        "default" | "gpt-2" => (Value::Null, vec![bytes(true)]),
        // Every digit alone, then GPT-2's words.
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => {
            (Value::Null, vec![json!({"type": "Digits", "individual_digits": true}), bytes(true)])
        }
        "llama-bpe" | "llama3" | "llama-v3" => (Value::Null, vec![split(LLAMA3), bytes(false)]),
        "qwen2" | "deepseek-r1-qwen" => (json!({"type": "NFC"}), vec![split(QWEN2), bytes(false)]),
        other => {
            return Err(format!(
                "tokenizer.ggml.pre: `{other}` is not supported, only `default`, `gpt-2`, `smollm`, `llama-bpe`, `qwen2` and those \
                 that are the same"
            ));
        }
    };
    Ok(Parts {
        normalizer,
        pre_tokenizer: json!({"type": "Sequence", "pretokenizers": steps}),
        decoder: bytes(true),
        model: json!({
            "type": "BPE", "vocab": vocabulary(words), "merges": merges, "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            // A word that is a token is that token, whatever its merges say.
            "ignore_merges": pre.starts_with("llama"),
        }),
    })
}

/// SentencePiece's BPE joins, of all neighbours that are a token together, those with the best score first. The same comes
/// from merges in the order of the score of what they make.
fn sentence_piece(words: &Words) -> Result<Parts, String> {
    if words.scores.len() != words.tokens.len() {
        let (scores, count) = (words.scores.len(), words.tokens.len());
        return Err(format!("tokenizer.ggml.scores: has {scores} entries for {count} tokens"));
    }
    let vocabulary = vocabulary(words);
    let of = |id: usize| words.types.get(id).copied().unwrap_or(kind::NORMAL);
    let joined = |id: usize| matches!(of(id), kind::NORMAL | kind::USER_DEFINED);
    let mut merges = vec![];
    for (id, text) in words.tokens.iter().enumerate().filter(|(id, _)| joined(*id)) {
        for (cut, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(cut);
            if let (Some(&first), Some(&second)) = (vocabulary.get(left), vocabulary.get(right))
                && joined(first)
                && joined(second)
            {
                merges.push((words.scores[id], first, second));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    let merges: Vec<[&str; 2]> = merges
        .iter()
        .map(|&(_, first, second)| [words.tokens[first].as_str(), words.tokens[second].as_str()])
        .collect();
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    let mut normalizers = vec![];
    if words.add_space.unwrap_or(true) {
        normalizers.push(json!({"type": "Prepend", "prepend": SPACE}));
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    normalizers.push(spaces);
    let unknown = words.unknown.and_then(|id| words.tokens.get(id));
    Ok(Parts {
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Value::Null,
        decoder: json!({"type": "Sequence", "decoders": steps}),
        model: json!({
            "type": "BPE", "vocab": vocabulary, "merges": merges, "dropout": null, "unk_token": unknown,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
            "ignore_merges": false,
        }),
    })
}

/// What SentencePiece writes for a space.
const SPACE: &str = "\u{2581}";

/// Words of Llama 3's tokenizer.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Words of Qwen 2's tokenizer: Llama 3's, with every digit alone.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_vocabulary_is_one_text_whatever_serde_json_does_with_keys() {
        let words = Words {
            model: "gpt2".into(),
            pre: None,
            tokens: ["zebra", "b", "a", "<eos>"].map(str::to_owned).into(),
            scores: vec![],
            types: vec![kind::NORMAL, kind::NORMAL, kind::NORMAL, kind::CONTROL],
            merges: vec![],
            bos: None,
            eos: Some(3),
            end_of_turn: None,
            unknown: None,
            padding: None,
            add_bos: None,
            add_space: None,
            chat_template: None,
        };
        let text = json(&words).unwrap();
        let keys = [
            "\"added_tokens\":",
            "\"decoder\":",
            "\"model\":",
            "\"normalizer\":",
            "\"pre_tokenizer\":",
            "\"version\":",
        ];
        let places: Vec<usize> = keys.iter().map(|key| text.find(key).unwrap()).collect();
        assert!(places.is_sorted(), "{text}");
        assert!(text.contains(r#""vocab":{"<eos>":3,"a":2,"b":1,"zebra":0}"#), "{text}");
        assert!(text.contains(r#"{"content":"<eos>","id":3,"lstrip":false"#), "{text}");
    }
}
