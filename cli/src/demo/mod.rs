//! `margay demo`: a cascade from data to report, on one machine, with nothing left out.
//!
//! Data, large model, annotation, small models, export, run, report: one module each, in the order of the screen.

mod data;
mod models;
mod recipe;
mod results;
mod run;
mod screen;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use margay::policy::Rule;
use margay_evaluation::summary::Summary;
use margay_exporter::{ExportOptions, export};
use margay_trainer::Objective;

use crate::console::Console;
use crate::error::{Error, Result};
use crate::library;
use data::Data;
use models::{Trained, Workshop};
use run::Cloud;

pub use recipe::{ModelRecipe, Recipe};

/// What a person can choose about the demonstration.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// A tenth of the data, in under a minute
    #[arg(long)]
    pub quick: bool,
    /// Folder for models, bundles, tables and the report
    #[arg(long, value_name = "DIR", default_value = "target/demo")]
    pub out: PathBuf,
    /// Seed of weights, data order, dropout and resampling
    #[arg(long, value_name = "N", default_value_t = 7)]
    pub seed: u64,
    /// Folder with train.jsonl.gz and test.jsonl.gz to use instead of CLINC150
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Objectives to train the small model with, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "xent,cat-xent,cat-dist")]
    pub objectives: Vec<Objective>,
    /// Print one JSON object: what summary.json has
    #[arg(long)]
    pub json: bool,
}

/// The rule that scores the device's answers.
const RULE: Rule = Rule::ChowAverage;

/// Runs the demonstration and leaves everything it made in the output folder.
///
/// # Errors
/// [`Error`] naming the file, address or option; `summary.json`, `outcomes.csv` and `report.html` appear whole or not at all.
pub fn demo(args: &DemoArgs, console: &mut Console) -> Result<Summary> {
    console.for_programs(args.json);
    let started = Instant::now();
    let recipe = if args.quick { Recipe::quick(args.seed) } else { Recipe::full(args.seed) };
    check_objectives(&args.objectives)?;
    let out = &args.out;
    fs::create_dir_all(out).map_err(|e| Error::io("make the folder", out, e))?;
    results::clear(out)?;
    console.line(format!("A small model that knows when to ask a large one. Everything goes to {}.", out.display()))?;

    let mut step = Steps { console, number: 0, since: Instant::now() };

    let data = Data::load(args.data.as_deref(), out, &recipe)?;
    // Before minutes go into training.
    library::prepare(step.console, "   library      ")?;
    let workshop = Workshop::new(&recipe, &data)?;
    let (prompts, targets) = workshop.tokens();
    step.done(
        "data",
        format!(
            "{} rows to train on, {} to calibrate on, {} to test on: the request in, its intent in words out; \
             {} prompt and {} target tokens, vocabulary {}",
            data.train.len(),
            data.calibration.len(),
            data.test.len(),
            prompts,
            targets,
            workshop.vocabulary()
        ),
    )?;

    let large = workshop.train(step.console, &recipe.large, Objective::Xent, None, &out.join("models/large"))?;
    step.done("large model", format!("{}; it stands for the cloud", describe(&large)))?;

    let annotations = workshop.annotate(step.console, &large.model, &out.join("models/large.annotations"))?;
    step.done(
        "annotate",
        format!(
            "the large model read {} training targets and predicts {:.1} % of them: what it thinks of each is kept",
            annotations.tokens(),
            100.0 * annotations.hit_rate()
        ),
    )?;

    let mut small = Vec::new();
    for &objective in &args.objectives {
        let folder = out.join(format!("models/small-{objective}"));
        let trained = workshop.train(step.console, &recipe.small, objective, Some(&annotations), &folder)?;
        let times = large.checkpoint.architecture().flops_per_token() as f64
            / trained.checkpoint.architecture().flops_per_token() as f64;
        let kept = trained.unmasked.map(|share| format!("; {:.1} % of target tokens counted", 100.0 * share));
        let line =
            format!("{}, {times:.0} times fewer than the large one{}", describe(&trained), kept.unwrap_or_default());
        step.done("small model", format!("{objective}: {line}"))?;
        small.push((objective, trained));
    }

    let golden: Vec<String> = data.calibration.iter().take(GOLDEN_PROMPTS).map(|row| row.input.clone()).collect();
    let bundle_of = |name: &str, trained: &Trained| {
        let options = ExportOptions {
            name: name.to_owned(),
            licence: "CC-BY-3.0".into(),
            provenance: provenance(args.data.is_some(), args.seed),
            golden_prompts: golden.clone(),
            ..ExportOptions::default()
        };
        export(&trained.checkpoint, &out.join("bundles").join(name), &options)
    };
    let (large_bundle, _) = bundle_of("large", &large)?;
    let mut bundles = Vec::new();
    let mut worst = 0.0_f32;
    for (objective, trained) in &small {
        let (bundle, verification) = bundle_of(&format!("small-{objective}"), trained)?;
        worst = worst.max(verification.max_abs_prefill).max(verification.max_abs_decode);
        bundles.push((*objective, bundle));
    }
    step.done(
        "export",
        format!("{} bundles; ONNX Runtime's logits are within {worst:.0e} of the trainer's", bundles.len() + 1),
    )?;

    let cloud = Cloud::start(&large_bundle)?;
    step.done("cloud", format!("the large model serves {} with a certificate made for this run", cloud.endpoint()))?;
    let mut table = results::Results::new(workshop.longest_answer());
    table.large_alone(step.console, &cloud, &data)?;
    step.done(
        "large alone",
        format!("{:.1} % of {} test requests right, over HTTPS", table.large_accuracy(), data.test.len()),
    )?;
    for (objective, bundle) in bundles {
        let served = table.cascade(step.console, &recipe, objective, bundle, &cloud, &data)?;
        step.done("cascade", format!("{objective}: {served}"))?;
    }
    cloud.stop()?;

    let (summary, mut lines) = table.finish(out, &recipe, &data, results::facts(&large, &small))?;
    step.done("report", format!("{}, summary.json, outcomes.csv", out.join("report.html").display()))?;
    lines.push(format!("\nDone in {:.0} s.", started.elapsed().as_secs_f64()));
    console.result(&summary, lines)?;
    Ok(summary)
}

/// Refuses, before anything is trained, objectives that cannot be compared here.
fn check_objectives(objectives: &[Objective]) -> Result<()> {
    let refuse = |why: String| Err(Error::Usage(format!("--objectives: {why}")));
    for (index, objective) in objectives.iter().enumerate() {
        if *objective == Objective::Gatekeeper {
            return refuse(
                "gatekeeper fine-tunes a model that can already answer; here all are trained from scratch".into(),
            );
        }
        if objectives[..index].contains(objective) {
            return refuse(format!("{objective} stands there twice"));
        }
    }
    if objectives.is_empty() { refuse("name at least one".into()) } else { Ok(()) }
}

/// How many prompts the export is held against.
const GOLDEN_PROMPTS: usize = 16;

/// Prints a line for each step, with the time it took.
struct Steps<'a> {
    console: &'a mut Console,
    number: usize,
    since: Instant,
}

impl Steps<'_> {
    fn done(&mut self, name: &str, what: String) -> Result<()> {
        self.number += 1;
        let seconds = self.since.elapsed().as_secs_f64();
        self.since = Instant::now();
        self.console.line(format!("{:>2} {name:<12} {what} ({seconds:.1} s)", self.number))
    }
}

fn describe(trained: &Trained) -> String {
    let architecture = trained.checkpoint.architecture();
    format!("{} parameters, {} FLOPs per token", si(architecture.parameters()), si(architecture.flops_per_token()))
}

/// A count with three digits and a unit.
fn si(value: u64) -> String {
    let value = value as f64;
    match value {
        v if v >= 1e9 => format!("{:.2} G", v / 1e9),
        v if v >= 1e6 => format!("{:.2} M", v / 1e6),
        v if v >= 1e3 => format!("{:.1} k", v / 1e3),
        v => format!("{v:.0} "),
    }
}

fn provenance(own_data: bool, seed: u64) -> BTreeMap<String, String> {
    let data = if own_data {
        "the data given with --data"
    } else {
        "CLINC150 (Larson et al., EMNLP-IJCNLP 2019), CC BY 3.0, https://github.com/clinc/oos-eval"
    };
    let facts =
        [("made-by", concat!("margay demo ", env!("CARGO_PKG_VERSION")).to_owned()), ("trained-on", data.to_owned())];
    let mut facts: BTreeMap<String, String> = facts.map(|(key, value)| (key.to_owned(), value)).into();
    facts.insert("seed".into(), seed.to_string());
    facts
}
