//! What Margay itself adds to a decode step: the signals of a token, the running policy, and, beside them, the step.
//!
//! `cargo bench -p margay --bench signals`; with `MARGAY_BENCH_BUNDLE` also the share of everything that is not the graph in an
//! answer of that bundle.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed preparation fails the bench, which prints a share"
)]

use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use margay::device::library::Locate;
use margay::policy::{Monitor, Policy, Rule, Threshold, TokenSignals};
use margay::{BundleOptions, DeviceOptions, Engine, GenerateOptions, Request};

/// The vocabulary of SmolLM2.
const VOCABULARY: usize = 49_152;

/// Tokens of an answer.
const TOKENS: usize = 64;

/// Answers and their graphs, turn about; the fastest of either counts, because whatever else runs only makes them slower.
const ROUNDS: usize = 30;

fn overhead(criterion: &mut Criterion) {
    let logits: Vec<f32> = (0..VOCABULARY).map(|id| (id * 40_503 % 65_536) as f32 / 4096.0 - 8.0).collect();
    let policy: Policy = Policy::new(Rule::ChowAverage, Threshold::new(-0.5).unwrap());
    criterion.bench_function("signals and policy of a token", |bencher| {
        bencher.iter_batched_ref(
            || Monitor::new(&policy, None, 256),
            |monitor| monitor.observe(TokenSignals::from_logits(black_box(&logits), 1000).unwrap()),
            criterion::BatchSize::SmallInput,
        );
    });
    let Some(folder) = std::env::var_os("MARGAY_BENCH_BUNDLE") else { return };
    let device =
        DeviceOptions { library: Some(Locate::from_environment().find().unwrap()), ..DeviceOptions::default() };
    let (_, engine) = Engine::open(folder, &BundleOptions::default(), device).unwrap();
    let (answer, graph) = (0..ROUNDS)
        .map(|_| round(&engine))
        .fold((Duration::MAX, Duration::MAX), |least, next| (least.0.min(next.0), least.1.min(next.1)));
    let (answer, graph) = (answer.as_secs_f64() / TOKENS as f64, graph.as_secs_f64() / TOKENS as f64);
    println!(
        "a token takes {:.0} us, {:.0} us of them in the graph: {:.1} % are Margay's own",
        1e6 * answer,
        1e6 * graph,
        100.0 * (answer - graph) / graph,
    );
}

/// The time of an answer of [`TOKENS`] tokens after its first logits, with signals, policy and text; and that of as many steps of
/// the graph alone, at the same positions. The steps are timed with the copy of their logits, which an answer does not make.
fn round(engine: &Engine) -> (Duration, Duration) {
    let never = Policy::new(Rule::ChowAverage, Threshold::new(f32::NEG_INFINITY).unwrap());
    let options = GenerateOptions { raw_prompt: true, ignore_stop_tokens: true, ..GenerateOptions::default() };
    // One step fewer than tokens: the first token's logits are the prompt's.
    let request = Request::user("A").options(options).max_tokens(TOKENS + 1);
    let generation = engine.generate(&request, Some(&never), &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(generation.signals.len(), TOKENS + 1);
    let started = Instant::now();
    black_box(engine.decode_logits(&generation.token_ids[..TOKENS]).unwrap());
    (generation.timings.decode, started.elapsed())
}

criterion_group!(benches, overhead);
criterion_main!(benches);
