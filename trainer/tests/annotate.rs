//! Annotation over HTTP against annotation here: a server on loopback that speaks vLLM's protocol and computes with a real
//! model, and misbehaves on demand. llama.cpp's own server is in `llama.rs`.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use margay_trainer::annotate::endpoint::{Asked, Endpoint, EndpointOptions, Price, Retry, ServerKind};
use margay_trainer::data::{Corpus, Encoded, EncodedCorpus, PromptFormat, PromptStyle, Rows, Source};
use margay_trainer::recipe::BadRows;
use margay_trainer::{Annotations, Architecture, CausalLm, Device, ErrorKind, Journal, Tokenizer};
use serde_json::{Value, json};

const CONTEXT: usize = 64;

/// The large model behind the server.
struct Large {
    model: Mutex<CausalLm>,
    tokenizer: Tokenizer,
    /// Completions answered.
    answered: AtomicUsize,
    /// Completions asked for, however they ended.
    asked: AtomicUsize,
    /// After so many answers every completion is refused.
    breaks_after: AtomicUsize,
    /// Refuses every other completion once with 429.
    busy: AtomicBool,
}

async fn tokenize(State(large): State<Arc<Large>>, Json(body): Json<Value>) -> Json<Value> {
    let tokens = large.tokenizer.encode(body["prompt"].as_str().unwrap()).unwrap();
    Json(json!({ "tokens": tokens, "count": tokens.len() }))
}

async fn completions(State(large): State<Arc<Large>>, Json(body): Json<Value>) -> Response {
    let number = large.asked.fetch_add(1, Ordering::SeqCst);
    if large.busy.load(Ordering::SeqCst) && number.is_multiple_of(2) {
        return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "0")], "busy").into_response();
    }
    if large.answered.load(Ordering::SeqCst) >= large.breaks_after.load(Ordering::SeqCst) {
        return (StatusCode::BAD_REQUEST, "broken").into_response();
    }
    large.answered.fetch_add(1, Ordering::SeqCst);
    let ids: Vec<u32> = body["prompt"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    let k = body["prompt_logprobs"].as_u64().unwrap() as usize;
    let logits = large.model.lock().unwrap().logits(&ids);
    let mut positions = vec![Value::Null];
    for (row, &next) in logits.iter().zip(&ids[1..]) {
        let normaliser = row.iter().map(|x| x.exp()).sum::<f32>().ln();
        let mut order: Vec<u32> = (0..row.len() as u32).collect();
        order.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b)));
        let rank = |id: u32| order.iter().position(|&other| other == id).unwrap() + 1;
        let scored = |id: u32| {
            let token = large.tokenizer.decode(&[id]).unwrap();
            json!({ "logprob": row[id as usize] - normaliser, "rank": rank(id), "decoded_token": token })
        };
        // Like vLLM: the k likeliest, and the token that stands there.
        let named: HashMap<String, Value> =
            order[..k].iter().chain([&next]).map(|&id| (id.to_string(), scored(id))).collect();
        positions.push(json!(named));
    }
    let usage = json!({ "prompt_tokens": ids.len(), "completion_tokens": 1 });
    let choice = json!({ "text": "", "finish_reason": "stop", "prompt_logprobs": positions });
    Json(json!({ "choices": [choice], "usage": usage })).into_response()
}

/// A task, a large model behind HTTP, and the same one here.
struct Place {
    corpus: Corpus,
    format: PromptFormat,
    rows: Vec<Encoded>,
    here: Annotations,
    large: Arc<Large>,
    url: String,
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let row = |n: usize| format!("{{\"input\": \"say {n} \u{1F408} é\", \"target\": \"answer {} ü\"}}\n", n % 4);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        std::fs::write(&path, (0..20).map(row).collect::<String>()).unwrap();
        let corpus = Corpus::index(&[Source::new(path)], 0.0, BadRows::Refuse).unwrap().train;
        let texts: Vec<String> = (0..20).map(row).collect();
        let tokenizer = Tokenizer::train(texts.iter().map(String::as_str), 320).unwrap();
        let architecture = Architecture::llama(tokenizer.vocabulary_size(), 32, 48, 1, 2, 1);
        let device = Device::flex();
        let model = CausalLm::random(&architecture, 9, &device).unwrap();
        let format = PromptFormat::of_tokenizer(tokenizer.clone(), PromptStyle::Chat, None).unwrap();
        let encoded = EncodedCorpus { corpus: &corpus, format: &format, context: CONTEXT };
        let rows: Vec<Encoded> = (0..corpus.len()).map(|row| encoded.encoded(row).unwrap()).collect();
        let here = Annotations::read_off(&model, &rows, 3, 4, &device, &mut |_| {}).unwrap();
        let large = Arc::new(Large {
            model: Mutex::new(model),
            tokenizer,
            answered: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
            breaks_after: AtomicUsize::new(usize::MAX),
            busy: AtomicBool::new(false),
        });
        let app = axum::Router::new()
            .route("/version", get(|| async { Json(json!({ "version": "0.10" })) }))
            .route("/tokenize", post(tokenize))
            .route("/v1/completions", post(completions))
            .with_state(large.clone());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                axum::serve(listener, app).await.unwrap();
            });
        });
        Self { corpus, format, rows, here, large, url, folder }
    }

    fn options(&self) -> EndpointOptions {
        EndpointOptions {
            url: self.url.clone(),
            model: "large".into(),
            kind: None,
            key: None,
            in_flight: 4,
            top_k: 3,
            answers: false,
            price: Price { tokens_in: 1e6, tokens_out: 0.0 },
            most: None,
            retry: Retry { attempts: 3, base: Duration::ZERO, cap: Duration::ZERO },
            timeout: Duration::from_secs(60),
        }
    }

    /// Annotates into the journal of `name`; the journal is finished if all went well.
    fn annotate(&self, name: &str, options: EndpointOptions) -> margay_trainer::Result<Annotations> {
        let endpoint = Endpoint::find(options, &self.format)?;
        assert!(endpoint.kind() == ServerKind::Vllm && endpoint.shares_vocabulary());
        let info = endpoint.info(&self.format)?;
        let mut journal = Journal::open(&self.folder.path().join(name), &info, "large")?;
        let asked = Asked {
            corpora: vec![&self.corpus],
            small: &self.format,
            large: &self.format,
            context: CONTEXT,
            skip: false,
        };
        endpoint.annotate(&asked, &mut journal, &AtomicBool::new(false), &mut |_, _| {})?;
        journal.finish()
    }

    fn assert_same(&self, there: &Annotations) {
        let (here, there) = (self.here.batch(&self.rows).unwrap(), there.batch(&self.rows).unwrap());
        assert_eq!(here.hits, there.hits);
        assert_eq!(here.top_ids, there.top_ids);
        for (a, b) in here.top_log_probabilities.iter().zip(&there.top_log_probabilities) {
            assert!((a - b).abs() < 0.01, "{a} {b}");
        }
    }
}

#[test]
fn a_server_says_what_the_checkpoint_says() {
    let place = Place::new();
    let there = place.annotate("cache", place.options()).unwrap();
    place.assert_same(&there);
    assert_eq!(place.large.asked.load(Ordering::SeqCst), 20);
}

#[test]
fn a_busy_server_is_asked_again() {
    let place = Place::new();
    place.large.busy.store(true, Ordering::SeqCst);
    let options = EndpointOptions { in_flight: 1, ..place.options() };
    place.assert_same(&place.annotate("cache", options).unwrap());
    assert_eq!(place.large.answered.load(Ordering::SeqCst), 20);
}

#[test]
fn what_was_answered_is_never_asked_for_again() {
    let place = Place::new();
    place.large.breaks_after.store(7, Ordering::SeqCst);
    let error = place.annotate("cache", place.options()).unwrap_err();
    assert!(error.kind() == ErrorKind::Endpoint && error.to_string().contains("400"), "{error}");
    place.large.breaks_after.store(usize::MAX, Ordering::SeqCst);
    place.assert_same(&place.annotate("cache", place.options()).unwrap());
    assert_eq!(place.large.answered.load(Ordering::SeqCst), 20);
}

#[test]
fn no_more_is_spent_than_may_be() {
    let place = Place::new();
    let per_row = (place.rows[0].prompt.len() + place.rows[0].target.len()) as f64;
    let options = EndpointOptions { most: Some(5.5 * per_row), ..place.options() };
    let error = place.annotate("cache", options).unwrap_err().to_string();
    assert!(error.contains("the most that may be spent"), "{error}");
    let answered = place.large.answered.load(Ordering::SeqCst);
    assert!((1..=5).contains(&answered), "{answered}");
}

#[test]
fn plain_http_leaves_this_machine_for_nobody() {
    let place = Place::new();
    for url in ["http://llm.example.com/v1", "http://10.0.0.1:8000", "ftp://localhost", "localhost"] {
        let options = EndpointOptions { url: url.into(), ..place.options() };
        let error = Endpoint::find(options, &place.format).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{url}");
    }
}
