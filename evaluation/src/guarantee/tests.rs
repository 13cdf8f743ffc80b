//! Guarantees kept: populations whose true risk is known, calibration sets drawn from them ten thousand times.

use std::collections::BTreeMap;

use statrs::distribution::{Binomial, DiscreteCDF as _};

use super::*;
use crate::pairing::Pair;

const DRAWS: usize = 10_000;

/// Scores uniform in [0, 1]; an answer of score u is worse with chance (1 - u)^2 / 2. So the risk over all of a
/// threshold t is (1 - t)^3 / 6, among kept (1 - t)^2 / 6.
fn draw(random: &mut StdRng, queries: usize) -> Vec<(f64, f64)> {
    let mut drawn: Vec<(f64, f64)> = (0..queries)
        .map(|_| {
            let score: f64 = random.random();
            (score, f64::from(u8::from(random.random_bool((1.0 - score).powi(2) / 2.0))))
        })
        .collect();
    drawn.sort_by(|a, b| a.0.total_cmp(&b.0));
    drawn
}

fn losses(drawn: &[(f64, f64)], weight: impl Fn(f64) -> f64) -> Losses {
    Losses::new(drawn.iter().map(|one| one.0).collect(), drawn.iter().map(|one| weight(one.1)))
}

fn threshold_of(guarantee: &Guarantee) -> f64 {
    guarantee.certified().map_or(f64::INFINITY, |certified| certified.threshold)
}

/// The ends of the exact binomial interval: of `draws` draws that each break a promise with chance `error`, fewer or more do so
/// once in a thousand times.
fn interval(draws: usize, error: f64) -> (f64, f64) {
    let violations = Binomial::new(error, draws as u64).unwrap();
    (violations.inverse_cdf(0.0005) as f64, violations.inverse_cdf(0.9995) as f64)
}

/// Most violations that a promise at these errors explains.
fn most(error: f64) -> f64 {
    interval(DRAWS, error).1
}

/// Errors of the levels 0.9 and 0.95.
const ERRORS: [f64; 2] = [0.1, 0.05];

/// Of [`DRAWS`] calibration sets, how many have a certified threshold at each of [`ERRORS`], and how many of these thresholds
/// have a risk above the bound. `sequence` is tested in its order, or all scores from the top where there is none.
fn violations(
    seed: u64,
    (control, queries): (RiskControl, usize),
    sequence: Option<&[f64]>,
    weight: f64,
    risk: impl Fn(f64) -> f64,
) -> ([f64; 2], [f64; 2]) {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut violations, mut certified) = ([0.0; 2], [0.0; 2]);
    for _ in 0..DRAWS {
        let losses = losses(&draw(&mut random, queries), |loss| weight * loss);
        let monotone = sequence.is_none();
        let sequence = sequence.map_or_else(|| losses.distinct(), <[f64]>::to_vec);
        let test = Test { control, losses, sequence, monotone, joint: 1 };
        for (at, error) in ERRORS.into_iter().enumerate() {
            if let Some(chosen) = test.walk(error).guarantee.certified() {
                certified[at] += 1.0;
                violations[at] += f64::from(u8::from(risk(chosen.threshold) > control.at_most));
            }
        }
    }
    (violations, certified)
}

fn pairing(drawn: &[(f64, f64)]) -> Pairing {
    let pair = |(i, (score, worse)): (usize, &(f64, f64))| Pair {
        query: format!("q{i}"),
        score: *score,
        small_quality: 1.0 - worse,
        large_quality: 1.0,
        small_flops: 1.0,
        large_flops: 1.0,
        small_latency_ms: None,
        large_latency_ms: None,
    };
    Pairing::new(drawn.iter().enumerate().map(pair).collect()).unwrap()
}

#[test]
fn a_risk_over_all_is_violated_as_rarely_as_promised_and_no_less() {
    let control = RiskControl { risk: Risk::WorseOverAll, at_most: 0.05, level: 0.9 };
    let (violations, _) = violations(1, (control, 150), None, 1.0, |threshold| (1.0 - threshold).powi(3) / 6.0);
    for (violations, error) in violations.into_iter().zip(ERRORS) {
        // Whole numbers of losses do not meet the error exactly: the largest p-value under it is what the test spends.
        let p_values = (0..150).map(|lost| p_value::binomial(150, lost, 0.05));
        let spent = p_values.take_while(|p| *p <= error).last().unwrap();
        assert!(violations <= most(spent), "{violations} of {DRAWS} where {spent} are spent");
        assert!(violations >= 0.8 * spent * DRAWS as f64, "{violations}: the test is blunter than it need be");
    }
}

/// From the safest threshold down, across the one whose risk is the bound.
fn descending() -> Vec<f64> {
    (0..12).map(|step| 0.7 - 0.05 * f64::from(step)).collect()
}

#[test]
fn a_risk_among_kept_is_violated_as_rarely_as_promised() {
    let control = RiskControl { risk: Risk::WorseAmongKept, at_most: 0.05, level: 0.9 };
    let risk = |threshold: f64| (1.0 - threshold).powi(2) / 6.0;
    let (violations, certified) = violations(2, (control, 800), Some(&descending()), 1.0, risk);
    for at in 0..2 {
        assert!(violations[at] <= most(ERRORS[at]), "{} of {DRAWS}", violations[at]);
        assert!(violations[at] > 0.2 * ERRORS[at] * DRAWS as f64, "{}: the sequence crosses the bound", violations[at]);
        assert!(certified[at] > 0.8 * DRAWS as f64, "{} certified", certified[at]);
    }
}

#[test]
fn graded_risks_are_violated_no_more_than_promised() {
    // Half of each loss: the risk over all is (1 - t)^3 / 12, among kept (1 - t)^2 / 12.
    let over_all = RiskControl { risk: Risk::ShortfallOverAll, at_most: 0.05, level: 0.9 };
    let (over, certified) = violations(3, (over_all, 200), None, 0.5, |threshold| (1.0 - threshold).powi(3) / 12.0);
    assert_eq!(certified, [DRAWS as f64; 2]);
    let among_kept = RiskControl { risk: Risk::ShortfallAmongKept, at_most: 0.04, level: 0.9 };
    let risk = |threshold: f64| (1.0 - threshold).powi(2) / 12.0;
    let (among, certified) = violations(8, (among_kept, 800), Some(&descending()), 0.5, risk);
    assert!(certified[1] > 0.5 * DRAWS as f64, "{certified:?}");
    for (at, error) in ERRORS.into_iter().enumerate() {
        assert!(over[at] <= most(error) && among[at] <= most(error), "{over:?}, {among:?} of {DRAWS}");
    }
}

#[test]
fn a_deferral_rate_is_violated_as_rarely_as_promised_and_no_less() {
    let mut random = StdRng::seed_from_u64(4);
    let draws = DRAWS / 10; // through the public door, with names and all
    let mut violations = 0.0;
    for _ in 0..draws {
        let guarantee = deferral_rate(&pairing(&draw(&mut random, 100)), 0.3, 0.9).unwrap();
        violations += f64::from(u8::from(threshold_of(&guarantee) > 0.3));
    }
    let spent = (0..100).map(|below| p_value::binomial(100, below, 0.3)).take_while(|p| *p <= 0.1).last().unwrap();
    let (least, most) = interval(draws, spent);
    assert!((least..=most).contains(&violations), "{violations}, not {least} to {most}");
}

#[test]
fn conformal_risk_control_holds_on_average_and_wastes_little() {
    let mut random = StdRng::seed_from_u64(5);
    let draws = DRAWS / 5;
    let risks: Vec<f64> = (0..draws)
        .map(|_| {
            let guarantee = conformal(&pairing(&draw(&mut random, 100)), Risk::WorseOverAll, 0.08).unwrap();
            (1.0 - threshold_of(&guarantee).min(1.0)).powi(3) / 6.0
        })
        .collect();
    let mean = risks.iter().sum::<f64>() / draws as f64;
    // The theorem's other half: not less than the bound by more than 2 / (n + 1).
    assert!((0.08 - 2.0 / 101.0..=0.08 + 0.002).contains(&mean), "{mean}");
}

#[test]
fn thresholds_of_several_tasks_hold_together() {
    let control = RiskControl { risk: Risk::WorseOverAll, at_most: 0.08, level: 0.9 };
    let mut random = StdRng::seed_from_u64(6);
    // P(Bin(130, 0.08) <= 5) = 0.047: one loss more at half of the error than at a third of it.
    let draws = 1000;
    let (mut violated, mut lower) = ([0.0; 2], 0);
    for _ in 0..draws {
        let mut tasks: BTreeMap<String, Pairing> =
            ["a", "b"].map(|task| (task.to_owned(), pairing(&draw(&mut random, 130)))).into();
        let never: Vec<(f64, f64)> = draw(&mut random, 130).into_iter().map(|(score, _)| (score, 0.0)).collect();
        tasks.insert("never worse".into(), pairing(&never));
        let chosen = [Correction::Bonferroni, Correction::Holm].map(|c| control.choose_per_task(&tasks, c).unwrap());
        let thresholds = chosen.each_ref().map(|of| ["a", "b"].map(|task| threshold_of(&of[task]).min(1.0)));
        for (violated, thresholds) in violated.iter_mut().zip(thresholds) {
            let any = thresholds.iter().any(|threshold| (1.0 - threshold).powi(3) / 6.0 > 0.08);
            *violated += f64::from(u8::from(any));
        }
        assert!(thresholds[1][0] <= thresholds[0][0] && thresholds[1][1] <= thresholds[0][1]);
        lower += usize::from(thresholds[1] != thresholds[0]);
        assert_eq!(chosen[1]["a"].certified().map_or(3, |certified| certified.certificate.joint), 3);
    }
    let (_, most) = interval(draws, 0.1);
    assert!(violated.iter().all(|violated| *violated <= most), "{violated:?} of {draws}");
    assert!(lower > draws / 2, "the task that is never worse hands its share on: {lower}");
}

#[test]
fn the_public_door_says_what_was_promised() {
    let mut random = StdRng::seed_from_u64(7);
    let calibration = pairing(&draw(&mut random, 2000));
    let control = RiskControl { risk: Risk::WorseAmongKept, at_most: 0.05, level: 0.95 };
    let guarantee = control.choose(&calibration).unwrap();
    let Some(chosen) = guarantee.certified() else { panic!("2000 queries are enough: {guarantee:?}") };
    assert!((0.452..0.65).contains(&chosen.threshold), "the risk is 0.05 at 0.452: {}", chosen.threshold);
    let certificate = chosen.certificate.clone().for_model("sha256:00");
    assert!((1400..1600).contains(&certificate.sample_size), "a quarter proposed: {}", certificate.sample_size);
    assert_eq!(certificate.method, Method::LearnThenTestBinomial);
    assert_eq!(
        certificate.to_string(),
        format!(
            "With probability 0.95 over the draw of {} calibration queries, at most 5 % of locally kept answers are worse \
             than the large model's.",
            certificate.sample_size
        )
    );
    let json = serde_json::to_value(&certificate).unwrap();
    assert_eq!(json["target"], serde_json::json!({"of": "risk", "risk": "worse-among-kept", "at_most": 0.05}));
    assert_eq!(json["model_digest"], "sha256:00");
    let json = serde_json::to_string(&guarantee).unwrap();
    assert_eq!(serde_json::from_str::<Guarantee>(&json).unwrap(), guarantee);
}

#[test]
fn too_little_data_is_said_to_be_too_little() {
    // Without a single loss, 0.95^n <= 0.05 takes 59 queries.
    let right = |queries: usize| pairing(&(0..queries).map(|i| (i as f64, 0.0)).collect::<Vec<_>>());
    let control = RiskControl { risk: Risk::WorseOverAll, at_most: 0.05, level: 0.95 };
    assert_eq!(control.choose(&right(58)).unwrap(), Guarantee::CannotGuarantee { needed: Some(59), have: 58 });
    assert_eq!(control.choose(&right(59)).unwrap().certified().unwrap().deferral_rate, 0.0);
    assert_eq!(
        deferral_rate(&right(58), 0.05, 0.95).unwrap(),
        Guarantee::CannotGuarantee { needed: Some(59), have: 58 }
    );
    assert!(deferral_rate(&right(59), 0.05, 0.95).unwrap().certified().is_some());
    // (0 + 1) / (n + 1) <= 0.05 takes 19.
    let bound = |queries| conformal(&right(queries), Risk::WorseOverAll, 0.05).unwrap();
    assert_eq!(bound(18), Guarantee::CannotGuarantee { needed: Some(19), have: 18 });
    assert!(bound(19).certified().is_some());

    let wrong = pairing(&(0..100).map(|i| (f64::from(i), 1.0)).collect::<Vec<_>>());
    let among_kept = RiskControl { risk: Risk::WorseAmongKept, ..control };
    let Guarantee::CannotGuarantee { needed, .. } = among_kept.choose(&wrong).unwrap() else { panic!("all wrong") };
    assert_eq!(needed, None, "more of the same does not help");
    let one = pairing(&[(1.0, 0.0)]);
    assert!(among_kept.choose(&one).unwrap().certified().is_none(), "too few to divide");
}

#[test]
fn nonsense_is_refused() {
    let calibration = pairing(&[(1.0, 0.0)]);
    for (at_most, level) in [(0.0, 0.9), (1.0, 0.9), (0.1, 0.0), (0.1, 1.0), (f64::NAN, 0.9), (0.1, f64::NAN)] {
        let control = RiskControl { risk: Risk::WorseOverAll, at_most, level };
        assert_eq!(control.choose(&calibration).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(deferral_rate(&calibration, at_most, level).unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert_eq!(
        conformal(&calibration, Risk::WorseAmongKept, 0.1).unwrap_err().kind(),
        ErrorKind::Invalid,
        "not monotone"
    );
    let control = RiskControl { risk: Risk::WorseOverAll, at_most: 0.1, level: 0.9 };
    assert_eq!(control.test(&calibration, &[f64::NAN]).unwrap_err().kind(), ErrorKind::Invalid);
}
