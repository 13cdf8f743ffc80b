//! The table of faults: each has one outcome, whole or streamed, with the device's answer behind it or without.

use std::sync::Arc;
use std::time::Duration;

use margay::cloud::{CloudClient, MAX_RESPONSE_BYTES, Retry, Roots, SpkiPin, Token, Wanted};
use margay::policy::Threshold;
use margay::testing::{FaultyServer, Greeting, ManualClock, Reply, refusing};
use margay::{Deadline, Error, ErrorKind, OnCloudFailure, Origin, Stream};

use tokio::sync::Notify;

use crate::cascade::{EXPECTED, builder, request};
use crate::stream::Heard;

/// What becomes of a query.
#[derive(Clone, Copy)]
enum Outcome {
    /// The cloud's text.
    Answers(&'static str),
    /// This error, after this much of the cloud's text if streamed.
    Fails(ErrorKind, &'static str),
}

use Outcome::{Answers, Fails};

/// What is wrong on the way to the server.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Right,
    /// Every connection is greeted so.
    Greeted(Greeting),
    Refused,
    Stranger,
    WrongPin,
    NoIdentity,
}

struct Fault {
    name: &'static str,
    way: Way,
    /// What the server answers, in order, and then always the last; asked whole, and asked for a stream.
    whole: Vec<Reply>,
    streamed: Vec<Reply>,
    when_whole: Outcome,
    when_streamed: Outcome,
}

/// A fault on the way: the server never gets to answer.
fn way(name: &'static str, way: Way, kind: ErrorKind) -> Fault {
    let fails = Fails(kind, "");
    Fault { name, way, whole: vec![], streamed: vec![], when_whole: fails, when_streamed: fails }
}

/// An answer that is the same whatever is asked for.
fn both(name: &'static str, replies: impl IntoIterator<Item = Reply>, outcome: Outcome) -> Fault {
    let replies: Vec<Reply> = replies.into_iter().collect();
    let whole = replies.clone();
    Fault { name, way: Way::Right, whole, streamed: replies, when_whole: outcome, when_streamed: outcome }
}

/// An answer that differs with what is asked for, and what either comes to.
fn each(name: &'static str, whole: (Reply, Outcome), streamed: (Reply, Outcome)) -> Fault {
    Fault {
        name,
        way: Way::Right,
        whole: vec![whole.0],
        streamed: vec![streamed.0],
        when_whole: whole.1,
        when_streamed: streamed.1,
    }
}

fn status(status: &'static str, kind: ErrorKind) -> Fault {
    both(status, [Reply::status(status)], Fails(kind, ""))
}

/// The place of `text` in a reply.
fn at(reply: &Reply, text: &str) -> usize {
    reply.bytes().windows(text.len()).position(|part| part == text.as_bytes()).unwrap()
}

fn table() -> Vec<Fault> {
    use ErrorKind::{Connect, Deadline, Malformed, RateLimited, Rejected, Server, Tls, Truncated, Unauthorized};
    let says = || Reply::says("whole");
    let streams = || Reply::streams(&["one ", "two"]);
    let (in_body, in_stream) = (at(&says(), "whole"), at(&streams(), "two"));
    let http = |headers: &str, body: &str| Reply::http("200 OK", headers, body);
    let json = "content-type: application/json\r\n";
    let event = "content-type: text/event-stream\r\n";
    vec![
        way("the port is closed", Way::Refused, Connect),
        way("closed before the handshake", Way::Greeted(Greeting::Close), Connect),
        way("reset before the handshake", Way::Greeted(Greeting::Reset), Connect),
        way("something that is not TLS", Way::Greeted(Greeting::Garbage), Tls),
        way("silence instead of a handshake", Way::Greeted(Greeting::Stall), Deadline),
        way("a stranger's certificate", Way::Stranger, Tls),
        way("a key that is not pinned", Way::WrongPin, Tls),
        way("a certificate of ours is asked for", Way::NoIdentity, Tls),
        status("204 No Content", Malformed),
        status("301 Moved Permanently", Rejected),
        status("400 Bad Request", Rejected),
        status("401 Unauthorized", Unauthorized),
        status("403 Forbidden", Unauthorized),
        status("404 Not Found", Rejected),
        status("408 Request Timeout", Server),
        status("413 Content Too Large", Rejected),
        status("422 Unprocessable Content", Rejected),
        status("429 Too Many Requests", RateLimited),
        status("500 Internal Server Error", Server),
        status("502 Bad Gateway", Server),
        status("503 Service Unavailable", Server),
        status("504 Gateway Timeout", Server),
        status("529 Overloaded", Server),
        both("no HTTP", [Reply::raw("SSH-2.0-OpenSSH_9.6\r\n\r\n").cut_after(99)], Fails(Malformed, "")),
        both(
            "headers without end",
            [Reply::raw(format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(1 << 20))).cut_after(usize::MAX)],
            Fails(Malformed, ""),
        ),
        both("cut in the headers", [says().cut_after(9)], Fails(Connect, "")),
        both("reset in the headers", [says().reset_after(9)], Fails(Connect, "")),
        both("silence", [Reply::stall()], Fails(Deadline, "")),
        both("silence in the headers", [says().stall_after(9)], Fails(Deadline, "")),
        each(
            "cut in the text",
            (says().cut_after(in_body), Fails(Truncated, "")),
            (streams().cut_after(in_stream), Fails(Truncated, "one ")),
        ),
        each(
            "closed in the text",
            (says().close_after(in_body), Fails(Truncated, "")),
            (streams().close_after(in_stream), Fails(Truncated, "one ")),
        ),
        each(
            "silence in the text",
            (says().stall_after(in_body), Fails(Deadline, "")),
            (streams().stall_after(in_stream), Fails(Deadline, "one ")),
        ),
        each(
            "a wrong byte in the frame",
            (says().corrupt(in_body - 1), Fails(Malformed, "")),
            (streams().corrupt(in_stream - 1), Fails(Malformed, "one ")),
        ),
        each(
            "a wrong byte at the beginning",
            (says().corrupt(at(&says(), "{")), Fails(Malformed, "")),
            (streams().corrupt(at(&streams(), "{")), Fails(Malformed, "")),
        ),
        both("a web page", [http("content-type: text/html\r\n", "<html>hello</html>")], Fails(Malformed, "")),
        both("an empty body", [http(json, "")], Fails(Truncated, "")),
        both("an empty object", [http(json, "{}")], Fails(Malformed, "")),
        both("no choice", [http(json, r#"{"choices":[]}"#)], Fails(Malformed, "")),
        both(
            "an error under a 200",
            [http(json, r#"{"error":{"message":"overloaded","type":"server_error"}}"#)],
            Fails(Server, ""),
        ),
        each(
            "too much",
            (http(json, &format!(r#"{{"x":"{}"#, "x".repeat(MAX_RESPONSE_BYTES))), Fails(Malformed, "")),
            (http(event, &format!("data: {}", "x".repeat(MAX_RESPONSE_BYTES))), Fails(Malformed, "")),
        ),
        both(
            "no gzip that says it is",
            [http(&format!("{json}content-encoding: gzip\r\n"), "hello, I am no gzip stream")],
            Fails(Malformed, ""),
        ),
        both(
            "a chunk of no size",
            [Reply::raw(format!("HTTP/1.1 200 OK\r\n{event}transfer-encoding: chunked\r\n\r\nxyz\r\nabc"))
                .cut_after(999)],
            Fails(Malformed, ""),
        ),
        each(
            "an error in the midst",
            (says().cut_after(in_body), Fails(Truncated, "")),
            (
                Reply::events(&[
                    r#"{"choices":[{"delta":{"content":"one "}}]}"#,
                    r#"{"error":{"message":"out of memory","type":"server_error","code":500}}"#,
                ]),
                Fails(Server, "one "),
            ),
        ),
        each(
            "an end without a reason",
            (http(json, r#"{"choices":[{"message":{"#), Fails(Truncated, "")),
            (Reply::events(&[r#"{"choices":[{"delta":{"content":"one "}}]}"#]), Fails(Truncated, "one ")),
        ),
        each(
            "late",
            (says().delayed(Duration::from_secs(5)), Answers("whole")),
            (streams().delayed(Duration::from_secs(5)), Answers("one two")),
        ),
        each("byte by byte", (says().pieces(1), Answers("whole")), (streams().pieces(1), Answers("one two"))),
        each(
            "cut after the last token",
            (says().cut_after(usize::MAX), Answers("whole")),
            (streams().cut_after(at(&streams(), "[DONE]")), Answers("one two")),
        ),
        both("ill, then well", [Reply::status("500 Internal Server Error"), says()], Answers("whole")),
        both(
            "busy, then well",
            [Reply::http("429 Too Many Requests", "retry-after: 2\r\n", ""), says()],
            Answers("whole"),
        ),
        both("the token has expired", [Reply::status("401 Unauthorized"), says()], Answers("whole")),
        both("cut once", [says().cut_after(0), says()], Answers("whole")),
    ]
}

/// One query against one fault.
async fn suffer(fault: &Fault, mode: Option<Stream>, then: OnCloudFailure) {
    let (replies, outcome) = match mode {
        None => (&fault.whole, fault.when_whole),
        Some(_) => (&fault.streamed, fault.when_streamed),
    };
    let clock = Arc::new(ManualClock::new());
    let server = FaultyServer::start_at(replies.iter().cloned(), clock.clone()).await;
    if let Some(last) = replies.last() {
        server.reply_always(last.clone());
    }
    let refused = refusing();
    let mut endpoint = server.endpoint();
    let mut roots = server.authority();
    let mut pins = Vec::new();
    match fault.way {
        Way::Right => {}
        Way::Greeted(greeting) => server.greet([greeting; 9]),
        Way::Refused => endpoint = format!("https://{}/v1", refused.local_addr().unwrap()),
        Way::Stranger => roots = FaultyServer::start([]).await.authority(),
        Way::WrongPin => pins.push(SpkiPin::of(b"another key")),
        Way::NoIdentity => server.require_identity(),
    }
    let retry = Retry { attempts: 3, base: Duration::from_secs(1), cap: Duration::from_secs(2) };
    let client = CloudClient::openai(endpoint, "large")
        .roots(Roots::Pem(roots))
        .pins(pins)
        .token(|_: Wanted| async { Ok(Token::new("sk-planted-secret")) })
        .retry(retry)
        .clock(clock.clone())
        .build()
        .unwrap();
    let cascade = builder(Threshold::DEFER_ALL, client).clock(clock.clone()).on_cloud_failure(then).build().unwrap();
    let query = request().deadline(Deadline::after(Duration::from_secs(600)));
    let heard = Notify::new();
    let answer = async {
        match mode {
            None => (cascade.answer(query).await, String::new()),
            Some(mode) => {
                let heard = Heard::noting(cascade.stream(query, mode), &heard).await;
                let said = if heard.end.is_err() { heard.standing() } else { String::new() };
                (heard.end, said)
            }
        }
    };
    // Time passes once the server is silent and all that it had said was heard.
    let time = async {
        if let Fails(ErrorKind::Deadline, partial) = outcome {
            server.stalled().await;
            if !partial.is_empty() {
                heard.notified().await;
            }
            clock.advance(Duration::from_secs(601));
        }
    };
    let ((answer, said), ()) = tokio::join!(answer, time);
    let named = format!("{}, {mode:?}, {then:?}", fault.name);
    match (outcome, answer) {
        (Answers(text), Ok(answer)) => {
            assert_eq!((answer.text.as_str(), answer.origin), (text, Origin::Cloud), "{named}");
        }
        (Fails(kind, ""), Ok(answer)) => {
            assert_eq!(then, OnCloudFailure::FallBackToLocal, "{named}");
            assert_eq!((&answer.text, answer.origin), (&EXPECTED.greedy_text, Origin::Local), "{named}");
            let error = answer.cloud_error.unwrap();
            assert_eq!(error.kind(), kind, "{named}: {error:?}");
            assert_quiet(&error);
        }
        (Fails(kind, partial), Err(error)) => {
            assert!(!partial.is_empty() || then == OnCloudFailure::Fail, "{named}: {error:?}");
            assert_eq!(error.kind(), kind, "{named}: {error:?}");
            assert_eq!(error.partial_text(), Some(partial).filter(|partial| !partial.is_empty()), "{named}");
            if !partial.is_empty() {
                assert_eq!(said, partial, "{named}");
            }
            assert_quiet(&error);
        }
        (_, answer) => unreachable!("{named}: {answer:?}"),
    }
}

fn assert_quiet(error: &Error) {
    let mut shown = format!("{error} {error:?}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        shown += &format!(" {cause} {cause:?}");
        source = cause.source();
    }
    assert!(!shown.contains("planted"), "{shown}");
}

#[tokio::test]
async fn every_fault_has_its_outcome() {
    let table = table();
    assert!(table.iter().filter(|fault| matches!(fault.when_streamed, Fails(..))).count() >= 30);
    for fault in &table {
        for mode in [None, Some(Stream::Hold), Some(Stream::Optimistic)] {
            for then in [OnCloudFailure::FallBackToLocal, OnCloudFailure::Fail] {
                suffer(fault, mode, then).await;
            }
        }
    }
}
