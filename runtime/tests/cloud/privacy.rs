//! What leaves the device, as the server sees it and as the audit file tells it.

use std::sync::Arc;
use std::time::Duration;

use margay::cloud::{CloudClient, CloudClientBuilder, LargeModel, Retry, Roots, Token, Wanted};
use margay::privacy::{AuditEntry, AuditFile, AuditLog, Departure, Patterns};
use margay::testing::{FaultyServer as Server, ManualClock, Reply};
use margay::{Error, ErrorKind, Message, Request, Result};

fn client(server: &Server) -> CloudClientBuilder {
    CloudClient::openai(server.endpoint(), "large")
        .roots(Roots::Pem(server.authority()))
        .token(|_: Wanted| async { Ok(Token::new("sk-planted-secret")) })
        .retry(Retry::NEVER)
}

#[tokio::test]
async fn personal_data_stays_and_the_answer_has_it_back() {
    let server = Server::start([Reply::says("Dear [EMAIL_1], [CARD_1] is not [EMAIL_2].")]).await;
    let client = client(&server).redactor(Patterns::built_in()).build().unwrap();
    let messages = vec![
        Message::system("you write for ann@example.com"),
        Message::user("tell ann@example.com that 4111 1111 1111 1111 expired, cc bob@example.com"),
    ];
    let answer = client.answer(&Request::messages(messages)).await.unwrap();
    assert_eq!(answer.text, "Dear ann@example.com, 4111 1111 1111 1111 is not bob@example.com.");
    let [asked] = &server.asked()[..] else { unreachable!("one request") };
    let body: serde_json::Value = serde_json::from_slice(&asked.body).unwrap();
    assert_eq!(body["messages"][0]["content"], "you write for [EMAIL_1]");
    assert_eq!(body["messages"][1]["content"], "tell [EMAIL_1] that [CARD_1] expired, cc [EMAIL_2]");
}

#[tokio::test]
async fn every_attempt_is_on_record_with_what_the_server_got() {
    let down = Reply::http("503 Service Unavailable", "", "");
    let server = Server::start([down, Reply::says("yes"), Reply::says("again")]).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let client = client(&server)
        .retry(Retry { attempts: 2, base: Duration::from_secs(1), cap: Duration::from_secs(1) })
        .clock(Arc::new(ManualClock::new()))
        .redactor(Patterns::built_in())
        .audit(Arc::new(AuditFile::open(&path).unwrap()))
        .build()
        .unwrap();
    client.answer(&Request::user("planted@example.com, planted@example.com")).await.unwrap();
    client.answer(&Request::user("nobody").idempotency_key("my own")).await.unwrap();

    let asked = server.asked();
    let entries: Vec<_> = AuditFile::entries(&path).unwrap().collect::<Result<_>>().unwrap();
    assert_eq!((asked.len(), entries.len()), (3, 3));
    for ((asked, entry), redacted) in asked.iter().zip(entries).zip([2, 2, 0]) {
        let AuditEntry::Departure(left) = entry else { unreachable!("no crash") };
        let expected =
            Departure::new(left.unix_ms, server.endpoint(), left.key.clone(), &asked.body, left.redactions.clone());
        assert_eq!(left, expected);
        assert_eq!(asked.header("idempotency-key"), Some(left.key.as_str()));
        assert_eq!(left.redactions.get("EMAIL").copied().unwrap_or_default(), redacted);
    }
    assert_eq!(asked[2].header("idempotency-key"), Some("my own"));
    let file = std::fs::read_to_string(&path).unwrap();
    assert!(!file.contains("planted") && !file.contains("nobody"), "{file}");
}

#[tokio::test]
async fn nothing_leaves_off_the_record() {
    struct Full;
    impl AuditLog for Full {
        fn record(&self, _: &Departure) -> Result<()> {
            Err(Error::new(ErrorKind::Io, "disk full"))
        }
    }
    let server = Server::start([]).await;
    let client = client(&server).audit(Arc::new(Full)).build().unwrap();
    assert_eq!(client.answer(&Request::user("hello")).await.unwrap_err().kind(), ErrorKind::Io);
    assert_eq!((server.connections(), server.asked().len()), (0, 0));
}

#[tokio::test]
async fn a_key_that_no_header_carries_is_refused() {
    let server = Server::start([]).await;
    let client = client(&server).build().unwrap();
    for key in ["", "two\nlines", &"k".repeat(256)] {
        let error = client.answer(&Request::user("hello").idempotency_key(key)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{key}");
    }
}
