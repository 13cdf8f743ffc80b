//! How a conversation is put to the model of a checkpoint: the chat template, the special tokens it may write, and the
//! ids that end an answer, as Hugging Face keeps them beside the weights.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind as IoErrorKind;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::config::Ids;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::tokenizer::Tokenizer;
use crate::weights::malformed;

/// What turns a conversation into a prompt, and tells where the answer ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// Jinja template over `messages` and `add_generation_prompt`.
    pub chat_template: String,
    /// Texts of `bos_token`, `eos_token`, `unk_token` and `pad_token`, as far as there are any.
    pub special_tokens: BTreeMap<String, String>,
    /// Ids that end an answer, ascending, at least one.
    pub stop_tokens: Vec<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GenerationConfig {
    eos_token_id: Option<Ids>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenizerConfig {
    chat_template: Option<Templates>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// One template, or several with names.
#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

impl Conversation {
    /// Reads `chat_template.jinja`, `tokenizer_config.json` and `generation_config.json`.
    ///
    /// `config_stop_tokens` are `config.json`'s, which count where no generation configuration names any.
    pub(crate) fn open(folder: &Path, tokenizer: &Tokenizer, config_stop_tokens: &[u32]) -> Result<Self> {
        let path = folder.join(TOKENIZER_CONFIG);
        let config: TokenizerConfig = read(&path)?.unwrap_or_default();
        let special_tokens: BTreeMap<String, String> =
            SPECIAL_TOKENS.iter().filter_map(|&name| Some((name.to_owned(), text(config.rest.get(name)?)?))).collect();
        let template = match (read_text(&folder.join(TEMPLATE))?, config.chat_template) {
            (Some(template), _) | (None, Some(Templates::One(template))) => Some(template),
            (None, Some(Templates::Named(templates))) => {
                let default = templates.into_iter().find(|named| named.name == "default");
                let missing = || malformed(&path, "chat_template: none of the templates is named `default`");
                Some(default.ok_or_else(missing)?.template)
            }
            (None, None) => None,
        };
        let generation: GenerationConfig = read(&folder.join(GENERATION_CONFIG))?.unwrap_or_default();
        let configured = generation.eos_token_id.map_or_else(|| config_stop_tokens.to_vec(), Vec::from);
        // A chat model's tokenizer may end a turn with another token than its base model ends a text.
        let end_of_turn = special_tokens.get("eos_token").and_then(|eos| tokenizer.id(eos));
        let stop_tokens: BTreeSet<u32> = configured.into_iter().chain(end_of_turn).collect();
        if stop_tokens.is_empty() {
            return Err(malformed(&folder.join(GENERATION_CONFIG), "eos_token_id: no file says what ends an answer"));
        }
        Self::new(template, special_tokens, stop_tokens, tokenizer)
    }

    /// A model without a template was never taught to converse: its prompt is the bare text.
    pub(crate) fn new(
        template: Option<String>,
        special_tokens: BTreeMap<String, String>,
        stop_tokens: BTreeSet<u32>,
        tokenizer: &Tokenizer,
    ) -> Result<Self> {
        let chat_template = template.map_or_else(|| bare(tokenizer), Ok)?;
        Ok(Self { chat_template, special_tokens, stop_tokens: stop_tokens.into_iter().collect() })
    }

    /// Writes what [`Conversation::open`] reads, but for the stop tokens, which are in `config.json`.
    pub(crate) fn save(&self, folder: &Path) -> Result<()> {
        let mut config = json!({ "tokenizer_class": "PreTrainedTokenizerFast" });
        for (name, text) in &self.special_tokens {
            config[name] = text.as_str().into();
        }
        write_atomically(&folder.join(TEMPLATE), self.chat_template.as_bytes())?;
        write_atomically(&folder.join(TOKENIZER_CONFIG), format!("{config:#}\n").as_bytes())
    }
}

/// The texts of all messages, after whatever the tokenizer begins every text with.
pub(crate) fn bare(tokenizer: &Tokenizer) -> Result<String> {
    let opening = Value::from(tokenizer.opening()?);
    Ok(format!("{{{{ {opening} }}}}{{% for message in messages %}}{{{{ message.content }}}}{{% endfor %}}"))
}

/// A special token is written as its text, or as an object that has it.
fn text(token: &Value) -> Option<String> {
    token.as_str().or_else(|| token["content"].as_str()).map(str::to_owned)
}

/// A JSON file, or nothing if it is not there.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let json = read_text(path)?;
    json.map(|json| serde_json::from_str(&json).map_err(|e| malformed(path, &e.to_string()).with_source(e))).transpose()
}

fn read_text(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == IoErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path, e)),
    }
}

const SPECIAL_TOKENS: [&str; 4] = ["bos_token", "eos_token", "unk_token", "pad_token"];
const TEMPLATE: &str = "chat_template.jinja";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const GENERATION_CONFIG: &str = "generation_config.json";

#[cfg(test)]
mod tests {
    use super::*;

    fn open(files: &[(&str, &str)], config_stop_tokens: &[u32]) -> Result<Conversation> {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        let tokenizer = Tokenizer::train(["a"].into_iter(), 260).unwrap();
        Conversation::open(folder.path(), &tokenizer, config_stop_tokens)
    }

    #[test]
    fn the_newer_file_and_the_default_template_win() {
        let listed = r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}],
                         "bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "<|end|>", "unk_token": null}"#;
        let read = open(&[(TOKENIZER_CONFIG, listed)], &[7]).unwrap();
        assert_eq!(read.chat_template, "d");
        let special = [("bos_token", "<s>"), ("eos_token", "<|end|>")];
        assert_eq!(read.special_tokens, special.map(|(name, text)| (name.to_owned(), text.to_owned())).into());
        // `<|end|>` is the third mark of the trained tokenizer.
        assert_eq!(read.stop_tokens, [2, 7]);
        assert_eq!(open(&[(TOKENIZER_CONFIG, listed), (TEMPLATE, "j")], &[7]).unwrap().chat_template, "j");
    }

    #[test]
    fn stop_tokens_come_from_the_generation_configuration_first() {
        let stops = |files: &[(&str, &str)]| open(files, &[5]).unwrap().stop_tokens;
        assert_eq!(stops(&[]), [5]);
        assert_eq!(stops(&[(GENERATION_CONFIG, r#"{"eos_token_id": [9, 4]}"#)]), [4, 9]);
        assert_eq!(stops(&[(GENERATION_CONFIG, r#"{"eos_token_id": 3}"#)]), [3]);
        assert!(open(&[], &[]).unwrap_err().to_string().contains("eos_token_id"));
    }

    #[test]
    fn malformed_files_are_named() {
        for name in [TOKENIZER_CONFIG, GENERATION_CONFIG] {
            assert!(open(&[(name, "{")], &[1]).unwrap_err().to_string().contains(name));
        }
    }
}
