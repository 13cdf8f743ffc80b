//! `margay evaluate` and `margay calibrate`: what an outcome table says, and the threshold that follows from it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use margay::Bundle;
use margay::bundle::{CalibratedPolicy, Calibration};
use margay::policy::{Feature, Linear, MAX_KNOTS, Policy, Rule, Threshold};
use margay_evaluation::bootstrap::Bootstrap;
use margay_evaluation::certificate::{Certified, Guarantee, Target};
use margay_evaluation::cost::{CostModel, DeviceCost, Unit};
use margay_evaluation::evaluation::{Evaluation, OfGoal, Options};
use margay_evaluation::fit::{Calibrator, LearnedRule, score_recorded};
use margay_evaluation::goal::Goal;
use margay_evaluation::guarantee::{Correction, RiskControl};
use margay_evaluation::outcome::{Row, Table};
use margay_evaluation::pairing::{Pairing, RIGHT};
use margay_evaluation::report::{ChainReport, Details};
use margay_evaluation::summary::ScoreKind;
use margay_exporter::{SecretKey, write_policy};
use serde_json::json;

use crate::console::Console;
use crate::error::{Error, Result};

/// What stands for standard output in the place of a file.
const STANDARD_OUTPUT: &str = "-";

/// Penalty of a learned rule, scikit-learn's default.
const PENALTY: f64 = 1.0;

/// Which rows of which tables are about which models.
#[derive(Debug, Clone, Args)]
pub struct TableArgs {
    /// Outcome tables, Parquet, JSON Lines or CSV by their ending; several are read as one
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub outcomes: Vec<PathBuf>,
    /// The models, in the order in which they are asked
    #[arg(long, value_name = "NAMES", value_delimiter = ',', required = true)]
    pub chain: Vec<String>,
    /// The split that thresholds are chosen on
    #[arg(long, value_name = "NAME")]
    pub calibration: Option<String>,
}

/// What `margay evaluate` is asked.
#[derive(Debug, Clone, Args)]
pub struct EvaluateArgs {
    /// Tables and models
    #[command(flatten)]
    pub table: TableArgs,
    /// The split that is scored; all rows but those of the calibration split unless named
    #[arg(long, value_name = "NAME")]
    pub split: Option<String>,
    /// What a threshold is wanted for, e.g. "risk<=0.05@0.95" or "deferral<=0.3"; needs --calibration
    #[arg(long, value_name = "GOAL")]
    pub goal: Vec<Goal>,
    /// Outcome tables of other queries that learned rules and tuned thresholds are fitted on; else the calibration split
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub fit: Vec<PathBuf>,
    /// What a score is: log-probability, probability or ranking
    #[arg(long, value_name = "KIND", default_value = "log-probability")]
    pub score: ScoreKind,
    /// What a query costs, and the device's own share of it
    #[command(flatten)]
    pub cost: CostArgs,
    /// What is written, and how sure it is
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Where numbers and page go, and what their intervals rest on.
#[derive(Debug, Clone, Args)]
pub struct OutputArgs {
    /// Resamples behind every interval
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub resamples: usize,
    /// Seed of the resamples
    #[arg(long, value_name = "N", default_value_t = 7)]
    pub seed: u64,
    /// Print all numbers as one JSON object, or write them to FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = STANDARD_OUTPUT)]
    pub json: Option<PathBuf>,
    /// Folder for a page with figures, and the numbers of each as CSV and JSON
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
}

impl OutputArgs {
    pub(crate) fn bootstrap(&self) -> Bootstrap {
        Bootstrap { resamples: self.resamples, seed: self.seed, ..Bootstrap::default() }
    }

    /// Whether a program reads standard output.
    pub(crate) fn for_programs(&self) -> bool {
        self.json.as_deref() == Some(Path::new(STANDARD_OUTPUT))
    }

    /// The file for all numbers.
    pub(crate) fn json_file(&self) -> Option<&Path> {
        self.json.as_deref().filter(|_| !self.for_programs())
    }

    /// Where the page is, if one was written.
    pub(crate) fn where_the_page_is(&self) -> Option<String> {
        self.report.as_ref().map(|folder| format!("  report in {}", folder.join("index.html").display()))
    }
}

/// What a query costs.
#[derive(Debug, Clone, Default, Args)]
pub struct CostArgs {
    /// What is counted: flops, money, milliseconds or joules
    #[arg(long = "cost", value_name = "UNIT", default_value = "flops")]
    pub unit: CostUnit,
    /// Count the first model as this much for each query, in that unit, instead of as recorded; 0 is a choice
    #[arg(long, value_name = "COST")]
    pub device_cost: Option<f64>,
    /// Joules per floating-point operation on the device, for --cost joules
    #[arg(long, value_name = "JOULES", default_value_t = 1e-10)]
    pub joules_per_flop: f64,
    /// Joules of the device's radio per query sent away, for --cost joules
    #[arg(long, value_name = "JOULES", default_value_t = 1.0)]
    pub joules_per_call: f64,
    /// Costs between which areas over cost are taken, to compare with other chains
    #[arg(long, value_name = "FROM,TO", value_delimiter = ',', num_args = 2)]
    pub cost_interval: Vec<f64>,
}

/// A column to count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum CostUnit {
    /// Column `flops`
    #[default]
    Flops,
    /// Column `cost`
    Money,
    /// Column `latency_ms`
    Milliseconds,
    /// The device's column `flops` and the number of calls
    Joules,
}

/// Which rule to learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Learn {
    /// Whether the small model is right
    PostHoc,
    /// Whether it is right more often than the large one
    Benefit,
}

/// What makes a probability of learned log-odds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Probability {
    /// A line in the log-odds, by Platt's targets
    Platt,
    /// The log-odds divided by a temperature
    Temperature,
    /// The non-decreasing map of least squared error
    Isotonic,
    /// The share of right answers in each of eight bins
    Histogram,
}

impl CostArgs {
    pub(crate) fn model(&self) -> CostModel {
        let unit = match self.unit {
            CostUnit::Flops => Unit::Flops,
            CostUnit::Money => Unit::Money,
            CostUnit::Milliseconds => Unit::Milliseconds,
            CostUnit::Joules => Unit::Joules { per_flop: self.joules_per_flop, per_call: self.joules_per_call },
        };
        CostModel { unit, device: self.device_cost.map_or(DeviceCost::Recorded, DeviceCost::PerQuery) }
    }

    pub(crate) fn interval(&self) -> Option<(f64, f64)> {
        Some((*self.cost_interval.first()?, *self.cost_interval.get(1)?))
    }
}

/// What `margay calibrate` is asked.
#[derive(Debug, Clone, Args)]
pub struct CalibrateArgs {
    /// Tables and models; the first model is the bundle's
    #[command(flatten)]
    pub table: TableArgs,
    /// What the threshold is wanted for, e.g. "risk<=0.05@0.95" or "deferral<=0.3"
    #[arg(long, value_name = "GOAL")]
    pub target: Goal,
    /// The bundle whose model gave the scores, and which gets the threshold
    #[arg(long, value_name = "DIR")]
    pub bundle: PathBuf,
    /// The rule that gave the scores
    #[arg(long, value_name = "RULE", default_value = "chow-average")]
    pub rule: Rule,
    /// Learn the rule from the signals that the tables record, in the place of --rule: post-hoc or benefit; needs --fit
    #[arg(long, value_name = "KIND", requires = "fit")]
    pub learn: Option<Learn>,
    /// Calibrate the learned log-odds: platt or temperature (log-odds still), isotonic or histogram (then scores are
    /// probabilities); with --learn post-hoc
    #[arg(long, value_name = "METHOD", requires = "learn")]
    pub probability: Option<Probability>,
    /// Outcome tables of other queries that the rule is learned on
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub fit: Vec<PathBuf>,
    /// A threshold for each task too, all of them right at once; needs a risk at a level, and column `task`
    #[arg(long)]
    pub per_task: bool,
    /// File of the secret key to sign the bundle again with; needed if it is signed
    #[arg(long, value_name = "FILE")]
    pub sign: Option<PathBuf>,
    /// Print one JSON object: the policy that the bundle has now, with its certificates, and tasks that got none
    #[arg(long)]
    pub json: bool,
}

/// Measures a chain of models, prints what matters and writes the rest as JSON.
///
/// # Errors
/// [`Error`] naming the file, row, model or goal.
pub fn evaluate(args: &EvaluateArgs, console: &mut Console) -> Result<Evaluation> {
    console.for_programs(args.output.for_programs());
    let table = Table::read_all(&args.table.outcomes)?;
    let fit = if args.fit.is_empty() { None } else { Some(Table::read_all(&args.fit)?) };
    let models: Vec<&str> = args.table.chain.iter().map(String::as_str).collect();
    let options = Options {
        split: args.split.as_deref(),
        calibration: args.table.calibration.as_deref(),
        goals: &args.goal,
        fit: fit.as_ref(),
        score: args.score,
        cost: args.cost.model(),
        cost_interval: args.cost.interval(),
        bootstrap: args.output.bootstrap(),
    };
    let evaluation = Evaluation::from_table(&table, &models, &options)?;
    if let Some(path) = args.output.json_file() {
        evaluation.write(path)?;
    }
    if let Some(folder) = &args.output.report {
        let details = Details::of(&table, &models, &options, &evaluation)?;
        let title = format!("Cascade of {}", models.join(" and "));
        ChainReport { title: &title, evaluation: &evaluation, details: &details }.write(folder)?;
    }
    console.result(&evaluation, lines(&evaluation).into_iter().chain(args.output.where_the_page_is()))?;
    Ok(evaluation)
}

/// Chooses a threshold with what can be promised about it, and binds it to a bundle's model.
///
/// # Errors
/// [`Error`] naming the file, row or model; [`Error::Usage`] when the target cannot be met, the bundle is then as before.
pub fn calibrate(args: &CalibrateArgs, console: &mut Console) -> Result<Bundle> {
    console.for_programs(args.json);
    let [small, large] = args.table.chain.as_slice() else {
        return Err(Error::Usage("--chain: name two models, the bundle's and the one behind it".into()));
    };
    let bundle = Bundle::open(&args.bundle)?;
    let mut table = Table::read_all(&args.table.outcomes)?;
    let mut rule = args.rule;
    if let Some(kind) = args.learn {
        rule = learn(kind, args.probability, &Table::read_all(&args.fit)?, small, large)?;
        // The scores are then what this rule gives in the runtime.
        table = table.rescored(small, |row| score_recorded(&rule, row))?;
    }
    let rows: Vec<Row<'_>> = match &args.table.calibration {
        Some(split) => table.split(split).collect(),
        None => table.rows().collect(),
    };
    let calibration = Pairing::join(rows.iter().copied(), small, large)?;
    let certified = match args.target.choose(&calibration)? {
        Guarantee::Certified(certified) => certified,
        refused @ Guarantee::CannotGuarantee { .. } => return Err(Error::Usage(cannot(&args.target, &refused))),
    };
    let tasks = if args.per_task { per_task(&args.target, &rows, small, large)? } else { BTreeMap::new() };
    let key = args.sign.as_deref().map(SecretKey::read).transpose()?;
    // What the threshold was chosen on, measured whole, goes with it; a table without costs has no such measures.
    let options = Options { split: args.table.calibration.as_deref(), ..Options::default() };
    let report = Evaluation::from_table(&table, &[small, large], &options).ok();
    let report = report.map(serde_json::to_value).transpose().map_err(|error| Error::Usage(error.to_string()))?;
    let policy = policy(args, rule, &bundle, &certified, &tasks)?;
    let bundle = write_policy(&bundle, &policy, report.as_ref(), key.as_ref())?;
    let mut lines = vec![
        format!("{}: keep if {rule} >= {}", args.bundle.display(), certified.threshold as f32),
        certified.certificate.to_string(),
        certified.certificate.assumptions,
    ];
    let mut refused: BTreeMap<&str, String> = BTreeMap::new();
    for (task, guarantee) in &tasks {
        lines.push(match guarantee {
            Guarantee::Certified(of_task) => format!("  {task}: keep if {rule} >= {}", of_task.threshold as f32),
            none @ Guarantee::CannotGuarantee { .. } => {
                let why = cannot(&args.target, none);
                let line = format!("  {task}: as all other tasks. {why}");
                refused.insert(task, why);
                line
            }
        });
    }
    let facts = json!({"bundle": args.bundle.to_string_lossy(), "policy": policy, "refused": refused});
    console.result(&facts, lines)?;
    Ok(bundle)
}

/// A rule for the policy, learned from all signals that the runtime computes and every row of the small model has.
fn learn(kind: Learn, probability: Option<Probability>, table: &Table, small: &str, large: &str) -> Result<Rule> {
    let (of_small, of_large) = rows_of(table, small, large);
    let mut signals: Vec<&str> =
        of_small.first().map(|row| row.signals().map(|(name, _)| name).collect()).unwrap_or_default();
    signals
        .retain(|signal| signal.parse::<Feature>().is_ok() && of_small.iter().all(|row| row.signal(signal).is_some()));
    let learned = match kind {
        Learn::PostHoc => LearnedRule::post_hoc(&of_small, &signals, PENALTY)?,
        Learn::Benefit => LearnedRule::benefit(&of_small, &of_large, &signals, PENALTY)?,
    };
    let rule = learned.to_policy()?;
    match (probability, &rule) {
        (None, _) => Ok(rule),
        (Some(method), Rule::Linear(log_odds)) => calibrated(method, &rule, log_odds, &of_small),
        (Some(_), _) => {
            Err(Error::Usage("--probability: only the log-odds of --learn post-hoc can be calibrated".into()))
        }
    }
}

/// The rule through a calibrator that is fitted on the same rows.
fn calibrated(method: Probability, rule: &Rule, log_odds: &Linear, rows: &[Row<'_>]) -> Result<Rule> {
    /// Two knots for each edge between bins.
    const BINS: usize = MAX_KNOTS / 2;
    let scores: Vec<f64> = rows.iter().map(|row| score_recorded(rule, *row)).collect::<Result<_, _>>()?;
    let right: Vec<bool> = rows.iter().map(|row| row.quality() >= RIGHT).collect();
    let calibrator = match method {
        Probability::Platt => Calibrator::platt(&scores, &right)?,
        Probability::Temperature => {
            let probabilities: Vec<f64> = scores.iter().map(|odds| 1.0 / (1.0 + (-odds).exp())).collect();
            Calibrator::temperature(&probabilities, &right)?
        }
        Probability::Isotonic => Calibrator::isotonic_within(&scores, &right, MAX_KNOTS)?,
        Probability::Histogram => Calibrator::histogram(&scores, &right, BINS)?,
    };
    Ok(calibrator.to_policy(log_odds)?)
}

/// Both models' rows by the name of the query.
fn rows_of<'a>(table: &'a Table, small: &str, large: &str) -> (Vec<Row<'a>>, Vec<Row<'a>>) {
    let of = |model: &str| {
        let mut rows: Vec<Row<'_>> = table.rows().filter(|row| row.model() == model).collect();
        rows.sort_by(|a, b| a.query().cmp(b.query()));
        rows
    };
    (of(small), of(large))
}

fn per_task(target: &Goal, rows: &[Row<'_>], small: &str, large: &str) -> Result<BTreeMap<String, Guarantee>> {
    let (Target::Risk { risk, at_most }, Some(level)) = (target.target, target.level) else {
        return Err(Error::Usage(format!("--per-task: {target} is no risk at a level, such as risk<=0.05@0.95")));
    };
    let tasks = Pairing::join_by_task(rows.iter().copied(), small, large, &CostModel::default())?;
    Ok(RiskControl { risk, at_most, level }.choose_per_task(&tasks, Correction::Holm)?)
}

/// A threshold of the policy: scores are 32-bit, and the next one up keeps no query that the threshold would defer.
fn threshold(certified: &Certified) -> Result<Threshold> {
    let nearest = certified.threshold as f32;
    let threshold = if f64::from(nearest) < certified.threshold { nearest.next_up() } else { nearest };
    Threshold::new(threshold).map_err(|error| Error::Usage(error.to_string()))
}

fn policy(
    args: &CalibrateArgs,
    rule: Rule,
    bundle: &Bundle,
    certified: &Certified,
    tasks: &BTreeMap<String, Guarantee>,
) -> Result<CalibratedPolicy> {
    let certificate = &certified.certificate;
    let mut policy = Policy::new(rule, threshold(certified)?);
    let mut certificates = vec![bound(certified, bundle)?];
    for (task, guarantee) in tasks {
        if let Guarantee::Certified(of_task) = guarantee {
            policy = policy.with_task(task, threshold(of_task)?).map_err(|error| Error::Usage(error.to_string()))?;
            certificates.push(margay::bundle::Certified { task: Some(task.clone()), ..bound(of_task, bundle)? });
        }
    }
    Ok(CalibratedPolicy {
        model_digest: *bundle.model_digest(),
        policy,
        calibration: Calibration {
            method: args.target.to_string(),
            target: certificate.measured,
            data: args.table.outcomes.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
            sample_size: certificate.sample_size,
            guarantee: format!("{certificate} {}", certificate.assumptions),
        },
        certificates,
    })
}

/// The certificate as a bundle carries it, bound to the bundle's model. Both crates write one form, and neither knows the
/// other.
fn bound(certified: &Certified, bundle: &Bundle) -> Result<margay::bundle::Certified> {
    let mut certified = certified.clone();
    certified.certificate.model_digest = Some(bundle.model_digest().to_string());
    let written = serde_json::to_value(&certified).and_then(serde_json::from_value);
    written.map_err(|error| Error::Usage(format!("the certificate cannot be carried by a bundle: {error}")))
}

fn cannot(goal: &Goal, guarantee: &Guarantee) -> String {
    match guarantee {
        Guarantee::CannotGuarantee { needed: Some(needed), have } => {
            format!("{goal} cannot be promised with {have} calibration queries; about {needed} like these would do")
        }
        Guarantee::CannotGuarantee { needed: None, have } => {
            format!(
                "{goal} is not met on the {have} calibration queries: no threshold but deferring everything will do"
            )
        }
        Guarantee::Certified(certified) => certified.certificate.to_string(),
    }
}

fn lines(e: &Evaluation) -> Vec<String> {
    let number = |value: Option<f64>| value.map_or("undefined".into(), |value| format!("{value:.4}"));
    let mut lines = vec![format!("{} queries; {}", e.queries, e.cost_in_words)];
    for model in &e.chain {
        if let Some(alone) = e.alone.get(model) {
            let auroc = e.confidence.get(model).and_then(|c| c.auroc);
            let auroc = auroc.map(|auroc| format!(", AUROC of its score {auroc:.3}")).unwrap_or_default();
            lines.push(format!("  {model:<24} quality {:.4}, cost {:.3e}{auroc}", alone.quality, alone.cost));
        }
    }
    if e.audc.is_some() {
        let (audc, random, ideal) = (number(e.audc), number(e.audc_random), number(e.audc_ideal));
        lines.push(format!("  area under the curve {audc}, random {random}, ideal {ideal}"));
        lines.push(format!("  APGR {}, s_d {}, AIQ {}", number(e.apgr), number(e.s_d), number(e.aiq)));
    }
    for (name, rule) in &e.rules {
        lines.push(format!("  rule {name:<19} area {:.4}, s_d {}", rule.audc, number(rule.s_d)));
    }
    if let Some(tuning) = &e.tuning {
        lines.push(format!(
            "  error-cost area {} by rational tuning, {} by a grid of quantiles, both chosen on other queries",
            number(tuning.rational.error_cost_area),
            number(tuning.grid.error_cost_area)
        ));
    }
    lines.extend(e.certificates.iter().flat_map(certificate));
    lines
}

fn certificate(of: &OfGoal) -> Vec<String> {
    let Some(certified) = of.guarantee.certified() else {
        let goal = of.goal.parse::<Goal>();
        return vec![goal.map_or_else(|_| of.goal.clone(), |goal| cannot(&goal, &of.guarantee))];
    };
    let mut lines = vec![format!("  {}: keep if score >= {}", of.goal, certified.threshold as f32)];
    lines.push(format!("    {}", certified.certificate));
    lines.push(format!("    {}", certified.certificate.assumptions));
    if let Some(scored) = &of.scored {
        let percent = 100.0 * scored.deferral_rate;
        lines.push(format!("    on the queries scored: {percent:.1} % deferred, quality {:.4}", scored.quality));
    }
    lines
}
