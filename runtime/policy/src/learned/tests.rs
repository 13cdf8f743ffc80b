use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::rule::Percent;

fn decile(percent: u8) -> Feature {
    Feature::Quantile(Percent::new(percent).unwrap())
}

#[test]
fn log_odds_by_hand() {
    let linear = Linear::new(1.0, &[(decile(10), 0.5), (Feature::MeanMargin, -2.0)]).unwrap();
    let read = |feature| Some(if feature == Feature::MeanMargin { 0.25 } else { -3.0 });
    assert_eq!(linear.log_odds(read), Some(1.0 - 1.5 - 0.5));
    assert_eq!(linear.log_odds(|_| None), None, "a feature that cannot be read");
}

#[test]
fn sums_saturate_and_are_never_nan() {
    let weights = [(Feature::ChowSum, f32::MAX), (Feature::MeanMargin, f32::MAX)];
    let linear = Linear::new(0.0, &weights).unwrap();
    let read = |sum, margin| linear.log_odds(|feature| Some(if feature == Feature::ChowSum { sum } else { margin }));
    assert_eq!(read(-2.0, 2.0), Some(0.0), "from one end of the range to the other");
    assert_eq!(read(2.0, 2.0), Some(f32::MAX));
    assert_eq!(read(-2.0, 0.0), Some(f32::MIN));
}

#[test]
fn maps_by_hand() {
    let map = PiecewiseLinear::new(&[(-2.0, 0.25), (0.0, 0.25), (2.0, 0.75)]).unwrap();
    let at = [-9.0, -2.0, -1.0, 0.0, 1.0, 2.0, 9.0].map(|score| map.at(score));
    assert_eq!(at, [0.25, 0.25, 0.25, 0.25, 0.5, 0.75, 0.75]);
    assert_eq!(PiecewiseLinear::new(&[(1.0, 0.5)]).unwrap().at(-7.0), 0.5);
}

#[test]
fn what_is_no_rule_is_refused() {
    let feature = Feature::Minimum;
    assert_eq!(Linear::new(0.0, &[]), Err(LearnedError::Empty));
    assert_eq!(Linear::new(f32::NAN, &[(feature, 1.0)]), Err(LearnedError::NotFinite));
    assert_eq!(Linear::new(0.0, &[(feature, f32::INFINITY)]), Err(LearnedError::NotFinite));
    assert_eq!(Linear::new(0.0, &[(feature, 1.0), (feature, 2.0)]), Err(LearnedError::DuplicateFeature(feature)));
    let many: Vec<_> = (0..17).map(|percent| (decile(percent), 1.0)).collect();
    assert_eq!(Linear::new(0.0, &many), Err(LearnedError::TooManyFeatures));
    assert!(Linear::new(0.0, &many[..16]).is_ok());
    assert_eq!(PiecewiseLinear::new(&[]), Err(LearnedError::Empty));
    assert_eq!(PiecewiseLinear::new(&[(0.0, 0.0); 17]), Err(LearnedError::TooManyKnots));
    assert_eq!(PiecewiseLinear::new(&[(0.0, 0.0), (0.0, 1.0)]), Err(LearnedError::NotMonotone));
    assert_eq!(PiecewiseLinear::new(&[(0.0, 0.5), (1.0, 0.25)]), Err(LearnedError::NotMonotone));
    assert_eq!(PiecewiseLinear::new(&[(f32::MIN, 0.0), (f32::MAX, 1.0)]), Err(LearnedError::NotFinite));
}

#[test]
fn what_is_no_network_is_refused() {
    let feature = Feature::Minimum;
    let unit = |weights| MlpUnit { intercept: 0.0, weights, output: 1.0 };
    let mlp = |features: &[Feature], units: &[MlpUnit<'_>]| Mlp::new(features, units.iter().copied(), 0.0);
    assert!(mlp(&[feature], &[unit(&[1.0]); MAX_MLP_UNITS]).is_ok());
    assert_eq!(mlp(&[], &[unit(&[])]), Err(LearnedError::Empty));
    assert_eq!(mlp(&[feature], &[]), Err(LearnedError::Empty));
    assert_eq!(mlp(&[feature; 2], &[unit(&[1.0; 2])]), Err(LearnedError::DuplicateFeature(feature)));
    assert_eq!(mlp(&[feature], &[unit(&[1.0; 2])]), Err(LearnedError::Weights));
    assert_eq!(mlp(&[feature], &[unit(&[1.0]); MAX_MLP_UNITS + 1]), Err(LearnedError::TooManyUnits));
    assert_eq!(mlp(&[feature], &[unit(&[f32::NAN])]), Err(LearnedError::NotFinite));
    let many: Vec<Feature> = (0..9).map(decile).collect();
    assert_eq!(mlp(&many, &[unit(&[1.0; 9])]), Err(LearnedError::TooManyFeatures));
}

#[test]
fn sigmoid_agrees_with_double_precision() {
    for step in -4000..=4000 {
        let z = step as f32 / 40.0;
        let exact = 1.0 / (1.0 + (-f64::from(z)).exp());
        let found = f64::from(sigmoid(z));
        assert!((found - exact).abs() <= 3e-7 * exact + 5e-38, "{z}: {found} for {exact}");
    }
    assert_eq!((sigmoid(0.0), sigmoid(f32::MAX)), (0.5, 1.0));
    assert!(sigmoid(f32::MIN) < 1e-37);
}

proptest! {
    #[test]
    fn a_map_never_falls(
        mut steps in prop::collection::vec((1e-6_f32..10.0, 0.0_f32..1.0), 1..MAX_KNOTS),
        scores in prop::collection::vec(-20.0_f32..200.0, 2..50),
    ) {
        let mut knot = (-10.0, 0.0);
        for (score, value) in &mut steps {
            knot = (knot.0 + *score, knot.1 + *value);
            (*score, *value) = knot;
        }
        // Steps that a sum swallows make equal scores, which are refused.
        prop_assume!(steps.windows(2).all(|two| two[0].0 < two[1].0));
        let map = PiecewiseLinear::new(&steps).unwrap();
        let mut near: Vec<f32> = scores;
        near.extend(steps.iter().flat_map(|(score, _)| [score.next_down(), *score, score.next_up()]));
        near.sort_by(f32::total_cmp);
        for two in near.windows(2) {
            prop_assert!(map.at(two[0]) <= map.at(two[1]), "{two:?}");
        }
        for (score, value) in &steps {
            prop_assert_eq!(map.at(*score), *value);
        }
    }
}
