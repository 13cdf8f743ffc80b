//! Nothing secret in logs, metrics, errors, `Debug` or files: everything is run once, and all it leaves behind is searched.

#![cfg(feature = "stores")]
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

#[path = "common/mod.rs"]
mod common;
#[path = "cloud/trace.rs"]
mod trace;

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use margay::bundle::CalibratedPolicy;
use margay::cloud::{
    AttestationHeader, Cached, CloudClient, CloudClientBuilder, Failover, Hedged, Identity, LargeModel, Proxy, Retry,
    Roots, Token,
};
use margay::policy::{Policy, Rule, Threshold};
use margay::privacy::{AuditFile, Patterns};
use margay::stores::{Budget, Cipher, Limit, Outbox, Period, Price};
use margay::testing::{FaultyServer, ManualClock, Reply};
use margay::{Cascade, Error, OnCloudFailure, Request, Stream, StreamEvent};
use metrics::{Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, SharedString, Unit};

/// A key, a prompt, personal data in it, an answer, a password, a proof: no trace of any may be left.
const SECRETS: [&str; 6] =
    ["sk-planted-key", "planted prompt", "planted@example.com", "planted answer", "planted password", "planted-proof"];

/// Everything that was told to the metrics facade.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<String>>);

struct Told(Recorder, String);

impl Told {
    fn tell(&self, what: impl Debug) {
        writeln!(self.0.0.lock().unwrap(), "{} {what:?}", self.1).unwrap();
    }
}

impl CounterFn for Told {
    fn increment(&self, value: u64) {
        self.tell(value);
    }

    fn absolute(&self, value: u64) {
        self.tell(value);
    }
}

impl GaugeFn for Told {
    fn increment(&self, value: f64) {
        self.tell(value);
    }

    fn decrement(&self, value: f64) {
        self.tell(value);
    }

    fn set(&self, value: f64) {
        self.tell(value);
    }
}

impl HistogramFn for Told {
    fn record(&self, value: f64) {
        self.tell(value);
    }
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(Arc::new(Told(self.clone(), key.to_string())))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(Arc::new(Told(self.clone(), key.to_string())))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Told(self.clone(), key.to_string())))
    }
}

/// Turns bits over, which is enough to tell whether the outbox seals what it writes.
struct Turned;

impl Cipher for Turned {
    fn seal(&self, _: &[u8], plain: &[u8]) -> margay::Result<Vec<u8>> {
        Ok(plain.iter().map(|byte| !byte).collect())
    }

    fn open(&self, _: &[u8], sealed: &[u8]) -> margay::Result<Vec<u8>> {
        Ok(sealed.iter().map(|byte| !byte).collect())
    }
}

/// Every rendering of an error and its causes.
fn render(error: &Error) -> String {
    let mut shown = format!("{error} {error:?} {error:#?}\n");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        writeln!(shown, "{cause} {cause:?}").unwrap();
        source = cause.source();
    }
    shown
}

fn client(server: &FaultyServer) -> CloudClientBuilder {
    let (chain, key) = server.client_identity();
    CloudClient::openai(format!("{}?key={}", server.endpoint(), "sk-planted-key"), "large")
        .roots(Roots::Pem(server.authority()))
        .identity(Identity::pem(chain, key))
        .static_key(Token::new("sk-planted-key"))
        .allow_static_key(true)
        .attestation(|_: String| async { Ok(AttestationHeader::new("x-proof", "planted-proof")) })
        .redactor(Patterns::built_in())
        .retry(Retry::NEVER)
}

fn request() -> Request {
    Request::user("planted prompt of planted@example.com").max_tokens(3)
}

#[tokio::test]
async fn nothing_secret_is_left_anywhere() {
    let seen = trace::Seen::subscribe();
    let recorder = Recorder::default();
    metrics::set_global_recorder(recorder.clone()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let engine = Arc::new(common::engine_of(&common::fixtures().join("toy")));
    let policy =
        CalibratedPolicy::by_hand(*engine.model_digest(), Policy::new(Rule::ChowAverage, Threshold::DEFER_ALL));
    let said = "sk-planted-key is no key for planted prompt";
    let refused = |status: &str| Reply::http(status, "", &format!(r#"{{"error":{{"message":"{said}"}}}}"#));
    let begun = Reply::streams(&["planted answer", "more"]);
    let half = begun.bytes().windows(4).position(|four| four == b"more").unwrap();
    let server = FaultyServer::start([
        Reply::says("planted answer"),
        Reply::streams(&["planted", " answer"]),
        begun.clone().cut_after(half),
        refused("401 Unauthorized"),
        refused("401 Unauthorized"),
        Reply::http("200 OK", "content-type: application/json\r\n", r#"{"choices": "planted answer"}"#),
        Reply::http("200 OK", "content-type: text/html\r\n", "planted answer"),
        Reply::says("planted answer").cut_after(120),
        Reply::status("503 Service Unavailable"),
    ])
    .await;
    let audit = folder.path().join("audit.jsonl");
    let budget = Budget::builder(Price { input: 1, output: 1 })
        .limit(Limit::per(Period::Day).class("c").tokens(1))
        .open(folder.path().join("budget.redb"))
        .unwrap();
    let outbox = Outbox::builder().cipher(Turned).open(folder.path().join("outbox.redb")).unwrap();
    let clock = Arc::new(ManualClock::new());
    let builder = client(&server).clock(clock.clone()).audit(Arc::new(AuditFile::open(&audit).unwrap()));
    let mut left = format!("{builder:?}\n");
    let model = Arc::new(budget.meter(builder.build().unwrap()));
    let cascade = |then| {
        Cascade::builder()
            .engine(Arc::clone(&engine))
            .policy(policy.clone())
            .cloud(Arc::clone(&model))
            .outbox(outbox.clone())
            .on_cloud_failure(then)
    };
    let builder = cascade(OnCloudFailure::Fail);
    writeln!(left, "{builder:?}").unwrap();
    let cascade = builder.build().unwrap();

    // The texts of answers are the caller's; all else of them is looked at.
    let mut answer = cascade.answer(request()).await.unwrap();
    assert_eq!(std::mem::take(&mut answer.text), "planted answer");
    writeln!(left, "{answer:?}").unwrap();
    for _ in 0..2 {
        let mut stream = cascade.stream(request(), Stream::Optimistic);
        writeln!(left, "{stream:?}").unwrap();
        while let Some(event) = stream.next().await {
            match event {
                Ok(StreamEvent::Token { .. } | StreamEvent::Superseded { .. } | StreamEvent::Done(_)) => {}
                Ok(other) => panic!("{other:?}"),
                Err(error) => {
                    assert_eq!(error.partial_text(), Some("planted answer"));
                    left += &render(&error);
                }
            }
        }
    }
    for _ in 0..3 {
        left += &render(&cascade.answer(request()).await.unwrap_err());
    }
    for _ in 0..2 {
        let queued = cascade.answer(request()).await.unwrap();
        assert!(queued.ticket.is_some(), "{queued:?}");
        writeln!(left, "{queued:?}").unwrap();
    }
    left += &render(&cascade.answer(request().class("c")).await.unwrap_err());
    left += &render(&cascade.answer(request().idempotency_key("é planted prompt")).await.unwrap_err());
    assert_eq!(server.left(), 0);

    let proxy = "http://127.0.0.1:9".parse::<Proxy>().unwrap().credentials("me", "planted password");
    left += &render(&client(&server).proxy(proxy.clone()).build().unwrap().answer(&request()).await.unwrap_err());
    let all = Failover::new(Hedged::new(Arc::clone(&model), Arc::clone(&model), Duration::ZERO));
    let cached = Cached::new(all, Duration::MAX, 1 << 20);
    writeln!(left, "{cascade:?} {model:?} {cached:?} {outbox:?} {budget:?} {proxy:?} {proxy} {:?}", server.pin())
        .unwrap();

    left += &seen.text();
    let told = recorder.0.lock().unwrap().clone();
    for metric in [
        "margay_queries_total, [origin = cloud]",
        "margay_query_errors_total, [kind = Truncated]",
        "margay_deferrals_total",
        "margay_score",
        "margay_query_seconds, [stage = cloud]",
        "margay_cloud_tokens_total",
        "margay_cloud_cost_micros_total",
        "margay_breaker_state",
        "margay_outbox_queued",
        "margay_deferral_rate",
    ] {
        assert!(told.contains(metric), "{metric} is not in\n{told}");
    }
    left += &told;
    for file in ["audit.jsonl", "budget.redb", "outbox.redb"] {
        left += &String::from_utf8_lossy(&std::fs::read(folder.path().join(file)).unwrap());
    }
    assert!(left.contains("margay_queries_total") && left.contains("\"redactions\":{\"EMAIL\":1}"));
    for secret in SECRETS {
        if let Some(at) = left.find(secret) {
            let around = left.get(at.saturating_sub(200)..at + 50).unwrap_or(secret);
            panic!("`{secret}` was left behind: {around}");
        }
    }
}
