//! One million queries, two models: the curve, all measures, a bootstrap. `cargo bench -p margay-evaluation`.
//!
//! `examples/million.rs` measures all of it with a thousand resamples, `peer.py` beside it the same in numpy.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use margay_evaluation::bootstrap::{Bootstrap, Wanted};
use margay_evaluation::certificate::Risk;
use margay_evaluation::guarantee::RiskControl;
use margay_evaluation::measures;
use margay_evaluation::pairing::{Pair, Pairing};
use margay_evaluation::summary::{Confidence, ScoreKind};

const QUERIES: u32 = 1_000_000;

fn million() -> Option<Pairing> {
    let pair = |i: u32| {
        let shuffled = f64::from(i.wrapping_mul(2_654_435_761)) / f64::from(u32::MAX);
        let coin = f64::from(i.wrapping_mul(2_246_822_519).rotate_left(13)) / f64::from(u32::MAX);
        Pair {
            query: format!("{i:07}"),
            score: shuffled,
            small_quality: f64::from(u8::from(coin < shuffled)),
            large_quality: f64::from(u8::from(coin < 0.9)),
            small_flops: 1e9,
            large_flops: 1e12,
            small_latency_ms: None,
            large_latency_ms: None,
        }
    };
    Pairing::new((0..QUERIES).map(pair).collect()).ok()
}

fn outcomes(criterion: &mut Criterion) {
    let Some(pairing) = million() else { return };
    let mut group = criterion.benchmark_group("a million outcomes");
    group.sample_size(10).throughput(Throughput::Elements(u64::from(QUERIES)));
    group.bench_function("curve and its area", |bench| {
        bench.iter(|| measures::audc(&black_box(&pairing).curve()));
    });
    group.bench_function("all confidence measures", |bench| {
        bench.iter(|| Confidence::of(black_box(&pairing).scores(), pairing.small_quality(), ScoreKind::Probability));
    });
    group.bench_function("a threshold with a guarantee", |bench| {
        let control = RiskControl { risk: Risk::WorseOverAll, at_most: 0.05, level: 0.95 };
        bench.iter(|| control.choose(black_box(&pairing)).is_ok());
    });
    // Some of the thousand resamples that a report takes, on all cores.
    let bootstrap = Bootstrap { resamples: 16, ..Bootstrap::default() };
    let wanted = Wanted { cost_interval: None, gaps: &[0.2, 0.5, 0.8], rates: &[0.1, 0.5] };
    group.bench_function("sixteen resamples", |bench| {
        bench.iter(|| bootstrap.sweep(black_box(&pairing), &wanted).is_ok());
    });
    group.finish();
}

criterion_group!(benches, outcomes);
criterion_main!(benches);
