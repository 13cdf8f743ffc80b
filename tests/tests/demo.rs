//! The main job, end to end, on a tenth of the data: what the demonstration claims is held against what it left behind.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use margay::cloud::{CloudClient, Retry, Roots};
use margay::policy::{Policy, Rule, Threshold};
use margay::{Bundle, Cascade, Deadline, DeviceOptions, Engine, ErrorKind, OnCloudFailure, Origin, Request};
use margay_cli::authority::Authority;
use margay_cli::calibrate::{CalibrateArgs, calibrate};
use margay_cli::console::Console;
use margay_cli::demo::{DemoArgs, demo};
use margay_cli::evaluate::{CostArgs, EvaluateArgs, OutputArgs, TableArgs, evaluate};
use margay_cli::serve::{Model, Options, Server};
use margay_evaluation::measures;
use margay_evaluation::outcome::{Outcome, Table};
use margay_evaluation::pairing::Pairing;
use margay_evaluation::summary::{DEFERRED_SIGNAL, ScoreKind, Summary};
use margay_trainer::{Checkpoint, Device, Objective};

fn run(out: &Path) -> Summary {
    let args = DemoArgs {
        quick: true,
        out: out.to_owned(),
        seed: 7,
        data: None,
        objectives: vec![Objective::Xent, Objective::CatXent],
        json: true,
    };
    let printed = Printed::default();
    let summary = demo(&args, &mut Console::to(Box::new(printed.clone()))).unwrap();
    let printed = String::from_utf8(printed.0.lock().unwrap().clone()).unwrap();
    assert_eq!(serde_json::from_str::<Summary>(&printed).unwrap(), summary, "--json is that, on one line");
    assert_eq!(printed.lines().count(), 1);
    summary
}

/// Standard output, kept.
#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// One test, because training is what takes the time; its parts say what they prove.
#[test]
fn the_demonstration_does_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let summary = run(folder.path());
    let table = Table::read(&folder.path().join("outcomes.csv")).unwrap();
    assert_eq!(
        summary,
        Summary::read(&folder.path().join("summary.json")).unwrap(),
        "what is returned is what is on disk"
    );
    assert_eq!(summary.objectives.len(), 2);
    for objective in ["xent", "cat-xent"] {
        deferral_follows_the_threshold(&table, &summary, objective, folder.path());
        the_table_reproduces_the_summary(&table, &summary, objective);
        graph_and_trainer_agree(folder.path(), &format!("small-{objective}"));
    }
    graph_and_trainer_agree(folder.path(), "large");
    the_json_has_the_documented_keys(&folder.path().join("summary.json"));
    the_report_stands_alone(&folder.path().join("report.html"), "cat-xent");
    the_table_gives_a_threshold_with_a_promise(folder.path(), &summary);
    a_cloud_that_dies_is_an_error_or_a_marked_local_answer(folder.path());
}

fn rows(table: &Table, model: &str) -> Vec<Outcome> {
    let of_model = table.split("test").filter(|row| row.model() == model);
    let rows: Vec<_> = of_model.map(|row| row.to_outcome()).collect();
    assert_eq!(rows.len(), 550, "{model}: a tenth of the test split");
    rows
}

/// Both kinds of answer occur; who answers is decided by score and threshold and nothing else; a kept answer is the
/// device's and a deferred one the large model's, to the letter of their quality.
fn deferral_follows_the_threshold(table: &Table, summary: &Summary, objective: &str, folder: &Path) {
    let bundle = Bundle::open(folder.join(format!("bundles/small-{objective}"))).unwrap();
    let threshold = f64::from(bundle.policy().unwrap().policy.threshold_for(None).value());
    assert_eq!(threshold, summary.objectives[objective].operating_point.threshold);
    let (small, large) = (rows(table, &format!("small-{objective}")), rows(table, "large"));
    let cascade = rows(table, &format!("cascade-{objective}"));
    let mut deferred = 0;
    for ((small, large), cascade) in small.iter().zip(large).zip(&cascade) {
        let was_deferred = cascade.signals[DEFERRED_SIGNAL] == 1.0;
        assert_eq!(was_deferred, small.score.unwrap() < threshold, "{}", small.query);
        assert_eq!(cascade.quality, if was_deferred { large.quality } else { small.quality }, "{}", small.query);
        deferred += usize::from(was_deferred);
    }
    assert!(deferred > 0 && deferred < cascade.len(), "{deferred} of {}", cascade.len());
}

/// Someone with the table alone comes to the summary's numbers.
fn the_table_reproduces_the_summary(table: &Table, summary: &Summary, objective: &str) {
    let of = &summary.objectives[objective];
    let mean = |rows: &[Outcome]| rows.iter().map(|row| row.quality).sum::<f64>() / rows.len() as f64;
    let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
    assert!(close(of.small_accuracy, mean(&rows(table, &format!("small-{objective}")))));
    assert!(close(of.large_accuracy, mean(&rows(table, "large"))));
    assert!(close(of.operating_point.accuracy, mean(&rows(table, &format!("cascade-{objective}")))));

    let pairing = Pairing::join(table.split("test"), &format!("small-{objective}"), "large").unwrap();
    let curve = pairing.curve();
    assert!(close(curve.at(0.0).quality, of.small_accuracy));
    assert!(close(curve.at(1.0).quality, of.large_accuracy), "deferring everything is the large model");
    assert!(close(measures::audc(&curve), of.audc));
    assert_eq!(pairing.sample().auroc(), of.auroc);
    let last = of.curve.last().unwrap();
    assert!(close(last.deferral_rate, 1.0) && close(last.accuracy, of.large_accuracy));
}

/// The command line measures the same on the table alone, and binds a threshold to a bundle, or says why it cannot.
fn the_table_gives_a_threshold_with_a_promise(folder: &Path, summary: &Summary) {
    let table = || TableArgs {
        outcomes: vec![folder.join("outcomes.csv")],
        chain: vec!["small-xent".into(), "large".into()],
        calibration: Some("calibration".into()),
        prompts: Vec::new(),
    };
    let mut console = Console::to(Box::new(std::io::sink()));
    let args = EvaluateArgs {
        table: table(),
        split: Some("test".into()),
        goal: vec!["deferral<=0.3".parse().unwrap()],
        fit: Vec::new(),
        router: false,
        score: ScoreKind::LogProbability,
        cost: CostArgs::default(),
        output: OutputArgs {
            resamples: 50,
            seed: 7,
            cost_interval: Vec::new(),
            json: Some(folder.join("evaluation.json")),
            report: Some(folder.join("evaluation")),
        },
    };
    let evaluation = evaluate(&args, &mut console).unwrap();
    the_report_stands_alone(&folder.join("evaluation/index.html"), "small-xent");
    let of = &summary.objectives["xent"];
    assert_eq!((evaluation.audc, evaluation.cost_at["95"]), (Some(of.audc), of.cost_at_95));
    assert_eq!((evaluation.cost_at["99"], evaluation.apgr, evaluation.s_d), (of.cost_at_99, of.apgr, of.s_d));
    assert_eq!((evaluation.audc_random, evaluation.audc_ideal), (Some(of.audc_random), Some(of.audc_ideal)));
    assert_eq!((evaluation.benefit_auroc, evaluation.queries), (of.benefit_auroc, of.queries));
    // Sums in another order of queries: the same but for rounding.
    let close =
        |ours: f64, theirs: f64| assert!((ours - theirs).abs() <= 1e-12 * theirs.abs().max(1.0), "{ours}, {theirs}");
    let (small, large) = (evaluation.alone["small-xent"], evaluation.alone["large"]);
    for (ours, theirs) in [(small.quality, of.small_accuracy), (small.cost, of.small_flops)] {
        close(ours, theirs);
    }
    for (ours, theirs) in [(large.quality, of.large_accuracy), (large.cost, of.large_flops)] {
        close(ours, theirs);
    }
    let (ours, theirs) = (evaluation.confidence["small-xent"], of.confidence);
    for (ours, theirs) in [
        (ours.auroc, of.auroc),
        (ours.fpr95, theirs.fpr95),
        (ours.aurc, theirs.aurc),
        (ours.e_aurc, theirs.e_aurc),
        (ours.augrc, theirs.augrc),
        (ours.ece_width, theirs.ece_width),
        (ours.ece_mass, theirs.ece_mass),
        (ours.mce, theirs.mce),
        (ours.brier, theirs.brier),
        (ours.nll, theirs.nll),
    ] {
        assert!(ours.is_some() == theirs.is_some());
        ours.zip(theirs).into_iter().for_each(|(ours, theirs)| close(ours, theirs));
    }
    let chosen = evaluation.certificates[0].guarantee.certified().unwrap().threshold;
    assert_eq!(chosen, of.operating_point.threshold);

    let bundle = folder.join("bundles/small-xent");
    let target = |goal: &str| CalibrateArgs {
        table: table(),
        target: goal.parse().unwrap(),
        bundle: bundle.clone(),
        rule: Rule::ChowAverage,
        learn: None,
        probability: None,
        router: None,
        cost: CostArgs::default(),
        fit: Vec::new(),
        per_task: false,
        sign: None,
        json: false,
    };
    let before = Bundle::open(&bundle).unwrap();
    let refused = calibrate(&target("risk<=0.0001@0.99"), &mut console).unwrap_err();
    assert!(refused.to_string().contains("calibration queries"), "{refused}");
    assert_eq!(Bundle::open(&bundle).unwrap().policy(), before.policy(), "a refusal changes nothing");
    let after = calibrate(&target("deferral<=0.5"), &mut console).unwrap();
    assert_eq!(after.model_digest(), before.model_digest());
    let threshold = |bundle: &Bundle| bundle.policy().unwrap().policy.threshold_for(None).value();
    assert!(threshold(&after) > threshold(&before), "half may be deferred now");
}

/// ONNX Runtime computes what the trainer does, at every position, from the files that were left behind.
fn graph_and_trainer_agree(folder: &Path, name: &str) {
    let bundle = Bundle::open(folder.join("bundles").join(name)).unwrap();
    let checkpoint = Checkpoint::open(&folder.join("models").join(name)).unwrap();
    let model = checkpoint.model(&Device::flex()).unwrap();
    let tokenizer = checkpoint.tokenizer().unwrap();
    let prompts = ["transfer ten dollars to savings", "how do you say hi in french", "ünïcödé \u{1F408}", "a"];
    let prompts: Vec<_> = prompts.iter().map(|text| tokenizer.prompt(text).unwrap()).collect();
    let verification = margay_exporter::verify(&bundle, &model, &prompts).unwrap();
    assert!(verification.max_abs_prefill < 1e-4 && verification.max_abs_decode < 1e-4, "{name}: {verification}");
    assert_eq!(verification.argmax_agreement, 1.0, "{name}: {verification}");
}

fn the_json_has_the_documented_keys(path: &Path) {
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for objective in ["xent", "cat-xent"] {
        let of = &json["objectives"][objective];
        for key in ["small_accuracy", "large_accuracy", "audc", "auroc", "p50_ms", "p95_ms"] {
            assert!(of[key].is_number(), "{objective}.{key}: {}", of[key]);
        }
        // A curve may never reach 95 or 99 % of the large model: then they are there, and null.
        for key in ["cost_at_95", "cost_at_99"] {
            assert!(of.get(key).is_some_and(|cost| cost.is_number() || cost.is_null()), "{objective}.{key}");
        }
        for key in ["deferral_rate", "accuracy", "mean_flops"] {
            assert!(of["curve"][0][key].is_number(), "{objective}.curve.{key}");
        }
    }
}

fn the_report_stands_alone(path: &Path, model: &str) {
    let html = std::fs::read_to_string(path).unwrap();
    assert!(html.contains("<svg") && html.contains(model));
    for reference in ["src=\"http", "href=\"http", "@import", "url(http"] {
        assert!(!html.contains(reference), "{reference}");
    }
}

/// A server killed in mid-run: no hang, no panic, and every answer says who gave it.
fn a_cloud_that_dies_is_an_error_or_a_marked_local_answer(folder: &Path) {
    let small = Bundle::open(folder.join("bundles/small-xent")).unwrap();
    let large = Bundle::open(folder.join("bundles/large")).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let one_thread = DeviceOptions { threads: Some(1), ..DeviceOptions::default() };
        let engine = Arc::new(Engine::load(&large, one_thread.clone()).unwrap());
        let authority = Authority::new().unwrap();
        let options = Options::new("large").tls(authority.server_config());
        let server = Server::start(Model::device(engine, None), options).unwrap();
        let device = Arc::new(Engine::load(&small, one_thread).unwrap());
        let mut policy = small.policy().unwrap().clone();
        // A threshold set by hand has no certificate.
        policy.policy = Policy::new(Rule::ChowAverage, Threshold::DEFER_ALL);
        policy.certificates.clear();
        let cascade = |then| {
            let client = CloudClient::openai(server.endpoint(), "large")
                .roots(Roots::Pem(authority.pem().as_bytes().to_vec()))
                .retry(Retry { attempts: 2, ..Retry::default() })
                .build();
            let builder = Cascade::builder().engine(Arc::clone(&device)).policy(policy.clone()).cloud(client.unwrap());
            builder.on_cloud_failure(then).build().unwrap()
        };
        let (falls_back, fails) = (cascade(OnCloudFailure::FallBackToLocal), cascade(OnCloudFailure::Fail));
        let ask =
            || Request::user("what is my balance").max_tokens(8).deadline(Deadline::after(Duration::from_secs(20)));

        let before = falls_back.answer(ask()).await.unwrap();
        assert_eq!(before.origin, Origin::Cloud);
        assert_eq!(fails.answer(ask()).await.unwrap().origin, Origin::Cloud);
        server.abort();
        let after = falls_back.answer(ask()).await.unwrap();
        assert_eq!(after.origin, Origin::Local);
        assert!(after.cloud_error.is_some_and(|error| error.is_cloud()), "the answer says that the cloud failed");
        let error = fails.answer(ask()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connect, "{error:?}");
    });
}
