#![doc = include_str!("../CONTRAST.md")]

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::bootstrap::{Bootstrap, Difference, Interval};
use crate::chain::ChainPoint;
use crate::cost::CostModel;
use crate::error::{Error, ErrorKind, Result};
use crate::evaluation::{CPT_SHARES, thinned};
use crate::file::{read_json, write_json};
use crate::measures;
use crate::outcome::{Row, Table};
use crate::pairing::{Pair, Pairing};
use crate::sample::Sample;
use crate::summary::DEFERRAL_RATES;
use crate::threshold;

/// The schema this version writes and reads.
pub const SCHEMA: u32 = 1;
/// Largest contrast read, in bytes.
pub const MAX_CONTRAST_BYTES: u64 = 64 << 20;
/// Steps between the deferral rates at which the curves are contrasted.
const STEPS: usize = 50;
/// Most queries shown of each kind of change.
const MAX_CHANGES: usize = 12;

/// A cascade, or a small model alone.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// What it is called, e.g. a bundle's folder.
    pub name: &'a str,
    /// Its outcomes, and the large model's.
    pub table: &'a Table,
    /// Its small model's name in the table.
    pub small: &'a str,
    /// Keep if score >= threshold; `None` is one that defers at most [`Options::deferral_rate`] of these queries.
    pub threshold: Option<f64>,
    /// The queries whose answers it keeps, where that is not the threshold's alone to say: there may be thresholds of tasks,
    /// and a router.
    pub kept: Option<&'a HashSet<String>>,
}

/// What is asked of two cascades.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// How intervals are made.
    pub bootstrap: Bootstrap,
    /// What a query costs.
    pub cost: CostModel,
    /// Only rows of this split; `None` is all.
    pub split: Option<&'a str>,
    /// The large model's name in both tables; `None` contrasts the small models alone.
    pub large: Option<&'a str>,
    /// Share of queries deferred where a side brings no threshold.
    pub deferral_rate: f64,
    /// Costs between which areas over cost are taken; `None` is from where both can begin to where the dearer ends.
    pub cost_interval: Option<(f64, f64)>,
}

impl Default for Options<'_> {
    /// All rows, FLOPs, no large model, 30 % deferred.
    fn default() -> Self {
        let (bootstrap, cost) = (Bootstrap::default(), CostModel::default());
        Self { bootstrap, cost, split: None, large: None, deferral_rate: 0.3, cost_interval: None }
    }
}

/// Two cascades on the same queries. Every difference is second less first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contrast {
    /// Version of this form, [`SCHEMA`].
    pub schema: u32,
    /// The two, in the order given.
    pub sides: [OfSide; 2],
    /// The large model, if there is one.
    pub large: Option<String>,
    /// Number of queries.
    pub queries: usize,
    /// What a cost is, in words.
    pub cost_in_words: String,
    /// How intervals were made.
    pub bootstrap: Bootstrap,
    /// Numbers of both, by name.
    pub numbers: BTreeMap<String, Paired>,
    /// Both curves at evenly spaced deferral rates; empty without a large model.
    pub curves: Vec<AtRate>,
    /// How many queries there are of each kind of change.
    pub counts: BTreeMap<String, usize>,
    /// Some queries of each kind, those whose answer gained or lost most first.
    pub changes: Vec<Change>,
}

/// One of the two.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OfSide {
    /// What it is called.
    pub name: String,
    /// Its small model.
    pub small: String,
    /// Keep if score >= threshold; the default one, where tasks have others.
    #[serde(with = "crate::extended")]
    pub threshold: f64,
    /// Its deferral curve, thinned; empty without a large model.
    pub points: Vec<ChainPoint>,
}

/// One number of both.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// Of the first.
    pub first: Option<f64>,
    /// Of the second.
    pub second: Option<f64>,
    /// Second less first, with its paired-bootstrap interval.
    pub difference: Option<Difference>,
}

/// What the data say of one number.
pub(crate) struct Finding {
    pub(crate) what: &'static str,
    pub(crate) first: f64,
    pub(crate) second: f64,
    pub(crate) difference: Difference,
    /// Which is better, or that the data do not say.
    pub(crate) verdict: String,
}

/// Both curves at one deferral rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AtRate {
    /// Share of queries deferred.
    pub deferral_rate: f64,
    /// Quality of both there.
    pub quality: Paired,
}

/// A query whose answer, or whose answerer, changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// What became of it.
    pub kind: String,
    /// Which query.
    pub query: String,
    /// Its task.
    pub task: Option<String>,
    /// How the first answered it.
    pub first: Answered,
    /// How the second answered it.
    pub second: Answered,
}

/// How a cascade answered a query at its threshold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// The small model's score.
    pub score: f64,
    /// Whether its answer was kept.
    pub kept: bool,
    /// Quality of the answer given.
    pub quality: f64,
}

impl Contrast {
    /// Contrasts two cascades.
    ///
    /// # Errors
    /// [`ErrorKind::MissingPair`] naming a query that one side lacks, what [`Pairing::join`] and [`Bootstrap::intervals`]
    /// refuse, and [`ErrorKind::Invalid`] for a deferral rate outside [0, 1].
    pub fn of(first: &Side<'_>, second: &Side<'_>, options: &Options<'_>) -> Result<Self> {
        let sides = [first, second];
        let [a, b] = [options.pairing(first)?, options.pairing(second)?];
        check_same(&a, &b, sides)?;
        let thresholds = [options.threshold(first, &a)?, options.threshold(second, &b)?];
        let of_sides = sides.iter().zip([&a, &b]).zip(thresholds).map(|((side, pairing), threshold)| OfSide {
            name: side.name.to_owned(),
            small: side.small.to_owned(),
            threshold,
            points: options.large.map(|_| thinned(&pairing.curve())).unwrap_or_default(),
        });
        let [of_first, of_second] = <[OfSide; 2]>::try_from(of_sides.collect::<Vec<_>>())
            .map_err(|_| Error::new(ErrorKind::Invalid, "a contrast is of two"))?;
        let kept = [kept(first, &a, thresholds[0]), kept(second, &b, thresholds[1])];
        let (numbers, curves) = numbers([&a, &b], [&kept[0], &kept[1]], options)?;
        let tasks = a.aligned(options.rows(first).filter_map(|row| Some((row.query(), row.task()?))));
        let (counts, changes) = changes([&a, &b], [&kept[0], &kept[1]], &tasks, options.large.is_some());
        Ok(Self {
            schema: SCHEMA,
            sides: [of_first, of_second],
            large: options.large.map(str::to_owned),
            queries: a.len(),
            cost_in_words: options.cost.to_string(),
            bootstrap: options.bootstrap,
            numbers,
            curves,
            counts,
            changes,
        })
    }

    /// What the data say of the second against the first, for each number that people ask for; a difference counts when its
    /// interval does not contain zero.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let [_, second] = &self.sides;
        let asked = [
            ("small_quality", "The small model alone", true),
            ("quality", "The cascade at its threshold", true),
            ("deferral_rate", "The share deferred at the threshold", false),
            ("audc", "The area under the deferral curve", true),
            ("auroc", "The AUROC of the score", true),
        ];
        let finding = |(name, what, more_is_better): (&str, &'static str, bool)| {
            let paired = self.numbers.get(name)?;
            let difference = paired.difference?;
            let Interval { low, high } = difference.interval;
            let verdict = match (low > 0.0, high < 0.0, more_is_better) {
                (true, _, true) | (_, true, false) => format!("{} is better", second.name),
                (_, true, true) | (true, _, false) => format!("{} is worse", second.name),
                _ => "the data do not tell them apart".to_owned(),
            };
            Some(Finding { what, first: paired.first?, second: paired.second?, difference, verdict })
        };
        asked.into_iter().filter_map(finding).collect()
    }

    /// The same, a sentence each.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        let [first, second] = &self.sides;
        let level = 100.0 * self.bootstrap.level;
        let sentence = |Finding { what, first: a, second: b, difference, verdict }: Finding| {
            let Interval { low, high } = difference.interval;
            format!(
                "{what}: {a:.4} with {}, {b:.4} with {}, a difference of {:+.4} ({low:+.4} to {high:+.4} at {level:.0} %): \
                 {verdict}.",
                first.name, second.name, difference.estimate
            )
        };
        self.findings().into_iter().map(sentence).collect()
    }

    /// Reads a contrast.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], [`ErrorKind::TooLarge`], or [`ErrorKind::Value`] if it is not a contrast of this [`SCHEMA`].
    pub fn read(path: &Path) -> Result<Self> {
        let contrast: Self = read_json(path, MAX_CONTRAST_BYTES, "a contrast")?;
        if contrast.schema != SCHEMA {
            let message = format!("has schema {}, this version reads {SCHEMA}", contrast.schema);
            return Err(Error::new(ErrorKind::Value, message).at_path(path));
        }
        Ok(contrast)
    }

    /// Writes the contrast as JSON; the file is wholly there or not at all.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] with the path.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_json(path, self)
    }
}

impl Options<'_> {
    fn rows<'t>(&self, side: &Side<'t>) -> impl Iterator<Item = Row<'t>> {
        let (split, small) = (self.split, side.small);
        let wanted = move |row: &Row<'_>| split.is_none_or(|split| row.split() == Some(split));
        side.table.rows().filter(wanted).filter(move |row| row.model() == small)
    }

    fn pairing(&self, side: &Side<'_>) -> Result<Pairing> {
        if let Some(large) = self.large {
            let wanted = |row: &Row<'_>| self.split.is_none_or(|split| row.split() == Some(split));
            return self.cost.join(side.table.rows().filter(wanted), side.small, large);
        }
        // Without a large model deferring changes nothing and costs nothing.
        let pair = |row: Row<'_>| {
            Ok(Pair {
                query: row.query().to_owned(),
                score: row.score().ok_or_else(|| row.lacks("score"))?,
                small_quality: row.quality(),
                large_quality: row.quality(),
                small_flops: 0.0,
                large_flops: 0.0,
                small_latency_ms: None,
                large_latency_ms: None,
            })
        };
        let pairs: Vec<Pair> = self.rows(side).map(pair).collect::<Result<_>>()?;
        if pairs.is_empty() {
            let message = format!("no queries: no row of `{}` is of a model named {}", side.name, side.small);
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Pairing::new(pairs)
    }

    fn threshold(&self, side: &Side<'_>, pairing: &Pairing) -> Result<f64> {
        match side.threshold {
            Some(threshold) => Ok(threshold),
            None => Ok(threshold::for_deferral_rate(pairing.scores(), self.deferral_rate)?.threshold),
        }
    }
}

/// # Errors
/// [`ErrorKind::MissingPair`] naming the first query that only one side has.
fn check_same(a: &Pairing, b: &Pairing, sides: [&Side<'_>; 2]) -> Result<()> {
    if a.same_queries(b) {
        return Ok(());
    }
    let lacks = |of: &Pairing, other: &Pairing| {
        let found = other.aligned(of.by_query().iter().map(|at| (of.query(*at as usize), ())));
        let known: HashSet<&str> =
            found.iter().enumerate().filter(|(_, found)| found.is_some()).map(|(at, _)| other.query(at)).collect();
        of.by_query().iter().map(|at| of.query(*at as usize)).find(|query| !known.contains(query)).map(str::to_owned)
    };
    let (query, side) = match (lacks(a, b), lacks(b, a)) {
        (Some(query), _) => (query, sides[1]),
        (None, query) => (query.unwrap_or_default(), sides[0]),
    };
    let message = format!("query `{query}` has no row for model `{}` in `{}`", side.small, side.name);
    Err(Error::new(ErrorKind::MissingPair, message))
}

/// Whether each query's answer is kept, in the order of the arrays.
fn kept(side: &Side<'_>, pairing: &Pairing, threshold: f64) -> Vec<bool> {
    let keeps = |at: usize| match side.kept {
        Some(kept) => kept.contains(pairing.query(at)),
        None => pairing.scores()[at] >= threshold,
    };
    (0..pairing.len()).map(keeps).collect()
}

type Numbers = (BTreeMap<String, Paired>, Vec<AtRate>);

fn numbers(pairings: [&Pairing; 2], kept: [&[bool]; 2], options: &Options<'_>) -> Result<Numbers> {
    let [a, b] = pairings;
    // Areas over cost are compared on one interval, which each resample has for itself.
    let interval = |samples: [&Sample<'_>; 2]| {
        let ends = samples.map(|sample| (sample.small_flops(), sample.small_flops() + sample.large_flops()));
        options.cost_interval.unwrap_or((ends[0].0.max(ends[1].0), ends[0].1.max(ends[1].1)))
    };
    let cascade = options.large.is_some();
    let rates: Vec<f64> = (0..=STEPS).map(|step| step as f64 / STEPS as f64).collect();
    let of = |samples: [&Sample<'_>; 2]| {
        let interval = interval(samples);
        [0, 1].map(|side| statistics(samples[side], kept[side], interval, cascade, &rates))
    };
    let intervals = options.bootstrap.intervals([a, b], |samples| {
        let [firsts, seconds] = of(samples);
        firsts.into_iter().zip(seconds).map(|((_, a), (_, b))| Some(b? - a?)).collect()
    })?;
    let [firsts, seconds] = of([&a.sample(), &b.sample()]);
    let seconds = seconds.into_iter().map(|(_, value)| value);
    let (mut numbers, mut curves) = (BTreeMap::new(), Vec::new());
    for (((name, first), second), interval) in firsts.into_iter().zip(seconds).zip(intervals) {
        let estimate = first.zip(second).map(|(first, second)| second - first);
        let difference = estimate.zip(interval).map(|(estimate, interval)| Difference { estimate, interval });
        let paired = Paired { first, second, difference };
        match name {
            Name::Number(name) => _ = numbers.insert(name, paired),
            Name::Rate(deferral_rate) => curves.push(AtRate { deferral_rate, quality: paired }),
        }
    }
    numbers.retain(|_, paired: &mut Paired| paired.first.is_some() || paired.second.is_some());
    Ok((numbers, curves))
}

enum Name {
    Number(String),
    Rate(f64),
}

fn statistics(
    sample: &Sample<'_>,
    kept: &[bool],
    (from, to): (f64, f64),
    cascade: bool,
    rates: &[f64],
) -> Vec<(Name, Option<f64>)> {
    let named = |name: &str, value| (Name::Number(name.to_owned()), value);
    let mut statistics = vec![named("small_quality", Some(sample.small_quality())), named("auroc", sample.auroc())];
    let (deferral_rate, quality, cost) = sample.decided(kept);
    statistics.push(named("deferral_rate", Some(deferral_rate)));
    if !cascade {
        return statistics;
    }
    let curve = sample.curve();
    let (small, large) = (curve.at(0.0).quality, curve.at(1.0).quality);
    let points = || curve.points().iter().map(|point| (point.mean_flops, point.quality));
    let audc = measures::audc(&curve);
    statistics.extend([
        named("large_quality", Some(large)),
        named("small_cost", Some(curve.at(0.0).mean_flops)),
        named("quality", Some(quality)),
        named("cost", Some(cost)),
        named("audc", Some(audc)),
        named("apgr", measures::apgr(audc, small, large)),
        named("benefit_auroc", sample.benefit_auroc()),
        named("aiq", measures::aiq(points(), from, to)),
        named("error_cost_area", measures::error_cost_area(points(), from, to)),
    ]);
    for rate in DEFERRAL_RATES {
        statistics.push(named(&format!("quality_at_{:.0}", 100.0 * rate), Some(curve.at(rate).quality)));
    }
    for share in CPT_SHARES {
        statistics.push(named(&format!("cpt_{share}"), measures::cpt(&curve, f64::from(share) / 100.0)));
    }
    for share in [95, 99] {
        let at = measures::cost_at_quality(&curve, large, f64::from(share) / 100.0);
        statistics.push(named(&format!("cost_at_{share}"), at.map(|at| at.mean_flops)));
    }
    statistics.extend(rates.iter().map(|rate| (Name::Rate(*rate), Some(curve.at(*rate).quality))));
    statistics
}

fn changes(
    pairings: [&Pairing; 2],
    kept: [&[bool]; 2],
    tasks: &[Option<&str>],
    cascade: bool,
) -> (BTreeMap<String, usize>, Vec<Change>) {
    let answered = |side: usize, at: usize| {
        let pairing = pairings[side];
        let (score, kept) = (pairing.scores()[at], kept[side][at]);
        let quality = if kept { pairing.small_quality()[at] } else { pairing.large_quality()[at] };
        Answered { score, kept, quality }
    };
    let mut of_kind: BTreeMap<String, Vec<(usize, Answered, Answered)>> = BTreeMap::new();
    for (a, b) in pairings[0].by_query().iter().zip(pairings[1].by_query()) {
        let (first, second) = (answered(0, *a as usize), answered(1, *b as usize));
        let better = match second.quality.total_cmp(&first.quality) {
            std::cmp::Ordering::Greater => "better",
            std::cmp::Ordering::Less => "worse",
            std::cmp::Ordering::Equal => "as good",
        };
        let hands = match (first.kept, second.kept) {
            _ if !cascade => "answered",
            (true, false) => "kept, now deferred",
            (false, true) => "deferred, now kept",
            (true, true) => "kept by both",
            (false, false) => "deferred by both",
        };
        if better != "as good" || cascade && first.kept != second.kept {
            of_kind.entry(format!("{hands}: {better}")).or_default().push((*a as usize, first, second));
        }
    }
    let counts = of_kind.iter().map(|(kind, changes)| (kind.clone(), changes.len())).collect();
    let shown = of_kind.into_iter().flat_map(|(kind, mut changes)| {
        // By name already; those that gained or lost most come first.
        changes.sort_by(|(_, a, b), (_, c, d)| (d.quality - c.quality).abs().total_cmp(&(b.quality - a.quality).abs()));
        changes.truncate(MAX_CHANGES);
        changes.into_iter().map(move |(at, first, second)| Change {
            kind: kind.clone(),
            query: pairings[0].query(at).to_owned(),
            task: tasks[at].map(str::to_owned),
            first,
            second,
        })
    });
    let shown = shown.collect();
    (counts, shown)
}

#[cfg(test)]
mod tests;
