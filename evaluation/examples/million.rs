//! Everything a report takes from a million queries of two models: the curve, all measures, a thousand resamples; with times and
//! the most memory used. `benches/peer.py` runs it beside the same in numpy.

use std::io::Write as _;
use std::time::Instant;

use margay_evaluation::bootstrap::{Bootstrap, Wanted};
use margay_evaluation::measures;
use margay_evaluation::pairing::{Pair, Pairing};
use margay_evaluation::summary::{Confidence, ScoreKind};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const QUERIES: u32 = 1_000_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let resamples = std::env::args().nth(1).map_or(Ok(1000), |argument| argument.parse())?;
    let mut random = StdRng::seed_from_u64(0);
    let pair = |query: u32| {
        let (score, coin): (f64, f64) = (random.random(), random.random());
        Pair {
            query: format!("{query:07}"),
            score,
            small_quality: f64::from(u8::from(coin < score)),
            large_quality: f64::from(u8::from(coin < 0.9)),
            small_flops: 1e9,
            large_flops: 1e12,
            small_latency_ms: None,
            large_latency_ms: None,
        }
    };
    let pairing = Pairing::new((0..QUERIES).map(pair).collect())?;

    let started = Instant::now();
    let curve = pairing.curve();
    let audc = measures::audc(&curve);
    let ideal = measures::audc_ideal(&pairing);
    let points = || curve.points().iter().map(|point| (point.mean_flops, point.quality));
    let aiq = measures::aiq(points(), 1e9, 1.001e12);
    let error = measures::error_cost_area(points(), 1e9, 1.001e12);
    let confidence = Confidence::of(pairing.scores(), pairing.small_quality(), ScoreKind::Probability);
    let measured = started.elapsed();

    let started = Instant::now();
    let bootstrap = Bootstrap { resamples, ..Bootstrap::default() };
    let rates: Vec<f64> = (0..=50).map(|step| f64::from(step) / 50.0).collect();
    let wanted = Wanted { cost_interval: None, gaps: &[0.2, 0.5, 0.8], rates: &rates };
    let numbers = bootstrap.sweep(&pairing, &wanted)?;
    let interval = bootstrap.percentiles(numbers.iter().map(|numbers| numbers.audc));
    let resampled = started.elapsed();

    let mut out = std::io::stdout().lock();
    writeln!(out, "audc {audc:.6} in {interval:?}, ideal {ideal:.6}, AIQ {aiq:?}, error-cost area {error:?}")?;
    writeln!(out, "AUROC {:?}, AURC {:?}, NLL {:?}", confidence.auroc, confidence.aurc, confidence.nll)?;
    writeln!(out, "measures_s {:.3}", measured.as_secs_f64())?;
    writeln!(out, "resamples_s {:.3}", resampled.as_secs_f64())?;
    // Linux says the most memory that was ever resident.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(peak) = status.lines().find_map(|line| line.strip_prefix("VmHWM:")) {
        writeln!(out, "peak {}", peak.trim())?;
    }
    Ok(())
}
