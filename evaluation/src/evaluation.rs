#![doc = include_str!("../EVALUATION.md")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::bootstrap::{Bootstrap, Interval, Numbers, Wanted};
use crate::certificate::Guarantee;
use crate::chain::{Chain, ChainPoint, pareto};
use crate::cost::CostModel;
use crate::curve::{Curve, Point};
use crate::error::{Error, ErrorKind, Result};
use crate::file::{read_json, write_json};
use crate::fit::{LearnedRule, Prompts, ROUTER_BITS, Router, Spread};
use crate::goal::Goal;
use crate::joined;
use crate::measures;
use crate::outcome::{Row, SIGNAL_PREFIX, Table};
use crate::pairing::{Pairing, RIGHT};
use crate::sample::Sample;
use crate::summary::{Confidence, MAX_CURVE_POINTS, ScoreKind};
use crate::tuning::Tuning;

/// The schema this version writes and reads.
pub const SCHEMA: u32 = 1;
/// Largest evaluation read, in bytes. A hundred thousand tasks fit.
pub const MAX_EVALUATION_BYTES: u64 = 64 << 20;
/// Shares of the gap between two models, in per cent, whose deferral rate is reported.
pub const CPT_SHARES: [u32; 3] = [20, 50, 80];
/// Deferral rates, in per cent, whose incremental benefit per cost is reported.
pub const IBC_RATES: [u32; 4] = [10, 20, 30, 50];
/// Steps between the deferral rates of the band.
const BAND_STEPS: usize = 50;
/// Penalty of learned rules, scikit-learn's default.
const PENALTY: f64 = 1.0;
/// Most threshold vectors tried for a chain of more than two models.
const GRID: usize = 4096;

/// What was asked of a table.
#[derive(Debug, Clone)]
pub struct Options<'a> {
    /// How intervals are made.
    pub bootstrap: Bootstrap,
    /// What scores mean.
    pub score: ScoreKind,
    /// What a query costs.
    pub cost: CostModel,
    /// Only rows of this split are scored; `None` scores all rows but those of `calibration`.
    pub split: Option<&'a str>,
    /// Thresholds are chosen on rows of this split, never on those scored. Needed for goals.
    pub calibration: Option<&'a str>,
    /// What thresholds are wanted for.
    pub goals: &'a [Goal],
    /// Rows of other queries that learned rules and tuned thresholds are fitted on; `None` is the calibration split.
    pub fit: Option<&'a Table>,
    /// What was asked, if a router that reads it is to be compared too.
    pub prompts: Option<&'a Prompts>,
    /// Costs between which `aiq` and `error_cost_area` are taken; `None` is from the chain's cheapest point to its
    /// dearest.
    pub cost_interval: Option<(f64, f64)>,
}

impl Default for Options<'_> {
    /// All rows, FLOPs, log-probabilities, no goals.
    fn default() -> Self {
        Self {
            bootstrap: Bootstrap::default(),
            score: ScoreKind::default(),
            cost: CostModel::default(),
            split: None,
            calibration: None,
            goals: &[],
            fit: None,
            prompts: None,
            cost_interval: None,
        }
    }
}

/// A chain of models on a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Version of this form, [`SCHEMA`].
    pub schema: u32,
    /// The models, in the order in which they are asked.
    pub chain: Vec<String>,
    /// Number of queries scored.
    pub queries: usize,
    /// What a cost is.
    pub cost_model: CostModel,
    /// The same in words.
    pub cost_in_words: String,
    /// How intervals were made.
    pub bootstrap: Bootstrap,
    /// Each model alone: mean quality, mean cost without those before it.
    pub alone: BTreeMap<String, Alone>,
    /// Two models: the deferral curve, thinned to 201 points. More: the Pareto front of a grid of quantiles.
    pub points: Vec<ChainPoint>,
    /// Area under the deferral curve.
    pub audc: Option<f64>,
    /// The same for deferring at random.
    pub audc_random: Option<f64>,
    /// The same for the oracle.
    pub audc_ideal: Option<f64>,
    /// Average performance gap recovered.
    pub apgr: Option<f64>,
    /// Deferral performance between random (0) and oracle (1).
    pub s_d: Option<f64>,
    /// AUROC of the negated score for queries that only the large model answers right.
    pub benefit_auroc: Option<f64>,
    /// The costs between which the next two are taken.
    pub cost_interval: [f64; 2],
    /// Area under the error-cost curve.
    pub error_cost_area: Option<f64>,
    /// Average improvement in quality.
    pub aiq: Option<f64>,
    /// Call-performance threshold by per cent of the gap.
    pub cpt: BTreeMap<String, Option<f64>>,
    /// Least cost that reaches this many per cent of the last model's quality.
    pub cost_at: BTreeMap<String, Option<f64>>,
    /// Lift of the incremental benefit per cost at these deferral rates in per cent; two models only.
    pub ibc_lift: BTreeMap<String, Option<f64>>,
    /// Measures of each model's score; of the last model only if every query has one.
    pub confidence: BTreeMap<String, Confidence>,
    /// Paired-bootstrap intervals by the name of the number they belong to; two models only.
    pub intervals: BTreeMap<String, Interval>,
    /// The oracle's curve, thinned as the other; two models only.
    pub ideal: Vec<ChainPoint>,
    /// Bootstrap interval of the curve's quality at evenly spaced deferral rates, each rate on its own; two models only.
    pub band: Vec<BandPoint>,
    /// Each task by itself; two models only, and only if every query has a task.
    pub tasks: BTreeMap<String, OfTask>,
    /// The table's score and other rules on the same queries: `score`, each `signal.<name>` that every query has (as it
    /// stands: higher keeps), and, fitted on other queries from those signals, `learned post-hoc` and `learned
    /// benefit`, and from their prompts `learned router`, unless they cannot be fitted. Random deferral is `audc_random`, the oracle `audc_ideal`. Two models
    /// only.
    pub rules: BTreeMap<String, OfRule>,
    /// Thresholds of the whole chain chosen on other queries; `None` without such queries, or where scores are no
    /// log-probabilities that can be calibrated.
    pub tuning: Option<OfTuning>,
    /// What came of each goal; two models only. Each holds by itself: several at once hold less often than the least
    /// certain of them.
    pub certificates: Vec<OfGoal>,
}

/// A bootstrap interval of the curve at one deferral rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BandPoint {
    /// Share of queries deferred.
    pub deferral_rate: f64,
    /// Interval of the quality.
    pub quality: Interval,
}

/// A model alone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Alone {
    /// Mean quality.
    pub quality: f64,
    /// Mean cost of this model, without those before it.
    pub cost: f64,
}

/// A row of the table by task.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OfTask {
    /// Number of queries.
    pub queries: usize,
    /// Mean quality of the small model alone.
    pub small_quality: f64,
    /// Mean quality of the large model alone.
    pub large_quality: f64,
    /// Area under the deferral curve.
    pub audc: f64,
    /// The same for deferring at random.
    pub audc_random: f64,
    /// Deferral performance between random (0) and oracle (1).
    pub s_d: Option<f64>,
    /// AUROC of the score as a detector of the small model's right answers.
    pub auroc: Option<f64>,
}

/// A row of the comparison of rules.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OfRule {
    /// Area under the deferral curve.
    pub audc: f64,
    /// Deferral performance between random (0) and oracle (1); below 0 the rule is upside down.
    pub s_d: Option<f64>,
    /// AUROC as a detector of the small model's right answers.
    pub auroc: Option<f64>,
    /// AUROC of the negated rule for queries that only the large model answers right.
    pub benefit_auroc: Option<f64>,
}

/// Threshold vectors chosen on other queries and scored on these, in two ways. Areas are on the same interval of cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OfTuning {
    /// Number of queries they were chosen on.
    pub queries: usize,
    /// By a joint model of the chain's confidences ([`Tuning`]). Thresholds are on calibrated confidences, not on scores.
    pub rational: Tuned,
    /// The Pareto front of an exhaustive grid of quantiles of the scores.
    pub grid: Tuned,
    /// The joint model and the calibrators.
    pub fitted: Tuning,
}

/// What tuned thresholds give on the queries scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tuned {
    /// In the order in which they were chosen: from the dearest to the cheapest by price, from the cheapest to the dearest by
    /// a grid.
    pub points: Vec<ChainPoint>,
    /// Area under the error-cost curve: straight lines between the points, as they came out.
    pub error_cost_area: Option<f64>,
    /// Average improvement in quality.
    pub aiq: Option<f64>,
}

impl Tuned {
    /// Areas begin at the first model alone, which every way of choosing may choose.
    fn of(points: Vec<ChainPoint>, alone: &ChainPoint, interval: (f64, f64)) -> Self {
        // Its cost was summed in another order of queries than the interval's start.
        let start = if (alone.cost - interval.0).abs() <= 1e-12 * alone.cost { interval.0 } else { alone.cost };
        let others = points.iter().map(|point| (point.cost, point.quality));
        let all = others.chain([(start, alone.quality)]).collect();
        let area = Area::of(all, Some(interval));
        Self { points, error_cost_area: area.error_cost, aiq: area.aiq }
    }
}

/// A goal's threshold on the calibration split, and what it did on the queries scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OfGoal {
    /// The goal, as [`Goal`] is written.
    pub goal: String,
    /// The threshold with its certificate, or that there is none.
    pub guarantee: Guarantee,
    /// What the threshold gave on the queries scored, which it was not chosen on.
    pub scored: Option<ChainPoint>,
}

impl Evaluation {
    /// Everything about a chain of models on a table.
    ///
    /// # Errors
    /// As [`Chain::join`], [`Goal::choose`] and [`Bootstrap::intervals`]; [`ErrorKind::Invalid`] for goals without a
    /// calibration split, with one that is also scored, or for a chain of more than two models.
    pub fn from_table(table: &Table, models: &[&str], options: &Options<'_>) -> Result<Self> {
        let scored = || table.rows().filter(|row| options.scores(*row));
        let chain = Chain::join(scored(), models, &options.cost)?;
        let pair = if let [small, large] = models { Some(options.cost.join(scored(), small, large)?) } else { None };
        let points = match &pair {
            Some(pairing) => thinned(&pairing.curve()),
            None => pareto(&chain.grid(grid_steps(models.len()))?),
        };
        let area = match &pair {
            Some(pairing) => Area::of_curve(&pairing.curve(), options.cost_interval),
            None => Area::of(points.iter().map(|point| (point.cost, point.quality)).collect(), options.cost_interval),
        };
        let alone = chain.alone();
        let best = alone.last().map_or(0.0, |(_, alone)| alone.quality);
        let cost_at = [95, 99].map(|percent| {
            let wanted = f64::from(percent) / 100.0 * best;
            let cost = match &pair {
                Some(pairing) => pairing.curve().reach(wanted).map(|at| at.mean_flops),
                None => points.iter().find(|point| point.quality >= wanted).map(|point| point.cost),
            };
            (percent.to_string(), cost)
        });
        let scores = (0..models.len()).filter_map(|at| Some((models[at], chain.scores(at)?, chain.quality(at)?)));
        let confidence =
            scores.map(|(model, scores, quality)| (model.to_owned(), Confidence::of(scores, quality, options.score)));
        let (intervals, band) = match &pair {
            Some(pairing) => intervals(pairing, options)?,
            None => Default::default(),
        };
        let of_pair = pair.as_ref().map(|pairing| OfPair::of(&pairing.sample(), &pairing.oracle().curve()));
        Ok(Self {
            schema: SCHEMA,
            chain: chain.models().to_vec(),
            queries: chain.queries(),
            cost_model: options.cost,
            cost_in_words: options.cost.to_string(),
            bootstrap: options.bootstrap,
            audc: of_pair.as_ref().map(|of| of.audc),
            audc_random: of_pair.as_ref().map(|of| of.audc_random),
            audc_ideal: of_pair.as_ref().map(|of| of.audc_ideal),
            apgr: of_pair.as_ref().and_then(|of| measures::apgr(of.audc, of.small, of.large)),
            s_d: of_pair.as_ref().and_then(OfPair::s_d),
            benefit_auroc: pair.as_ref().and_then(|pairing| pairing.sample().benefit_auroc()),
            cost_interval: area.interval.into(),
            error_cost_area: area.error_cost,
            aiq: area.aiq,
            cpt: pair.as_ref().map(|pairing| cpt(&pairing.curve()).into()).unwrap_or_default(),
            cost_at: cost_at.into(),
            confidence: confidence.collect(),
            intervals,
            ideal: pair.as_ref().map(|pairing| thinned(&pairing.oracle().curve())).unwrap_or_default(),
            band,
            tuning: options.tuning(table, models, &chain, area.interval)?,
            ibc_lift: pair.as_ref().map(|pairing| ibc_lift(&pairing.curve(), &alone)).unwrap_or_default(),
            tasks: by_task(scored(), models, options)?,
            rules: pair.as_ref().map(|pairing| rules(pairing, table, models, options)).transpose()?.unwrap_or_default(),
            certificates: options.certificates(table, models, &chain)?,
            alone: alone.into_iter().collect(),
            points,
        })
    }

    /// Reads an evaluation.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], [`ErrorKind::TooLarge`], or [`ErrorKind::Value`] if it is not an evaluation of this
    /// [`SCHEMA`].
    pub fn read(path: &Path) -> Result<Self> {
        let evaluation: Self = read_json(path, MAX_EVALUATION_BYTES, "an evaluation")?;
        if evaluation.schema != SCHEMA {
            let message = format!("has schema {}, this version reads {SCHEMA}", evaluation.schema);
            return Err(Error::new(ErrorKind::Value, message).at_path(path));
        }
        Ok(evaluation)
    }

    /// Writes the evaluation as JSON; the file is wholly there or not at all.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] with the path.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_json(path, self)
    }
}

impl Options<'_> {
    pub(crate) fn scores(&self, row: Row<'_>) -> bool {
        match self.split {
            Some(split) => row.split() == Some(split),
            None => self.calibration.is_none() || row.split() != self.calibration,
        }
    }

    /// Rows to fit on; none if there are no others than those scored.
    fn fitted_on<'t>(&'t self, table: &'t Table) -> Vec<Row<'t>> {
        match (self.fit, self.calibration) {
            (Some(fit), _) => fit.rows().collect(),
            (None, Some(calibration)) if self.split != Some(calibration) => table.split(calibration).collect(),
            _ => Vec::new(),
        }
    }

    fn tuning(&self, table: &Table, models: &[&str], scored: &Chain, own: (f64, f64)) -> Result<Option<OfTuning>> {
        let rows = self.fitted_on(table);
        if rows.is_empty() || self.score != ScoreKind::LogProbability {
            return Ok(None);
        }
        let chain = Chain::join(rows, models, &self.cost)?;
        // Scores that cannot be calibrated, such as those that are always right, have no joint model.
        let Ok(fitted) = Tuning::of(&chain, Spread::OneSided) else { return Ok(None) };
        let interval = self.cost_interval.unwrap_or(own);
        let alone = scored.at(&vec![f64::NEG_INFINITY; models.len() - 1])?;
        let rational = Tuned::of(fitted.on(scored)?, &alone, interval);
        let front = pareto(&chain.grid(grid_steps(models.len()))?);
        let grid = front.iter().map(|point| scored.at(&point.thresholds)).collect::<Result<_>>()?;
        Ok(Some(OfTuning { queries: chain.queries(), rational, grid: Tuned::of(grid, &alone, interval), fitted }))
    }

    fn certificates(&self, table: &Table, models: &[&str], scored: &Chain) -> Result<Vec<OfGoal>> {
        if self.goals.is_empty() {
            return Ok(Vec::new());
        }
        let ([small, large], Some(calibration)) = (models, self.calibration) else {
            return Err(Error::new(ErrorKind::Invalid, "a goal needs two models and a calibration split"));
        };
        if self.split == Some(calibration) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("split `{calibration}` cannot both calibrate and be scored"),
            ));
        }
        let calibration = self.cost.join(table.split(calibration), small, large)?;
        let certificate = |goal: &Goal| {
            let guarantee = goal.choose(&calibration)?;
            let scored = guarantee.certified().map(|certified| scored.at(&[certified.threshold])).transpose()?;
            Ok(OfGoal { goal: goal.to_string(), guarantee, scored })
        };
        self.goals.iter().map(certificate).collect()
    }
}

impl From<Point> for ChainPoint {
    fn from(point: Point) -> Self {
        Self {
            thresholds: vec![point.threshold],
            deferral_rate: point.deferral_rate,
            quality: point.quality,
            cost: point.mean_flops,
        }
    }
}

impl Chain {
    fn alone(&self) -> Vec<(String, Alone)> {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let costs = (0..self.models().len())
            .filter_map(|at| Some((self.models()[at].clone(), self.quality(at)?, self.cost(at)?)));
        costs.map(|(model, quality, cost)| (model, Alone { quality: mean(quality), cost: mean(cost) })).collect()
    }
}

/// The areas over cost, and the interval they were taken on.
struct Area {
    interval: (f64, f64),
    error_cost: Option<f64>,
    aiq: Option<f64>,
}

impl Area {
    fn of_curve(curve: &Curve, interval: Option<(f64, f64)>) -> Self {
        Self::of(curve.points().iter().map(|point| (point.mean_flops, point.quality)).collect(), interval)
    }

    /// Of (cost, quality) points; without an interval, from the cheapest to the dearest.
    fn of(points: Vec<(f64, f64)>, interval: Option<(f64, f64)>) -> Self {
        let costs = || points.iter().map(|point| point.0);
        let own = || (costs().fold(f64::INFINITY, f64::min), costs().fold(f64::NEG_INFINITY, f64::max));
        let (low, high) = interval.unwrap_or_else(own);
        Self {
            interval: (low, high),
            error_cost: measures::error_cost_area(points.iter().copied(), low, high),
            aiq: measures::aiq(points.iter().copied(), low, high),
        }
    }
}

/// The numbers of two models.
struct OfPair {
    small: f64,
    large: f64,
    audc: f64,
    audc_random: f64,
    audc_ideal: f64,
}

impl OfPair {
    fn of(sample: &Sample<'_>, ideal: &Curve) -> Self {
        let curve = sample.curve();
        let (small, large) = (curve.at(0.0).quality, curve.at(1.0).quality);
        let audc_random = measures::audc_random(small, large);
        Self { small, large, audc: measures::audc(&curve), audc_random, audc_ideal: measures::audc(ideal) }
    }

    fn s_d(&self) -> Option<f64> {
        measures::s_d(self.audc, self.audc_random, self.audc_ideal)
    }
}

pub(crate) fn thinned(curve: &Curve) -> Vec<ChainPoint> {
    curve.thinned(MAX_CURVE_POINTS).into_iter().map(ChainPoint::from).collect()
}

/// Steps of each threshold such that all combinations are at most [`GRID`].
fn grid_steps(models: usize) -> usize {
    let axis = (GRID as f64).powf(1.0 / (models - 1) as f64).floor() as usize;
    axis.saturating_sub(1).max(1)
}

fn ibc_lift(curve: &Curve, alone: &[(String, Alone)]) -> BTreeMap<String, Option<f64>> {
    let [small, large] = alone else { return BTreeMap::new() };
    let of = |alone: &Alone| (alone.cost, alone.quality);
    let lift = |percent: u32| measures::ibc_lift(&curve.at(f64::from(percent) / 100.0), of(&small.1), of(&large.1));
    IBC_RATES.map(|percent| (percent.to_string(), lift(percent))).into()
}

fn cpt(curve: &Curve) -> [(String, Option<f64>); CPT_SHARES.len()] {
    CPT_SHARES.map(|percent| (percent.to_string(), measures::cpt(curve, f64::from(percent) / 100.0)))
}

/// Intervals by the name of their number, and the band of the curve.
fn intervals(pairing: &Pairing, options: &Options<'_>) -> Result<(BTreeMap<String, Interval>, Vec<BandPoint>)> {
    let rates: Vec<f64> = (0..=BAND_STEPS).map(|step| step as f64 / BAND_STEPS as f64).collect();
    let gaps = CPT_SHARES.map(|percent| f64::from(percent) / 100.0);
    let wanted = Wanted { cost_interval: options.cost_interval, gaps: &gaps, rates: &rates };
    let resamples = options.bootstrap.sweep(pairing, &wanted)?;
    let of =
        |number: &dyn Fn(&Numbers) -> Option<f64>| options.bootstrap.percentiles(resamples.iter().filter_map(number));
    let s_d = |numbers: &Numbers| {
        let random = measures::audc_random(numbers.small_quality, numbers.large_quality);
        measures::s_d(numbers.audc, random, numbers.audc_ideal)
    };
    let mut named = vec![
        ("small_quality".to_owned(), of(&|numbers| Some(numbers.small_quality))),
        ("large_quality".to_owned(), of(&|numbers| Some(numbers.large_quality))),
        ("audc".to_owned(), of(&|numbers| Some(numbers.audc))),
        ("apgr".to_owned(), of(&|numbers| measures::apgr(numbers.audc, numbers.small_quality, numbers.large_quality))),
        ("s_d".to_owned(), of(&s_d)),
        ("auroc".to_owned(), of(&|numbers| numbers.auroc)),
        ("benefit_auroc".to_owned(), of(&|numbers| numbers.benefit_auroc)),
        ("error_cost_area".to_owned(), of(&|numbers| numbers.error_cost_area)),
        ("aiq".to_owned(), of(&|numbers| numbers.aiq)),
    ];
    for (at, percent) in CPT_SHARES.iter().enumerate() {
        named.push((format!("cpt_{percent}"), of(&|numbers| numbers.cpt[at])));
    }
    let intervals = named.into_iter().filter_map(|(name, interval)| Some((name, interval?))).collect();
    let band = rates.iter().enumerate().filter_map(|(at, rate)| {
        Some(BandPoint { deferral_rate: *rate, quality: of(&|numbers| Some(numbers.quality_at[at]))? })
    });
    Ok((intervals, band.collect()))
}

fn rules(pairing: &Pairing, table: &Table, models: &[&str], options: &Options<'_>) -> Result<BTreeMap<String, OfRule>> {
    let [small, large] = models else { return Ok(BTreeMap::new()) };
    let scored = table.rows().filter(|row| row.model() == *small && options.scores(*row));
    let rows: Vec<Row<'_>> = pairing.aligned(scored.map(|row| (row.query(), row))).into_iter().flatten().collect();
    let mut signals: BTreeSet<&str> =
        rows.first().map(|row| row.signals().map(|(name, _)| name).collect()).unwrap_or_default();
    signals.retain(|signal| rows.iter().all(|row| row.signal(signal).is_some()));
    let ideal = pairing.oracle().curve();
    let measure = |score: &dyn Fn(Row<'_>) -> Option<f64>| {
        // A rule that cannot score a query scores it NaN, which a pairing refuses.
        let rescored = pairing.with_scores(rows.iter().map(|row| score(*row).unwrap_or(f64::NAN)).collect())?;
        let sample = rescored.sample();
        let of = OfPair::of(&sample, &ideal);
        let (auroc, benefit_auroc) = (sample.auroc(), sample.benefit_auroc());
        Ok::<_, Error>(OfRule { audc: of.audc, s_d: of.s_d(), auroc, benefit_auroc })
    };
    let mut rules = BTreeMap::from([("score".to_owned(), measure(&|row| row.score())?)]);
    for signal in &signals {
        rules.insert(format!("{SIGNAL_PREFIX}{signal}"), measure(&|row| row.signal(signal))?);
    }
    let fitted_on = options.fitted_on(table);
    if fitted_on.is_empty() && options.prompts.is_some() {
        let message = "a router needs other queries to learn on: a calibration split, or a table of its own";
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    if !fitted_on.is_empty() {
        let (of_small, of_large) = joined::rows_of_both(fitted_on, small, large)?;
        let signals: Vec<&str> = signals.into_iter().collect();
        let post_hoc = LearnedRule::post_hoc(&of_small, &signals, PENALTY);
        let benefit = LearnedRule::benefit(&of_small, &of_large, &signals, PENALTY);
        for (name, rule) in [("learned post-hoc", post_hoc), ("learned benefit", benefit)] {
            let Ok(rule) = rule else { continue };
            rules.insert(name.to_owned(), measure(&|row| rule.score(row).ok())?);
        }
        if let Some(prompts) = options.prompts {
            let asked: Vec<&str> = of_small.iter().map(|row| prompts.of(row.query())).collect::<Result<_>>()?;
            rows.iter().try_for_each(|row| prompts.of(row.query()).map(drop))?;
            let right: Vec<bool> = of_small.iter().map(|row| row.quality() >= RIGHT).collect();
            if let Ok(fitted) = Router::fit(&asked, &right, ROUTER_BITS, PENALTY) {
                let router = fitted.to_policy()?;
                let score = |row: Row<'_>| Some(f64::from(router.score(prompts.of(row.query()).ok()?)?.value()));
                rules.insert("learned router".to_owned(), measure(&score)?);
            }
        }
    }
    Ok(rules)
}

fn by_task<'a>(
    scored: impl Iterator<Item = Row<'a>> + Clone,
    models: &[&str],
    options: &Options<'_>,
) -> Result<BTreeMap<String, OfTask>> {
    let [small, large] = models else { return Ok(BTreeMap::new()) };
    if scored.clone().any(|row| row.model() == *small && row.task().is_none()) {
        return Ok(BTreeMap::new());
    }
    let tasks = Pairing::join_by_task(scored, small, large, &options.cost)?;
    let row = |(task, pairing): (String, Pairing)| {
        let of = OfPair::of(&pairing.sample(), &pairing.oracle().curve());
        let row = OfTask {
            queries: pairing.len(),
            small_quality: of.small,
            large_quality: of.large,
            audc: of.audc,
            audc_random: of.audc_random,
            s_d: of.s_d(),
            auroc: pairing.sample().auroc(),
        };
        (task, row)
    };
    Ok(tasks.into_iter().map(row).collect())
}

#[cfg(test)]
mod tests;
