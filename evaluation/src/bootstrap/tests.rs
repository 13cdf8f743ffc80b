use super::*;
use crate::curve::Curve;
use crate::measures;
use crate::pairing::Pair;

/// `queries` queries with a few tied scores; every third is wrong on the device, every seventh in the cloud.
fn pairing(queries: usize) -> Pairing {
    Pairing::new((0..queries).map(pair).collect()).unwrap()
}

fn pair(i: usize) -> Pair {
    Pair {
        query: format!("q{i}"),
        score: ((i * 37) % 101) as f64,
        small_quality: if i.is_multiple_of(3) { 0.0 } else { 1.0 },
        large_quality: if i.is_multiple_of(7) { 0.0 } else { 1.0 },
        small_flops: 1.0,
        large_flops: 10.0 + (i % 5) as f64,
        small_latency_ms: None,
        large_latency_ms: None,
    }
}

fn statistics(sample: &Sample<'_>) -> Vec<Option<f64>> {
    let curve = sample.curve();
    vec![Some(measures::audc(&curve)), sample.auroc(), Some(curve.at(0.3).quality), Some(curve.at(0.3).mean_flops)]
}

#[test]
fn a_seed_gives_the_same_intervals_on_any_number_of_threads() {
    let pairing = pairing(200);
    let on = |threads: usize, seed: u64| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let bootstrap = Bootstrap { resamples: 100, seed, ..Bootstrap::default() };
        pool.install(|| bootstrap.intervals([&pairing], |[sample]| statistics(sample)).unwrap())
    };
    assert_eq!(on(1, 5), on(4, 5));
    assert_ne!(on(1, 5), on(1, 6));
}

#[test]
fn a_weighted_sample_is_the_sample_with_its_queries_repeated() {
    let pairing = pairing(60);
    let weights: Vec<u32> = Draws::new(60).draw(3, 0, LANES).iter().map(|counts| u32::from(counts[0])).collect();
    assert!(weights.contains(&0) && weights.iter().any(|count| *count > 1));
    let repeated = pairing.pairs().zip(&weights).flat_map(|(pair, weight)| {
        (0..*weight).map(move |copy| Pair { query: format!("{} {copy}", pair.query), ..pair.clone() })
    });
    let repeated = Pairing::new(repeated.collect()).unwrap();
    let sample = Sample::weighted(&pairing, &weights);
    let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
    let equal = |a: &Curve, b: &Curve| {
        a.points().len() == b.points().len()
            && a.points().iter().zip(b.points()).all(|(a, b)| {
                a.threshold == b.threshold
                    && close(a.deferral_rate, b.deferral_rate)
                    && close(a.quality, b.quality)
                    && close(a.mean_flops, b.mean_flops)
            })
    };
    assert!(equal(&sample.curve(), &repeated.curve()));
    assert!(close(sample.auroc().unwrap(), repeated.sample().auroc().unwrap()));
    assert!(close(sample.benefit_auroc().unwrap(), repeated.sample().benefit_auroc().unwrap()));
    assert!(close(sample.large_flops(), repeated.sample().large_flops()));
}

#[test]
fn the_interval_of_a_share_is_the_binomial_one() {
    // A share p of n queries has standard error sqrt(p (1 - p) / n); the normal interval is 1.96 of them each side.
    let pairing = pairing(1200);
    let bootstrap = Bootstrap { resamples: 4000, ..Bootstrap::default() };
    let interval = bootstrap.interval(&pairing, |sample| Some(sample.small_quality())).unwrap().unwrap();
    let p: f64 = 2.0 / 3.0;
    let half = 1.959964 * (p * (1.0 - p) / 1200.0).sqrt();
    assert!((interval.low - (p - half)).abs() < 0.1 * half, "{interval:?}");
    assert!((interval.high - (p + half)).abs() < 0.1 * half, "{interval:?}");
}

#[test]
fn a_paired_difference_forgets_what_both_share() {
    let first = pairing(900);
    let bootstrap = Bootstrap { resamples: 500, ..Bootstrap::default() };
    let small = |sample: &Sample<'_>| Some(sample.small_quality());
    let none = bootstrap.difference(&first, &first, small).unwrap().unwrap();
    assert_eq!((none.estimate, none.interval), (0.0, Interval { low: 0.0, high: 0.0 }), "a pairing against itself");

    // The second has other scores, so another order, and is wrong on 90 more queries: a difference of 0.1 with standard
    // error sqrt(0.1 * 0.9 / 900) = 0.01. Unpaired it would be sqrt(0.222 + 0.246) / 30 = 0.023.
    let second = (0..900).map(pair).map(|pair| Pair {
        score: -pair.score,
        small_quality: if pair.score as usize % 10 == 1 && pair.small_quality == 1.0 {
            0.0
        } else {
            pair.small_quality
        },
        ..pair
    });
    let second = Pairing::new(second.collect()).unwrap();
    let difference = bootstrap.difference(&first, &second, small).unwrap().unwrap();
    let share = difference.estimate;
    let half = 1.96 * (share * (1.0 - share) / 900.0).sqrt();
    assert!(share > 0.05, "{share}");
    assert!((difference.interval.high - difference.interval.low - 2.0 * half).abs() < 0.4 * half, "{difference:?}");
}

#[test]
fn what_cannot_be_bootstrapped_is_refused_or_undefined() {
    let pairing = pairing(30);
    let statistic = |sample: &Sample<'_>| Some(sample.small_quality());
    for bootstrap in [
        Bootstrap { resamples: 0, ..Bootstrap::default() },
        Bootstrap { level: 1.0, ..Bootstrap::default() },
        Bootstrap { level: f64::NAN, ..Bootstrap::default() },
    ] {
        assert_eq!(bootstrap.interval(&pairing, statistic).unwrap_err().kind(), ErrorKind::Invalid);
    }
    let other = super::tests::pairing(31);
    let error = Bootstrap::default().difference(&pairing, &other, statistic).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingPair);

    let right = Pairing::new((0..9).map(|i| Pair { small_quality: 1.0, ..pair(i) }).collect()).unwrap();
    assert_eq!(
        Bootstrap::default().interval(&right, |sample| sample.auroc()).unwrap(),
        None,
        "one class in every resample"
    );
}
