//! vLLM: one request scores prompt and target (`prompt_logprobs`) and says with one more token whether it would end.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::http::Http;
use super::{EndpointOptions, Question};
use crate::annotate::align::{LargeToken, Piece, hits, spans};
use crate::annotate::journal::Spent;
use crate::annotate::record::Record;
use crate::error::{Error, ErrorKind, Result};

/// Whether this is vLLM.
pub(super) async fn answers(http: &Http) -> bool {
    http.probe("/version").await.is_some_and(|version| version.get("version").is_some())
}

#[derive(Deserialize)]
struct Tokens {
    tokens: Vec<u32>,
}

pub(super) async fn tokenize(http: &Http, model: &str, text: &str) -> Result<Vec<u32>> {
    let body = json!({ "model": model, "prompt": text, "add_special_tokens": false });
    let tokens: Tokens = read("/tokenize", http.post("/tokenize", &body).await?)?;
    Ok(tokens.tokens)
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Usage,
}

#[derive(Deserialize)]
struct Choice {
    text: String,
    finish_reason: Option<String>,
    /// For each position of the prompt what was likely there, by token id; of the first nothing is known.
    prompt_logprobs: Vec<Option<BTreeMap<String, Scored>>>,
}

#[derive(Deserialize, Clone)]
struct Scored {
    logprob: f32,
    /// 1 is likeliest.
    rank: u32,
    decoded_token: Option<String>,
}

#[derive(Deserialize, Default)]
pub(super) struct Usage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

impl Usage {
    pub(super) fn spent(&self) -> Spent {
        Spent { requests: 1, tokens_in: self.prompt_tokens, tokens_out: self.completion_tokens }
    }
}

pub(super) async fn annotate(
    http: &Http,
    options: &EndpointOptions,
    same_vocabulary: bool,
    question: &Question,
) -> Result<(Record, Spent)> {
    let row = &question.encoded;
    let mut record =
        Record { key: row.key(), hits: vec![], top_ids: vec![], top_log_probabilities: vec![], answer: None };
    let bad = |what: &str| Error::new(ErrorKind::Endpoint, format!("{}: {what}", question.example.id));
    if same_vocabulary {
        // The end token is scored like any other.
        let ids: Vec<u32> = row.prompt.iter().chain(&row.target).copied().collect();
        let (choice, spent) = score(http, options, &json!(ids), options.top_k).await?;
        let targets = choice.prompt_logprobs.get(row.prompt.len()..).unwrap_or_default();
        if targets.len() != row.target.len() {
            return Err(bad("prompt_logprobs does not have a position for each token"));
        }
        for (position, &target) in targets.iter().zip(&row.target) {
            let tops = ranked(position, options.top_k).ok_or_else(|| bad("prompt_logprobs lacks a position"))?;
            record.hits.push(tops.first().is_some_and(|(id, _)| *id == target));
            record.top_ids.extend(tops.iter().map(|(id, _)| id));
            record.top_log_probabilities.extend(tops.iter().map(|(_, scored)| scored.logprob));
        }
        return Ok((record, spent));
    }
    let text = format!("{}{}", question.prompt, question.target);
    let ids = tokenize(http, &options.model, &text).await?;
    let (choice, spent) = score(http, options, &json!(ids), 1).await?;
    if choice.prompt_logprobs.len() != ids.len() {
        return Err(bad("prompt_logprobs does not have a position for each token"));
    }
    // The first token has no score, but its text is the beginning of the prompt.
    let said = |(position, id): (&Option<BTreeMap<String, Scored>>, &u32)| {
        let scored = position.as_ref().and_then(|position| position.get(&id.to_string())).cloned();
        scored.map(|scored| (scored.decoded_token.unwrap_or_default(), scored.rank == 1))
    };
    let rest: Option<Vec<(String, bool)>> = choice.prompt_logprobs.iter().zip(&ids).skip(1).map(said).collect();
    let rest = rest.ok_or_else(|| bad("prompt_logprobs lacks a token of the prompt"))?;
    let known: usize = rest.iter().map(|(piece, _)| piece.len()).sum();
    let first = text.get(..text.len().saturating_sub(known)).unwrap_or_default().to_owned();
    let pieces: Vec<Piece> =
        std::iter::once(first).chain(rest.iter().map(|(piece, _)| piece.clone())).map(Piece::Text).collect();
    let covered = spans(&pieces, &text).ok_or_else(|| bad("the server's tokens are not the text"))?;
    let begin = question.prompt.len();
    let hit = std::iter::once(false).chain(rest.iter().map(|(_, hit)| *hit));
    let tokens: Vec<LargeToken> = covered
        .into_iter()
        .zip(hit)
        .filter(|(span, _)| span.end > begin)
        .map(|(span, hit)| LargeToken { span: span.start.saturating_sub(begin)..span.end - begin, hit })
        .collect();
    let inside = question.spans.split_last().map_or(&[][..], |(_, inside)| inside);
    record.hits = hits(inside, &tokens);
    record.hits.push(choice.text.is_empty() && choice.finish_reason.as_deref() == Some("stop"));
    Ok((record, spent))
}

async fn score(http: &Http, options: &EndpointOptions, prompt: &Value, k: usize) -> Result<(Choice, Spent)> {
    let body = json!({
        "model": options.model, "prompt": prompt, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": k,
        "add_special_tokens": false,
    });
    let answer: Completion = read("completions", http.post("completions", &body).await?)?;
    let spent = answer.usage.spent();
    let choice = answer.choices.into_iter().next();
    let choice = choice.ok_or_else(|| Error::new(ErrorKind::Endpoint, "completions: no choice"))?;
    Ok((choice, spent))
}

/// The `k` likeliest of a position; the token that stands there is named too, wherever it ranks.
fn ranked(position: &Option<BTreeMap<String, Scored>>, k: usize) -> Option<Vec<(u32, Scored)>> {
    let mut tops: Vec<(u32, Scored)> = position
        .as_ref()?
        .iter()
        .map(|(id, scored)| Some((id.parse().ok()?, scored.clone())))
        .collect::<Option<_>>()?;
    tops.sort_by(|(a, x), (b, y)| x.rank.cmp(&y.rank).then(a.cmp(b)));
    tops.truncate(k);
    (tops.len() == k).then_some(tops)
}

fn read<T: serde::de::DeserializeOwned>(path: &str, value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|e| Error::new(ErrorKind::Endpoint, format!("{path}: {e}")))
}
