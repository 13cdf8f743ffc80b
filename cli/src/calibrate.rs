//! `margay calibrate`: a threshold that meets a goal, with what can be promised of it, for one bundle.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use margay::Bundle;
use margay::bundle::{CalibratedPolicy, CalibratedRouter, Calibration};
use margay::policy::{Feature, Linear, MAX_KNOTS, Policy, Rule, Threshold};
use margay_evaluation::certificate::{Certified, Guarantee, Target};
use margay_evaluation::cost::{CostModel, Unit};
use margay_evaluation::evaluation::{Evaluation, Options};
use margay_evaluation::fit::{Calibrator, LearnedRule, Route, score_recorded};
use margay_evaluation::goal::Goal;
use margay_evaluation::guarantee::{Correction, RiskControl};
use margay_evaluation::outcome::{Row, Table};
use margay_evaluation::pairing::{Pairing, RIGHT};
use margay_exporter::{SecretKey, write_policy};
use serde_json::json;

use crate::console::Console;
use crate::error::{Error, Result};
use crate::evaluate::{CostArgs, TableArgs, cannot};

/// Penalty of a learned rule, scikit-learn's default.
const PENALTY: f64 = 1.0;

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
    /// Learn a router on --fit, which sends about this share of queries to the large model by their prompts alone, before the
    /// device begins; what is promised of the threshold counts them as deferred
    #[arg(long, value_name = "SHARE", requires = "fit")]
    pub router: Option<f64>,
    /// Outcome tables of other queries that rule and router are learned on
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub fit: Vec<PathBuf>,
    /// A threshold for each task too, all of them right at once; needs a risk at a level, and column `task`
    #[arg(long)]
    pub per_task: bool,
    /// What a query costs, for a target that is a cost
    #[command(flatten)]
    pub cost: CostArgs,
    /// File of the secret key to sign the bundle again with; needed if it is signed
    #[arg(long, value_name = "FILE")]
    pub sign: Option<PathBuf>,
    /// Print one JSON object: the policy that the bundle has now, with its certificates, and tasks that got none
    #[arg(long)]
    pub json: bool,
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
    let fit = if args.fit.is_empty() { Table::default() } else { Table::read_all(&args.fit)? };
    let router = args.router.map(|share| Away::learn(share, &fit, &table, args, small)).transpose()?;
    let mut rule = args.rule;
    if let Some(kind) = args.learn {
        rule = learn(kind, args.probability, &fit, small, large)?;
        // The scores are then what this rule gives in the runtime.
        table = table.rescored(small, |row| score_recorded(&rule, row))?;
    }
    let rows: Vec<Row<'_>> = match &args.table.calibration {
        Some(split) => table.split(split).collect(),
        None => table.rows().collect(),
    };
    let behind = |pairing: Pairing| match &router {
        Some(router) => pairing.behind(|query| router.queries.contains(query)),
        None => pairing,
    };
    // Other goals than a cost ask for no column of it.
    let cost = match args.target.target {
        Target::MeanCost { .. } => args.cost.model(),
        _ => CostModel { unit: Unit::Calls, ..CostModel::default() },
    };
    let calibration = behind(cost.join(rows.iter().copied(), small, large)?);
    let certified = match args.target.choose(&calibration)? {
        Guarantee::Certified(certified) => certified,
        refused @ Guarantee::CannotGuarantee { .. } => return Err(Error::Usage(cannot(&args.target, &refused))),
    };
    let tasks =
        if args.per_task { per_task(&args.target, &cost, &rows, small, large, behind)? } else { BTreeMap::new() };
    let key = args.sign.as_deref().map(SecretKey::read).transpose()?;
    // What the threshold was chosen on, measured whole, goes with it; a table without costs has no such measures.
    let options = Options { split: args.table.calibration.as_deref(), cost: args.cost.model(), ..Options::default() };
    let report = Evaluation::from_table(&table, &[small, large], &options).ok();
    let report = report.map(serde_json::to_value).transpose().map_err(|error| Error::Usage(error.to_string()))?;
    let mut policy = policy(args, rule, &bundle, &certified, &tasks)?;
    let mut lines = vec![];
    if let Some(Away { route, .. }) = &router {
        policy.router = Some(carried(route)?);
        let (percent, threshold) = (100.0 * route.deferral_rate, route.threshold);
        lines.push(format!(
            "sent on before the device begins if router < {threshold}: {percent:.1} % of others like them"
        ));
    }
    let bundle = write_policy(&bundle, &policy, report.as_ref(), key.as_ref())?;
    lines.extend([
        format!("{}: keep if {rule} >= {}", args.bundle.display(), certified.threshold as f32),
        certified.certificate.to_string(),
        certified.certificate.assumptions,
    ]);
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

/// A router, and which queries of the tables it sends to the large model before the device begins.
struct Away {
    route: Route,
    queries: HashSet<String>,
}

impl Away {
    fn learn(share: f64, fit: &Table, table: &Table, args: &CalibrateArgs, small: &str) -> Result<Self> {
        let prompts = args.table.prompts()?;
        let learned: Vec<Row<'_>> = fit.rows().filter(|row| row.model() == small).collect();
        let asked: Vec<&str> = learned.iter().map(|row| prompts.of(row.query())).collect::<Result<_, _>>()?;
        let right: Vec<bool> = learned.iter().map(|row| row.quality() >= RIGHT).collect();
        let route = Route::fit(&asked, &right, PENALTY, share)?;
        let mut queries = HashSet::new();
        for row in table.rows().filter(|row| row.model() == small) {
            if route.sends_away(prompts.of(row.query())?) {
                queries.insert(row.query().to_owned());
            }
        }
        Ok(Self { route, queries })
    }
}

/// The router as a bundle carries it.
fn carried(Route { router, threshold, deferral_rate, sample_size }: &Route) -> Result<CalibratedRouter> {
    let weights = router.weights().to_vec();
    CalibratedRouter::new(*threshold, router.intercept(), weights, *deferral_rate, *sample_size as u64)
        .map_err(Error::Usage)
}

fn per_task(
    target: &Goal,
    cost: &CostModel,
    rows: &[Row<'_>],
    small: &str,
    large: &str,
    behind: impl Fn(Pairing) -> Pairing,
) -> Result<BTreeMap<String, Guarantee>> {
    let (Target::Risk { risk, at_most }, Some(level)) = (target.target, target.level) else {
        return Err(Error::Usage(format!("--per-task: {target} is no risk at a level, such as risk<=0.05@0.95")));
    };
    let tasks = Pairing::join_by_task(rows.iter().copied(), small, large, cost)?;
    let tasks = tasks.into_iter().map(|(task, pairing)| (task, behind(pairing))).collect();
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
        router: None,
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
