//! llama.cpp's server: it scores no prompts, so it is asked for the next token after every prefix of the target. It
//! keeps what it has read (`cache_prompt`), so each step costs one token.

use serde::Deserialize;
use serde_json::{Value, json};

use super::http::Http;
use super::{EndpointOptions, Question};
use crate::annotate::align::{LargeToken, Piece, hits, spans};
use crate::annotate::journal::Spent;
use crate::annotate::record::Record;
use crate::error::{Error, ErrorKind, Result};

/// Whether this is llama.cpp's server.
pub(super) async fn answers(http: &Http) -> bool {
    http.probe("/props").await.is_some_and(|props| props.get("default_generation_settings").is_some())
}

/// A text as the server's tokenizer sees it.
#[derive(Debug, Deserialize)]
pub(super) struct Tokens {
    tokens: Vec<Token>,
}

#[derive(Debug, Deserialize)]
struct Token {
    id: u32,
    piece: PieceForm,
}

/// Text, or bytes where it is none.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum PieceForm {
    Text(String),
    Bytes(Vec<u8>),
}

impl Tokens {
    pub(super) fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.id).collect()
    }

    fn pieces(&self) -> Vec<Piece> {
        let piece = |token: &Token| match &token.piece {
            PieceForm::Text(text) => Piece::Bytes(text.as_bytes().to_vec()),
            PieceForm::Bytes(bytes) => Piece::Bytes(bytes.clone()),
        };
        self.tokens.iter().map(piece).collect()
    }
}

pub(super) async fn tokenize(http: &Http, text: &str) -> Result<Tokens> {
    let body = json!({ "content": text, "add_special": false, "parse_special": true, "with_pieces": true });
    read("/tokenize", http.post("/tokenize", &body).await?)
}

#[derive(Deserialize)]
struct Completion {
    /// Absent where the token that was written is a part of a character.
    #[serde(default)]
    completion_probabilities: Vec<Position>,
    #[serde(default)]
    tokens: Vec<u32>,
    #[serde(default)]
    timings: Timings,
}

#[derive(Deserialize)]
struct Position {
    top_logprobs: Vec<Top>,
}

#[derive(Deserialize)]
struct Top {
    id: u32,
    logprob: f32,
}

#[derive(Deserialize, Default)]
struct Timings {
    /// Tokens of the prompt that were new to it.
    #[serde(default)]
    prompt_n: u64,
}

pub(super) async fn annotate(
    http: &Http,
    options: &EndpointOptions,
    same_vocabulary: bool,
    question: &Question,
    slot: usize,
) -> Result<(Record, Spent)> {
    let row = &question.encoded;
    let mut spent = Spent::default();
    let mut record =
        Record { key: row.key(), hits: vec![], top_ids: vec![], top_log_probabilities: vec![], answer: None };
    if same_vocabulary {
        let mut prefix = row.prompt.clone();
        for &target in &row.target {
            let tops = step(http, options, &prefix, options.top_k, slot, &mut spent).await?;
            record.hits.push(tops[0].id == target);
            record.top_ids.extend(tops.iter().map(|top| top.id));
            record.top_log_probabilities.extend(tops.iter().map(|top| top.logprob));
            prefix.push(target);
        }
        return Ok((record, spent));
    }
    let prompt = tokenize(http, &question.prompt).await?;
    let target = tokenize(http, &question.target).await?;
    let covered = spans(&target.pieces(), &question.target).ok_or_else(|| {
        let message = format!("{}: the server's tokens are not the target's text", question.example.id);
        Error::new(ErrorKind::Endpoint, message)
    })?;
    let mut prefix = prompt.ids();
    let mut tokens = Vec::with_capacity(covered.len());
    for (span, id) in covered.into_iter().zip(target.ids()) {
        let tops = step(http, options, &prefix, 1, slot, &mut spent).await?;
        tokens.push(LargeToken { span, hit: tops[0].id == id });
        prefix.push(id);
    }
    // Behind the text: whether it would end there.
    let ends = ends(http, options, &prefix, slot, &mut spent).await?;
    let (end, inside) =
        question.spans.split_last().ok_or_else(|| Error::new(ErrorKind::Endpoint, "an empty target"))?;
    record.hits = hits(inside, &tokens);
    record.hits.push(ends);
    debug_assert_eq!(end.start, question.target.len());
    Ok((record, spent))
}

/// The likeliest next tokens, `k` of them, likeliest first; equal ones in the order of their ids. Of a token that is a part of
/// a character the server gives no probabilities, only that it comes first: it is taken as certain.
async fn step(
    http: &Http,
    options: &EndpointOptions,
    prefix: &[u32],
    k: usize,
    slot: usize,
    spent: &mut Spent,
) -> Result<Vec<Top>> {
    let body = json!({
        "prompt": prefix, "n_predict": 1, "n_probs": k, "temperature": 0.0, "cache_prompt": true,
        "id_slot": slot % options.in_flight.max(1), "samplers": [], "post_sampling_probs": false, "return_tokens": true,
    });
    let answer: Completion = read("/completion", http.post("/completion", &body).await?)?;
    *spent += Spent { requests: 1, tokens_in: answer.timings.prompt_n, tokens_out: 1 };
    let mut tops = tops(answer, k);
    if tops.len() < k {
        return Err(Error::new(ErrorKind::Endpoint, format!("/completion: {} of {k} log-probabilities", tops.len())));
    }
    tops.truncate(k);
    Ok(tops)
}

fn tops(answer: Completion, k: usize) -> Vec<Top> {
    let mut tops = match (answer.completion_probabilities.into_iter().next(), answer.tokens.first()) {
        (Some(position), _) => position.top_logprobs,
        (None, Some(&first)) => {
            let others = (0..).filter(|id| *id != first).map(|id| Top { id, logprob: f32::NEG_INFINITY });
            std::iter::once(Top { id: first, logprob: 0.0 }).chain(others).take(k).collect()
        }
        (None, None) => vec![],
    };
    tops.sort_by(|a, b| b.logprob.total_cmp(&a.logprob).then(a.id.cmp(&b.id)));
    tops
}

/// Whether the model would end its answer after this prefix.
async fn ends(http: &Http, options: &EndpointOptions, prefix: &[u32], slot: usize, spent: &mut Spent) -> Result<bool> {
    let body = json!({
        "prompt": prefix, "n_predict": 1, "temperature": 0.0, "cache_prompt": true,
        "id_slot": slot % options.in_flight.max(1), "samplers": [],
    });
    let answer = http.post("/completion", &body).await?;
    *spent += Spent { requests: 1, tokens_in: 1, tokens_out: 1 };
    Ok(answer.get("stop_type").and_then(Value::as_str) == Some("eos"))
}

fn read<T: serde::de::DeserializeOwned>(path: &str, value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|e| Error::new(ErrorKind::Endpoint, format!("{path}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two answers of llama.cpp's server, of which the second wrote the first byte of an emoji.
    #[test]
    fn a_part_of_a_character_is_a_token_too() {
        let whole = json!({"content": "\n", "tokens": [198], "completion_probabilities": [{"id": 198, "top_logprobs": [
            {"id": 260, "token": " the", "logprob": -3.5}, {"id": 198, "token": "\n", "logprob": -0.25},
        ]}], "timings": {"prompt_n": 2}});
        let part = json!({"content": "", "tokens": [10813], "timings": {"prompt_n": 1}});
        let read = |answer| -> Vec<(u32, f32)> {
            tops(read("/completion", answer).unwrap(), 2).iter().map(|top| (top.id, top.logprob)).collect()
        };
        assert_eq!(read(whole), [(198, -0.25), (260, -3.5)]);
        assert_eq!(read(part), [(10813, 0.0), (0, f32::NEG_INFINITY)]);
    }
}
