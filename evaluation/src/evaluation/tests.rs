use super::*;
use crate::certificate::{Method, Target};
use crate::outcome::Outcome;
use crate::summary::{ObjectiveSummary, Options as SummaryOptions};

/// 300 queries of two tasks, half of them for calibration; three models.
fn table() -> Table {
    let mut table = Table::default();
    for i in 0..600usize {
        let hard = (i * 37) % 101;
        for (model, right, flops) in
            [("small", hard <= 60, 1e6), ("middle", hard <= 80, 4e6), ("large", !i.is_multiple_of(11), 1e7)]
        {
            let row = Outcome {
                score: Some(-(hard as f64) / 50.0),
                flops: Some(flops),
                split: Some(if i % 2 == 0 { "calibration" } else { "test" }.to_owned()),
                task: Some(if i % 3 == 0 { "a" } else { "b" }.to_owned()),
                ..Outcome::new(format!("q{i}"), model, f64::from(u8::from(right)))
            };
            table.push(row).unwrap();
        }
    }
    table
}

fn options(goals: &[Goal]) -> Options<'_> {
    let bootstrap = Bootstrap { resamples: 50, ..Bootstrap::default() };
    Options { bootstrap, calibration: Some("calibration"), goals, ..Options::default() }
}

#[test]
fn two_models_say_what_the_summary_says() {
    let table = table();
    let evaluation = Evaluation::from_table(&table, &["small", "large"], &options(&[])).unwrap();
    let pairing = Pairing::join(table.split("test"), "small", "large").unwrap();
    let summary = SummaryOptions {
        bootstrap: evaluation.bootstrap,
        score: ScoreKind::LogProbability,
        threshold: -1.0,
        served: None,
    };
    let summary = ObjectiveSummary::from_pairing(&pairing, &summary).unwrap();
    assert_eq!(evaluation.queries, 300, "only what does not calibrate is scored");
    assert_eq!((evaluation.audc, evaluation.audc_ideal), (Some(summary.audc), Some(summary.audc_ideal)));
    assert_eq!((evaluation.apgr, evaluation.s_d), (summary.apgr, summary.s_d));
    assert_eq!((evaluation.cost_at["95"], evaluation.cost_at["99"]), (summary.cost_at_95, summary.cost_at_99));
    assert_eq!(evaluation.alone["small"], Alone { quality: summary.small_accuracy, cost: summary.small_flops });
    for number in ["audc", "s_d", "auroc", "benefit_auroc"] {
        let (ours, theirs) = (evaluation.intervals[number], summary.intervals[number]);
        assert!((ours.low - theirs.low).abs() < 1e-12 && (ours.high - theirs.high).abs() < 1e-12, "the same draws");
    }
    // By the order of names there, of scores here: the same sums but for rounding.
    let (ours, theirs) = (evaluation.confidence["small"], summary.confidence);
    assert_eq!((ours.auroc, ours.aurc), (theirs.auroc, theirs.aurc));
    assert!((ours.brier.unwrap() - theirs.brier.unwrap()).abs() < 1e-12);
    assert_eq!(evaluation.tasks.values().map(|task| task.queries).sum::<usize>(), 300);
    assert_eq!(evaluation.cost_interval, [1e6, 1.1e7]);
}

#[test]
fn the_json_has_the_names_that_others_read() {
    let goals = ["deferral<=0.3".parse().unwrap(), "overall-risk<=0.1@0.9".parse().unwrap()];
    let evaluation = Evaluation::from_table(&table(), &["small", "large"], &options(&goals)).unwrap();
    let json = serde_json::to_value(&evaluation).unwrap();
    for number in ["schema", "audc", "audc_random", "audc_ideal", "apgr", "s_d", "error_cost_area", "aiq"] {
        assert!(json[number].is_number(), "{number}");
    }
    for (object, key) in [("cpt", "20"), ("cpt", "50"), ("cpt", "80"), ("cost_at", "95")] {
        assert!(json[object][key].is_number(), "{object} {key}");
    }
    let last = json["points"].as_array().unwrap().last().unwrap();
    assert_eq!(last["thresholds"], serde_json::json!(["inf"]));
    for measure in ["auroc", "aurc", "e_aurc", "augrc", "ece_width", "ece_mass", "mce", "brier", "nll", "fpr95"] {
        assert!(json["confidence"]["small"][measure].is_number(), "{measure}");
    }
    assert_eq!(json["intervals"]["audc"].as_array().unwrap().len(), 2);
    assert_eq!(json["certificates"][0]["guarantee"]["certificate"]["method"], "empirical");
    assert_eq!(serde_json::from_value::<Evaluation>(json.clone()).unwrap(), evaluation);

    // Every name is in the document, and none that there is not.
    let document = include_str!("../../EVALUATION.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let mut documented: Vec<&str> = rows.flat_map(|names| names.trim_end_matches('`').split("`, `")).collect();
    documented.sort_unstable();
    let mut written: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    written.sort_unstable();
    assert_eq!(written, documented);
    for object in ["intervals", "bootstrap"] {
        for name in json[object].as_object().unwrap().keys() {
            assert!(document.contains(name), "{object}: {name}");
        }
    }
    for name in json["confidence"]["small"].as_object().unwrap().keys() {
        assert!(document.contains(name), "{name}");
    }
}

#[test]
fn a_threshold_is_chosen_on_one_split_and_scored_on_another() {
    let goals = ["overall-risk<=0.1@0.9".parse().unwrap()];
    let evaluation = Evaluation::from_table(&table(), &["small", "large"], &options(&goals)).unwrap();
    let found = &evaluation.certificates[0];
    assert_eq!(found.goal, "overall-risk<=0.1@0.9");
    let certified = found.guarantee.certified().unwrap();
    assert_eq!(certified.certificate.method, Method::LearnThenTestBinomial);
    assert_eq!(certified.certificate.sample_size, 300);
    assert!(matches!(certified.certificate.target, Target::Risk { at_most: 0.1, .. }));
    let scored = found.scored.as_ref().unwrap();
    let pairing = Pairing::join(table().split("test"), "small", "large").unwrap();
    let deferred = pairing.scores().iter().filter(|score| **score < certified.threshold).count();
    assert_eq!(scored.deferral_rate, deferred as f64 / 300.0);

    let refused = |models: &[&str], options: &Options<'_>| {
        assert_eq!(Evaluation::from_table(&table(), models, options).unwrap_err().kind(), ErrorKind::Invalid);
    };
    refused(&["small", "large"], &Options { calibration: None, ..options(&goals) });
    refused(&["small", "large"], &Options { split: Some("calibration"), ..options(&goals) });
    refused(&["small", "middle", "large"], &options(&goals));
    refused(&["small", "large"], &Options { split: Some("no such split"), ..options(&[]) });
}

#[test]
fn three_models_have_a_front_and_no_curve() {
    let evaluation = Evaluation::from_table(&table(), &["small", "middle", "large"], &options(&[])).unwrap();
    assert_eq!((evaluation.audc, evaluation.apgr, evaluation.s_d), (None, None, None));
    assert!(evaluation.aiq.is_some() && evaluation.error_cost_area.is_some());
    assert!(evaluation.points.windows(2).all(|two| two[0].cost < two[1].cost && two[0].quality < two[1].quality));
    assert!(evaluation.points.iter().all(|point| point.thresholds.len() == 2));
    assert_eq!(evaluation.confidence.keys().collect::<Vec<_>>(), ["large", "middle", "small"], "each has scores");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("evaluation.json");
    evaluation.write(&path).unwrap();
    assert_eq!(Evaluation::read(&path).unwrap(), evaluation);
    Evaluation { schema: SCHEMA + 1, ..evaluation }.write(&path).unwrap();
    assert_eq!(Evaluation::read(&path).unwrap_err().kind(), ErrorKind::Value, "a schema of the future");
}

#[test]
fn the_interval_of_cost_and_the_device_s_price_are_choices() {
    let wide = Options { cost_interval: Some((1e6, 2e7)), ..options(&[]) };
    let wide = Evaluation::from_table(&table(), &["small", "large"], &wide).unwrap();
    let own = Evaluation::from_table(&table(), &["small", "large"], &options(&[])).unwrap();
    assert!(wide.aiq > own.aiq, "level past the dearest point");
    let free = CostModel { device: crate::cost::DeviceCost::PerQuery(0.0), ..CostModel::default() };
    let free = Evaluation::from_table(&table(), &["small", "large"], &Options { cost: free, ..options(&[]) }).unwrap();
    assert_eq!(free.points[0].cost, 0.0);
    assert!(free.cost_in_words.ends_with("counted as free"));
    assert_eq!(free.audc, own.audc, "an area over deferral rates knows no cost");
}

#[test]
fn rules_are_compared_on_the_same_queries() {
    // `hard` is the score turned round; `even` and `odd` are noise by themselves and the score together.
    let base = table();
    let mut table = Table::default();
    for row in base.rows() {
        let mut row = row.to_outcome();
        if row.model == "small" {
            let hard = -50.0 * row.score.unwrap();
            let noise = (hard * 13.0).rem_euclid(101.0);
            row.signals =
                [("hard", hard), ("even", noise), ("odd", hard + noise)].map(|(k, v)| (k.to_owned(), v)).into();
        } else if row.query == "q1" {
            row.signals.insert("only the large model's".into(), 1.0);
        }
        table.push(row).unwrap();
    }
    let evaluation = Evaluation::from_table(&table, &["small", "large"], &options(&[])).unwrap();
    let rules = &evaluation.rules;
    let names: Vec<&str> = rules.keys().map(String::as_str).collect();
    assert_eq!(names, ["learned benefit", "learned post-hoc", "score", "signal.even", "signal.hard", "signal.odd"]);
    assert_eq!(Some(rules["score"].audc), evaluation.audc);
    assert_eq!(rules["score"].auroc, Some(1.0), "the small model is right just where it is not hard");
    assert_eq!(rules["signal.hard"].auroc, Some(0.0), "upside down");
    assert!(rules["signal.hard"].s_d < Some(0.0));
    assert!((rules["signal.even"].auroc.unwrap() - 0.5).abs() < 0.2);
    assert_eq!(rules["learned post-hoc"].auroc, Some(1.0), "it finds which way round, and the combination");
    assert!(Some(rules["learned benefit"].audc) <= evaluation.audc_ideal);
}
