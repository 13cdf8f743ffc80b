//! P-values and the signed-rank test against scipy: `fixtures/guarantees.py` says how each value was made.

use margay_evaluation::guarantee::p_value;
use margay_evaluation::wilcoxon::signed_rank;
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    binomial: Vec<(u64, u64, f64, f64)>,
    hoeffding_bentkus: Vec<(u64, f64, f64, f64)>,
    wilcoxon: Vec<Paired>,
}

#[derive(Deserialize)]
struct Paired {
    first: Vec<f64>,
    second: Vec<f64>,
    statistic: f64,
    p: f64,
}

fn fixture() -> serde_json::Result<Fixture> {
    serde_json::from_str(include_str!("fixtures/guarantees.json"))
}

/// Relative, because tests are decided in the tails.
fn close(ours: f64, theirs: f64) -> bool {
    (ours - theirs).abs() <= 1e-9 * theirs
}

#[test]
fn binomial_p_values_equal_scipy() {
    for (queries, lost, bound, expected) in fixture().unwrap().binomial {
        let found = p_value::binomial(queries, lost, bound);
        assert!(close(found, expected), "{lost} of {queries} against {bound}: {found}, scipy {expected}");
    }
}

#[test]
fn hoeffding_bentkus_p_values_equal_scipy() {
    for (queries, lost, bound, expected) in fixture().unwrap().hoeffding_bentkus {
        let found = p_value::hoeffding_bentkus(queries, lost, bound);
        assert!(close(found, expected), "{lost} of {queries} against {bound}: {found}, scipy {expected}");
    }
}

#[test]
fn the_ends_of_p_values() {
    assert_eq!(p_value::binomial(0, 0, 0.1), 1.0, "nothing was seen");
    assert_eq!(p_value::binomial(10, 10, 0.1), 1.0);
    assert_eq!(p_value::binomial(10, 0, 0.0), 1.0, "nothing is under a bound of 0");
    assert_eq!(p_value::binomial(10, 3, 1.0), 0.0, "a chance of 1 never misses");
    assert_eq!(p_value::hoeffding_bentkus(0, 0.0, 0.1), 1.0);
    assert_eq!(p_value::hoeffding_bentkus(10, 10.0, 0.1), 1.0);
}

#[test]
fn signed_ranks_equal_scipy() {
    for case in fixture().unwrap().wilcoxon {
        let found = signed_rank(&case.first, &case.second).unwrap();
        assert_eq!(found.statistic, case.statistic);
        assert!(close(found.p_value, case.p), "{found:?}, scipy {}", case.p);
        assert_eq!(found.exact, case.first.len() <= 50);
    }
}
