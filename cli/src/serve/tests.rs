//! The server as its clients see it: Margay's own over TLS, and plain requests for what that one never sends.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::LazyLock;
use std::task::{Context, Waker};

use futures_util::StreamExt as _;
use margay::cloud::{BoxFuture, CloudAnswer, CloudClient, LargeModel, Retry, Roots, Token, Wanted};
use margay::device::library::Locate;
use margay::{Bundle, Cancel, DeviceOptions, Engine, Error, ErrorKind, Finish, Request, Result, Tokens};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::*;
use crate::authority::Authority;

/// Repeats the last message, and says how many messages and tokens it was given.
struct Parrot;

impl LargeModel for Parrot {
    fn answer<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<CloudAnswer>> {
        let mut answer = CloudAnswer::new(request.messages.last().unwrap().content.clone());
        answer.usage = Some(Tokens { input: request.messages.len() as u64, output: request.max_tokens as u64 });
        Box::pin(async { Ok(answer) })
    }
}

/// Fails in one way.
struct Broken(ErrorKind);

impl LargeModel for Broken {
    fn answer<'a>(&'a self, _: &'a Request) -> BoxFuture<'a, Result<CloudAnswer>> {
        Box::pin(async { Err(Error::new(self.0, "broken on purpose")) })
    }
}

/// Says when it has begun, and ends when it is told to.
#[derive(Default)]
struct Slow {
    begun: Notify,
    end: Notify,
}

impl LargeModel for Slow {
    fn answer<'a>(&'a self, _: &'a Request) -> BoxFuture<'a, Result<CloudAnswer>> {
        Box::pin(async {
            self.begun.notify_one();
            self.end.notified().await;
            Ok(CloudAnswer::new("at last"))
        })
    }
}

/// The runtime's toy model on ONNX Runtime.
fn toy() -> Arc<Engine> {
    static ENGINE: LazyLock<Arc<Engine>> = LazyLock::new(|| load(1));
    Arc::clone(&ENGINE)
}

/// The same, answering so many questions side by side.
fn load(batch: usize) -> Arc<Engine> {
    let library = Locate::from_environment().find_or_fetch(&mut |_| {}).unwrap();
    let toy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/tests/fixtures/toy");
    let device = DeviceOptions { threads: Some(1), library: Some(library), batch, ..DeviceOptions::default() };
    Arc::new(Engine::load(&Bundle::open(toy).unwrap(), device).unwrap())
}

const TOKEN: &str = "right";

/// One authority for all servers of these tests.
static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| Authority::new().unwrap());

fn options() -> Options {
    Options::new("large").token(TOKEN).tls(AUTHORITY.server_config())
}

fn start(model: impl LargeModel + 'static) -> Server {
    Server::start(Model::cloud(Arc::new(model)), options()).unwrap()
}

fn margay_client(server: &Server, token: &'static str) -> CloudClient {
    CloudClient::openai(server.endpoint(), "large")
        .roots(Roots::Pem(AUTHORITY.pem().into()))
        .token(move |_: Wanted| async move { Ok(Token::new(token)) })
        .retry(Retry::NEVER)
        .build()
        .unwrap()
}

fn plain_client() -> reqwest::Client {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(AUTHORITY.pem().as_bytes()).unwrap()).unwrap();
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap()
}

/// What is wrong with a question, by the fields that it is spoilt by.
#[tokio::test]
async fn parameters_that_cannot_be_served_are_named() {
    let server = start(Parrot);
    let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]);
    let function = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
    for (changes, parameter, code) in [
        (json!({"messages": 7}), json!(null), json!(null)),
        (json!({"messages": []}), json!("messages"), json!(null)),
        (json!({"messages": image}), json!(null), json!(null)),
        (json!({"n": 2}), json!("n"), json!("unsupported_parameter")),
        (json!({"temperature": "hot"}), json!(null), json!(null)),
        (json!({"temperature": -1}), json!(null), json!(null)),
        (json!({"max_tokens": -1}), json!(null), json!(null)),
        (json!({"stop": [""]}), json!(null), json!(null)),
        (json!({"stop": {"a": 1}}), json!(null), json!(null)),
        (json!({"seed": 0.5}), json!("seed"), json!(null)),
        (json!({"presence_penalty": 1}), json!("presence_penalty"), json!("unsupported_parameter")),
        (json!({"logit_bias": {"5": 100}}), json!("logit_bias"), json!("unsupported_parameter")),
        (json!({"functions": []}), json!("functions"), json!("unsupported_parameter")),
        (json!({"tools": function, "tool_choice": "required"}), json!("tool_choice"), json!("unsupported_parameter")),
        (json!({"top_logprobs": 2}), json!("top_logprobs"), json!(null)),
        (json!({"logprobs": true, "top_logprobs": 21}), json!(null), json!(null)),
        (json!({"response_format": {"type": "xml"}}), json!(null), json!(null)),
        (json!({"response_format": {"type": "json_schema", "json_schema": {}}}), json!("response_format"), json!(null)),
        (json!({"stream_options": {"include_usage": true}}), json!("stream_options"), json!(null)),
        (json!({"margay": {"tusk": "x"}}), json!(null), json!(null)),
        (json!({"margay": {"local_only": true}}), json!(null), json!(null)),
    ] {
        let response = plain_client().post(format!("{}/chat/completions", server.endpoint())).bearer_auth(TOKEN);
        let response = response.json(&question(changes.clone())).send().await.unwrap();
        let status = response.status().as_u16();
        let error = response.json::<Value>().await.unwrap()["error"].take();
        assert_eq!((status, &error["param"], &error["code"]), (400, &parameter, &code), "{changes}: {error}");
        assert_eq!(error["type"], "invalid_request_error");
    }
}

/// A valid question with these fields changed or added.
fn question(changes: Value) -> Value {
    let mut question = json!({"model": "large", "messages": [{"role": "user", "content": "hello"}]});
    question.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    question
}

#[tokio::test]
async fn margay_s_own_client_is_answered() {
    let server = start(Parrot);
    let request = Request::user("hello \"you\"\n").max_tokens(7);
    let answer = margay_client(&server, TOKEN).answer(&request).await.unwrap();
    assert_eq!(answer.text, "hello \"you\"\n");
    assert_eq!(answer.usage, Some(Tokens { input: 1, output: 7 }));
    assert_eq!(answer.finish_reason.as_deref(), Some("stop"));

    let refused = margay_client(&server, "wrong").answer(&request).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unauthorized);
}

#[tokio::test]
async fn answers_have_openai_s_shape() {
    let server = start(Parrot);
    let client = plain_client();
    let parts = json!([{"type": "text", "text": "he"}, {"type": "text", "text": "llo"}]);
    let body = question(json!({
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": parts}],
        "max_completion_tokens": 5, "temperature": 0.2, "stream": false, "n": 1, "response_format": {"type": "text"},
    }));
    let response = client.post(format!("{}/chat/completions", server.endpoint())).bearer_auth(TOKEN).json(&body);
    let mut answer: Value = response.send().await.unwrap().error_for_status().unwrap().json().await.unwrap();
    assert!(answer["id"].take().as_str().unwrap().starts_with("chatcmpl-"));
    assert!(answer["created"].take().as_u64().unwrap() > 1_700_000_000);
    assert!(answer["margay"]["seconds"].take()["total"].as_f64().unwrap() >= 0.0);
    assert_eq!(
        answer,
        json!({
            "id": null, "created": null, "object": "chat.completion", "model": "large",
            "choices": [{
                "index": 0, "message": {"role": "assistant", "content": "hello", "refusal": null},
                "logprobs": null, "finish_reason": "stop",
            }],
            "usage": {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7},
            "margay": {
                "origin": "cloud", "score": null, "threshold": null, "rule": null, "reason": null, "cloud_error": null,
                "model_digest": null, "usage": {"local": null, "cloud": {"input": 2, "output": 5}}, "cost": null,
                "saved_tokens": 0, "attempts": 1, "seconds": null,
            },
        })
    );

    let models = client.get(format!("{}/models", server.endpoint())).bearer_auth(TOKEN).send().await.unwrap();
    let models: Value = models.json().await.unwrap();
    assert_eq!((&models["object"], &models["data"][0]["id"]), (&json!("list"), &json!("large")));

    let health = client.get(format!("https://{}/healthz", server.address())).send().await.unwrap();
    assert_eq!(health.text().await.unwrap(), "ok");
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_in_openai_s_words() {
    let server = start(Parrot);
    let client = plain_client();
    let valid = question(json!({})).to_string();
    let large = question(json!({"messages": [{"role": "user", "content": "a".repeat(MAX_REQUEST_BYTES)}]})).to_string();
    let with = |changes| question(changes).to_string();
    for (method, path, token, body, status, r#type, code) in [
        ("POST", "/v1/chat/completions", "", valid.clone(), 401, "authentication_error", json!("invalid_api_key")),
        ("POST", "/v1/chat/completions", "righ", valid.clone(), 401, "authentication_error", json!("invalid_api_key")),
        ("GET", "/v1/models", "wrong", String::new(), 401, "authentication_error", json!("invalid_api_key")),
        ("POST", "/v1/chat/completions", TOKEN, "{".into(), 400, "invalid_request_error", json!(null)),
        ("POST", "/v1/completions", TOKEN, with(json!({"prompt": "x"})), 400, "invalid_request_error", json!(null)),
        ("POST", "/v1/chat/completions", TOKEN, large, 413, "invalid_request_error", json!(null)),
        ("GET", "/v1/chat/completions", TOKEN, String::new(), 405, "invalid_request_error", json!(null)),
        ("POST", "/v1/embeddings", TOKEN, valid, 404, "invalid_request_error", json!(null)),
    ] {
        let request = client.request(method.parse().unwrap(), format!("https://{}{path}", server.address()));
        let request = if token.is_empty() { request } else { request.bearer_auth(token) };
        let response = request.body(body.clone()).send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{method} {path} {body:.80}");
        let error: Value = response.json().await.unwrap();
        assert_eq!((&error["error"]["type"], &error["error"]["code"]), (&json!(r#type), &code), "{error}");
        assert!(!error["error"]["message"].as_str().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_failing_model_keeps_its_kind_across_the_wire() {
    for (kind, seen) in [
        (ErrorKind::InvalidRequest, ErrorKind::Rejected),
        (ErrorKind::ContextOverflow, ErrorKind::Rejected),
        (ErrorKind::RateLimited, ErrorKind::RateLimited),
        (ErrorKind::QueueFull, ErrorKind::RateLimited),
        (ErrorKind::Budget, ErrorKind::RateLimited),
        (ErrorKind::Deadline, ErrorKind::Server),
        (ErrorKind::Connect, ErrorKind::Server),
        (ErrorKind::Inference, ErrorKind::Server),
    ] {
        let server = start(Broken(kind));
        let error = margay_client(&server, TOKEN).answer(&Request::user("hello")).await.unwrap_err();
        assert_eq!(error.kind(), seen, "{kind:?}");
        assert!(error.to_string().ends_with("broken on purpose"), "{error}");
    }
}

#[tokio::test]
async fn an_aborted_server_leaves_its_clients_with_an_error() {
    let model = Arc::new(Slow::default());
    let server = start(Arc::clone(&model));
    let client = margay_client(&server, TOKEN);
    let request = Request::user("hello");
    let (answer, ()) = tokio::join!(client.answer(&request), async {
        model.begun.notified().await;
        server.abort();
    });
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Connect);
    drop(server);
    assert_eq!(client.answer(&request).await.unwrap_err().kind(), ErrorKind::Connect);
}

#[tokio::test]
async fn a_server_that_shuts_down_finishes_what_it_has_begun() {
    let model = Arc::new(Slow::default());
    let server = start(Arc::clone(&model));
    let client = margay_client(&server, TOKEN);
    let request = Request::user("hello");
    let (answer, ended) = tokio::join!(client.answer(&request), async {
        model.begun.notified().await;
        let (ended, ()) = tokio::join!(server.shutdown(Duration::from_secs(60)), async { model.end.notify_one() });
        ended
    });
    assert_eq!(answer.unwrap().text, "at last");
    ended.unwrap();
    assert_eq!(client.answer(&request).await.unwrap_err().kind(), ErrorKind::Connect);
}

#[tokio::test]
async fn a_model_that_takes_too_long_is_given_up() {
    let model = Arc::new(Slow::default());
    let options = Options { patience: Duration::ZERO, ..options() };
    let server = Server::start(Model::cloud(model), options).unwrap();
    let error = margay_client(&server, TOKEN).answer(&Request::user("hello")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Server);
    assert!(error.to_string().contains("504"), "{error}");
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let first = start(Parrot);
    let options = Options { address: first.address(), ..options() };
    let error = Server::start(Model::cloud(Arc::new(Parrot)), options).unwrap_err();
    assert!(error.to_string().contains(&first.address().to_string()), "{error}");
}

#[tokio::test]
async fn an_engine_answers_over_the_wire_as_it_does_in_the_hand() {
    let engine = toy();
    let request = Request::user("hello").max_tokens(6);
    let expected = engine.generate(&request, None, &mut |_| ControlFlow::Continue(())).unwrap();

    let server = Server::start(Model::device(engine, None), options()).unwrap();
    let client = margay_client(&server, TOKEN);
    let (one, other) = tokio::join!(client.answer(&request), client.answer(&request));
    for answer in [one.unwrap(), other.unwrap()] {
        assert_eq!(answer.text, expected.text);
        let (input, output) = (expected.prompt_tokens as u64, expected.token_ids.len() as u64);
        assert_eq!(answer.usage, Some(Tokens { input, output }));
        let length = expected.finish == Finish::Length;
        assert_eq!(answer.finish_reason.as_deref(), Some(if length { "length" } else { "stop" }));
    }

    let too_long = client.answer(&Request::user("hello").max_tokens(1_000_000)).await.unwrap_err();
    assert_eq!(too_long.kind(), ErrorKind::Rejected);
}

#[tokio::test]
async fn answers_side_by_side_are_those_of_one_at_a_time() {
    let server = Server::start(Model::device(load(3), None), options()).unwrap();
    let client = margay_client(&server, TOKEN);
    let texts = ["hello", "good morning", "a long way to go from here to there", "x", "1 2 3", "hello"];
    let requests = texts.map(|text| Request::user(text).max_tokens(24));
    let answers = futures_util::future::join_all(requests.iter().map(|request| client.answer(request))).await;
    for (request, answer) in requests.iter().zip(answers) {
        let alone = toy().generate(request, None, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(answer.unwrap().text, alone.text);
    }
}

#[tokio::test]
async fn one_more_than_is_taken_at_once_is_told_to_come_back() {
    let model = Arc::new(Slow::default());
    let options = Options { most_at_once: 1, ..options() };
    let server = Server::start(Model::cloud(model.clone()), options).unwrap();
    let client = margay_client(&server, TOKEN);
    let request = Request::user("hello");
    let (answer, refused) = tokio::join!(client.answer(&request), async {
        model.begun.notified().await;
        let response = plain_client().post(format!("{}/chat/completions", server.endpoint())).bearer_auth(TOKEN);
        let response = response.json(&question(json!({}))).send().await.unwrap();
        model.end.notify_one();
        response
    });
    assert_eq!(answer.unwrap().text, "at last");
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (429, "1"));
    model.end.notify_one();
    assert_eq!(client.answer(&request).await.unwrap().text, "at last");
}

#[tokio::test]
async fn a_small_model_stops_for_a_client_that_has_gone() {
    let (model, cancel) = (Model::device(toy(), None), Cancel::default());
    let request = Request::user("hello").cancel(cancel.clone());
    let question = model::Question { request, mode: margay::Stream::Hold, local_only: false, log_probabilities: false };
    let mut answer = Box::pin(model.answer(question.clone()));
    assert!(answer.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert!(!cancel.is_cancelled());
    drop(answer);
    assert!(cancel.is_cancelled());

    let cancel = Cancel::default();
    let request = question.request.clone().cancel(cancel.clone());
    let mut pieces = model.stream(model::Question { request, ..question }).unwrap();
    assert!(pieces.next().await.unwrap().is_ok());
    drop(pieces);
    assert!(cancel.is_cancelled());
}
