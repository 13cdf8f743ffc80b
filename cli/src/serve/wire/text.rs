//! `POST /v1/completions`, as it comes in: a raw text to go on with, which only the device can.

use margay::Message;
use serde::Deserialize;
use serde_json::Value;

use super::{Form, Manner, Refusal, read};
use crate::serve::model::Question;

/// Tokens of an answer unless said, as OpenAI's API has it.
const LONGEST: usize = 16;

/// A text to go on with.
#[derive(Deserialize)]
pub(in super::super) struct TextQuestion {
    pub(in super::super) model: String,
    prompt: Value,
    max_tokens: Option<usize>,
    logprobs: Option<usize>,
    echo: Option<bool>,
    suffix: Option<String>,
    best_of: Option<u32>,
    #[serde(flatten)]
    manner: Manner,
}

/// What is asked of a raw text.
pub(in super::super) struct TextAsked {
    pub(in super::super) question: Question,
    pub(in super::super) form: Form,
    pub(in super::super) prompt: String,
    /// Whether the answer begins with the prompt.
    pub(in super::super) echo: bool,
    /// Whether there is an answer at all, or only the prompt again.
    pub(in super::super) goes_on: bool,
}

impl TextQuestion {
    /// Reads a body.
    pub(in super::super) fn read(body: &[u8]) -> Result<Self, Refusal> {
        read(body, "completion")
    }

    pub(in super::super) fn accept(self) -> Result<TextAsked, Refusal> {
        self.manner.check()?;
        let echo = self.echo.unwrap_or(false);
        for (unsupported, parameter) in [
            (self.suffix.is_some_and(|suffix| !suffix.is_empty()), "suffix"),
            (self.best_of.is_some_and(|best| best != 1), "best_of"),
            (echo && self.manner.streamed(), "echo"),
        ] {
            if unsupported {
                return Err(Refusal::unsupported(parameter));
            }
        }
        let one = "is not one text: several prompts and token ids are not supported by this server";
        let prompt = match self.prompt {
            Value::String(text) => text,
            Value::Array(mut texts) => match (texts.pop(), texts.is_empty()) {
                (Some(Value::String(text)), true) => text,
                _ => return Err(Refusal::parameter("prompt", one)),
            },
            _ => return Err(Refusal::parameter("prompt", one)),
        };
        let max_tokens = self.max_tokens.unwrap_or(LONGEST);
        let goes_on = max_tokens > 0;
        if !goes_on && !echo {
            return Err(Refusal::parameter("max_tokens", "is 0, which makes sense only with `echo`"));
        }
        let mut request = margay::Request::messages(vec![Message::user(prompt.clone())]).max_tokens(max_tokens);
        request.options.raw_prompt = true;
        request.options.alternatives = self.logprobs.unwrap_or(0);
        let log_probabilities = self.logprobs.is_some();
        let form = self.manner.form(log_probabilities);
        let question = self.manner.apply(request)?;
        let question = Question { log_probabilities, ..question };
        Ok(TextAsked { question, form, prompt, echo, goes_on })
    }
}
