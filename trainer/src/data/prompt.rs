//! How a row is put to a model: through the checkpoint's chat template, or as plain text, and where its answer ends.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind as JinjaErrorKind, UndefinedBehavior, context};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::batch::Encoded;
use super::example::{Example, Message};
use crate::checkpoint::Checkpoint;
use crate::conversation::Conversation;
use crate::error::{Error, ErrorKind, Result};
use crate::tokenizer::Tokenizer;

/// How a row becomes a prompt and a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PromptStyle {
    /// The chat template, as the runtime applies it: what is trained is what is served.
    #[default]
    Chat,
    /// The input, a blank, the target: for models that were never taught to converse.
    Plain,
}

/// Encodes rows for one model.
#[derive(Debug)]
pub struct PromptFormat {
    tokenizer: Tokenizer,
    conversation: Conversation,
    template: Template,
    system: Option<String>,
    /// Stands between prompt and target.
    separator: &'static str,
    end: u32,
}

impl PromptFormat {
    /// The format of a checkpoint.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] or [`ErrorKind::Tokenizer`] when a file beside the weights is missing or malformed.
    pub fn of(checkpoint: &Checkpoint, style: PromptStyle, system: Option<&str>) -> Result<Self> {
        let tokenizer = checkpoint.tokenizer()?;
        let conversation = checkpoint.conversation(&tokenizer)?;
        Self::new(tokenizer, conversation, style, system)
    }

    /// The format of a tokenizer of ours.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`] when it is not one of ours.
    pub fn of_tokenizer(tokenizer: Tokenizer, style: PromptStyle, system: Option<&str>) -> Result<Self> {
        let conversation = tokenizer.conversation()?;
        Self::new(tokenizer, conversation, style, system)
    }

    fn new(
        tokenizer: Tokenizer,
        mut conversation: Conversation,
        style: PromptStyle,
        system: Option<&str>,
    ) -> Result<Self> {
        let separator = match style {
            PromptStyle::Chat => "",
            PromptStyle::Plain => {
                conversation.chat_template = crate::conversation::bare(&tokenizer)?;
                " "
            }
        };
        // The token that ends a turn, where the tokenizer names it, else the first that ends a text.
        let named = conversation.special_tokens.get("eos_token").and_then(|eos| tokenizer.id(eos));
        let end = named.or(conversation.stop_tokens.first().copied());
        let end = end.ok_or_else(|| Error::new(ErrorKind::Checkpoint, "no file says what ends an answer"))?;
        let template = Template::compile(&conversation)?;
        Ok(Self { tokenizer, conversation, template, system: system.map(str::to_owned), separator, end })
    }

    /// The prompt's ids, its opening for the answer included, cut in the middle to at most `room` tokens.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] naming the row that the template refuses, [`ErrorKind::Tokenizer`].
    fn prompt(&self, example: &Example, room: usize) -> Result<Vec<u32>> {
        let mut ids = self.tokenizer.encode(&self.prompt_text(example)?)?;
        if ids.len() > room {
            ids.drain(room / 2..room / 2 + ids.len() - room);
        }
        Ok(ids)
    }

    /// The prompt as text, special tokens written out.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] naming the row that the template refuses.
    pub fn prompt_text(&self, example: &Example) -> Result<String> {
        let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        let mut messages: Vec<Message> = self.system.iter().map(|text| message("system", text)).collect();
        messages.extend(example.history.iter().cloned());
        messages.push(message("user", &example.input));
        let refused = |what| Error::new(ErrorKind::Data, format!("{}: {what}", example.id));
        self.template.render(&messages, &self.conversation).map_err(refused)
    }

    /// The target's text as it follows the prompt.
    #[must_use]
    pub fn target_text(&self, target: &str) -> String {
        format!("{}{target}", self.separator)
    }

    /// A row as token ids. A prompt too long for `context` loses its middle; the target never loses anything.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] naming the row whose target alone does not fit or that the template refuses,
    /// [`ErrorKind::Tokenizer`] when a text cannot be encoded.
    pub fn encode(&self, example: &Example, context: usize) -> Result<Encoded> {
        let mut target = self.tokenizer.encode(&self.target_text(&example.target))?;
        target.push(self.end);
        let room = context.saturating_sub(target.len());
        if room < MIN_PROMPT {
            let message = format!("{}: a target of {} tokens does not fit {context}", example.id, target.len());
            return Err(Error::new(ErrorKind::Data, message));
        }
        Ok(Encoded { prompt: self.prompt(example, room)?, target })
    }

    /// The text of an answer's ids.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`] when an id is not in the vocabulary.
    pub fn answer(&self, ids: &[u32]) -> Result<String> {
        let text = self.tokenizer.decode(ids)?;
        Ok(text.trim().to_owned())
    }

    /// Whether a token ends an answer.
    #[must_use]
    pub fn ends(&self, token: u32) -> bool {
        token == self.end || self.conversation.stop_tokens.contains(&token)
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// What goes beside the weights of a model that was trained in this format.
    #[must_use]
    pub fn conversation(&self) -> &Conversation {
        &self.conversation
    }

    /// Digest of everything but the tokenizer that decides how a row is encoded.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let special = self.conversation.special_tokens.iter().flat_map(|(name, text)| [name.as_str(), text.as_str()]);
        let system = self.system.as_deref().unwrap_or("");
        for part in [self.conversation.chat_template.as_str(), system, self.separator].into_iter().chain(special) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update(self.end.to_le_bytes());
        hash.finalize().into()
    }
}

/// A prompt of at least its two marks must remain.
const MIN_PROMPT: usize = 2;

/// A chat template in the dialect that Hugging Face templates are written for: the runtime's own settings.
#[derive(Debug)]
struct Template(Environment<'static>);

impl Template {
    fn compile(conversation: &Conversation) -> Result<Self> {
        let malformed = |e: minijinja::Error| {
            Error::new(ErrorKind::Checkpoint, format!("the chat template is malformed: {e}")).with_source(e)
        };
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(malformed)?);
        environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        environment.set_fuel(Some(TEMPLATE_FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(JinjaErrorKind::InvalidOperation, message))
        });
        environment.add_template_owned(TEMPLATE, conversation.chat_template.clone()).map_err(malformed)?;
        Ok(Self(environment))
    }

    fn render(&self, messages: &[Message], conversation: &Conversation) -> Result<String, String> {
        let context = context! {
            messages => Serde(messages),
            add_generation_prompt => true,
            ..Value::from(Serde(&conversation.special_tokens))
        };
        let rendered = self.0.get_template(TEMPLATE).and_then(|template| template.render(context));
        rendered.map_err(|e| format!("the chat template refuses the conversation: {e}"))
    }
}

const TEMPLATE: &str = "chat_template";

/// Steps a template may take: one that comes with a checkpoint must not spin.
const TEMPLATE_FUEL: u64 = 10_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn tokenizer() -> Tokenizer {
        Tokenizer::train(["what is my balance", "transfer money", "check balance"].into_iter(), 320).unwrap()
    }

    fn example(input: &str, target: &str) -> Example {
        Example { id: "r/1".into(), input: input.into(), target: target.into(), ..Example::default() }
    }

    #[test]
    fn the_template_gives_the_ids_that_the_marks_give() {
        let tokenizer = tokenizer();
        let format = PromptFormat::of_tokenizer(tokenizer.clone(), PromptStyle::Chat, None).unwrap();
        for (input, target) in [("what is my balance", "check balance"), ("  \u{1F408} x", "é"), ("<|us", "a b")] {
            let encoded = format.encode(&example(input, target), 64).unwrap();
            assert_eq!(encoded.prompt, tokenizer.prompt(input).unwrap());
            assert_eq!(encoded.target, tokenizer.answer(target).unwrap());
            assert!(format.ends(*encoded.target.last().unwrap()));
            assert_eq!(format.answer(&encoded.target).unwrap(), target);
        }
    }

    /// The runtime's own test on the same cases holds it to the same texts: what is trained is what is served.
    #[test]
    fn templates_give_the_text_that_jinja2_and_the_runtime_give() {
        #[derive(Deserialize)]
        struct Format {
            chat_template: String,
            special_tokens: BTreeMap<String, String>,
        }
        #[derive(Deserialize)]
        struct Case {
            prompt: Format,
            messages: Vec<Message>,
            text: Option<String>,
        }
        let cases = include_str!("../../../runtime/tests/fixtures/templates.json");
        let cases: Vec<Case> = serde_json::from_str(cases).unwrap();
        assert!(cases.len() >= 12);
        for Case { prompt: Format { chat_template, special_tokens }, messages, text } in cases {
            let conversation = Conversation { chat_template, special_tokens, stop_tokens: vec![] };
            let rendered = Template::compile(&conversation).unwrap().render(&messages, &conversation);
            assert_eq!(rendered.ok(), text, "{}", conversation.chat_template);
        }
    }

    #[test]
    fn a_long_prompt_loses_its_middle_and_a_target_nothing() {
        let format = PromptFormat::of_tokenizer(tokenizer(), PromptStyle::Chat, None).unwrap();
        let whole = format.encode(&example(&"balance ".repeat(50), "transfer money"), 1000).unwrap();
        let cut = format.encode(&example(&"balance ".repeat(50), "transfer money"), 24).unwrap();
        assert_eq!(cut.target, whole.target);
        assert_eq!(cut.prompt.len() + cut.target.len(), 24);
        assert_eq!((cut.prompt.first(), cut.prompt.last()), (whole.prompt.first(), whole.prompt.last()));
        let error = format.encode(&example("x", &"transfer ".repeat(50)), 24).unwrap_err();
        assert!(error.kind() == ErrorKind::Data && error.to_string().starts_with("r/1: a target of"), "{error}");
    }

    #[test]
    fn plain_text_is_input_blank_target() {
        let format = PromptFormat::of_tokenizer(tokenizer(), PromptStyle::Plain, None).unwrap();
        let encoded = format.encode(&example("what is", "my balance"), 64).unwrap();
        let text = format.tokenizer().decode(&[encoded.prompt, encoded.target].concat()).unwrap();
        assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["what", "is", "my", "balance"]);
        assert_eq!(format.target_text("my balance"), " my balance");
    }

    #[test]
    fn what_changes_the_encoding_changes_the_fingerprint() {
        let of = |style, system| PromptFormat::of_tokenizer(tokenizer(), style, system).unwrap().fingerprint();
        let prints =
            [of(PromptStyle::Chat, None), of(PromptStyle::Plain, None), of(PromptStyle::Chat, Some("be kind"))];
        assert!(prints[0] != prints[1] && prints[0] != prints[2] && prints[1] != prints[2]);
        assert_eq!(prints[0], of(PromptStyle::Chat, None));
    }
}
