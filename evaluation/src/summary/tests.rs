use super::*;
use crate::outcome::Outcome;
use crate::pairing::{Pair, Pairing};

fn pairing() -> Pairing {
    let pair = |i: usize| Pair {
        query: format!("q{i}"),
        score: -(((i * 37) % 101) as f64) / 50.0,
        small_quality: if (i * 37) % 101 > 60 { 0.0 } else { 1.0 },
        large_quality: if i.is_multiple_of(11) { 0.0 } else { 1.0 },
        small_flops: 1e6,
        large_flops: 1e7,
        small_latency_ms: Some(5.0),
        large_latency_ms: Some(40.0),
    };
    Pairing::new((0..400).map(pair).collect()).unwrap()
}

fn options(threshold: f64) -> Options<'static> {
    let bootstrap = Bootstrap { resamples: 50, ..Bootstrap::default() };
    Options { bootstrap, score: ScoreKind::LogProbability, threshold, served: None }
}

pub(crate) fn summary() -> Summary {
    let pairing = pairing();
    let dataset = Dataset { name: "d".into(), split: "test".into(), queries: pairing.len() };
    let options = options(-1.0);
    let mut summary = Summary::new(dataset, options.bootstrap);
    for objective in ["cat-xent", "xent"] {
        let of_objective = ObjectiveSummary::from_pairing(&pairing, &options).unwrap();
        summary.objectives.insert(objective.into(), of_objective);
    }
    let compared = Comparison::new(("cat-xent", &pairing), ("xent", &pairing), &options.bootstrap).unwrap();
    summary.comparisons.push(compared);
    summary
}

#[test]
fn the_json_has_the_names_that_others_read() {
    let json = serde_json::to_value(summary()).unwrap();
    let objective = &json["objectives"]["xent"];
    for number in ["small_accuracy", "large_accuracy", "audc", "auroc", "cost_at_95", "cost_at_99", "p50_ms", "p95_ms"]
    {
        assert!(objective[number].is_number(), "{number}");
    }
    for point in objective["curve"].as_array().unwrap() {
        let mut keys: Vec<_> = point.as_object().unwrap().keys().collect();
        keys.sort();
        assert_eq!(keys, ["accuracy", "deferral_rate", "mean_flops"]);
    }
    assert_eq!(objective["intervals"]["small_accuracy"].as_array().unwrap().len(), 2);
    assert_eq!(objective["at_deferral"].as_array().unwrap().len(), DEFERRAL_RATES.len());
}

#[test]
fn a_summary_reads_back_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("summary.json");
    let written = summary();
    written.write(&path).unwrap();
    assert!(Summary::read(&path).unwrap() == written);

    std::fs::write(&path, "{}").unwrap();
    assert_eq!(Summary::read(&path).unwrap_err().kind(), ErrorKind::Value);
    Summary { schema: SCHEMA + 1, ..written }.write(&path).unwrap();
    assert_eq!(Summary::read(&path).unwrap_err().kind(), ErrorKind::Value, "a schema of the future");
}

#[test]
fn the_ends_of_the_curve_are_the_models_alone() {
    let objective = ObjectiveSummary::from_pairing(&pairing(), &options(-1.0)).unwrap();
    let (first, last) = (objective.curve[0], objective.curve[objective.curve.len() - 1]);
    assert!(objective.curve.len() <= MAX_CURVE_POINTS);
    assert_eq!((first.deferral_rate, first.accuracy, first.mean_flops), (0.0, objective.small_accuracy, 1e6));
    assert_eq!((last.deferral_rate, last.accuracy, last.mean_flops), (1.0, objective.large_accuracy, 1.1e7));
    for (name, value) in [("small_accuracy", objective.small_accuracy), ("audc", objective.audc)] {
        assert!(objective.intervals[name].contains(value), "{name}");
    }
    let counted: u64 = objective.histogram.iter().map(|bin| bin.right + bin.wrong).sum();
    assert_eq!(counted, 400);
}

#[test]
fn an_operating_point_is_what_the_threshold_does() {
    let pairing = pairing();
    let objective = ObjectiveSummary::from_pairing(&pairing, &options(-1.0)).unwrap();
    let point = objective.operating_point;
    let under = pairing.pairs().filter(|pair| pair.score < -1.0).count();
    let right = pairing.pairs().map(|pair| if pair.score < -1.0 { pair.large_quality } else { pair.small_quality });
    assert_eq!(point.deferral_rate, under as f64 / 400.0);
    assert_eq!(point.accuracy, right.sum::<f64>() / 400.0);
    assert_eq!(point.mean_flops, 1e6 + 1e7 * point.deferral_rate);
    assert!(!point.measured);
    assert_eq!((objective.p50_ms, objective.p95_ms), (Some(5.0), Some(45.0)), "about half are deferred");
}

#[test]
fn what_a_cascade_served_comes_from_its_rows() {
    let row = |deferred: f64| {
        let mut row = Outcome::new("q", "cascade", 1.0);
        row.flops = Some(3.0);
        row.latency_ms = Some(10.0 * (1.0 + deferred));
        row.signals.insert(DEFERRED_SIGNAL.into(), deferred);
        row
    };
    let served = [0.0, 0.0, 1.0].map(|deferred| Served::from_outcome(&row(deferred)).unwrap());
    let options = Options { served: Some(&served), ..options(-1.0) };
    let objective = ObjectiveSummary::from_pairing(&pairing(), &options).unwrap();
    let point = objective.operating_point;
    assert_eq!((point.measured, point.deferral_rate, point.accuracy), (true, 1.0 / 3.0, 1.0));
    assert_eq!(objective.p50_ms, Some(10.0));
    assert!((objective.p95_ms.unwrap() - 19.0).abs() < 1e-12, "between the second and third of 10, 10, 20");

    let error = Served::from_outcome(&row(0.5)).unwrap_err();
    assert_eq!((error.kind(), error.column()), (ErrorKind::Value, Some("signal.deferred")));
    let error = Served::from_outcome(&Outcome::new("q", "cascade", 1.0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingValue);
}

#[test]
fn a_score_that_claims_no_probability_has_no_calibration() {
    let options = Options { score: ScoreKind::Ranking, ..options(-1.0) };
    let objective = ObjectiveSummary::from_pairing(&pairing(), &options).unwrap();
    assert!(objective.reliability.is_empty());
    assert_eq!((objective.confidence.ece_width, objective.confidence.nll), (None, None));
    assert!(objective.confidence.auroc.is_some());
}

#[test]
fn nonsense_is_refused() {
    for options in [options(f64::INFINITY), Options { served: Some(&[]), ..options(-1.0) }] {
        let error = ObjectiveSummary::from_pairing(&pairing(), &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}
