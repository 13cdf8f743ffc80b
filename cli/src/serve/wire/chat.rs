//! `POST /v1/chat/completions`, as it comes in.

use margay::{Constraint, Message, Tool, ToolCall};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Form, Manner, Refusal, read};
use crate::serve::model::Question;

/// A conversation to answer.
#[derive(Deserialize)]
pub(in super::super) struct ChatQuestion {
    pub(in super::super) model: String,
    messages: Vec<Turn>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    tools: Option<Vec<Tool>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    functions: Option<Value>,
    response_format: Option<ResponseFormat>,
    modalities: Option<Vec<String>>,
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
    #[serde(flatten)]
    manner: Manner,
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: Option<Content>,
    tool_calls: Option<Vec<ToolCall>>,
    tool_call_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    r#type: String,
    text: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ResponseFormat {
    Text,
    JsonObject,
    JsonSchema { json_schema: Schema },
}

#[derive(Deserialize)]
struct Schema {
    schema: Option<Value>,
}

impl ChatQuestion {
    /// Reads a body.
    pub(in super::super) fn read(body: &[u8]) -> Result<Self, Refusal> {
        read(body, "chat completion")
    }

    /// What is asked, and how the answer is to be written; refused if it asks for what is not there.
    pub(in super::super) fn accept(self, longest: usize) -> Result<(Question, Form), Refusal> {
        self.manner.check()?;
        let asked = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
        let tools = self.tools.unwrap_or_default();
        let unchosen = match &self.tool_choice {
            Some(Value::String(choice)) => choice == "auto" || choice == "none",
            choice => !asked(choice),
        };
        for (unsupported, parameter) in [
            (!unchosen, "tool_choice"),
            (!tools.is_empty() && self.parallel_tool_calls == Some(false), "parallel_tool_calls"),
            (asked(&self.functions), "functions"),
            (self.modalities.is_some_and(|all| all.iter().any(|modality| modality != "text")), "modalities"),
        ] {
            if unsupported {
                return Err(Refusal::unsupported(parameter));
            }
        }
        if self.messages.is_empty() {
            return Err(Refusal::parameter("messages", "is empty"));
        }
        let log_probabilities = self.logprobs.unwrap_or(false);
        if self.top_logprobs.is_some_and(|top| top > 0) && !log_probabilities {
            return Err(Refusal::parameter("top_logprobs", "needs `logprobs` to be true"));
        }
        let messages = self.messages.into_iter().map(Turn::accept).collect::<Result<_, _>>()?;
        let mut request = margay::Request::messages(messages);
        request.max_tokens = self.max_completion_tokens.or(self.max_tokens).unwrap_or(longest);
        if self.tool_choice != Some(json!("none")) {
            request.tools = tools;
        }
        request.options.constraint = match self.response_format {
            None | Some(ResponseFormat::Text) => None,
            Some(ResponseFormat::JsonObject) => Some(Constraint::JsonSchema(json!({"type": "object"}))),
            Some(ResponseFormat::JsonSchema { json_schema: Schema { schema } }) => {
                let schema =
                    schema.ok_or_else(|| Refusal::parameter("response_format", "has no `json_schema.schema`"))?;
                Some(Constraint::JsonSchema(schema))
            }
        };
        request.options.alternatives = self.top_logprobs.unwrap_or(0);
        let form = self.manner.form(log_probabilities);
        let question = self.manner.apply(request)?;
        Ok((Question { log_probabilities, ..question }, form))
    }
}

impl Turn {
    fn accept(self) -> Result<Message, Refusal> {
        let content = match self.content {
            None => String::new(),
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => parts.into_iter().map(Part::accept).collect::<Result<_, _>>()?,
        };
        // The newer name of the same role, which chat templates do not know.
        let role = if self.role == "developer" { "system".to_owned() } else { self.role };
        let mut message = Message::new(role, content).tool_calls(self.tool_calls.unwrap_or_default());
        message.tool_call_id = self.tool_call_id;
        Ok(message)
    }
}

impl Part {
    fn accept(self) -> Result<String, Refusal> {
        match self {
            Self { r#type, text: Some(text) } if r#type == "text" => Ok(text),
            Self { r#type, .. } => Err(Refusal::invalid(format!("a content part of type `{type}` is not supported"))),
        }
    }
}
