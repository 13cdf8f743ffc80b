//! `margay evaluate`: what an outcome table says.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use margay_evaluation::bootstrap::Bootstrap;
use margay_evaluation::certificate::{Guarantee, Target};
use margay_evaluation::cost::{CostModel, DeviceCost, Unit};
use margay_evaluation::evaluation::{Evaluation, OfGoal, Options};
use margay_evaluation::fit::Prompts;
use margay_evaluation::goal::Goal;
use margay_evaluation::outcome::Table;
use margay_evaluation::report::{ChainReport, Details};
use margay_evaluation::summary::ScoreKind;
use serde::Deserialize;

use crate::console::Console;
use crate::error::{Error, Result};
use crate::score::read_rows;

/// What stands for standard output in the place of a file.
const STANDARD_OUTPUT: &str = "-";

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
    /// Task files whose inputs are what a router reads, by the id that is a table's query; else a query is its own prompt
    #[arg(long, value_name = "FILE.jsonl", num_args = 1.., requires = "router")]
    pub prompts: Vec<PathBuf>,
}

/// What a router needs of a task file's row.
#[derive(Debug, Deserialize)]
pub(crate) struct Asked {
    pub(crate) id: String,
    pub(crate) input: String,
}

impl TableArgs {
    /// What was asked, by the names of queries.
    pub(crate) fn prompts(&self) -> Result<Prompts> {
        let mut prompts = HashMap::new();
        for path in &self.prompts {
            for (line, Asked { id, input }) in read_rows::<Asked>(path, None)? {
                if prompts.insert(id.clone(), input).is_some() {
                    let message = format!("{} line {line}: a second prompt for query `{id}`", path.display());
                    return Err(Error::Usage(message));
                }
            }
        }
        Ok(Prompts::new(prompts))
    }
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
    /// Compare a router too, which reads the prompt alone; needs other queries to learn on
    #[arg(long)]
    pub router: bool,
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
    /// Costs between which areas over cost are taken, to compare with other chains
    #[arg(long, value_name = "FROM,TO", value_delimiter = ',', num_args = 2)]
    pub cost_interval: Vec<f64>,
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

    pub(crate) fn cost_interval(&self) -> Option<(f64, f64)> {
        Some((*self.cost_interval.first()?, *self.cost_interval.get(1)?))
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
    /// What is counted: flops, money, milliseconds, joules or calls
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
    /// Calls to other models than the first; needs no column
    Calls,
}

impl CostArgs {
    pub(crate) fn model(&self) -> CostModel {
        let unit = match self.unit {
            CostUnit::Flops => Unit::Flops,
            CostUnit::Money => Unit::Money,
            CostUnit::Milliseconds => Unit::Milliseconds,
            CostUnit::Joules => Unit::Joules { per_flop: self.joules_per_flop, per_call: self.joules_per_call },
            CostUnit::Calls => Unit::Calls,
        };
        CostModel { unit, device: self.device_cost.map_or(DeviceCost::Recorded, DeviceCost::PerQuery) }
    }
}

/// Measures a chain of models, prints what matters and writes the rest as JSON.
///
/// # Errors
/// [`Error`] naming the file, row, model or goal.
pub fn evaluate(args: &EvaluateArgs, console: &mut Console) -> Result<Evaluation> {
    console.for_programs(args.output.for_programs());
    let table = Table::read_all(&args.table.outcomes)?;
    let fit = if args.fit.is_empty() { None } else { Some(Table::read_all(&args.fit)?) };
    let prompts = args.router.then(|| args.table.prompts()).transpose()?;
    let models: Vec<&str> = args.table.chain.iter().map(String::as_str).collect();
    let options = Options {
        split: args.split.as_deref(),
        calibration: args.table.calibration.as_deref(),
        goals: &args.goal,
        fit: fit.as_ref(),
        prompts: prompts.as_ref(),
        score: args.score,
        cost: args.cost.model(),
        cost_interval: args.output.cost_interval(),
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

/// Why a goal's threshold is none.
pub(crate) fn cannot(goal: &Goal, guarantee: &Guarantee) -> String {
    match guarantee {
        Guarantee::CannotGuarantee { needed: Some(needed), have } => {
            format!("{goal} cannot be promised with {have} calibration queries; about {needed} like these would do")
        }
        Guarantee::CannotGuarantee { needed: None, have } if matches!(goal.target, Target::DeferralRate { .. }) => {
            format!("{goal} cannot be met: of the {have} calibration queries the router alone sends more away")
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
