//! Servers that give only text: the large model's greedy answer, held against the target.

use serde::Deserialize;
use serde_json::json;

use super::http::Http;
use super::vllm::Usage;
use super::{EndpointOptions, Question};
use crate::annotate::align::hits_of_answer;
use crate::annotate::journal::Spent;
use crate::annotate::record::Record;
use crate::error::{Error, ErrorKind, Result};

#[derive(Deserialize)]
struct Chat {
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Usage,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
}

pub(super) async fn annotate(http: &Http, options: &EndpointOptions, question: &Question) -> Result<(Record, Spent)> {
    let (answer, spent) = self::answer(http, options, question).await?;
    let said = &question.target[..question.target.len() - question.target.trim_start().len()];
    let hits = hits_of_answer(&question.spans, &question.target, &format!("{said}{answer}"));
    let key = question.encoded.key();
    let record = Record { key, hits, top_ids: vec![], top_log_probabilities: vec![], answer: Some(answer) };
    Ok((record, spent))
}

/// The greedy answer, of at most twice the target's length.
pub(super) async fn answer(http: &Http, options: &EndpointOptions, question: &Question) -> Result<(String, Spent)> {
    let example = &question.example;
    let mut messages: Vec<_> =
        example.history.iter().map(|turn| json!({ "role": turn.role, "content": turn.content })).collect();
    messages.push(json!({ "role": "user", "content": example.input }));
    let longest = 2 * question.encoded.target.len() + 8;
    let body = json!({ "model": options.model, "messages": messages, "max_tokens": longest, "temperature": 0.0 });
    let value = http.post("chat/completions", &body).await?;
    let chat: Chat =
        serde_json::from_value(value).map_err(|e| Error::new(ErrorKind::Endpoint, format!("chat/completions: {e}")))?;
    let spent = chat.usage.spent();
    let text = chat.choices.into_iter().next().and_then(|choice| choice.message.content);
    let text = text.ok_or_else(|| Error::new(ErrorKind::Endpoint, "chat/completions: no answer"))?;
    Ok((text.trim().to_owned(), spent))
}
