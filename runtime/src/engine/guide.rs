//! Answers that must match a JSON schema or a regular expression: llguidance says which tokens may come next.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory, token_bytes_from_tokenizer_json};
use serde_json::{Value, json};
use toktrie::{ApproximateTokEnv, SimpleVob, TokRxInfo, TokTrie};

use super::options::Constraint;
use crate::error::{Error, ErrorKind, Result};

/// Turns constraints into guides. What they need of the vocabulary is prepared with the first one.
pub(super) struct Guides {
    tokenizer: PathBuf,
    vocabulary_size: usize,
    stop_tokens: Vec<u32>,
    factory: OnceLock<Result<ParserFactory, String>>,
}

/// What may follow one answer, token by token.
pub(super) struct Guide(Matcher);

/// The ids that may come next.
pub(super) struct Allowed(SimpleVob);

impl Guides {
    pub(super) fn new(tokenizer: &Path, vocabulary_size: usize, stop_tokens: &[u32]) -> Self {
        let (tokenizer, stop_tokens) = (tokenizer.to_owned(), stop_tokens.to_vec());
        Self { tokenizer, vocabulary_size, stop_tokens, factory: OnceLock::new() }
    }

    /// # Errors
    /// [`ErrorKind::InvalidRequest`] if the constraint cannot be understood; [`ErrorKind::Bundle`] if the tokenizer cannot.
    pub(super) fn guide(&self, constraint: &Constraint) -> Result<Guide> {
        let factory = self.factory.get_or_init(|| self.prepare()).as_ref().map_err(|why| {
            let message = format!("{} cannot be used for constraints: {why}", self.tokenizer.display());
            Error::new(ErrorKind::Bundle, message)
        })?;
        let grammar = match constraint {
            Constraint::JsonSchema(schema) => TopLevelGrammar::from_json_schema(compact(schema)),
            Constraint::Regex(regex) => TopLevelGrammar::from_regex(regex),
        };
        let matcher = Matcher::new(factory.create_parser(grammar));
        match matcher.get_error() {
            Some(why) => Err(Error::new(ErrorKind::InvalidRequest, format!("the constraint makes no sense: {why}"))),
            None => Ok(Guide(matcher)),
        }
    }

    fn prepare(&self) -> Result<ParserFactory, String> {
        let json = std::fs::read(&self.tokenizer).map_err(|error| error.to_string())?;
        let json = serde_json::from_slice(&json).map_err(|error| error.to_string())?;
        if self.stop_tokens.is_empty() {
            return Err("the model has no stop token to end a constrained answer with".into());
        }
        // The library asserts what it expects of a tokenizer.
        let trie = catch_unwind(AssertUnwindSafe(|| {
            let mut words = token_bytes_from_tokenizer_json(&json).map_err(|error| error.to_string())?;
            // The logits may be wider than the tokenizer's vocabulary: what has no bytes is never allowed.
            words.resize(self.vocabulary_size, Vec::new());
            let info = TokRxInfo::new(self.vocabulary_size as u32, self.stop_tokens[0]);
            Ok(TokTrie::from(&info, &words).with_eos_tokens(&self.stop_tokens))
        }));
        let trie = trie.unwrap_or_else(|_| Err("its tokens are of a form that is not known".to_owned()))?;
        let mut factory = ParserFactory::new_simple(&(Arc::new(ApproximateTokEnv::new(trie)) as _))
            .map_err(|error| error.to_string())?;
        // Errors that tell of the text so far would tell of the prompt.
        factory.quiet().limits_mut().verbose_errors = false;
        Ok(factory)
    }
}

/// The schema for documents without white space between their parts, unless it says itself what it wants: a small model that may
/// write blanks writes many.
fn compact(schema: &Value) -> Value {
    let mut schema = if schema == &Value::Bool(true) { json!({}) } else { schema.clone() };
    if let Some(object) = schema.as_object_mut() {
        object.entry("x-guidance").or_insert_with(|| json!({"whitespace_flexible": false}));
    }
    schema
}

impl std::fmt::Debug for Guides {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guides").field("tokenizer", &self.tokenizer).finish_non_exhaustive()
    }
}

impl Guide {
    /// What may come next: at the end only stop tokens.
    pub(super) fn allowed(&mut self) -> Result<Allowed> {
        self.0.compute_mask_or_eos().map(Allowed).map_err(|error| failed(&error))
    }

    /// Takes a token of the answer; returns whether nothing may follow it.
    pub(super) fn accept(&mut self, id: u32) -> Result<bool> {
        self.0.consume_token(id).map_err(|error| failed(&error))?;
        Ok(self.0.is_stopped())
    }
}

impl Allowed {
    pub(super) fn contains(&self, id: u32) -> bool {
        (id as usize) < self.0.len() && self.0.is_allowed(id)
    }
}

fn failed(error: &impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Inference, format!("the constraint cannot be followed further: {error}"))
}
