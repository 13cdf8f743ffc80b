//! `margay calibrate` and `margay compare` from outside: what is learned from a table runs in the bundle, thresholds carry their
//! promise, and two tables are told apart or not.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

mod common;

use std::fmt::Write as _;
use std::fs;

use margay::Bundle;
use margay::policy::Rule;
use margay_evaluation::contrast::Contrast;
use margay_evaluation::fit::score_recorded;
use margay_evaluation::outcome::Table;
use serde_json::Value;

use common::{Place, succeeded};

impl Place {
    fn ok(&self, line: &str) -> String {
        succeeded(line, self.run(line))
    }

    fn refused(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(!output.status.success(), "{line}");
        String::from_utf8(output.stderr).unwrap()
    }
}

/// Outcomes of two tasks. How hard a query is shows in two signals together, and in neither alone; task `b` is easy.
fn table(from: u32, to: u32) -> String {
    let mut csv = String::from("query,model,quality,task,score,signal.quantile-10,signal.mean-margin,flops\n");
    for query in from..to {
        let task = if query.is_multiple_of(3) { "a" } else { "b" };
        let hard = f64::from(query * 37 % 101) / 101.0 * if task == "a" { 1.0 } else { 0.7 };
        let noise = f64::from(query * 53 % 97) / 97.0;
        let coin = f64::from(query * 71 % 89) / 89.0;
        let right = u8::from(coin > hard * hard);
        writeln!(csv, "q{query},small,{right},{task},{},{},{},1", -noise, -hard - noise, noise).unwrap();
        writeln!(csv, "q{query},large,{},{task},,,,20", u8::from(query % 50 != 0)).unwrap();
    }
    csv
}

#[test]
fn a_learned_rule_and_thresholds_for_each_task_run_in_the_bundle() {
    let place = Place::new();
    fs::write(place.path("fit.csv"), table(0, 2000)).unwrap();
    fs::write(place.path("calibration.csv"), table(2000, 8000)).unwrap();
    Table::read(&place.path("calibration.csv")).unwrap().write(&place.path("calibration.jsonl")).unwrap();
    let line =
        "calibrate --outcomes calibration.jsonl --chain small,large --target overall-risk<=0.15@0.9 --bundle toy";
    for (more, kind) in [
        (" --learn post-hoc --fit fit.csv --per-task", "linear"),
        (" --learn post-hoc --probability isotonic --fit fit.csv --per-task", "calibrated"),
        (" --learn post-hoc --probability histogram --fit fit.csv", "calibrated"),
        (" --learn post-hoc --probability temperature --fit fit.csv", "linear"),
        (" --learn benefit --fit fit.csv --per-task", "benefit"),
    ] {
        let said = place.ok(&format!("{line}{more}"));
        assert!(said.contains(&format!("keep if {kind} >= ")) && said.contains("With probability 0.9"), "{said}");
        let bundle = Bundle::open(place.path("toy")).unwrap();
        let calibrated = bundle.policy().unwrap();
        let rule: Rule = calibrated.policy.rule();
        assert_eq!(rule.to_string(), kind);
        let tasks: Vec<&str> = calibrated.policy.tasks().map(|(task, _)| task).collect();
        let wanted: &[&str] = if more.contains("--per-task") { &["a", "b"] } else { &[] };
        assert_eq!(tasks, wanted, "{said}");
        assert_eq!(calibrated.certificates.len(), 1 + wanted.len());
        if wanted.len() == 2 {
            let joint = calibrated.certificates.iter().find(|certified| certified.task.is_some()).unwrap();
            assert_eq!(joint.certificate.joint, 2, "both hold at once");
        }
        // The promise, on the queries that it was made from, with the policy's own arithmetic.
        let table = Table::read(&place.path("calibration.csv")).unwrap();
        let large: Vec<_> = table.rows().filter(|row| row.model() == "large").collect();
        let small: Vec<_> = table.rows().filter(|row| row.model() == "small").collect();
        let mut worse = 0.0;
        for (small, large) in small.iter().zip(&large) {
            let keeps = calibrated.policy.threshold_for(None).value() <= score_recorded(&rule, *small).unwrap() as f32;
            worse += f64::from(u8::from(keeps && small.quality() < large.quality()));
        }
        assert!(worse / (small.len() as f64) <= 0.15, "{worse}");
        assert!(worse > 0.0, "it keeps what it may");
    }
    for (more, why) in [
        (" --learn benefit --probability platt --fit fit.csv", "only the log-odds"),
        (" --learn post-hoc --fit none.csv", "none.csv"),
        (" --per-task --target deferral<=0.3", "cannot be used multiple times"),
    ] {
        let said = place.refused(&format!("{line}{more}"));
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn two_tables_are_compared_in_words_as_json_and_as_a_page() {
    let place = Place::new();
    fs::write(place.path("old.csv"), table(0, 3000)).unwrap();
    // The new small model mends every fifth of the old one's mistakes; its table comes in another format and in two files.
    let mut new = Table::default();
    for (at, row) in Table::read(&place.path("old.csv")).unwrap().rows().enumerate() {
        let mut row = row.to_outcome();
        if row.model == "small" && at % 5 == 0 {
            row.quality = 1.0;
        }
        if row.model == "small" {
            new.push(row).unwrap();
        }
    }
    new.write(&place.path("new.jsonl")).unwrap();
    let large: String =
        table(0, 3000).lines().filter(|line| !line.contains(",small,")).map(|line| format!("{line}\n")).collect();
    fs::write(place.path("large.csv"), large).unwrap();
    fs::write(place.path("old-small.csv"), {
        let lines: String =
            table(0, 3000).lines().filter(|line| !line.contains(",large,")).map(|line| format!("{line}\n")).collect();
        lines
    })
    .unwrap();
    let line = "compare old-small.csv new.jsonl --outcomes large.csv --large large --resamples 100";
    let said = place.ok(&format!("{line} --json contrast.json --report page"));
    assert!(said.contains("3000 queries answered by both") && said.contains("new.jsonl is better"), "{said}");
    let contrast = Contrast::read(&place.path("contrast.json")).unwrap();
    assert!(contrast.numbers["small_quality"].difference.unwrap().interval.low > 0.0);
    assert_eq!(Contrast::read(&place.path("page/contrast.json")).unwrap(), contrast);
    let page = fs::read_to_string(place.path("page/index.html")).unwrap();
    for figure in ["curves", "differences", "numbers", "changes", "changed-queries"] {
        assert!(page.contains(&format!("id=\"{figure}\"")), "{figure}");
        let rows: Vec<Value> =
            serde_json::from_slice(&fs::read(place.path(&format!("page/{figure}.json"))).unwrap()).unwrap();
        assert!(!rows.is_empty());
    }
    assert!(!page.contains("<script") && !page.contains("src="));

    assert!(
        place.ok("compare old-small.csv new.jsonl --resamples 50").contains("new.jsonl is better"),
        "the small ones alone"
    );
    let same = place.ok("compare old.csv old.csv --large large --resamples 50");
    assert!(same.contains("do not tell them apart") && !same.contains("is better"), "{same}");
    fs::write(place.path("part.csv"), table(0, 2999)).unwrap();
    assert!(
        place.refused("compare old.csv part.csv --large large").contains("query `q2999` has no row for model `small`")
    );
    assert!(place.refused("compare toy old.csv").contains("--data"));
}
