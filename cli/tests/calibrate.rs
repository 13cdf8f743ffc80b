//! `margay calibrate` and `margay compare` from outside: what is learned from a table runs in the bundle, thresholds carry their
//! promise, two tables or bundles are told apart or not, and what is wrong with a table is named.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

mod common;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;

use margay::bundle::{CalibratedPolicy, CalibratedRouter};
use margay::cloud::{BoxFuture, CloudAnswer, LargeModel};
use margay::policy::{Policy, PromptFeatures, Reason, Rule, Threshold};
use margay::{Bundle, Cascade, DeviceOptions, Engine, Request};
use margay_evaluation::contrast::Contrast;
use margay_evaluation::evaluation::Evaluation;
use margay_evaluation::fit::{Route, score_recorded};
use margay_evaluation::outcome::Table;
use margay_exporter::write_policy;
use serde_json::{Value, json};

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
fn a_table_without_costs_has_thresholds_for_all_goals_but_a_cost() {
    let place = Place::new();
    let without: String =
        table(0, 400).lines().map(|line| line.rsplit_once(',').unwrap().0.to_owned() + "\n").collect();
    fs::write(place.path("outcomes.csv"), without).unwrap();
    let line =
        |goal: &str| format!("calibrate --outcomes outcomes.csv --chain small,large --target {goal} --bundle toy");
    for goal in ["deferral<=0.3", "quality>=0.8", "overall-risk<=0.3@0.9"] {
        place.ok(&line(goal));
    }
    let said = place.refused(&line("cost<=4"));
    assert!(said.contains("column `flops`: is empty for query `q0`") && said.contains("calls"), "{said}");
    place.ok(&line("cost<=0.3 --cost calls"));
    let evaluate = "evaluate --outcomes outcomes.csv --chain small,large --resamples 20";
    assert!(place.refused(evaluate).contains("calls"));
    let said: Value = serde_json::from_str(&place.ok(&format!("{evaluate} --cost calls --json"))).unwrap();
    assert_eq!((&said["alone"]["small"]["cost"], &said["alone"]["large"]["cost"]), (&json!(0.0), &json!(1.0)));
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

/// A table of 100 000 columns, in the form of a header.
fn wide() -> Vec<u8> {
    let columns: String = (0..100_000).map(|n| format!(",signal.{n}")).collect();
    format!("query,model,quality{columns}\n").into_bytes()
}

#[test]
fn what_is_wrong_with_a_table_is_named() {
    let place = Place::new();
    let header = "query,model,quality,score,flops\n";
    let fine = "q1,small,1,-0.5,1\nq1,large,1,,20\n";
    let utf_16 = header.encode_utf16().flat_map(u16::to_le_bytes);
    let mut parquet = Vec::new();
    Table::from_csv(table(0, 40).as_bytes()).unwrap().to_parquet(&mut parquet).unwrap();
    parquet.truncate(parquet.len() / 2);
    let csv = |rows: &str| format!("{header}{fine}{rows}").into_bytes();
    let line = |more: &str| format!("{{\"query\":\"q\",\"model\":\"small\",\"quality\":1{more}}}\n").into_bytes();
    let cases: [(&str, Vec<u8>, &[&str]); 16] = [
        ("unpaired.csv", csv("q2,small,1,-0.5,1\n"), &["query `q2` has no row for model `large`"]),
        ("twice.csv", csv("q1,small,0,-0.5,1\n"), &["twice.csv: row 4: a second row for query `q1` and model `small`"]),
        ("nan.csv", csv("q2,small,nan,-0.5,1\n"), &["nan.csv: row 4, column `quality`"]),
        ("range.csv", csv("q2,small,1.5,-0.5,1\n"), &["range.csv: row 4, column `quality`"]),
        ("unscored.csv", csv("q2,small,1,,1\nq2,large,1,,1\n"), &["column `score`", "query `q2` and model `small`"]),
        ("lines.csv", csv("\"q2\r\nof two lines\",small,1,-0.5,1\r\nq3,small,,,\r\n"), &["row 5, column `quality`"]),
        ("ragged.csv", csv("q2,small\n"), &["ragged.csv: row 4: has 2 fields"]),
        ("utf-16.csv", utf_16.collect(), &["utf-16.csv: row 1", "column"]),
        ("empty.csv", Vec::new(), &["empty.csv: row 1, column `query`: is required"]),
        ("empty.jsonl", Vec::new(), &["no queries"]),
        ("empty.parquet", Vec::new(), &["empty.parquet: is not Parquet"]),
        ("wide.csv", wide(), &["wide.csv: row 1: is over the cap"]),
        ("long.csv", csv(&format!("\"{}\n", "q".repeat(2 << 20))), &["long.csv: row 4: is over the cap"]),
        (
            "long.jsonl",
            line(&format!(",\"task\":\"{}\"", "t".repeat(2 << 20))),
            &["long.jsonl: row 1: is over the cap"],
        ),
        ("unknown.jsonl", line(",\"qualty\":1"), &["unknown.jsonl: row 1, column `qualty`: is not one of"]),
        ("cut.parquet", parquet, &["cut.parquet: is not Parquet"]),
    ];
    fs::create_dir(place.path("folder.csv")).unwrap();
    for (name, content, words) in &cases {
        fs::write(place.path(name), content).unwrap();
        let said = place.refused(&format!("evaluate --outcomes {name} --chain small,large --json numbers.json"));
        assert!(said.starts_with("error: ") && words.iter().all(|words| said.contains(words)), "{name}: {said}");
        assert!(!said.contains("panicked") && !place.path("numbers.json").exists(), "{name}: {said}");
    }
    // The other two read tables by the same doors.
    for name in ["twice.csv", "nan.csv", "cut.parquet", "unknown.jsonl", "folder.csv", "nowhere.csv"] {
        for line in [
            format!("calibrate --outcomes {name} --chain small,large --target deferral<=0.3 --bundle toy"),
            format!("compare {name} {name} --small small --large large"),
            format!("compare fine.csv fine.csv --outcomes {name} --small small --large large"),
        ] {
            fs::write(place.path("fine.csv"), format!("{header}q9,small,1,-0.5,1\n")).unwrap();
            let said = place.refused(&line);
            // A folder is taken for a bundle where there may be one.
            assert!(said.contains(name) && !said.contains("panicked"), "{line}: {said}");
        }
    }
    assert!(Bundle::open(place.path("toy")).unwrap().policy().is_none(), "nothing was written");
}

/// Prompts about five things, of which the small model knows nothing of two, and its outcomes.
fn asked(from: u32, to: u32) -> (String, String) {
    let (mut tasks, mut csv) = (String::new(), "query,model,quality,task,score,flops\n".to_owned());
    for query in from..to {
        let thing = ["lights", "timers", "music", "taxes", "poems"][query as usize * 7 % 5];
        let right = u8::from(query * 7 % 5 < 3 || query % 19 == 0);
        let input = format!("please tell me about the {thing} in room {query}");
        let row = json!({"id": format!("t/test/{query}"), "task": "t", "input": input, "target": "yes", "options": ["yes", "no"], "metric": "accuracy"});
        writeln!(tasks, "{row}").unwrap();
        writeln!(csv, "t/test/{query},toy,{right},t,{},1", -f64::from(query * 37 % 101) / 128.0).unwrap();
        writeln!(csv, "t/test/{query},large,1,t,,20").unwrap();
    }
    (tasks, csv)
}

/// What answers for the large model, and says so.
struct Afar;

impl LargeModel for Afar {
    fn answer<'a>(&'a self, _: &'a Request) -> BoxFuture<'a, margay::Result<CloudAnswer>> {
        Box::pin(async { Ok(CloudAnswer::new("from afar")) })
    }
}

#[test]
fn a_router_runs_in_the_bundle_as_it_was_calibrated() {
    let place = Place::new();
    let (tasks, csv) = asked(0, 1200);
    fs::write(place.path("fit.csv"), csv).unwrap();
    let (more, csv) = asked(1200, 2400);
    fs::write(place.path("calibration.csv"), csv).unwrap();
    fs::write(place.path("tasks.jsonl"), tasks + &more).unwrap();
    let line =
        "calibrate --outcomes calibration.csv --chain toy,large --fit fit.csv --prompts tasks.jsonl --bundle toy";
    let said = place.ok(&format!("{line} --router 0.3 --target overall-risk<=0.2@0.9"));
    assert!(said.contains("sent on before the device begins if router < "), "{said}");
    let more_than_that = place.refused(&format!("{line} --router 0.3 --target deferral<=0.1"));
    assert!(more_than_that.contains("the router alone sends more away"), "{more_than_that}");
    let bundle = Bundle::open(place.path("toy")).unwrap();
    let calibrated = bundle.policy().unwrap();
    let router = calibrated.router.as_ref().unwrap();
    // Many prompts have the same score, and go together.
    assert!((0.2..=0.3).contains(&router.deferral_rate()), "{}", router.deferral_rate());
    // What evaluation counts as sent on and what the policy's own form of it does are the same queries, which the certificate
    // counts as deferred.
    let table = Table::read(&place.path("calibration.csv")).unwrap();
    let prompts: HashMap<String, String> = (1200..2400)
        .zip(more.lines())
        .map(|(query, line)| {
            let row: Value = serde_json::from_str(line).unwrap();
            (format!("t/test/{query}"), row["input"].as_str().unwrap().to_owned())
        })
        .collect();
    let threshold = f64::from(calibrated.policy.default_threshold().value());
    let small: Vec<_> = table.rows().filter(|row| row.model() == "toy").collect();
    let sent = |query: &str| router.sends_away(&prompts[query]).is_some();
    let deferred = small.iter().filter(|row| sent(row.query()) || row.score().unwrap() < threshold).count();
    let certified = &calibrated.certificates[0];
    assert!(
        (certified.deferral_rate - deferred as f64 / small.len() as f64).abs() < 1e-9,
        "{}",
        certified.deferral_rate
    );
    assert!(small.iter().filter(|row| sent(row.query())).count() > 240);

    // And so does the cascade: the same fit, in this process, decides the same of every query before it begins.
    let fit = Table::read(&place.path("fit.csv")).unwrap();
    let rows: Vec<_> = fit.rows().filter(|row| row.model() == "toy").collect();
    let thing = |line: &str| serde_json::from_str::<Value>(line).unwrap()["input"].as_str().unwrap().to_owned();
    let asked: Vec<String> = fs::read_to_string(place.path("tasks.jsonl")).unwrap().lines().map(thing).collect();
    let learned: Vec<&str> = asked[..1200].iter().map(String::as_str).collect();
    let right: Vec<bool> = rows.iter().map(|row| row.quality() == 1.0).collect();
    let route = Route::fit(&learned, &right, 1.0, 0.3).unwrap();
    let asked: Vec<&str> = asked[1200..1240].iter().map(String::as_str).collect();
    let sent: Vec<bool> = asked.iter().map(|prompt| route.sends_away(prompt)).collect();
    assert!(sent.contains(&true) && sent.contains(&false));
    let engine = Engine::load(&bundle, DeviceOptions { threads: Some(1), ..DeviceOptions::default() }).unwrap();
    let builder = Cascade::builder().engine(engine).policy(calibrated.clone()).cloud(Afar);
    let cascade = builder.build().unwrap();
    for (prompt, sent) in asked.into_iter().zip(sent) {
        let answer = cascade.answer_blocking(Request::user(prompt).max_tokens(2)).unwrap();
        assert_eq!(answer.reason == Some(Reason::Routed), sent, "{prompt}: {answer:?}");
        assert_eq!(answer.usage.local.input == 0, sent, "begun, or not");
        if sent {
            assert_eq!((answer.rule, answer.saved_tokens, &*answer.text), (Rule::Router, 2, "from afar"));
            assert_eq!(answer.score, route.router.score(prompt));
            assert_eq!(answer.threshold, route.threshold);
        }
    }

    // It is one of the rules that evaluation compares, and needs what it reads.
    let line = "evaluate --outcomes calibration.csv --chain toy,large --fit fit.csv --resamples 20 --json numbers.json";
    assert!(place.ok(&format!("{line} --router --prompts tasks.jsonl")).contains("rule learned router"));
    let evaluation = Evaluation::read(&place.path("numbers.json")).unwrap();
    assert!(evaluation.rules["learned router"].auroc > Some(0.9), "{:?}", evaluation.rules["learned router"]);
    fs::write(place.path("few.jsonl"), more.lines().next().unwrap()).unwrap();
    assert!(place.refused(&format!("{line} --router --prompts few.jsonl")).contains("has no prompt"));
    let none = "evaluate --outcomes calibration.csv --chain toy,large --router --prompts tasks.jsonl";
    assert!(place.refused(none).contains("other queries to learn on"));
}

#[test]
fn two_bundles_are_compared_on_the_same_queries_as_they_decide() {
    let place = Place::new();
    // The other one reads its prompts under another template, so it is another model.
    fs::create_dir(place.path("other")).unwrap();
    for entry in fs::read_dir(place.path("toy")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), place.path("other").join(entry.file_name())).unwrap();
    }
    let manifest = place.path("other/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("| trim }}", "| upper }}").replace("\"toy\"", "\"other\"")).unwrap();
    let (tasks, _) = asked(0, 60);
    fs::write(place.path("tasks.jsonl"), &tasks).unwrap();
    let large: String =
        (0..60).map(|query| format!("t/test/{query},large,{},20000000\n", u8::from(query % 7 != 0))).collect();
    fs::write(place.path("large.csv"), format!("query,model,quality,flops\n{large}")).unwrap();

    // The first has a policy of its own, with a router and a threshold for the task.
    let digest = *Bundle::open(place.path("toy")).unwrap().model_digest();
    let scored = |bundle: &str| {
        place.ok(&format!("score --bundle {bundle} --data tasks.jsonl --out {bundle}.csv --threads 1"));
        Table::read(&place.path(&format!("{bundle}.csv"))).unwrap()
    };
    let (toy, other) = (scored("toy"), scored("other"));
    let mut scores: Vec<f64> = toy.rows().map(|row| row.score().unwrap()).collect();
    scores.sort_by(f64::total_cmp);
    let middle = Threshold::new(scores[30] as f32).unwrap();
    let policy = Policy::new(Rule::ChowAverage, Threshold::KEEP_ALL).with_task("t", middle).unwrap();
    let mut weights = vec![0.0; 1 << 10];
    PromptFeatures::of("taxes", 10).iter().for_each(|(feature, _)| weights[feature as usize] = -9.0);
    let router = CalibratedRouter::new(Threshold::new(0.0).unwrap(), 1.0, weights, 0.2, 60).unwrap();
    let policy = CalibratedPolicy { router: Some(router), ..CalibratedPolicy::by_hand(digest, policy) };
    write_policy(&Bundle::open(place.path("toy")).unwrap(), &policy, None, None).unwrap();

    let line = "compare toy other --data tasks.jsonl --outcomes large.csv --large large --resamples 50 --threads 1";
    let said = place.ok(&format!("{line} --json contrast.json --report page"));
    assert!(said.contains("60 queries answered by both") && said.contains("with toy,"), "{said}");
    let contrast = Contrast::read(&place.path("contrast.json")).unwrap();
    // By hand: what each bundle scored, and what the first one's policy says of it.
    let taxes =
        |query: &str| tasks.lines().any(|line| line.contains(&format!("\"{query}\"")) && line.contains("taxes"));
    let kept: Vec<bool> =
        toy.rows().map(|row| row.score().unwrap() as f32 >= middle.value() && !taxes(row.query())).collect();
    let rate = |kept: usize| 1.0 - kept as f64 / 60.0;
    let count = kept.iter().filter(|kept| **kept).count();
    assert!((10..30).contains(&count), "{count}");
    let deferral = contrast.numbers["deferral_rate"];
    assert!((deferral.first.unwrap() - rate(count)).abs() < 1e-12, "{deferral:?}");
    assert!((deferral.second.unwrap() - 0.3).abs() < 1e-12, "without a policy it is what was asked: {deferral:?}");
    let of_large: HashMap<u32, f64> = (0..60).map(|query| (query, f64::from(u8::from(query % 7 != 0)))).collect();
    let quality: f64 =
        toy.rows().zip(&kept).zip(0..).map(|((row, kept), at)| if *kept { row.quality() } else { of_large[&at] }).sum();
    assert!((contrast.numbers["quality"].first.unwrap() - quality / 60.0).abs() < 1e-12);
    // Nothing is spent on the device for what its router sends on.
    let spent = toy.rows().filter(|row| !taxes(row.query())).map(|row| row.flops().unwrap()).sum::<f64>();
    let cost = (spent + (60 - count) as f64 * 2e7) / 60.0;
    assert!((contrast.numbers["cost"].first.unwrap() / cost - 1.0).abs() < 1e-9);
    let mean = |table: &Table| table.rows().map(|row| row.quality()).sum::<f64>() / 60.0;
    let small = contrast.numbers["small_quality"];
    assert_eq!((small.first, small.second), (Some(mean(&toy)), Some(mean(&other))));
    assert_eq!([&*contrast.sides[0].small, &*contrast.sides[1].small], ["toy", "other"]);
    assert!(fs::read_to_string(place.path("page/index.html")).unwrap().contains("id=\"changed-queries\""));

    // A bundle beside a table of the same queries, and without a task file neither runs.
    let mixed = "compare other toy.csv --data tasks.jsonl --small toy --resamples 20 --threads 1";
    assert!(place.ok(mixed).contains("60 queries answered by both"));
    assert!(place.refused("compare toy other").contains("name a task file with --data"));
}
