//! What the cascade adds: to an answer of the device, over the engine alone; to an answer of the cloud, over bare reqwest.
//!
//! `cargo bench -p margay --features testing --bench overhead`. The device is the tests' toy, the cloud a server on loopback.

#![expect(clippy::unwrap_used, reason = "a failed preparation ends the bench")]

use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use margay::bundle::CalibratedPolicy;
use margay::cloud::{CloudClient, LargeModel, Roots};
use margay::device::library::Locate;
use margay::policy::{Policy, Rule, Threshold};
use margay::testing::{FaultyServer, Reply};
use margay::{Bundle, Cascade, DeviceOptions, Engine, Request};

fn engine() -> Arc<Engine> {
    let bundle = Bundle::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/toy")).unwrap();
    let library = Locate::from_environment().find_or_fetch(&mut |_| {}).unwrap();
    Arc::new(
        Engine::load(&bundle, DeviceOptions { threads: Some(1), library: Some(library), ..DeviceOptions::default() })
            .unwrap(),
    )
}

fn cascade(engine: &Arc<Engine>, threshold: Threshold, cloud: impl LargeModel + 'static) -> Cascade {
    let policy = CalibratedPolicy::by_hand(*engine.model_digest(), Policy::new(Rule::ChowAverage, threshold));
    Cascade::builder().engine(Arc::clone(engine)).policy(policy).cloud(cloud).build().unwrap()
}

fn request() -> Request {
    Request::user("hello").max_tokens(1)
}

fn overhead(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let engine = engine();
    let server = runtime.block_on(FaultyServer::start([]));
    server.reply_always(Reply::says("book a flight"));
    let client =
        || CloudClient::openai(server.endpoint(), "large").roots(Roots::Pem(server.authority())).build().unwrap();
    // A bare client takes the process's provider; a second bench in one process finds it there.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let bare = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&server.authority()).unwrap()])
        .build()
        .unwrap();

    let mut local = criterion.benchmark_group("local");
    local.bench_function("engine", |bencher| {
        bencher.iter(|| engine.generate(&black_box(request()), None, &mut |_| ControlFlow::Continue(())).unwrap());
    });
    let keeping = cascade(&engine, Threshold::KEEP_ALL, client());
    local.bench_function("cascade", |bencher| {
        bencher.iter(|| runtime.block_on(keeping.answer(black_box(request()))).unwrap());
    });
    local.finish();

    let mut deferred = criterion.benchmark_group("deferred");
    let (url, body) = (format!("{}/chat/completions", server.endpoint()), r#"{"model":"large"}"#);
    deferred.bench_function("reqwest", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                let response = bare.post(&url).body(body).send().await.unwrap();
                response.bytes().await.unwrap()
            })
        });
    });
    let model = client();
    deferred.bench_function("client", |bencher| {
        bencher.iter(|| runtime.block_on(model.answer(&black_box(request()))).unwrap());
    });
    let deferring = cascade(&engine, Threshold::DEFER_ALL, client());
    deferred.bench_function("cascade", |bencher| {
        bencher.iter(|| runtime.block_on(deferring.answer(black_box(request()))).unwrap());
    });
    deferred.finish();
}

criterion_group!(benches, overhead);
criterion_main!(benches);
