use super::*;
use crate::outcome::Outcome;

/// `queries` queries; the small model is right where `right` says so and sure of what is not hard.
fn table(model: &str, right: impl Fn(usize) -> bool, score: impl Fn(usize) -> f64) -> Table {
    let mut table = Table::default();
    for query in 0..400 {
        let mut small = Outcome::new(format!("q{query:03}"), model, f64::from(u8::from(right(query))));
        (small.score, small.flops, small.task) = (Some(score(query)), Some(1.0), Some("t".into()));
        let mut large = Outcome::new(format!("q{query:03}"), "large", f64::from(u8::from(query % 10 != 0)));
        large.flops = Some(10.0);
        table.push(small).unwrap();
        table.push(large).unwrap();
    }
    table
}

fn hard(query: usize) -> usize {
    query * 37 % 101
}

fn options() -> Options<'static> {
    let bootstrap = Bootstrap { resamples: 200, ..Bootstrap::default() };
    Options { bootstrap, large: Some("large"), ..Options::default() }
}

#[test]
fn the_better_is_found_better_and_equals_are_not_told_apart() {
    let score = |query: usize| -(hard(query) as f64);
    let old = table("v1", |query| hard(query) < 50, score);
    let new = table("v2", |query| hard(query) < 70, score);
    let side = |name, table, small| Side { name, table, small, threshold: None, kept: None };
    let contrast = Contrast::of(&side("old", &old, "v1"), &side("new", &new, "v2"), &options()).unwrap();
    let quality = contrast.numbers["small_quality"];
    let estimate = quality.difference.unwrap().estimate;
    assert_eq!(Some(estimate), quality.second.zip(quality.first).map(|(b, a)| b - a));
    assert!(quality.difference.unwrap().interval.low > 0.0, "{quality:?}");
    for area in ["audc", "aiq"] {
        assert!(contrast.numbers[area].difference.unwrap().interval.low > 0.0, "{area}");
    }
    assert!(contrast.numbers["error_cost_area"].difference.unwrap().interval.high < 0.0);
    assert!(contrast.sentences()[0].ends_with("new is better."), "{:?}", contrast.sentences());
    // Both have the same scores, so the same queries are deferred; the answers kept differ.
    assert_eq!(contrast.counts.keys().collect::<Vec<_>>(), ["kept by both: better"]);
    let kept = |query: &usize| -(hard(*query) as f64) >= contrast.sides[0].threshold;
    let mended = (0..400).filter(kept).filter(|query| (50..70).contains(&hard(*query))).count();
    assert_eq!(contrast.counts["kept by both: better"], mended);
    assert!(contrast.changes.iter().all(|change| change.first.quality < change.second.quality));

    let same = Contrast::of(&side("a", &old, "v1"), &side("b", &old, "v1"), &options()).unwrap();
    assert!(same.counts.is_empty() && same.numbers.values().all(|n| n.difference.is_none_or(|d| d.estimate == 0.0)));
    assert!(same.sentences().iter().all(|sentence| sentence.ends_with("do not tell them apart.")));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("contrast.json");
    contrast.write(&path).unwrap();
    assert_eq!(Contrast::read(&path).unwrap(), contrast);
    Contrast { schema: SCHEMA + 1, ..same }.write(&path).unwrap();
    assert_eq!(Contrast::read(&path).unwrap_err().kind(), ErrorKind::Value);
}

#[test]
fn hands_change_at_each_side_s_own_threshold() {
    let score = |query: usize| -(hard(query) as f64);
    let both = table("v", |query| hard(query) < 50, score);
    let side = |threshold| Side { name: "x", table: &both, small: "v", threshold: Some(threshold), kept: None };
    let contrast = Contrast::of(&side(-40.0), &side(-60.0), &options()).unwrap();
    let between = |query: &usize| (41..=60).contains(&hard(*query));
    let moved: usize = contrast.counts.values().sum();
    assert_eq!(moved, (0..400).filter(between).count());
    assert!(contrast.counts.keys().all(|kind| kind.starts_with("deferred, now kept")), "{:?}", contrast.counts);
    let worse = (0..400).filter(between).filter(|query| hard(*query) >= 50 && query % 10 != 0).count();
    assert_eq!(contrast.counts["deferred, now kept: worse"], worse);
    let rate = contrast.numbers["deferral_rate"];
    let deferred = |threshold: f64| (0..400).filter(|query| score(*query) < threshold).count() as f64 / 400.0;
    assert_eq!((rate.first, rate.second), (Some(deferred(-40.0)), Some(deferred(-60.0))));
}

#[test]
fn small_models_alone_need_no_large_one_and_no_costs() {
    let mut old = Table::default();
    let mut new = Table::default();
    for query in 0..50 {
        let row = |right: bool| {
            let score = Some(f64::from(query));
            Outcome { score, ..Outcome::new(format!("q{query}"), "m", f64::from(u8::from(right))) }
        };
        old.push(row(query % 2 == 0)).unwrap();
        new.push(row(query % 2 == 0 || query % 5 == 0)).unwrap();
    }
    let side = |table| Side { name: "x", table, small: "m", threshold: None, kept: None };
    let alone = Options { large: None, ..options() };
    let contrast = Contrast::of(&side(&old), &side(&new), &alone).unwrap();
    assert_eq!(contrast.counts, BTreeMap::from([("answered: better".to_owned(), 5)]));
    assert!(contrast.curves.is_empty() && !contrast.numbers.contains_key("audc"));
    assert!((contrast.numbers["small_quality"].difference.unwrap().estimate - 0.1).abs() < 1e-12);
}

#[test]
fn sides_about_other_queries_are_refused_by_name() {
    let score = |query: usize| query as f64;
    let whole = table("v", |_| true, score);
    let mut part = Table::default();
    for row in whole.rows().filter(|row| row.query() != "q007") {
        part.push(row.to_outcome()).unwrap();
    }
    let side = |name, table| Side { name, table, small: "v", threshold: None, kept: None };
    for (first, second) in [("whole", "part"), ("part", "whole")] {
        let of = |name: &'static str| side(name, if name == "part" { &part } else { &whole });
        let error = Contrast::of(&of(first), &of(second), &options()).unwrap_err();
        assert_eq!(error.to_string(), "query `q007` has no row for model `v` in `part`");
    }
    let error = Contrast::of(&side("a", &whole), &Side { small: "w", ..side("b", &whole) }, &options()).unwrap_err();
    assert!(error.to_string().contains("`w`"), "{error}");
}
