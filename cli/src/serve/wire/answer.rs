//! Answers as they go out: whole or in chunks, of a conversation or of a text.

use margay::{Tokens, ToolCall};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Form, unix_time};
use crate::serve::model::{Account, Reply, TokenText};

/// Which of the two protocols an answer is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Kind {
    Chat,
    Text,
}

/// What all parts of one answer share.
#[derive(Debug)]
pub(in super::super) struct Head {
    kind: Kind,
    id: String,
    created: u64,
    model: String,
    form: Form,
    /// Characters of the text so far: where the next token begins.
    offset: usize,
}

#[derive(Serialize)]
struct Part<'a> {
    id: &'a str,
    object: &'static str,
    /// Unix time, in seconds.
    created: u64,
    model: &'a str,
    choices: Vec<Choice<'a>>,
    /// Absent in chunks unless asked for; null in all of them but the last then.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    margay: Option<Value>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<Delta<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    logprobs: Option<Value>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Option<&'a str>,
    refusal: Option<&'a str>,
    #[serde(skip_serializing_if = "<[ToolCall]>::is_empty")]
    tool_calls: &'a [ToolCall],
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Value>,
}

impl Head {
    pub(in super::super) fn new(kind: Kind, number: u64, model: &str, form: Form) -> Self {
        let created = unix_time();
        let prefix = if kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
        Self { kind, id: format!("{prefix}-{created}-{number}"), created, model: model.to_owned(), form, offset: 0 }
    }

    /// A whole answer.
    pub(in super::super) fn whole(&mut self, reply: &Reply) -> Vec<u8> {
        let logprobs = reply.tokens.as_deref().filter(|_| self.form.log_probabilities);
        let logprobs = logprobs.map(|tokens| self.log_probabilities(tokens));
        let content = Some(reply.text.as_str()).filter(|text| !text.is_empty() || reply.tool_calls.is_empty());
        let message = Message { role: "assistant", content, refusal: None, tool_calls: &reply.tool_calls };
        let chat = self.kind == Kind::Chat;
        let choice = Choice {
            index: 0,
            message: chat.then_some(message),
            delta: None,
            text: (!chat).then_some(&reply.text),
            logprobs,
            finish_reason: Some(reply.finish),
        };
        let object = if chat { "chat.completion" } else { "text_completion" };
        self.write(object, vec![choice], reply.used.map(usage), Some(&reply.account))
    }

    /// The chunk that says who speaks, if there is one.
    pub(in super::super) fn opening(&self) -> Option<Vec<u8>> {
        let delta = Delta { role: Some("assistant"), content: Some(""), tool_calls: Vec::new() };
        (self.kind == Kind::Chat).then(|| self.chunk(Some(delta), None, None, None, None))
    }

    /// A chunk with more text.
    pub(in super::super) fn more(&mut self, text: &str, tokens: &[TokenText]) -> Vec<u8> {
        let asked = self.form.log_probabilities && !tokens.is_empty();
        let logprobs = asked.then(|| self.log_probabilities(tokens));
        let chat = self.kind == Kind::Chat;
        let delta = chat.then(|| Delta { content: Some(text), ..Delta::default() });
        self.chunk(delta, (!chat).then_some(text), logprobs, None, None)
    }

    /// A chunk that takes back what was said.
    pub(in super::super) fn superseded(&self, reason: Option<&str>) -> Vec<u8> {
        let margay = json!({"superseded": {"reason": reason}});
        let chat = self.kind == Kind::Chat;
        self.chunk(chat.then(Delta::default), (!chat).then_some(""), None, None, Some(margay))
    }

    /// The last chunks: functions, the reason of the end with the account, and the usage if it was asked for.
    pub(in super::super) fn closing(&self, reply: &Reply) -> Vec<Vec<u8>> {
        let mut chunks = Vec::new();
        if !reply.tool_calls.is_empty() {
            let calls = reply.tool_calls.iter().enumerate().map(|(index, call)| indexed(index, call));
            chunks.push(self.chunk(
                Some(Delta { tool_calls: calls.collect(), ..Delta::default() }),
                None,
                None,
                None,
                None,
            ));
        }
        let chat = self.kind == Kind::Chat;
        let account = serde_json::to_value(&reply.account).ok();
        let (delta, text) = (chat.then(Delta::default), (!chat).then_some(""));
        chunks.push(self.chunk(delta, text, None, Some(reply.finish), account));
        if self.form.include_usage {
            chunks.push(self.write(self.chunk_object(), Vec::new(), Some(reply.used.map_or(Value::Null, usage)), None));
        }
        chunks
    }

    fn chunk(
        &self,
        delta: Option<Delta<'_>>,
        text: Option<&str>,
        logprobs: Option<Value>,
        finish_reason: Option<&'static str>,
        margay: Option<Value>,
    ) -> Vec<u8> {
        let choice = Choice { index: 0, message: None, delta, text, logprobs, finish_reason };
        let usage = self.form.include_usage.then_some(Value::Null);
        self.part(self.chunk_object(), vec![choice], usage, margay)
    }

    fn chunk_object(&self) -> &'static str {
        if self.kind == Kind::Chat { "chat.completion.chunk" } else { "text_completion" }
    }

    fn write(
        &self,
        object: &'static str,
        choices: Vec<Choice<'_>>,
        usage: Option<Value>,
        account: Option<&Account>,
    ) -> Vec<u8> {
        self.part(object, choices, usage, account.and_then(|account| serde_json::to_value(account).ok()))
    }

    fn part(
        &self,
        object: &'static str,
        choices: Vec<Choice<'_>>,
        usage: Option<Value>,
        margay: Option<Value>,
    ) -> Vec<u8> {
        let part = Part { id: &self.id, object, created: self.created, model: &self.model, choices, usage, margay };
        // Nothing in it can fail to be written: keys are text, and a number that is none becomes null.
        serde_json::to_vec(&part).unwrap_or_default()
    }

    fn log_probabilities(&mut self, tokens: &[TokenText]) -> Value {
        match self.kind {
            Kind::Chat => json!({"content": tokens.iter().map(chat_token).collect::<Vec<_>>(), "refusal": null}),
            Kind::Text => self.text_tokens(tokens),
        }
    }

    fn text_tokens(&mut self, tokens: &[TokenText]) -> Value {
        let offsets = tokens.iter().map(|token| {
            let at = self.offset;
            self.offset += token.text.chars().count();
            at
        });
        let offsets: Vec<usize> = offsets.collect();
        let top = tokens.iter().map(|token| match token.alternatives.is_empty() {
            true => Value::Null,
            // Two ids may have the same text, e.g. of a piece of a character: the likelier stands for both.
            false => Value::Object(
                token.alternatives.iter().rev().map(|(text, p)| (text.clone(), json!(p))).collect::<Map<_, _>>(),
            ),
        });
        let top: Vec<Value> = top.collect();
        json!({
            "tokens": tokens.iter().map(|token| &token.text).collect::<Vec<_>>(),
            // Nothing comes before a text's first token, so it has none.
            "token_logprobs": tokens.iter().map(|token| Some(token.log_probability).filter(|p| p.is_finite())).collect::<Vec<_>>(),
            "top_logprobs": top,
            "text_offset": offsets,
        })
    }
}

fn chat_token(token: &TokenText) -> Value {
    let of =
        |text: &str, log_probability: f32| json!({"token": text, "logprob": log_probability, "bytes": bytes(text)});
    let mut written = of(&token.text, token.log_probability);
    written["top_logprobs"] = token.alternatives.iter().map(|(text, p)| of(text, *p)).collect();
    written
}

/// The bytes of a token; unknown of one that is a piece of a character.
fn bytes(text: &str) -> Option<&[u8]> {
    (!text.contains(char::REPLACEMENT_CHARACTER)).then_some(text.as_bytes())
}

fn indexed(index: usize, call: &ToolCall) -> Value {
    let mut written = serde_json::to_value(call).unwrap_or_default();
    written["index"] = json!(index);
    written
}

fn usage(tokens: Tokens) -> Value {
    json!({
        "prompt_tokens": tokens.input,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.input + tokens.output,
    })
}
