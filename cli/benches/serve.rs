//! What `margay serve` adds to the engine: 50 local clients ask over HTTP as fast as they are answered, and of each answer's
//! time is taken off what the engine itself took, waiting for its turn included, as the answer says it.
//!
//!     cargo bench --workspace --bench serve
//!
//! `MARGAY_BENCH_BUNDLE` names another bundle than the tests' toy, `MARGAY_BENCH_REQUESTS` how many are asked (20000).
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed preparation ends the bench, and its result is printed"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use margay::device::library::Locate;
use margay::{Bundle, DeviceOptions, Engine};
use margay_cli::serve::{Model, Options, Server};
use serde_json::{Value, json};

const CLIENTS: usize = 50;

fn main() {
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let toy = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/tests/fixtures/toy");
    let bundle = std::env::var_os("MARGAY_BENCH_BUNDLE").map_or_else(toy, PathBuf::from);
    let requests = std::env::var("MARGAY_BENCH_REQUESTS").map_or(20_000, |count| count.parse().unwrap());
    let library = Locate::from_environment().find_or_fetch(&mut |progress| println!("{progress}")).unwrap();
    let options = DeviceOptions { threads: Some(1), library: Some(library), ..DeviceOptions::default() };
    let engine = Arc::new(Engine::load(&Bundle::open(bundle).unwrap(), options).unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let added = runtime.block_on(async {
        let server = Server::start(Model::device(engine, None), Options::new("bench")).unwrap();
        ask(&server, CLIENTS * 20).await;
        let started = Instant::now();
        let added = ask(&server, requests).await;
        let took = started.elapsed();
        println!(
            "{} requests by {CLIENTS} clients in {took:.2?}: {:.0}/s",
            added.len(),
            added.len() as f64 / took.as_secs_f64()
        );
        added
    });
    for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("most", 1.0)] {
        let place = ((added.len() as f64 * share).ceil() as usize).clamp(1, added.len()) - 1;
        println!("added {name:<5} {:8.3} ms", added[place].as_secs_f64() * 1e3);
    }
}

/// What each request took beyond the engine's part of it, the least first.
async fn ask(server: &Server, requests: usize) -> Vec<Duration> {
    let url = format!("{}/chat/completions", server.endpoint());
    let body = json!({"model": "bench", "messages": [{"role": "user", "content": "play some music"}], "max_tokens": 4});
    let body = Arc::new(body.to_string());
    let left = Arc::new(AtomicUsize::new(requests));
    let clients = (0..CLIENTS).map(|_| {
        let (url, body, left) = (url.clone(), Arc::clone(&body), Arc::clone(&left));
        tokio::spawn(async move {
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let mut added = Vec::new();
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                let started = Instant::now();
                let response = client.post(&url).body(body.as_bytes().to_vec()).send().await.unwrap();
                let answer = response.error_for_status().unwrap().bytes().await.unwrap();
                let took = started.elapsed();
                let answer: Value = serde_json::from_slice(&answer).unwrap();
                let engine = Duration::from_secs_f64(answer["margay"]["seconds"]["total"].as_f64().unwrap());
                added.push(took.saturating_sub(engine));
            }
            added
        })
    });
    let mut added = Vec::new();
    for client in clients.collect::<Vec<_>>() {
        added.extend(client.await.unwrap());
    }
    added.sort_unstable();
    added
}
