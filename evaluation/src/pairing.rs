//! Two models' outcomes on the same queries, side by side and sorted by the small model's score.
//!
//! The order (score, then query) makes every measure a single pass, independent of the order rows came in.

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;

use crate::cost::CostModel;
use crate::curve::Curve;
use crate::error::{Error, ErrorKind, Result};
use crate::joined::{Joined, Link};
use crate::outcome::{Names, Outcome, Row};
use crate::sample::Sample;

/// An answer is right when its quality is at least this. Exact for qualities that are 0 or 1.
pub const RIGHT: f64 = 0.5;

/// One query as both models answered it.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// Which query.
    pub query: String,
    /// The deferral rule's score of the small model's answer, finite; higher means keep. -inf is what no threshold keeps.
    pub score: f64,
    /// Quality of the small model's answer, in [0, 1].
    pub small_quality: f64,
    /// Quality of the large model's answer, in [0, 1].
    pub large_quality: f64,
    /// Floating-point operations of the small model, at least 0. Always paid.
    pub small_flops: f64,
    /// Floating-point operations of the large model, at least 0. Paid when deferred.
    pub large_flops: f64,
    /// Milliseconds of the small model, at least 0, if recorded.
    pub small_latency_ms: Option<f64>,
    /// Milliseconds of the large model, at least 0, if recorded.
    pub large_latency_ms: Option<f64>,
}

/// A two-model cascade's outcomes as arrays of length [`Pairing::len`], sorted by ascending score, then by query.
#[derive(Debug, Clone)]
pub struct Pairing {
    names: Arc<Names>,
    /// Number of each query's name.
    queries: Vec<u32>,
    scores: Vec<f64>,
    small_quality: Vec<f64>,
    large_quality: Vec<f64>,
    small_flops: Vec<f64>,
    large_flops: Vec<f64>,
    small_latency_ms: Option<Vec<f64>>,
    large_latency_ms: Option<Vec<f64>>,
    /// Position in the arrays of the i-th query in the order of query names.
    by_query: Vec<u32>,
}

impl Pairing {
    /// Joins the rows of model `small` with those of model `large` by query; other models' rows are passed over.
    ///
    /// # Errors
    /// [`ErrorKind::MissingPair`] naming the first query that only one of the two models has,
    /// [`ErrorKind::MissingValue`] naming the query whose `score` (small) or `flops` (both) is empty,
    /// [`ErrorKind::Duplicate`], and [`ErrorKind::Invalid`] when neither model has a row.
    pub fn join<'a, R: Into<Row<'a>>>(rows: impl IntoIterator<Item = R>, small: &str, large: &str) -> Result<Self> {
        CostModel::default().join(rows, small, large)
    }

    /// [`Pairing::join`] of rows as they come from a reader: of each only the numbers needed are held, so a table with
    /// many signals, tasks and digests need not fit in memory.
    ///
    /// # Errors
    /// As [`CostModel::join`], and the first error among the rows.
    pub fn from_stream(
        rows: impl IntoIterator<Item = Result<Outcome>>,
        small: &str,
        large: &str,
        cost: &CostModel,
    ) -> Result<Self> {
        let models = [small, large];
        let mut joined = Joined::new(&models, cost)?;
        for row in rows {
            joined.push((&row?).into())?;
        }
        Self::of(joined)
    }

    /// [`Pairing::join`] for each task by itself, by the small model's column `task`; for tables of results by task,
    /// and for thresholds of their own.
    ///
    /// # Errors
    /// As [`CostModel::join`], and [`ErrorKind::MissingValue`] naming a query without a task.
    pub fn join_by_task<'a, R: Into<Row<'a>>>(
        rows: impl IntoIterator<Item = R>,
        small: &str,
        large: &str,
        cost: &CostModel,
    ) -> Result<BTreeMap<String, Self>> {
        let models = [small, large];
        let mut joined = Joined::new(&models, cost)?;
        let (mut tasks, mut task_of) = (Names::default(), Vec::new());
        for row in rows {
            let row: Row<'_> = row.into();
            if let Some((query, 0)) = joined.push(row)? {
                let task = tasks.number(row.task().ok_or_else(|| row.lacks("task"))?)?;
                task_of.resize(task_of.len().max(query as usize + 1), 0);
                task_of[query as usize] = task;
            }
        }
        let parts = Self::of(joined)?.split(tasks.len(), |query| task_of[query as usize] as usize);
        Ok(tasks.iter().map(str::to_owned).zip(parts).collect())
    }

    pub(crate) fn of(joined: Joined<'_>) -> Result<Self> {
        let (names, links, by_name) = joined.finish()?;
        let [small, large] =
            <[Link; 2]>::try_from(links).map_err(|_| Error::new(ErrorKind::Invalid, "a pairing is of two models"))?;
        let optional = |column: Vec<f64>| Some(column).filter(|column| !column.iter().any(|number| number.is_nan()));
        let unsorted = Self {
            queries: (0..names.len() as u32).collect(),
            names: Arc::new(names),
            scores: small.score,
            small_quality: small.quality,
            large_quality: large.quality,
            small_flops: small.cost,
            large_flops: large.cost,
            small_latency_ms: optional(small.latency_ms),
            large_latency_ms: optional(large.latency_ms),
            by_query: by_name,
        };
        Ok(unsorted.sorted())
    }

    /// A pairing of these queries, in any order. A model's latencies are kept only if every query has one.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] without queries, [`ErrorKind::Duplicate`] for a query given twice,
    /// [`ErrorKind::Value`] for a number out of its range, [`ErrorKind::TooLarge`] past the caps of a table.
    pub fn new(pairs: Vec<Pair>) -> Result<Self> {
        if pairs.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "no queries"));
        }
        let mut names = Names::default();
        for (at, pair) in pairs.iter().enumerate() {
            pair.check()?;
            if names.number(&pair.query)? as usize != at {
                return Err(Error::new(ErrorKind::Duplicate, format!("query `{}` is there twice", pair.query)));
            }
        }
        let column = |value: fn(&Pair) -> f64| pairs.iter().map(value).collect::<Vec<_>>();
        let optional = |value: fn(&Pair) -> Option<f64>| pairs.iter().map(value).collect::<Option<Vec<_>>>();
        let mut by_query: Vec<u32> = (0..names.len() as u32).collect();
        by_query.par_sort_unstable_by(|a, b| names.text(*a).cmp(names.text(*b)));
        let unsorted = Self {
            queries: (0..names.len() as u32).collect(),
            names: Arc::new(names),
            scores: column(|pair| pair.score),
            small_quality: column(|pair| pair.small_quality),
            large_quality: column(|pair| pair.large_quality),
            small_flops: column(|pair| pair.small_flops),
            large_flops: column(|pair| pair.large_flops),
            small_latency_ms: optional(|pair| pair.small_latency_ms),
            large_latency_ms: optional(|pair| pair.large_latency_ms),
            by_query,
        };
        Ok(unsorted.sorted())
    }

    /// Brings the arrays into the order of the scores.
    fn sorted(mut self) -> Self {
        let mut order: Vec<u32> = (0..self.len() as u32).collect();
        let name = |at: u32| self.names.text(self.queries[at as usize]);
        let score = |at: u32| self.scores[at as usize];
        order.par_sort_unstable_by(|&a, &b| score(a).total_cmp(&score(b)).then_with(|| name(a).cmp(name(b))));
        let mut place = vec![0u32; order.len()];
        order.iter().zip(0..).for_each(|(from, to)| place[*from as usize] = to);
        self.by_query.iter_mut().for_each(|at| *at = place[*at as usize]);
        self.queries = order.iter().map(|at| self.queries[*at as usize]).collect();
        let latencies = [&mut self.small_latency_ms, &mut self.large_latency_ms].into_iter().flatten();
        let qualities = [&mut self.small_quality, &mut self.large_quality];
        let costs = [&mut self.small_flops, &mut self.large_flops, &mut self.scores];
        for column in qualities.into_iter().chain(costs).chain(latencies) {
            *column = order.iter().map(|at| column[*at as usize]).collect();
        }
        self
    }

    /// Parts by `part`, below `parts`, of the number of a query's name. Each is sorted as the whole is.
    fn split(&self, parts: usize, part: impl Fn(u32) -> usize) -> Vec<Self> {
        let mut places = vec![Vec::new(); parts];
        let mut within = vec![0u32; self.len()];
        for (at, query) in self.queries.iter().enumerate() {
            let of_part = &mut places[part(*query)];
            within[at] = of_part.len() as u32;
            of_part.push(at);
        }
        let mut by_query = vec![Vec::new(); parts];
        for at in &self.by_query {
            by_query[part(self.queries[*at as usize])].push(within[*at as usize]);
        }
        let of_part = |(places, by_query): (Vec<usize>, Vec<u32>)| {
            let column = |column: &Vec<f64>| places.iter().map(|at| column[*at]).collect::<Vec<_>>();
            Self {
                names: self.names.clone(),
                queries: places.iter().map(|at| self.queries[*at]).collect(),
                scores: column(&self.scores),
                small_quality: column(&self.small_quality),
                large_quality: column(&self.large_quality),
                small_flops: column(&self.small_flops),
                large_flops: column(&self.large_flops),
                small_latency_ms: self.small_latency_ms.as_ref().map(column),
                large_latency_ms: self.large_latency_ms.as_ref().map(column),
                by_query,
            }
        };
        places.into_iter().zip(by_query).map(of_part).collect()
    }

    /// The same queries under another rule: `score` gives each its new score.
    ///
    /// # Errors
    /// [`ErrorKind::Value`] if a new score is not finite.
    pub fn rescored(&self, score: impl Fn(&Pair) -> f64) -> Result<Self> {
        self.with_scores(self.pairs().map(|pair| score(&pair)).collect())
    }

    /// The same queries with these scores, in the order of the arrays.
    ///
    /// # Errors
    /// [`ErrorKind::Value`] if one is not finite.
    pub(crate) fn with_scores(&self, scores: Vec<f64>) -> Result<Self> {
        if let Some(at) = scores.iter().position(|score| !score.is_finite()) {
            let message = format!("query `{}` has a score that is not finite", self.query(at));
            return Err(Error::new(ErrorKind::Value, message));
        }
        Ok(Self { scores, ..self.clone() }.sorted())
    }

    /// The same queries behind a router that sends some to the large model before the small one begins: no threshold keeps
    /// them, their score being -inf, and nothing is spent on them here.
    #[must_use]
    pub fn behind(&self, sends_away: impl Fn(&str) -> bool) -> Self {
        let mut behind = self.clone();
        for at in 0..self.len() {
            if sends_away(self.query(at)) {
                (behind.scores[at], behind.small_flops[at]) = (f64::NEG_INFINITY, 0.0);
                behind.small_latency_ms.iter_mut().for_each(|latency| latency[at] = 0.0);
            }
        }
        behind.sorted()
    }

    /// The same queries under the oracle, which knows both qualities: its score is what keeping gains,
    /// `small_quality - large_quality`. No rule's curve is above its curve at any deferral rate.
    #[must_use]
    pub fn oracle(&self) -> Self {
        let gains = self.small_quality.iter().zip(&self.large_quality).map(|(small, large)| small - large);
        Self { scores: gains.collect(), ..self.clone() }.sorted()
    }

    /// The queries one by one, in the order of the arrays.
    pub fn pairs(&self) -> impl ExactSizeIterator<Item = Pair> {
        (0..self.len()).map(|i| Pair {
            query: self.query(i).to_owned(),
            score: self.scores[i],
            small_quality: self.small_quality[i],
            large_quality: self.large_quality[i],
            small_flops: self.small_flops[i],
            large_flops: self.large_flops[i],
            small_latency_ms: self.small_latency_ms.as_ref().map(|latency| latency[i]),
            large_latency_ms: self.large_latency_ms.as_ref().map(|latency| latency[i]),
        })
    }

    /// Every query once: what the measures are taken from.
    #[must_use]
    pub fn sample(&self) -> Sample<'_> {
        Sample::whole(self)
    }

    /// The deferral curve.
    #[must_use]
    pub fn curve(&self) -> Curve {
        self.sample().curve()
    }

    /// Number of queries, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a pairing is never empty")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.queries.len()
    }

    /// Whether `other` is about the same queries, so that the two can be compared pair by pair.
    #[must_use]
    pub fn same_queries(&self, other: &Self) -> bool {
        self.len() == other.len() && self.ordered_names().eq(other.ordered_names())
    }

    /// The queries' names in their order.
    fn ordered_names(&self) -> impl Iterator<Item = &str> {
        self.by_query.iter().map(|&at| self.query(at as usize))
    }

    /// The name of the query at a position of the arrays, which is below [`Pairing::len`].
    ///
    /// # Panics
    /// For a position past the end.
    #[must_use]
    pub fn query(&self, at: usize) -> &str {
        self.names.text(self.queries[at])
    }

    /// Something of each query, in the order of the arrays, from (name, thing) in any order.
    pub(crate) fn aligned<'a, T: Copy>(&self, things: impl IntoIterator<Item = (&'a str, T)>) -> Vec<Option<T>> {
        let mut of_name = vec![None; self.names.len()];
        for (name, thing) in things {
            if let Some(number) = self.names.find(name) {
                of_name[number as usize] = Some(thing);
            }
        }
        self.queries.iter().map(|number| of_name[*number as usize]).collect()
    }

    /// The small model's scores, ascending.
    #[must_use]
    pub fn scores(&self) -> &[f64] {
        &self.scores
    }

    /// Quality of the small model's answers.
    #[must_use]
    pub fn small_quality(&self) -> &[f64] {
        &self.small_quality
    }

    /// Quality of the large model's answers.
    #[must_use]
    pub fn large_quality(&self) -> &[f64] {
        &self.large_quality
    }

    /// Floating-point operations of the small model.
    #[must_use]
    pub fn small_flops(&self) -> &[f64] {
        &self.small_flops
    }

    /// Floating-point operations of the large model.
    #[must_use]
    pub fn large_flops(&self) -> &[f64] {
        &self.large_flops
    }

    /// Milliseconds of the small model, if recorded for every query.
    #[must_use]
    pub fn small_latency_ms(&self) -> Option<&[f64]> {
        self.small_latency_ms.as_deref()
    }

    /// Milliseconds of the large model, if recorded for every query.
    #[must_use]
    pub fn large_latency_ms(&self) -> Option<&[f64]> {
        self.large_latency_ms.as_deref()
    }

    /// Whether each of the small model's answers is right.
    #[must_use]
    pub fn small_right(&self) -> Vec<bool> {
        self.small_quality.iter().map(|quality| *quality >= RIGHT).collect()
    }

    pub(crate) fn by_query(&self) -> &[u32] {
        &self.by_query
    }
}

impl PartialEq for Pairing {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.pairs().eq(other.pairs())
    }
}

impl Pair {
    fn check(&self) -> Result<()> {
        let qualities = [self.small_quality, self.large_quality];
        let amounts = [Some(self.small_flops), Some(self.large_flops), self.small_latency_ms, self.large_latency_ms];
        let fault = if !self.score.is_finite() && self.score != f64::NEG_INFINITY {
            "a score that is not finite"
        } else if qualities.iter().any(|quality| !(0.0..=1.0).contains(quality)) {
            "a quality outside [0, 1]"
        } else if amounts.iter().flatten().any(|amount| !(amount.is_finite() && *amount >= 0.0)) {
            "FLOPs or a latency that are not finite and at least 0"
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Value, format!("query `{}` has {fault}", self.query)))
    }
}
