//! What holds for every pairing: random outcomes, many ties, graded and 0/1 qualities.

use margay_evaluation::ErrorKind;
use margay_evaluation::curve::Curve;
use margay_evaluation::measures::{audc, audc_random};
use margay_evaluation::outcome::{MAX_TOKENS, Outcome, Table};
use margay_evaluation::pairing::{Pair, Pairing};
use margay_evaluation::threshold;
use proptest::prelude::*;

/// Scores from a few values, so that ties are common; qualities in quarters, whose sums are exact.
fn pairs() -> impl Strategy<Value = Vec<Pair>> {
    let pair = (-20i32..20, 0u8..=4, 0u8..=4, 1u32..100, 1u32..1000);
    prop::collection::vec(pair, 1..60).prop_map(|rows| {
        let pair = |(i, (score, small, large, small_flops, large_flops)): (usize, (i32, u8, u8, u32, u32))| Pair {
            query: format!("q{i}"),
            score: f64::from(score) / 4.0,
            small_quality: f64::from(small) / 4.0,
            large_quality: f64::from(large) / 4.0,
            small_flops: f64::from(small_flops),
            large_flops: f64::from(large_flops),
            small_latency_ms: None,
            large_latency_ms: None,
        };
        rows.into_iter().enumerate().map(pair).collect()
    })
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn rates() -> impl Iterator<Item = f64> {
    (0..=40).map(|step| f64::from(step) / 40.0)
}

/// The same curve but for thresholds.
fn shape(curve: &Curve) -> Vec<(f64, f64, f64)> {
    curve.points().iter().map(|point| (point.deferral_rate, point.quality, point.mean_flops)).collect()
}

proptest! {
    #[test]
    fn the_ends_are_the_models_alone(pairs in pairs()) {
        let pairing = Pairing::new(pairs).unwrap();
        let curve = pairing.curve();
        let (small, large) = (mean(pairing.small_quality()), mean(pairing.large_quality()));
        let (small_flops, large_flops) = (mean(pairing.small_flops()), mean(pairing.large_flops()));
        prop_assert_eq!((curve.at(0.0).quality, curve.at(1.0).quality), (small, large));
        prop_assert_eq!(curve.at(0.0).mean_flops, small_flops);
        prop_assert!((curve.at(1.0).mean_flops - small_flops - large_flops).abs() < 1e-9);
        prop_assert_eq!((pairing.sample().small_quality(), pairing.sample().large_quality()), (small, large));
    }

    #[test]
    fn every_point_is_what_its_threshold_does(pairs in pairs()) {
        for point in Pairing::new(pairs.clone()).unwrap().curve().points() {
            let deferred = |pair: &&Pair| pair.score < point.threshold;
            let answered = pairs.iter().map(|pair| if deferred(&pair) { pair.large_quality } else { pair.small_quality });
            let rate = pairs.iter().filter(deferred).count() as f64 / pairs.len() as f64;
            prop_assert_eq!((point.deferral_rate, point.quality), (rate, mean(&answered.collect::<Vec<_>>())));
        }
    }

    #[test]
    fn without_information_the_curve_is_the_random_line(pairs in pairs()) {
        let pairing = Pairing::new(pairs).unwrap().rescored(|_| 0.5).unwrap();
        let curve = pairing.curve();
        let (small, large) = (mean(pairing.small_quality()), mean(pairing.large_quality()));
        for rate in rates() {
            prop_assert!((curve.at(rate).quality - (small + rate * (large - small))).abs() < 1e-12);
        }
        prop_assert!((audc(&curve) - audc_random(small, large)).abs() < 1e-12);
    }

    #[test]
    fn all_orders_of_the_scores_average_to_the_random_line(pairs in prop::collection::vec((0u8..=4, 0u8..=4), 1..6)) {
        // Every assignment of ranks to up to five queries: the expectation over a random order, exactly.
        let of_rotation = |order: &[usize]| {
            let pair = |(i, (small, large)): (usize, &(u8, u8))| Pair {
                query: format!("q{i}"), score: order[i] as f64,
                small_quality: f64::from(*small) / 4.0, large_quality: f64::from(*large) / 4.0,
                small_flops: 1.0, large_flops: 1.0, small_latency_ms: None, large_latency_ms: None,
            };
            audc(&Pairing::new(pairs.iter().enumerate().map(pair).collect()).unwrap().curve())
        };
        let areas: Vec<f64> = permutations(pairs.len()).iter().map(|order| of_rotation(order)).collect();
        let alone = |quality: fn(&(u8, u8)) -> u8| mean(&pairs.iter().map(|pair| f64::from(quality(pair)) / 4.0).collect::<Vec<_>>());
        prop_assert!((mean(&areas) - audc_random(alone(|pair| pair.0), alone(|pair| pair.1))).abs() < 1e-12);
    }

    #[test]
    fn the_order_of_rows_changes_nothing(pairs in pairs(), seed in any::<u64>()) {
        let mut shuffled = pairs.clone();
        let length = shuffled.len() as u64;
        for i in 0..shuffled.len() {
            shuffled.swap(i, (seed.wrapping_mul(i as u64 + 1) % length) as usize);
        }
        prop_assert_eq!(Pairing::new(pairs).unwrap(), Pairing::new(shuffled).unwrap());
    }

    #[test]
    fn a_monotone_transformation_of_the_score_changes_nothing(pairs in pairs()) {
        let pairing = Pairing::new(pairs).unwrap();
        for transformation in [|score: f64| 3.0 * score - 7.0, f64::exp, |score: f64| score.powi(3)] {
            let transformed = pairing.rescored(|pair| transformation(pair.score)).unwrap();
            prop_assert_eq!(shape(&transformed.curve()), shape(&pairing.curve()));
            prop_assert_eq!(transformed.sample().auroc(), pairing.sample().auroc());
            prop_assert_eq!(transformed.sample().benefit_auroc(), pairing.sample().benefit_auroc());
        }
    }

    #[test]
    fn no_rule_is_above_the_oracle_or_below_its_opposite(pairs in pairs()) {
        let pairing = Pairing::new(pairs).unwrap();
        let (curve, ideal) = (pairing.curve(), pairing.oracle().curve());
        let worst = pairing.rescored(|pair| pair.large_quality - pair.small_quality).unwrap().curve();
        for rate in rates() {
            let (low, here, high) = (worst.at(rate).quality, curve.at(rate).quality, ideal.at(rate).quality);
            prop_assert!(low <= here + 1e-12 && here <= high + 1e-12, "{low} {here} {high} at {rate}");
        }
    }

    #[test]
    fn the_first_crossing_is_the_first(pairs in pairs(), share in 0.0f64..1.0) {
        let curve = Pairing::new(pairs).unwrap().curve();
        let wanted = share * curve.at(1.0).quality;
        let at = curve.reach(wanted).unwrap();
        prop_assert!(at.quality >= wanted - 1e-12);
        for rate in rates().filter(|rate| *rate < at.deferral_rate - 1e-9) {
            prop_assert!(curve.at(rate).quality < wanted + 1e-12);
        }
    }

    #[test]
    fn a_chosen_threshold_never_defers_more_than_asked(pairs in pairs(), rate in 0.0f64..=1.0) {
        let scores: Vec<f64> = pairs.iter().map(|pair| pair.score).collect();
        let under = |threshold: f64| scores.iter().filter(|score| **score < threshold).count() as f64 / scores.len() as f64;
        let choice = threshold::for_deferral_rate(&scores, rate).unwrap();
        prop_assert_eq!(choice.deferral_rate, under(choice.threshold));
        prop_assert!(choice.deferral_rate <= rate + 1e-9);
        if let Some(next) = scores.iter().copied().filter(|score| *score > choice.threshold).reduce(f64::min) {
            prop_assert!(under(next) > rate, "a higher threshold would have been allowed");
        }
    }

    #[test]
    fn a_table_survives_every_format(rows in prop::collection::vec((".{1,12}", 0.0f64..=1.0, prop::option::of(-1e300f64..1e300), prop::option::of(0..=MAX_TOKENS)), 0..20)) {
        let mut table = Table::default();
        for (query, quality, score, tokens_in) in rows {
            let mut outcome = Outcome::new(query, "small", quality);
            outcome.score = score;
            outcome.tokens_in = tokens_in;
            if let Some(score) = score {
                outcome.signals.insert("a, \"b\"\n".into(), score / 3.0);
            }
            match table.push(outcome) {
                Ok(()) => {}
                Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Duplicate),
            }
        }
        let (mut csv, mut lines) = (Vec::new(), Vec::new());
        table.to_csv(&mut csv).unwrap();
        table.to_json_lines(&mut lines).unwrap();
        prop_assert_eq!(&Table::from_csv(&csv[..]).unwrap(), &table);
        prop_assert_eq!(&Table::from_json_lines(&lines[..]).unwrap(), &table);
        #[cfg(feature = "parquet")]
        {
            let mut parquet = Vec::new();
            table.to_parquet(&mut parquet).unwrap();
            prop_assert_eq!(&Table::from_parquet(parquet).unwrap(), &table);
        }
    }

    #[cfg(feature = "parquet")]
    #[test]
    fn a_damaged_parquet_file_is_a_table_or_an_error(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), cut in prop::option::of(any::<prop::sample::Index>())) {
        let mut table = Table::default();
        for query in 0..40 {
            let mut outcome = Outcome::new(format!("query {query}"), "small", 0.25);
            outcome.score = (query % 3 > 0).then(|| f64::from(query));
            outcome.tokens_in = Some(7);
            table.push(outcome).unwrap();
        }
        let mut parquet = Vec::new();
        table.to_parquet(&mut parquet).unwrap();
        for (at, byte) in damage {
            let at = at.index(parquet.len());
            parquet[at] = byte;
        }
        if let Some(cut) = cut {
            parquet.truncate(cut.index(parquet.len()));
        }
        Table::from_parquet(parquet).map(drop).unwrap_or_default();
    }

    #[test]
    fn arbitrary_bytes_are_a_table_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400), headed in any::<bool>()) {
        let mut csv = if headed { b"query,model,quality,score\n".to_vec() } else { Vec::new() };
        csv.extend(bytes);
        for read in [Table::from_csv(&csv[..]), Table::from_json_lines(&csv[..])] {
            if let Err(error) = read {
                prop_assert!(error.row().is_some(), "{error}");
            }
        }
    }
}

#[test]
fn a_missing_pair_names_its_query_and_model() {
    let rows = |models: &[(&str, &str)]| -> Vec<Outcome> {
        models
            .iter()
            .map(|(query, model)| Outcome { score: Some(0.0), flops: Some(1.0), ..Outcome::new(*query, *model, 1.0) })
            .collect()
    };
    let whole = rows(&[("a", "small"), ("a", "large"), ("b", "other")]);
    assert_eq!(Pairing::join(&whole, "small", "large").unwrap().len(), 1);

    let lacking = rows(&[("a", "small"), ("a", "large"), ("b", "large")]);
    let error = Pairing::join(&lacking, "small", "large").unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::MissingPair, "query `b` has no row for model `small`")
    );

    let mut silent = whole;
    silent[0].score = None;
    let error = Pairing::join(&silent, "small", "large").unwrap_err();
    assert_eq!((error.kind(), error.column()), (ErrorKind::MissingValue, Some("score")));
    assert_eq!(Pairing::join(&[] as &[Outcome], "small", "large").unwrap_err().kind(), ErrorKind::Invalid);
}

fn permutations(length: usize) -> Vec<Vec<usize>> {
    if length == 0 {
        return vec![Vec::new()];
    }
    let insert = |shorter: Vec<usize>| {
        (0..length).map(move |at| {
            let mut longer = shorter.clone();
            longer.insert(at, length - 1);
            longer
        })
    };
    permutations(length - 1).into_iter().flat_map(insert).collect()
}
