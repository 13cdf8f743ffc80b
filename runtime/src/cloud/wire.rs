//! The bytes of `POST /chat/completions`, non-streaming, as OpenAI's API reference gives them.
//!
//! Reading is tolerant: unknown fields are ignored and only the text is required.

use serde::{Deserialize, Serialize};

use super::CloudAnswer;
use crate::answer::Tokens;
use crate::error::{Error, ErrorKind, Result};
use crate::request::{Message, Request};

/// Longest excerpt of a server's error message that goes into ours, in characters.
const MAX_EXCERPT: usize = 200;

#[derive(Serialize)]
struct Question<'a> {
    model: &'a str,
    messages: &'a [Message],
    max_tokens: usize,
    stream: bool,
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    message: Content,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Content {
    content: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
}

#[derive(Deserialize)]
struct Refusal {
    error: RefusalBody,
}

#[derive(Deserialize)]
struct RefusalBody {
    message: String,
}

/// The body of one question. Every attempt sends these very bytes.
pub(super) fn encode(model: &str, request: &Request) -> Result<Vec<u8>> {
    if request.messages.is_empty() {
        return Err(Error::new(ErrorKind::InvalidRequest, "the request holds no message"));
    }
    let Request { messages, max_tokens, .. } = request;
    serde_json::to_vec(&Question { model, messages, max_tokens: *max_tokens, stream: false })
        .map_err(|error| Error::new(ErrorKind::InvalidRequest, "the request is not JSON").with_source(error))
}

/// The answer in the body of a 200.
pub(super) fn decode(body: &[u8]) -> Result<CloudAnswer> {
    let malformed = |why: &'static str| Error::new(ErrorKind::Malformed, why);
    let completion: Completion = serde_json::from_slice(body).map_err(|error| {
        if error.is_eof() {
            Error::new(
                ErrorKind::Truncated,
                format!("the cloud's answer ends after {} bytes, before it is complete", body.len()),
            )
        } else {
            malformed("the cloud's answer is not a chat completion").with_source(error)
        }
    })?;
    let choice = completion.choices.into_iter().next();
    let choice = choice.ok_or_else(|| malformed("the cloud's answer holds no choice"))?;
    let text = choice.message.content.ok_or_else(|| malformed("the cloud's answer holds no text"))?;
    let usage = completion.usage.map(|usage| Tokens { input: usage.prompt_tokens, output: usage.completion_tokens });
    Ok(CloudAnswer { finish_reason: choice.finish_reason, usage, ..CloudAnswer::new(text) })
}

/// What the server says is wrong, if it says so in OpenAI's form; one line, cut to a bearable length.
pub(super) fn refusal(body: &[u8]) -> Option<String> {
    let Refusal { error } = serde_json::from_slice(body).ok()?;
    Some(error.message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_EXCERPT).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The response example of OpenAI's API reference, "Create chat completion", shortened to what a reader may meet.
    const DOCUMENTED: &str = r#"{
      "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT", "object": "chat.completion", "created": 1741569952,
      "model": "gpt-4.1-2025-04-14",
      "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello! How can I assist you today?",
        "refusal": null, "annotations": []}, "logprobs": null, "finish_reason": "stop"}],
      "usage": {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0}},
      "service_tier": "default"}"#;

    #[test]
    fn the_documented_answer_is_read() {
        let answer = decode(DOCUMENTED.as_bytes()).unwrap();
        assert_eq!(answer.text, "Hello! How can I assist you today?");
        assert_eq!(answer.finish_reason.as_deref(), Some("stop"));
        assert_eq!(answer.usage, Some(Tokens { input: 19, output: 10 }));
    }

    #[test]
    fn every_proper_prefix_is_truncated() {
        for end in 0..DOCUMENTED.len() {
            assert_eq!(decode(&DOCUMENTED.as_bytes()[..end]).unwrap_err().kind(), ErrorKind::Truncated, "{end}");
        }
    }

    #[test]
    fn what_is_no_completion_is_malformed() {
        for body in [
            "<html>502</html>",
            "[]",
            "{}",
            r#"{"choices": []}"#,
            r#"{"choices": [{"message": {"content": null}}]}"#,
            r#"{"choices": [{"message": {"content": 7}}]}"#,
            "\u{feff}{}",
        ] {
            assert_eq!(decode(body.as_bytes()).unwrap_err().kind(), ErrorKind::Malformed, "{body}");
        }
    }

    #[test]
    fn messages_keep_their_structure() {
        let request = Request::messages(vec![Message::system("be brief"), Message::user("\"hi\"\n")]).max_tokens(9);
        let body: serde_json::Value = serde_json::from_slice(&encode("large", &request).unwrap()).unwrap();
        assert_eq!(
            body,
            serde_json::json!({
                "model": "large", "max_tokens": 9, "stream": false,
                "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "\"hi\"\n"}],
            })
        );
        let empty = encode("large", &Request::messages(Vec::new())).unwrap_err();
        assert_eq!(empty.kind(), ErrorKind::InvalidRequest);
    }

    #[test]
    fn refusals_become_one_short_line() {
        // The error example of OpenAI's error guide.
        let body = br#"{"error": {"message": "Incorrect API key\nprovided", "type": "invalid_request_error", "param": null, "code": "invalid_api_key"}}"#;
        assert_eq!(refusal(body).as_deref(), Some("Incorrect API key provided"));
        let long = format!(r#"{{"error": {{"message": "{}"}}}}"#, "é".repeat(1000));
        assert_eq!(refusal(long.as_bytes()).unwrap().chars().count(), MAX_EXCERPT);
        assert_eq!(refusal(b"<html>"), None);
    }
}
