//! The client against a server that misbehaves.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use margay::cloud::{CloudClient, CloudClientBuilder, LargeModel, MAX_RESPONSE_BYTES, Retry, Roots, Token, Wanted};
use margay::testing::{FaultyServer as Server, ManualClock, Reply, refusing};
use margay::{Cancel, Deadline, Error, ErrorKind, Request, Tokens};

const SECRET: &str = "sk-planted-secret";

/// A client that trusts only `server` and never tries twice.
fn client(server: &Server) -> CloudClientBuilder {
    CloudClient::openai(server.endpoint(), "large")
        .roots(Roots::Pem(server.authority()))
        .token(|_: Wanted| async { Ok(Token::new(SECRET)) })
        .retry(Retry::NEVER)
        .seed([1; 32])
}

/// Three attempts, one second and two at most between them.
const PATIENT: Retry = Retry { attempts: 3, base: Duration::from_secs(1), cap: Duration::from_secs(2) };

/// One attempt at `deed`, which must fail; no rendering of the error may show the token.
async fn failure(deed: Reply) -> Error {
    let server = Server::start([deed]).await;
    let error = client(&server).build().unwrap().answer(&Request::user("hello")).await.unwrap_err();
    assert_eq!(server.left(), 0);
    assert_nothing_secret(&error);
    error
}

fn assert_nothing_secret(error: &Error) {
    let mut shown = format!("{error} {error:?} {error:#?}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        shown += &format!(" {cause} {cause:?}");
        source = cause.source();
    }
    assert!(!shown.contains("planted"), "{shown}");
}

#[tokio::test]
async fn a_question_goes_out_whole_and_its_answer_comes_back() {
    let server = Server::start([Reply::says("book a flight")]).await;
    let client = client(&server).build().unwrap();
    let answer = client.answer(&Request::user("fly me to lima").max_tokens(7)).await.unwrap();
    assert_eq!(answer.text, "book a flight");
    assert_eq!(answer.finish_reason.as_deref(), Some("stop"));
    assert_eq!(answer.usage, Some(Tokens { input: 3, output: 2 }));
    assert_eq!(answer.attempts, 1);

    let [asked] = &server.asked()[..] else { unreachable!("one request") };
    assert!(asked.head.starts_with("post /v1/chat/completions http/1.1\r\n"), "{}", asked.head);
    assert_eq!(asked.header("authorization"), Some("bearer sk-planted-secret"));
    assert_eq!(asked.header("content-type"), Some("application/json"));
    assert_eq!(
        String::from_utf8_lossy(&asked.body),
        r#"{"model":"large","messages":[{"role":"user","content":"fly me to lima"}],"max_tokens":7,"stream":false}"#
    );
    assert!(!format!("{client:?}").contains("planted"));
}

#[tokio::test]
async fn questions_share_a_connection_and_differ_in_their_idempotency_key() {
    let server = Server::start([Reply::says("one"), Reply::says("two")]).await;
    let client = client(&server).build().unwrap();
    assert_eq!(client.answer(&Request::user("a")).await.unwrap().text, "one");
    assert_eq!(client.answer(&Request::user("a")).await.unwrap().text, "two");
    assert_eq!(server.connections(), 1);
    let asked = server.asked();
    assert_ne!(asked[0].header("idempotency-key").unwrap(), asked[1].header("idempotency-key").unwrap());
}

#[tokio::test]
async fn a_stranger_s_certificate_is_refused() {
    let server = Server::start([]).await;
    let stranger = Server::start([]).await;
    for roots in [Roots::Pem(stranger.authority()), Roots::Bundled] {
        let client = client(&server).roots(roots).retry(PATIENT).build().unwrap();
        let error = client.answer(&Request::user("hello")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Tls, "{error:?}");
        assert_nothing_secret(&error);
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let server = Server::start([]).await;
    let endpoint = format!("https://localhost:{}/v1", server.address().port());
    let client = CloudClient::openai(endpoint, "large")
        .roots(Roots::Pem(server.authority()))
        .retry(Retry::NEVER)
        .build()
        .unwrap();
    assert_eq!(client.answer(&Request::user("hello")).await.unwrap_err().kind(), ErrorKind::Tls);
}

#[tokio::test]
async fn a_refused_port_is_a_connection_failure_after_every_attempt() {
    let (server, refusing) = (Server::start([]).await, refusing());
    let clock = Arc::new(ManualClock::new());
    let client = CloudClient::openai(format!("https://{}/v1", refusing.local_addr().unwrap()), "large")
        .roots(Roots::Pem(server.authority()))
        .clock(clock.clone())
        .retry(PATIENT)
        .build()
        .unwrap();
    let error = client.answer(&Request::user("hello")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect, "{error:?}");
    assert!(error.is_transient());
    assert_eq!(clock.leaps().len(), 2);
}

#[tokio::test]
async fn an_answer_cut_at_any_byte_is_a_typed_error() {
    let whole = Reply::says("book a flight");
    let body = whole.bytes().windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let server = Server::start((0..whole.bytes().len()).map(|end| whole.clone().cut_after(end))).await;
    let client = client(&server).build().unwrap();
    for end in 0..whole.bytes().len() {
        let error = client.answer(&Request::user("hello")).await.unwrap_err();
        let expected = if end < body { ErrorKind::Connect } else { ErrorKind::Truncated };
        assert_eq!(error.kind(), expected, "{end}: {error:?}");
        assert!(error.is_transient() && error.is_cloud());
    }
}

#[tokio::test]
async fn an_answer_without_length_that_is_cut_is_truncated() {
    let body = r#"{"choices":[{"message":{"content":"whole"}}]}"#;
    let unbounded =
        |body: &str| Reply::raw(format!("HTTP/1.1 200 OK\r\n\r\n{body}").into_bytes()).cut_after(usize::MAX);
    assert_eq!(failure(unbounded(&body[..20])).await.kind(), ErrorKind::Truncated);
    // Even when what came reads well: without the TLS goodbye nobody knows that it is all.
    assert_eq!(failure(unbounded(body)).await.kind(), ErrorKind::Truncated);
}

#[tokio::test]
async fn what_is_no_completion_is_malformed() {
    for body in ["", "<html>hello</html>", r#"{"choices":[]}"#, "\u{0}\u{1}\u{2}"] {
        let kind = if body.is_empty() { ErrorKind::Truncated } else { ErrorKind::Malformed };
        assert_eq!(failure(Reply::http("200 OK", "", body)).await.kind(), kind, "{body}");
    }
    let no_http = failure(Reply::raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n".to_vec()).cut_after(usize::MAX)).await;
    assert_eq!(no_http.kind(), ErrorKind::Malformed, "{no_http:?}");
}

#[tokio::test]
async fn an_answer_over_the_cap_is_refused() {
    let body = format!(r#"{{"choices":[{{"message":{{"content":"{}"}}}}]}}"#, "a".repeat(MAX_RESPONSE_BYTES));
    let error = failure(Reply::http("200 OK", "", &body).cut_after(usize::MAX)).await;
    assert_eq!(error.kind(), ErrorKind::Malformed, "{error:?}");
    assert!(error.to_string().contains(&MAX_RESPONSE_BYTES.to_string()));
}

#[tokio::test]
async fn refusals_carry_what_the_server_said_but_never_the_token() {
    let said = format!(r#"{{"error":{{"message":"no such key: {SECRET}"}}}}"#);
    for (status, kind) in [
        ("400 Bad Request", ErrorKind::Rejected),
        ("401 Unauthorized", ErrorKind::Unauthorized),
        ("403 Forbidden", ErrorKind::Unauthorized),
        ("404 Not Found", ErrorKind::Rejected),
        ("429 Too Many Requests", ErrorKind::RateLimited),
        ("500 Internal Server Error", ErrorKind::Server),
        ("503 Service Unavailable", ErrorKind::Server),
    ] {
        // Refused twice: a renewed token is tried after a 401, and only then.
        let refusal = Reply::http(status, "", &said);
        let server = Server::start([refusal.clone(), refusal]).await;
        let error = client(&server).build().unwrap().answer(&Request::user("hello")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{status}");
        assert!(error.to_string().ends_with("no such key: [redacted]"), "{error}");
        assert_nothing_secret(&error);
        assert_eq!(server.asked().len(), if status.starts_with("401") { 2 } else { 1 }, "{status}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Server::start([]).await;
    let location = format!("location: {}\r\n", elsewhere.endpoint());
    assert_eq!(failure(Reply::http("307 Temporary Redirect", &location, "")).await.kind(), ErrorKind::Rejected);
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn the_server_s_retry_after_is_obeyed() {
    let date = "date: Sun, 06 Nov 1994 08:49:37 GMT\r\nretry-after: Sun, 06 Nov 1994 08:49:40 GMT\r\n";
    for (headers, seconds) in [("retry-after: 3\r\n", 3), (date, 3)] {
        let server = Server::start([Reply::http("429 Too Many Requests", headers, ""), Reply::says("yes")]).await;
        let clock = Arc::new(ManualClock::new());
        let client = client(&server).retry(PATIENT).clock(clock.clone()).build().unwrap();
        let answer = client.answer(&Request::user("hello")).await.unwrap();
        assert_eq!((answer.text.as_str(), answer.attempts), ("yes", 2));
        let [wait] = clock.leaps()[..] else { unreachable!("one wait") };
        let least = Duration::from_secs(seconds);
        assert!((least..least + PATIENT.base).contains(&wait), "{wait:?}");
    }
}

#[tokio::test]
async fn a_failed_server_is_asked_again_with_the_same_bytes_and_key() {
    let down = || Reply::http("500 Internal Server Error", "", "");
    let server = Server::start([down(), Reply::stall().cut_after(0), Reply::says("yes")]).await;
    let clock = Arc::new(ManualClock::new());
    let client = client(&server).retry(PATIENT).clock(clock.clone()).build().unwrap();
    let answer = client.answer(&Request::user("hello")).await.unwrap();
    assert_eq!((answer.text.as_str(), answer.attempts), ("yes", 3));

    let asked = server.asked();
    let key = asked[0].header("idempotency-key").unwrap();
    assert_eq!(key.len(), 32);
    assert!(asked.iter().all(|other| other.header("idempotency-key") == Some(key) && other.body == asked[0].body));
    let waits = clock.leaps();
    assert!(waits[0] < PATIENT.base && waits[1] < 2 * PATIENT.base && waits[0] != waits[1], "{waits:?}");
}

#[tokio::test]
async fn attempts_end() {
    let down = || Reply::http("503 Service Unavailable", "", "");
    let server = Server::start([down(), down(), down(), Reply::says("too late")]).await;
    let client = client(&server).retry(PATIENT).clock(Arc::new(ManualClock::new())).build().unwrap();
    assert_eq!(client.answer(&Request::user("hello")).await.unwrap_err().kind(), ErrorKind::Server);
    assert_eq!(server.left(), 1);
}

#[tokio::test]
async fn a_wait_beyond_the_deadline_is_not_begun() {
    let busy = Reply::http("429 Too Many Requests", "retry-after: 30\r\n", "");
    let server = Server::start([busy, Reply::says("too late")]).await;
    let clock = Arc::new(ManualClock::new());
    let client = client(&server).retry(PATIENT).clock(clock.clone()).build().unwrap();
    let request = Request::user("hello").deadline(Deadline::after(Duration::from_secs(20)));
    assert_eq!(client.answer(&request).await.unwrap_err().kind(), ErrorKind::RateLimited);
    assert_eq!((clock.leaps().len(), server.left()), (0, 1));
}

#[tokio::test]
async fn a_refused_token_is_renewed_once() {
    let refused = || Reply::http("401 Unauthorized", "", "");
    for (deeds, outcome) in
        [(vec![refused(), Reply::says("yes")], Ok("yes")), (vec![refused(), refused()], Err(ErrorKind::Unauthorized))]
    {
        let server = Server::start(deeds).await;
        let wanted = Arc::new(Mutex::new(Vec::new()));
        let client = client(&server).token({
            let wanted = Arc::clone(&wanted);
            move |want: Wanted| {
                wanted.lock().unwrap().push(want);
                async move { Ok(Token::new(format!("{want:?}"))) }
            }
        });
        let answer = client.build().unwrap().answer(&Request::user("hello")).await;
        assert_eq!(answer.as_ref().map(|answer| answer.text.as_str()).map_err(Error::kind), outcome);
        assert_eq!(*wanted.lock().unwrap(), [Wanted::Current, Wanted::Renewed]);
        let asked = server.asked();
        let sent: Vec<_> = asked.iter().map(|asked| asked.header("authorization").unwrap()).collect();
        assert_eq!(sent, ["bearer current", "bearer renewed"]);
    }
}

#[tokio::test]
async fn a_provider_without_token_is_an_error_before_anything_is_sent() {
    let server = Server::start([]).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let client = client(&server).retry(PATIENT).token({
        let asked = Arc::clone(&asked);
        move |_: Wanted| {
            asked.fetch_add(1, Ordering::Relaxed);
            async { Err("the key store is locked".into()) }
        }
    });
    let error = client.build().unwrap().answer(&Request::user("hello")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "the key store is locked");
    assert_eq!((asked.load(Ordering::Relaxed), server.connections()), (1, 0));
}

#[tokio::test]
async fn a_silent_server_is_left_at_the_deadline() {
    let server = Server::start([Reply::stall()]).await;
    let clock = Arc::new(ManualClock::new());
    let client = client(&server).clock(clock.clone()).build().unwrap();
    let request = Request::user("hello").deadline(Deadline::after(Duration::from_secs(60)));
    let (answer, ()) = tokio::join!(client.answer(&request), async {
        server.stalled().await;
        clock.advance(Duration::from_secs(61));
    });
    assert!(answer.unwrap_err().is_deadline());
}

#[tokio::test]
async fn a_silent_server_is_given_up_and_asked_again_without_a_deadline() {
    let server = Server::start([Reply::stall(), Reply::says("yes")]).await;
    let clock = Arc::new(ManualClock::new());
    let client = client(&server).retry(PATIENT).clock(clock.clone()).build().unwrap();
    let request = Request::user("hello");
    let (answer, ()) = tokio::join!(client.answer(&request), async {
        server.stalled().await;
        clock.advance(Duration::from_secs(121));
    });
    let answer = answer.unwrap();
    assert_eq!((answer.text.as_str(), answer.attempts), ("yes", 2));
}

#[tokio::test]
async fn a_cancelled_question_returns_at_once() {
    let server = Server::start([Reply::stall()]).await;
    let client = client(&server).build().unwrap();
    let cancel = Cancel::default();
    let request = Request::user("hello").cancel(cancel.clone());
    let (answer, ()) = tokio::join!(client.answer(&request), async {
        server.stalled().await;
        cancel.cancel();
    });
    assert!(answer.unwrap_err().is_cancelled());
    // And one that was cancelled before is not sent at all.
    assert!(client.answer(&request).await.unwrap_err().is_cancelled());
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_server_killed_in_mid_answer_is_a_connection_failure() {
    let mut server = Server::start([Reply::says("yes"), Reply::stall()]).await;
    let client = client(&server).build().unwrap();
    assert_eq!(client.answer(&Request::user("hello")).await.unwrap().text, "yes");
    let request = Request::user("hello");
    let (answer, ()) = tokio::join!(client.answer(&request), async {
        server.stalled().await;
        server.kill().await;
    });
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Connect);
    assert_eq!(client.answer(&request).await.unwrap_err().kind(), ErrorKind::Connect);
}

#[test]
fn an_endpoint_without_tls_is_refused() {
    let error = CloudClient::openai("http://127.0.0.1:8080/v1", "large").build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
}
