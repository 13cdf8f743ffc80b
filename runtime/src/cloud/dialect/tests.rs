//! The three dialects against what their public documentation shows; the recordings are in `tests/fixtures/dialects`.

use serde_json::{Value, json};

use super::*;
use crate::engine::GenerateOptions;
use crate::request::Message;
use crate::tool::Tool;

/// Questions in each dialect, and what the answers of the documentation's examples mean.
const ALL: [Dialect; 3] = [Dialect::OpenAi, Dialect::Anthropic, Dialect::Gemini];

fn fixture(dialect: Dialect, name: &str) -> &'static str {
    macro_rules! recorded {
        ($($name:literal),*) => { match (dialect, name) {
            $((Dialect::OpenAi, $name) => include_str!(concat!("../../../tests/fixtures/dialects/openai-", $name)),
              (Dialect::Anthropic, $name) => include_str!(concat!("../../../tests/fixtures/dialects/anthropic-", $name)),
              (Dialect::Gemini, $name) => include_str!(concat!("../../../tests/fixtures/dialects/gemini-", $name)),)*
            _ => unreachable!("{dialect:?} {name}"),
        } };
    }
    recorded!("text.json", "text.sse", "tools.json", "tools.sse", "error.json")
}

/// A streamed answer, fed to the parser `size` bytes at a time, and the pieces it was handed out in.
fn stream(dialect: Dialect, recorded: &str, size: usize) -> Result<(CloudAnswer, bool)> {
    let (mut parser, mut reply) = (sse::Parser::default(), Reply::default());
    for chunk in recorded.as_bytes().chunks(size) {
        for event in parser.feed(chunk)? {
            dialect.absorb(&event, &mut reply)?;
        }
    }
    let complete = reply.complete;
    Ok((reply.into_answer(), complete))
}

fn tokens(input: u64, output: u64) -> Option<Tokens> {
    Some(Tokens { input, output })
}

#[test]
fn documented_answers_are_read_whole_and_streamed() {
    for (dialect, whole, streamed) in [
        (
            Dialect::OpenAi,
            ("Hello! How can I assist you today?", "stop", tokens(19, 10)),
            ("Hello", "stop", tokens(9, 1)),
        ),
        (Dialect::Anthropic, ("Hello!", "end_turn", tokens(12, 6)), ("Hello!", "end_turn", tokens(25, 15))),
        (
            Dialect::Gemini,
            ("AI learns patterns from data.", "STOP", tokens(8, 26)),
            ("AI learns patterns from data.", "STOP", tokens(8, 26)),
        ),
    ] {
        let check = |answer: CloudAnswer, (text, finish, usage): (&str, &str, Option<Tokens>)| {
            assert_eq!((answer.text.as_str(), answer.finish_reason.as_deref()), (text, Some(finish)), "{dialect:?}");
            assert_eq!((answer.usage, answer.tool_calls), (usage, Vec::new()), "{dialect:?}");
        };
        check(dialect.decode(fixture(dialect, "text.json").as_bytes()).unwrap(), whole);
        for size in [1, 7, usize::MAX] {
            let (answer, complete) = stream(dialect, fixture(dialect, "text.sse"), size).unwrap();
            assert!(complete);
            check(answer, streamed);
        }
    }
}

#[test]
fn documented_tool_calls_are_read_whole_and_streamed() {
    for (dialect, id, name, arguments, text) in [
        (Dialect::OpenAi, "call_abc123", "get_current_weather", json!({"location": "Boston, MA"}), ""),
        (
            Dialect::Anthropic,
            "toolu_01T1x1fJ34qAmk2tNTrN7Up6",
            "get_weather",
            json!({"location": "San Francisco, CA", "unit": "fahrenheit"}),
            "Okay, let's check the weather for San Francisco, CA:",
        ),
        (Dialect::Gemini, "call_0", "schedule_meeting", json!({"topic": "Q3", "attendees": ["Bob", "Alice"]}), ""),
    ] {
        let whole = dialect.decode(fixture(dialect, "tools.json").as_bytes()).unwrap();
        for size in [1, 7, usize::MAX] {
            let (streamed, complete) = stream(dialect, fixture(dialect, "tools.sse"), size).unwrap();
            assert!(complete);
            for answer in [&whole, &streamed] {
                let [call] = &answer.tool_calls[..] else { panic!("{dialect:?}: {answer:?}") };
                assert_eq!((call.id.as_str(), call.name.as_str()), (id, name));
                assert_eq!(serde_json::from_str::<Value>(&call.arguments).unwrap(), arguments);
                assert_eq!(answer.text, text, "{dialect:?}");
            }
        }
    }
}

#[test]
fn every_proper_prefix_of_an_answer_is_truncated() {
    for dialect in ALL {
        let whole = fixture(dialect, "text.json").trim_end();
        for end in 0..whole.len() {
            let error = dialect.decode(&whole.as_bytes()[..end]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Truncated, "{dialect:?} {end}");
        }
        let streamed = fixture(dialect, "text.sse");
        let end_of_text =
            streamed.find(if dialect == Dialect::Anthropic { "message_stop" } else { "finish_reason\":\"stop" });
        let end_of_text = end_of_text.or(streamed.find("STOP")).unwrap();
        for end in 0..end_of_text {
            let (_, complete) = stream(dialect, &streamed[..end], usize::MAX).unwrap();
            assert!(!complete, "{dialect:?} {end}");
        }
    }
}

#[test]
fn what_is_no_answer_is_malformed_and_never_quoted() {
    for dialect in ALL {
        for body in [
            "<html>planted</html>",
            "[]",
            "{}",
            r#"{"choices": [], "content": [], "candidates": []}"#,
            r#"{"choices": [{"message": {"content": null}}]}"#,
            r#"{"choices": "planted", "content": "planted", "candidates": "planted"}"#,
            "\u{feff}{}",
        ] {
            let error = dialect.decode(body.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed, "{dialect:?} {body}");
            assert!(!format!("{error} {error:?}").contains("planted"), "{error:?}");
        }
        for data in ["planted", "{", r#"{"choices": 7, "type": 7, "candidates": 7}"#] {
            let event = sse::Event { name: String::new(), data: data.into() };
            let error = dialect.absorb(&event, &mut Reply::default()).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Malformed | ErrorKind::Truncated), "{dialect:?} {data}");
            assert!(!format!("{error} {error:?}").contains("planted"), "{error:?}");
        }
    }
}

#[test]
fn an_error_in_the_midst_of_an_answer_has_its_kind() {
    for (dialect, data, kind) in [
        (
            Dialect::OpenAi,
            r#"{"error": {"message": "slow down", "type": "rate_limit_exceeded"}}"#,
            ErrorKind::RateLimited,
        ),
        (Dialect::OpenAi, r#"{"error": {"message": "oops", "type": "server_error", "code": 500}}"#, ErrorKind::Server),
        // The documentation's own example, "Streaming Messages", section "Error events".
        (
            Dialect::Anthropic,
            r#"{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}"#,
            ErrorKind::Server,
        ),
        (
            Dialect::Anthropic,
            r#"{"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}"#,
            ErrorKind::Rejected,
        ),
        (
            Dialect::Gemini,
            r#"{"error": {"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED"}}"#,
            ErrorKind::RateLimited,
        ),
        (Dialect::Gemini, r#"{"error": {"code": 403, "message": "no"}}"#, ErrorKind::Unauthorized),
        (Dialect::Gemini, r#"{"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}"#, ErrorKind::Rejected),
    ] {
        let event = sse::Event { name: String::new(), data: data.into() };
        assert_eq!(dialect.absorb(&event, &mut Reply::default()).unwrap_err().kind(), kind, "{data}");
    }
}

#[test]
fn refusals_become_one_short_line() {
    for (dialect, said) in [
        (Dialect::OpenAi, "Incorrect API key provided"),
        (Dialect::Anthropic, "There was an issue with the format or content of your request."),
        (Dialect::Gemini, "API key not valid. Please pass a valid API key."),
    ] {
        assert_eq!(refusal(fixture(dialect, "error.json").as_bytes()).as_deref(), Some(said));
    }
    let long = format!(r#"{{"error": {{"message": "{}"}}}}"#, "é\\n".repeat(1000));
    let said = refusal(long.as_bytes()).unwrap();
    assert_eq!((said.chars().count(), said.contains('\n')), (MAX_EXCERPT, false));
    assert_eq!(refusal(b"<html>"), None);
}

/// A conversation with everything in it.
fn conversation() -> Request {
    let call = |id: &str, city: &str| ToolCall::new(id, "get_weather", format!(r#"{{"city": "{city}"}}"#));
    let tool = Tool::new("get_weather", json!({"type": "object", "properties": {"city": {"type": "string"}}}));
    Request::messages(vec![
        Message::system("be brief"),
        Message::user("\"weather\"?\n"),
        Message::assistant("let me see").tool_calls(vec![call("a", "Lima"), call("b", "Oslo")]),
        Message::tool("a", r#"{"celsius": 19}"#),
        Message::tool("b", "cold"),
    ])
    .tools(vec![tool.description("now")])
    .max_tokens(9)
}

#[test]
fn conversations_keep_their_structure() {
    let body = |dialect: Dialect| -> Value {
        serde_json::from_slice(&dialect.encode("large", &conversation(), false).unwrap()).unwrap()
    };
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    assert_eq!(
        body(Dialect::OpenAi),
        json!({
            "model": "large", "max_tokens": 9, "stream": false,
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "\"weather\"?\n"},
                {"role": "assistant", "content": "let me see", "tool_calls": [
                    {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": r#"{"city": "Lima"}"#}},
                    {"id": "b", "type": "function", "function": {"name": "get_weather", "arguments": r#"{"city": "Oslo"}"#}},
                ]},
                {"role": "tool", "tool_call_id": "a", "content": r#"{"celsius": 19}"#},
                {"role": "tool", "tool_call_id": "b", "content": "cold"},
            ],
            "tools": [{"type": "function", "function": {"name": "get_weather", "description": "now", "parameters": schema}}],
        })
    );
    assert_eq!(
        body(Dialect::Anthropic),
        json!({
            "model": "large", "max_tokens": 9, "stream": false, "system": "be brief",
            "messages": [
                {"role": "user", "content": "\"weather\"?\n"},
                {"role": "assistant", "content": [
                    {"type": "text", "text": "let me see"},
                    {"type": "tool_use", "id": "a", "name": "get_weather", "input": {"city": "Lima"}},
                    {"type": "tool_use", "id": "b", "name": "get_weather", "input": {"city": "Oslo"}},
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "a", "content": r#"{"celsius": 19}"#},
                    {"type": "tool_result", "tool_use_id": "b", "content": "cold"},
                ]},
            ],
            "tools": [{"name": "get_weather", "description": "now", "input_schema": schema}],
        })
    );
    assert_eq!(
        body(Dialect::Gemini),
        json!({
            "generationConfig": {"maxOutputTokens": 9},
            "systemInstruction": {"parts": [{"text": "be brief"}]},
            "contents": [
                {"role": "user", "parts": [{"text": "\"weather\"?\n"}]},
                {"role": "model", "parts": [
                    {"text": "let me see"},
                    {"functionCall": {"id": "a", "name": "get_weather", "args": {"city": "Lima"}}},
                    {"functionCall": {"id": "b", "name": "get_weather", "args": {"city": "Oslo"}}},
                ]},
                {"role": "user", "parts": [
                    {"functionResponse": {"id": "a", "name": "get_weather", "response": {"celsius": 19}}},
                    {"functionResponse": {"id": "b", "name": "get_weather", "response": {"result": "cold"}}},
                ]},
            ],
            "tools": [{"functionDeclarations": [{"name": "get_weather", "description": "now", "parameters": schema}]}],
        })
    );
}

#[test]
fn options_go_where_the_documentation_says() {
    let sampling =
        Sampling { temperature: 0.7, top_p: Some(0.9), top_k: Some(40), seed: Some(7), ..Sampling::default() };
    let options = GenerateOptions { sampling, stop: vec!["\n\n".into()], ..GenerateOptions::default() };
    let schema = json!({"type": "object"});
    let constrained = |constraint| GenerateOptions { constraint: Some(constraint), ..GenerateOptions::default() };
    let encoded = |dialect: Dialect, options: &GenerateOptions| {
        let request = Request::user("hi").options(options.clone());
        dialect.encode("large", &request, false).map(|body| serde_json::from_slice::<Value>(&body).unwrap())
    };
    let holds = |body: Value, expected: Value| {
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(body.get(name), Some(value), "{name} of {body}");
        }
    };
    let openai = json!({"temperature": 0.7, "top_p": 0.9, "seed": 7, "stop": ["\n\n"]});
    holds(encoded(Dialect::OpenAi, &options).unwrap(), openai);
    let anthropic = json!({"temperature": 0.7, "top_p": 0.9, "top_k": 40, "stop_sequences": ["\n\n"]});
    holds(encoded(Dialect::Anthropic, &options).unwrap(), anthropic);
    let gemini = json!({"temperature": 0.7, "topP": 0.9, "topK": 40, "seed": 7, "stopSequences": ["\n\n"]});
    holds(encoded(Dialect::Gemini, &options).unwrap()["generationConfig"].clone(), gemini);

    let wanted = constrained(Constraint::JsonSchema(schema.clone()));
    let format = json!({"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": true}});
    holds(encoded(Dialect::OpenAi, &wanted).unwrap(), json!({"response_format": format}));
    let any = constrained(Constraint::JsonSchema(json!(true)));
    holds(encoded(Dialect::OpenAi, &any).unwrap(), json!({"response_format": {"type": "json_object"}}));
    let format = json!({"responseMimeType": "application/json", "responseJsonSchema": schema});
    holds(encoded(Dialect::Gemini, &wanted).unwrap()["generationConfig"].clone(), format);
    assert_eq!(encoded(Dialect::Anthropic, &wanted).unwrap_err().kind(), ErrorKind::InvalidRequest);
    for dialect in ALL {
        let pattern = constrained(Constraint::Regex("[0-9]+".into()));
        assert_eq!(encoded(dialect, &pattern).unwrap_err().kind(), ErrorKind::InvalidRequest);
        // A request that says nothing leaves everything to the server.
        let body = encoded(dialect, &GenerateOptions::default()).unwrap().to_string();
        assert!(!body.contains("temperature") && !body.contains("stop") && !body.contains("seed"), "{body}");
    }
}

#[test]
fn what_a_dialect_cannot_say_is_refused() {
    let strange = Request::messages(vec![Message::new("narrator", "once")]);
    let orphan = Request::messages(vec![Message::user("hi"), Message::new("tool", "result")]);
    let prose = Message::assistant("").tool_calls(vec![ToolCall::new("a", "f", "not json")]);
    let prose = Request::messages(vec![Message::user("hi"), prose]);
    for dialect in [Dialect::Anthropic, Dialect::Gemini] {
        for request in [&strange, &orphan, &prose] {
            assert_eq!(dialect.encode("large", request, true).unwrap_err().kind(), ErrorKind::InvalidRequest);
        }
    }
    for dialect in ALL {
        let empty = dialect.encode("large", &Request::messages(Vec::new()), false).unwrap_err();
        assert_eq!(empty.kind(), ErrorKind::InvalidRequest);
    }
}

#[test]
fn questions_go_where_the_documentation_says() {
    let endpoint: Endpoint = "https://example.com/v1?key=k".parse().unwrap();
    for (dialect, streamed, url) in [
        (Dialect::OpenAi, true, "https://example.com/v1/chat/completions?key=k"),
        (Dialect::Anthropic, true, "https://example.com/v1/messages?key=k"),
        (Dialect::Gemini, false, "https://example.com/v1/models/large:generateContent?key=k"),
        (Dialect::Gemini, true, "https://example.com/v1/models/large:streamGenerateContent?key=k&alt=sse"),
    ] {
        assert_eq!(dialect.url(&endpoint, "large", streamed).as_str(), url);
    }
}

#[test]
fn complaints_do_not_quote_the_prompt() {
    let prompt = "wake me at six, \u{e9}lodie\nand be quick about it";
    for (said, left) in [
        ("bad value: 'wake me at six, \u{e9}lodie'", "bad value: '[...]'"),
        ("wake me at six", "[...]"),
        ("be quick about it: no", "[...]: no"),
        ("wake me? no", "wake me? no"),
        ("", ""),
    ] {
        assert_eq!(unquoted(said, prompt), left);
    }
    assert_eq!(unquoted("max_tokens is too large: 99999", ""), "max_tokens is too large: 99999");
}
