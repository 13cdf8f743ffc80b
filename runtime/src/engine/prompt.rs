//! Text to token ids, and back: the chat template and the tokenizer.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind as JinjaErrorKind, UndefinedBehavior, context};
use tokenizers::Tokenizer;

use super::tokenizer;
use crate::bundle::manifest::Prompt;
use crate::error::{Error, ErrorKind, Result};
use crate::request::Message;

/// Steps a template may take: a template comes with a bundle and must not spin.
const TEMPLATE_FUEL: u64 = 10_000_000;

const TEMPLATE: &str = "chat_template";

/// Turns conversations into ids and ids into text, as the model was trained to see them.
#[derive(Debug)]
pub(super) struct PromptFormat {
    tokenizer: Tokenizer,
    template: ChatTemplate,
}

impl PromptFormat {
    pub(super) fn load(path: &Path, prompt: &Prompt, vocabulary_size: usize) -> Result<Self> {
        let shown = path.display();
        let json = fs::read(path)
            .map_err(|error| Error::new(ErrorKind::Io, format!("cannot read {shown}")).with_source(error))?;
        let tokenizer = tokenizer::read(&json)
            .map_err(|error| Error::new(ErrorKind::Bundle, format!("{shown} is not a tokenizer")).with_source(error))?;
        // Its size with added tokens would be counted in a copy of the vocabulary.
        let added = tokenizer.get_added_tokens_decoder().into_keys().max().map_or(0, |id| id as usize + 1);
        let size = tokenizer.get_vocab_size(false).max(added);
        if size > vocabulary_size {
            let message = format!("{shown} has {size} tokens, the model's vocabulary has {vocabulary_size}");
            return Err(Error::new(ErrorKind::Bundle, message));
        }
        Ok(Self { tokenizer, template: ChatTemplate::compile(prompt)? })
    }

    /// The prompt's text: the conversation through the template, and an opening for the answer.
    pub(super) fn render(&self, messages: &[Message]) -> Result<String> {
        self.template.render(messages)
    }

    /// The ids of a text as it stands.
    pub(super) fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        // The template writes special tokens itself.
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|error| {
            Error::new(ErrorKind::InvalidRequest, "the prompt cannot be tokenized").with_source(error)
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of an `answer` to the prompt of this `text` and these ids: what follows them in the ids of both texts together,
    /// or, if those do not begin with the prompt's, the ids of the answer alone.
    pub(super) fn encode_continuation(&self, text: &str, prompt: &[u32], answer: &str) -> Result<Vec<u32>> {
        let mut both = self.encode_text(&format!("{text}{answer}"))?;
        if both.starts_with(prompt) { Ok(both.split_off(prompt.len())) } else { self.encode_text(answer) }
    }

    /// The text of an answer; special tokens have none.
    pub(super) fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids, true).map_err(undecodable)
    }

    /// What one id stands for in the midst of a text.
    pub(super) fn token(&self, id: u32) -> Result<String> {
        let decode = |ids: &[u32]| self.tokenizer.decode(ids, false).map_err(undecodable);
        // Some decoders treat the beginning of a text in their own way: what the second of two adds is free of that.
        let (one, two) = (decode(&[id])?, decode(&[id, id])?);
        Ok(two.strip_prefix(&*one).map_or(one.clone(), str::to_owned))
    }

    /// Calls the returned function with one id after the other: it gives the text that the id completes, if any.
    pub(super) fn decode_stream(&self) -> impl FnMut(u32) -> Result<Option<String>> {
        let mut stream = self.tokenizer.decode_stream(true);
        move |id| stream.step(id).map_err(undecodable)
    }
}

fn undecodable(error: tokenizers::Error) -> Error {
    Error::new(ErrorKind::Inference, "the model's answer cannot be decoded").with_source(error)
}

/// The chat template, compiled in the dialect that Hugging Face templates are written for.
#[derive(Debug)]
struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: BTreeMap<String, String>,
}

impl ChatTemplate {
    fn compile(prompt: &Prompt) -> Result<Self> {
        let malformed = |error: minijinja::Error| {
            Error::new(ErrorKind::Bundle, format!("the chat template is malformed: {error}")).with_source(error)
        };
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(malformed)?);
        // A forgotten special token must not silently become no token.
        environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        environment.set_fuel(Some(TEMPLATE_FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(JinjaErrorKind::InvalidOperation, message))
        });
        environment.add_template_owned(TEMPLATE, prompt.chat_template.clone()).map_err(malformed)?;
        Ok(Self { environment, special_tokens: prompt.special_tokens.clone() })
    }

    fn render(&self, messages: &[Message]) -> Result<String> {
        let context = context! {
            messages => Serde(messages),
            add_generation_prompt => true,
            ..Value::from(Serde(&self.special_tokens))
        };
        self.environment.get_template(TEMPLATE).and_then(|template| template.render(context)).map_err(|error| {
            Error::new(ErrorKind::InvalidRequest, format!("the chat template refuses the conversation: {error}"))
                .with_source(error)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One conversation through one template, and jinja2's text for it, or none if jinja2 refused.
    #[derive(serde::Deserialize)]
    struct Case {
        prompt: Prompt,
        messages: Vec<Message>,
        text: Option<String>,
    }

    #[test]
    fn templates_give_the_text_that_jinja2_gives() {
        let cases: Vec<Case> = serde_json::from_str(include_str!("../../tests/fixtures/templates.json")).unwrap();
        assert!(cases.len() >= 12);
        for case in cases {
            let text = ChatTemplate::compile(&case.prompt).unwrap().render(&case.messages);
            assert_eq!(text.ok(), case.text, "{}", case.prompt.chat_template);
        }
    }
}
