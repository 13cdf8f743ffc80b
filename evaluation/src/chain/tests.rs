use super::*;
use crate::error::ErrorKind;
use crate::outcome::Outcome;
use crate::pairing::Pairing;

/// Three models on `queries` queries, from a small congruential generator.
fn rows(queries: usize) -> Vec<Outcome> {
    let mut state = 7u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / f64::from(1 << 24)
    };
    let mut rows = Vec::new();
    for query in 0..queries {
        for (model, chance, flops) in [("s", 0.5, 1.0), ("m", 0.7, 8.0), ("l", 0.9, 64.0)] {
            let score = (random() * 32.0).floor() / 32.0;
            let quality = f64::from(u8::from(random() < chance * (0.5 + score / 2.0)));
            let name = format!("q{query}");
            rows.push(Outcome { score: Some(score), flops: Some(flops), ..Outcome::new(name, model, quality) });
        }
    }
    rows
}

fn chain(models: &[&str]) -> Chain {
    Chain::join(&rows(200), models, &CostModel::default()).unwrap()
}

#[test]
fn a_chain_of_three_by_hand() {
    let row = |query: &str, model: &str, quality: f64, score: f64| Outcome {
        score: Some(score),
        flops: Some(match model {
            "s" => 1.0,
            "m" => 10.0,
            _ => 100.0,
        }),
        ..Outcome::new(query, model, quality)
    };
    let rows = [
        (row("a", "s", 1.0, 0.9), row("a", "m", 1.0, 0.9), row("a", "l", 1.0, 0.0)),
        (row("b", "s", 0.0, 0.2), row("b", "m", 1.0, 0.8), row("b", "l", 1.0, 0.0)),
        (row("c", "s", 0.0, 0.1), row("c", "m", 0.0, 0.3), row("c", "l", 1.0, 0.0)),
        (row("d", "s", 1.0, 0.3), row("d", "m", 0.0, 0.6), row("d", "l", 0.0, 0.0)),
    ];
    let rows: Vec<Outcome> = rows.into_iter().flat_map(|(s, m, l)| [s, m, l]).collect();
    let chain = Chain::join(&rows, &["s", "m", "l"], &CostModel::default()).unwrap();
    // a and d stay, b stops at m, c goes all the way: 1 + 11 + 111 + 1.
    let point = chain.at(&[0.3, 0.5]).unwrap();
    assert_eq!((point.deferral_rate, point.quality, point.cost), (0.5, 1.0, 31.0));
    let alone = chain.at(&[f64::INFINITY, f64::INFINITY]).unwrap();
    assert_eq!((alone.deferral_rate, alone.quality, alone.cost), (1.0, 0.75, 111.0));
    let json = serde_json::to_value(&alone).unwrap();
    assert_eq!(json["thresholds"], serde_json::json!(["inf", "inf"]));
    assert_eq!(serde_json::from_value::<ChainPoint>(json).unwrap(), alone);
}

#[test]
fn two_models_are_a_deferral_curve() {
    let chain = chain(&["s", "l"]);
    let pairing = Pairing::join(&rows(200), "s", "l").unwrap();
    let grid = chain.grid(200).unwrap();
    let points: Vec<_> = pairing.curve().points().to_vec();
    assert_eq!(grid.len(), points.len(), "as many steps as queries: every threshold that makes a difference");
    for (found, expected) in grid.iter().zip(points) {
        assert_eq!((found.thresholds[0], found.deferral_rate), (expected.threshold, expected.deferral_rate));
        assert!((found.quality - expected.quality).abs() < 1e-12 && (found.cost - expected.mean_flops).abs() < 1e-9);
    }
}

#[test]
fn a_model_that_keeps_nothing_only_costs() {
    let (long, short) = (chain(&["s", "m", "l"]), chain(&["s", "l"]));
    for threshold in [0.0, 0.4, 0.8, f64::INFINITY] {
        let through = long.at(&[threshold, f64::INFINITY]).unwrap();
        let past = short.at(&[threshold]).unwrap();
        assert_eq!((through.quality, through.deferral_rate), (past.quality, past.deferral_rate));
        assert!((through.cost - past.cost - 8.0 * past.deferral_rate).abs() < 1e-9);
    }
}

#[test]
fn the_front_is_what_brute_force_leaves() {
    let grid = chain(&["s", "m", "l"]).grid(8).unwrap();
    assert_eq!(grid.len(), 81);
    let front = pareto(&grid);
    let dominated = |point: &ChainPoint| {
        let better = |other: &ChainPoint| {
            other.cost <= point.cost
                && other.quality >= point.quality
                && (other.cost, other.quality) != (point.cost, point.quality)
        };
        grid.iter().any(better)
    };
    for point in &grid {
        let on_front = front.iter().any(|of| (of.cost, of.quality) == (point.cost, point.quality));
        assert_eq!(on_front, !dominated(point), "{point:?}");
    }
    assert!(front.windows(2).all(|two| two[0].cost < two[1].cost && two[0].quality < two[1].quality));
    assert!(pareto(&[]).is_empty());
}

#[test]
fn what_is_no_chain_is_refused() {
    let join = |rows: &[Outcome], models: &[&str]| Chain::join(rows, models, &CostModel::default()).unwrap_err();
    let rows = rows(3);
    assert_eq!(join(&rows, &["s"]).kind(), ErrorKind::Invalid);
    assert_eq!(join(&rows, &["s", "l", "s"]).kind(), ErrorKind::Invalid);
    assert_eq!(join(&[], &["s", "l"]).kind(), ErrorKind::Invalid);
    assert_eq!(join(&rows[..2], &["s", "m", "l"]).to_string(), "query `q0` has no row for model `l`");
    assert_eq!(join(&[&rows[..], &rows[..1]].concat(), &["s", "m"]).kind(), ErrorKind::Duplicate);
    let mut silent = rows.clone();
    silent[1].score = None;
    assert_eq!(join(&silent, &["s", "m", "l"]).column(), Some("score"));
    assert!(Chain::join(&silent, &["s", "m"], &CostModel::default()).is_ok(), "the last model needs no score");

    let chain = chain(&["s", "m", "l"]);
    for thresholds in [&[0.5][..], &[0.5, f64::NAN], &[0.5, 0.5, 0.5]] {
        assert_eq!(chain.at(thresholds).unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert_eq!(chain.grid(0).unwrap_err().kind(), ErrorKind::Invalid);
    let many: Vec<String> = (0..22).map(|at| format!("m{at}")).collect();
    let models: Vec<&str> = many.iter().map(String::as_str).collect();
    let row = |model: &&str| Outcome { score: Some(0.0), flops: Some(1.0), ..Outcome::new("q", *model, 1.0) };
    let long = Chain::join(&models.iter().map(row).collect::<Vec<_>>(), &models, &CostModel::default()).unwrap();
    assert_eq!(long.grid(1).unwrap_err().kind(), ErrorKind::TooLarge, "2^21 combinations");
}
