use super::*;
use crate::pairing::{Pair, Pairing};

/// 100 answers as the published test cases have them.
fn hundred<T>(value: impl Fn(usize) -> T) -> Vec<T> {
    (0..100).map(value).collect()
}

/// Expected values from the unit tests published with Traub et al., arXiv 2407.01032 (fd-shifts, test utilities).
#[test]
fn the_risk_coverage_family_equals_published_test_vectors() {
    let equal = hundred(|_| 0.3);
    let alternating = hundred(|i| (i % 2) as f64);
    let opposite = hundred(|i| ((i + 1) % 2) as f64);
    let ascending = hundred(|i| i as f64 / 99.0);
    let plateaus = hundred(|i| 0.2 * (i / 25 + 1) as f64);
    let wrong_every_other = hundred(|i| ((i + 1) % 2) as f64);
    let graded = hundred(|i| 1.0 - i as f64 / 99.0);
    let stepped = hundred(|i| 1.0 - 0.2 * (i / 25 + 1) as f64);
    let cases = [
        ("equal, all right", &equal, &vec![0.0; 100], 0.0, 0.0, 0.0),
        ("equal, all wrong", &equal, &vec![1.0; 100], 1.0, 0.0, 0.5),
        ("equal", &equal, &wrong_every_other, 0.5, 0.3465735902799724, 0.25),
        ("equal, graded", &equal, &graded, 0.5, 0.2524999999999986, 0.25),
        ("equal, stepped", &equal, &stepped, 0.5, 0.1817914679883058, 0.25),
        ("perfect", &alternating, &wrong_every_other, 0.125, -0.02842640972002758, 0.125),
        ("opposite", &opposite, &wrong_every_other, 0.875, 0.7215735902799725, 0.375),
        ("two blocks, graded", &alternating, &graded, 0.49621212121212127, 0.24871212121211994, 0.24873737373737373),
        ("ascending", &ascending, &wrong_every_other, 0.48281112575762547, 0.3293847160375979, 0.2475),
        ("ascending, graded", &ascending, &graded, 0.24750000000000133, 0.0, 0.16583333333333353),
        ("ascending, stepped", &ascending, &stepped, 0.3182085320116945, 0.0, 0.1875),
        ("plateaus", &plateaus, &wrong_every_other, 0.49083333333333334, 0.33740692361330576, 0.2475),
        ("plateaus, graded", &plateaus, &graded, 0.2632575757575754, 0.015757575757574083, 0.17108585858585845),
        ("plateaus, stepped", &plateaus, &stepped, 0.3125, -0.005708532011691969, 0.1875),
    ];
    for (name, scores, losses, expected_aurc, expected_e_aurc, expected_augrc) in cases {
        let close = |ours: Option<f64>, theirs: f64| (ours.unwrap() - theirs).abs() < 1e-12;
        assert!(close(aurc(scores, losses), expected_aurc), "AURC, {name}: {:?}", aurc(scores, losses));
        assert!(close(e_aurc(scores, losses), expected_e_aurc), "E-AURC, {name}: {:?}", e_aurc(scores, losses));
        assert!(close(augrc(scores, losses), expected_augrc), "AUGRC, {name}: {:?}", augrc(scores, losses));
    }
}

#[test]
fn augrc_is_the_stated_function_of_auroc_and_accuracy() {
    let scores = [0.9, 0.8, 0.8, 0.6, 0.5, 0.5, 0.1];
    let right = [true, true, false, true, false, true, false];
    let losses = right.map(|right| if right { 0.0 } else { 1.0 });
    let accuracy = 4.0 / 7.0;
    let expected =
        (1.0 - auroc(&scores, &right).unwrap()) * accuracy * (1.0 - accuracy) + (1.0 - accuracy).powi(2) / 2.0;
    assert!((augrc(&scores, &losses).unwrap() - expected).abs() < 1e-15);
}

#[test]
fn auroc_counts_pairs_and_halves_of_ties() {
    // right: 3, 2; wrong: 2, 1. Pairs won: (3,2) (3,1) (2,1); tied: (2,2). 3.5 of 4.
    assert_eq!(auroc(&[3.0, 2.0, 2.0, 1.0], &[true, true, false, false]), Some(3.5 / 4.0));
    assert_eq!(auroc(&[0.0, -0.0], &[true, false]), Some(0.5), "zeros of both signs are tied");
    assert_eq!(auroc(&[1.0, 2.0], &[true, true]), None, "one class");
    assert_eq!(auroc(&[], &[]), None);
    assert_eq!(auroc(&[f64::NAN, 2.0], &[true, false]), None);
}

#[test]
fn fpr95_takes_whole_ties() {
    // 95 % of 2 right answers is both: the lower one is tied with a wrong answer, which passes too.
    assert_eq!(fpr95(&[3.0, 2.0, 2.0, 1.0], &[true, true, false, false]), Some(0.5));
    assert_eq!(fpr95(&[1.0], &[true]), None);
}

#[test]
fn benefit_is_what_deferring_mends() {
    // Only the second query is wrong on the device and right in the cloud, and it has the lowest score.
    assert_eq!(benefit_auroc(&[0.9, 0.1, 0.5], &[true, false, false], &[true, true, false]), Some(1.0));
    assert_eq!(benefit_auroc(&[0.9, 0.1], &[true, false], &[true, false]), None, "nothing to mend");
}

#[test]
fn calibration_of_a_worked_example() {
    // Two bins: {0.2, 0.4} with one of two right, {0.8} right. Gaps 0.2 and 0.2.
    let (p, right) = ([0.2, 0.4, 0.8], [true, false, true]);
    let close = |ours: Option<f64>, expected: f64| assert!((ours.unwrap() - expected).abs() < 1e-12, "{ours:?}");
    close(ece_width(&p, &right, 2), 0.2);
    close(mce(&p, &right, 2), 0.2);
    close(brier(&p, &right), (0.64 + 0.16 + 0.04) / 3.0);
    close(nll(&p, &right), -(0.2f64.ln() + 0.6f64.ln() + 0.8f64.ln()) / 3.0);
    // Equal mass: the median 0.4 is the edge and belongs to the bin below.
    close(ece_mass(&p, &right, 2), 0.2);
    let counts: Vec<u64> = reliability(&[0.5, 0.0, 1.0], &[true; 3], 2).unwrap().iter().map(|bin| bin.count).collect();
    assert_eq!(counts, [2, 1], "an edge belongs to the bin below");
}

#[test]
fn calibration_is_undefined_without_probabilities() {
    for (p, bins) in [(vec![], 10), (vec![1.5], 10), (vec![f64::NAN], 10), (vec![0.5], 0)] {
        let right = vec![true; p.len()];
        assert_eq!(ece_width(&p, &right, bins), None);
        assert_eq!(ece_mass(&p, &right, bins), None);
        assert_eq!(mce(&p, &right, bins), None);
    }
    assert_eq!(brier(&[], &[]), None);
    assert_eq!(nll(&[-0.1], &[true]), None);
    assert!(nll(&[1.0], &[false]).unwrap().is_finite(), "one certain mistake does not make the mean infinite");
}

/// Four queries, score 1 to 4: the small model is right on the upper two, the large one on all but the third.
fn four() -> Pairing {
    let pairs = [(1.0, 0.0, 1.0), (2.0, 0.0, 1.0), (3.0, 1.0, 0.0), (4.0, 1.0, 1.0)];
    let pair = |(score, small_quality, large_quality): (f64, f64, f64)| Pair {
        query: format!("{score}"),
        score,
        small_quality,
        large_quality,
        small_flops: 10.0,
        large_flops: 100.0,
        small_latency_ms: None,
        large_latency_ms: None,
    };
    Pairing::new(pairs.into_iter().map(pair).collect()).unwrap()
}

#[test]
fn a_deferral_curve_by_hand() {
    let curve = four().curve();
    let points: Vec<_> =
        curve.points().iter().map(|p| (p.threshold, p.deferral_rate, p.quality, p.mean_flops)).collect();
    let expected = [
        (1.0, 0.0, 0.5, 10.0),
        (2.0, 0.25, 0.75, 35.0),
        (3.0, 0.5, 1.0, 60.0),
        (4.0, 0.75, 0.75, 85.0),
        (f64::INFINITY, 1.0, 0.75, 110.0),
    ];
    assert_eq!(points, expected);
    // Trapezoids of width 1/4: (0.5+0.75 + 0.75+1 + 1+0.75 + 0.75+0.75) / 2 / 4.
    assert_eq!(audc(&curve), 0.78125);
    assert_eq!(audc_random(0.5, 0.75), 0.625);
    // The oracle gains on two, then nothing, then loses one: 0.5, 0.75, 1, 1, 0.75.
    assert_eq!(audc_ideal(&four()), 0.84375);
    assert_eq!(apgr(0.78125, 0.5, 0.75), Some(1.125));
    assert_eq!(s_d(0.78125, 0.625, 0.84375), Some(5.0 / 7.0));
    assert_eq!(gap_closed(0.75, 0.5, 0.75), Some(1.0));
    let at = curve.at(0.375);
    assert_eq!((at.threshold, at.quality, at.mean_flops), (2.0, 0.875, 47.5), "half of the query with score 2");
}

#[test]
fn cost_at_quality_is_the_first_crossing() {
    let curve = four().curve();
    let at = cost_at_quality(&curve, 0.75, 0.95).unwrap(); // 0.7125 lies 0.85 of the way through the first query
    assert!((at.deferral_rate - 0.2125).abs() < 1e-15 && (at.mean_flops - 31.25).abs() < 1e-12, "{at:?}");
    assert_eq!(cost_at_quality(&curve, 0.75, 0.5).unwrap().deferral_rate, 0.0, "small alone is enough");
    assert_eq!(cost_at_quality(&curve, 0.75, 1.5), None, "more than the curve ever reaches");
}

#[test]
fn without_a_gap_there_is_no_share_of_it() {
    assert_eq!(apgr(0.8, 0.8, 0.8), None);
    assert_eq!(gap_closed(0.8, 0.8, 0.8), None);
    assert_eq!(s_d(0.8, 0.8, 0.8), None);
}

#[test]
fn measures_of_cost_by_hand() {
    let curve = four().curve();
    let points = || curve.points().iter().map(|point| (point.mean_flops, point.quality));
    // The gap is 0.5 to 0.75; half of it, 0.625, lies half way through the first query.
    assert_eq!(cpt(&curve, 0.5), Some(0.125));
    assert_eq!(cpt(&curve, 3.0), None, "1.25 is never reached");
    assert_eq!(cpt(&four().rescored(|pair| pair.small_quality - pair.large_quality).unwrap().curve(), 1.0), Some(0.25));
    // (10, 0.5) (35, 0.75) (60, 1) (85, 0.75) (110, 0.75). The hull is 0.5 to 1 at 60, then level:
    // (50 * 0.75 + 50 * 1) / 100.
    assert_eq!(aiq(points(), 10.0, 110.0), Some(0.875));
    // The curve itself: 50 * 0.75 + 25 * 0.875 + 25 * 0.75 = 78.125.
    assert!((error_cost_area(points(), 10.0, 110.0).unwrap() - (1.0 - 0.78125)).abs() < 1e-15);
    assert_eq!(aiq(points(), 60.0, 80.0), Some(1.0), "a part of the hull");
    assert_eq!(error_cost_area(points(), 110.0, 210.0), Some(0.25), "level past the dearest point");
    assert_eq!(aiq(points(), 5.0, 110.0), None, "nothing can be bought for 5");
    for (low, high) in [(60.0, 60.0), (60.0, f64::INFINITY), (f64::NAN, 60.0)] {
        assert_eq!((aiq(points(), low, high), error_cost_area(points(), low, high)), (None, None));
    }
    assert_eq!(aiq([], 0.0, 1.0), None);
    // At 60: 0.5 for 50 is 0.01 a unit; the large model alone 0.25 for 90, 1/360 a unit: 2.6 times more.
    let lift = ibc_lift(&curve.at(0.5), (10.0, 0.5), (100.0, 0.75)).unwrap();
    assert!((lift - 2.6).abs() < 1e-12, "{lift}");
    assert_eq!(ibc_lift(&curve.at(0.0), (10.0, 0.5), (100.0, 0.75)), None, "nothing was spent");
    assert_eq!(ibc_lift(&curve.at(0.5), (10.0, 0.5), (100.0, 0.5)), None, "no benefit to compare with");
}

#[test]
fn a_hull_drops_what_lies_under_it() {
    // (2, 0.3) lies under the line from (1, 0.2) to (3, 0.6); (4, 0.5) costs more than (3, 0.6) and gives less.
    let points = [(4.0, 0.5), (2.0, 0.3), (1.0, 0.2), (3.0, 0.6), (1.0, 0.1)];
    let area = aiq(points, 1.0, 4.0).unwrap();
    assert!((area - (2.0 * 0.4 + 0.6) / 3.0).abs() < 1e-15, "{area}");
}
