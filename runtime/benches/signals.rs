//! What Margay itself adds to a decode step: the signals of a token, the running policy, and, beside them, the step.
//!
//! `cargo bench -p margay --bench signals`; with `MARGAY_BENCH_BUNDLE` the decode step of that bundle is measured too.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the bench")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use margay::device::library::Locate;
use margay::policy::{Monitor, Policy, Rule, Threshold, TokenSignals};
use margay::{Bundle, DeviceOptions, Engine};

/// The vocabulary of SmolLM2.
const VOCABULARY: usize = 49_152;

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
    Locate::from_environment().find().unwrap().initialise().unwrap();
    let bundle = Bundle::open(folder).unwrap();
    let engine = Engine::load(&bundle, DeviceOptions::default()).unwrap();
    let mut group = criterion.benchmark_group("decode");
    group.throughput(criterion::Throughput::Elements(32)).sample_size(10);
    group.bench_function("32 steps of the graph", |bencher| {
        bencher.iter(|| engine.decode_logits(black_box(&[1000; 32])).unwrap());
    });
    group.finish();
}

criterion_group!(benches, overhead);
criterion_main!(benches);
