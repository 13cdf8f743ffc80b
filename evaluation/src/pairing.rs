//! Two models' outcomes on the same queries, side by side and sorted by the small model's score.
//!
//! The order (score, then query) makes every measure a single pass, independent of the order rows came in.

use std::collections::BTreeMap;

use crate::cost::CostModel;
use crate::curve::Curve;
use crate::error::{Error, ErrorKind, Result};
use crate::outcome::Outcome;
use crate::sample::Sample;

/// An answer is right when its quality is at least this. Exact for qualities that are 0 or 1.
pub const RIGHT: f64 = 0.5;

/// One query as both models answered it.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// Which query.
    pub query: String,
    /// The deferral rule's score of the small model's answer, finite; higher means keep.
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
#[derive(Debug, Clone, PartialEq)]
pub struct Pairing {
    queries: Vec<String>,
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
    /// [`ErrorKind::Duplicate`], [`ErrorKind::Value`], and [`ErrorKind::Invalid`] when neither model has a row.
    pub fn join<'a>(rows: impl IntoIterator<Item = &'a Outcome>, small: &str, large: &str) -> Result<Self> {
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
        let mut slim = Vec::new();
        for row in rows {
            let row = row?;
            if row.model == small || row.model == large {
                let Outcome { query, model, quality, score, tokens_in, tokens_out, cost, latency_ms, flops, .. } = row;
                let kept = Outcome {
                    score,
                    tokens_in,
                    tokens_out,
                    cost,
                    latency_ms,
                    flops,
                    ..Outcome::new(query, model, quality)
                };
                slim.push(kept);
            }
        }
        cost.join(&slim, small, large)
    }

    /// [`Pairing::join`] for each task by itself, by the small model's column `task`; for tables of results by task,
    /// and for thresholds of their own.
    ///
    /// # Errors
    /// As [`CostModel::join`], and [`ErrorKind::MissingValue`] naming a query without a task.
    pub fn join_by_task<'a>(
        rows: impl IntoIterator<Item = &'a Outcome>,
        small: &str,
        large: &str,
        cost: &CostModel,
    ) -> Result<BTreeMap<String, Self>> {
        let mut by_task: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
        for (of_small, of_large) in Self::rows_of_both(rows, small, large)? {
            let Some(task) = of_small.task.as_deref() else {
                let message = format!("is empty for query `{}` and model `{small}`", of_small.query);
                return Err(Error::new(ErrorKind::MissingValue, message).at_column("task"));
            };
            by_task.entry(task).or_default().extend([of_small, of_large]);
        }
        by_task.into_iter().map(|(task, rows)| Ok((task.to_owned(), cost.join(rows, small, large)?))).collect()
    }

    /// Both models' rows of each query, by the name of the query.
    ///
    /// # Errors
    /// [`ErrorKind::MissingPair`], [`ErrorKind::Duplicate`].
    pub(crate) fn rows_of_both<'a>(
        rows: impl IntoIterator<Item = &'a Outcome>,
        small: &str,
        large: &str,
    ) -> Result<Vec<(&'a Outcome, &'a Outcome)>> {
        let (mut of_small, mut of_large) = (BTreeMap::new(), BTreeMap::new());
        for row in rows {
            let of_model = match row.model.as_str() {
                model if model == small => &mut of_small,
                model if model == large => &mut of_large,
                _ => continue,
            };
            if of_model.insert(row.query.as_str(), row).is_some() {
                let message = format!("a second row for query `{}` and model `{}`", row.query, row.model);
                return Err(Error::new(ErrorKind::Duplicate, message));
            }
        }
        for (of_model, of_other, other) in [(&of_small, &of_large, large), (&of_large, &of_small, small)] {
            if let Some(query) = of_model.keys().find(|query| !of_other.contains_key(*query)) {
                let message = format!("query `{query}` has no row for model `{other}`");
                return Err(Error::new(ErrorKind::MissingPair, message));
            }
        }
        Ok(of_small.into_values().zip(of_large.into_values()).collect())
    }

    /// A pairing of these queries, in any order. A model's latencies are kept only if every query has one.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] without queries, [`ErrorKind::Duplicate`] for a query given twice,
    /// [`ErrorKind::Value`] for a number out of its range, [`ErrorKind::TooLarge`] past 2^32 queries.
    pub fn new(mut pairs: Vec<Pair>) -> Result<Self> {
        if pairs.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "no queries"));
        }
        let Ok(length) = u32::try_from(pairs.len()) else {
            return Err(Error::new(ErrorKind::TooLarge, "more than 2^32 queries"));
        };
        for pair in &pairs {
            pair.check()?;
        }
        pairs.sort_by(|a, b| a.score.total_cmp(&b.score).then_with(|| a.query.cmp(&b.query)));
        let column = |value: fn(&Pair) -> f64| pairs.iter().map(value).collect::<Vec<_>>();
        let optional = |value: fn(&Pair) -> Option<f64>| pairs.iter().map(value).collect::<Option<Vec<_>>>();
        let mut pairing = Self {
            queries: Vec::new(),
            scores: column(|pair| pair.score),
            small_quality: column(|pair| pair.small_quality),
            large_quality: column(|pair| pair.large_quality),
            small_flops: column(|pair| pair.small_flops),
            large_flops: column(|pair| pair.large_flops),
            small_latency_ms: optional(|pair| pair.small_latency_ms),
            large_latency_ms: optional(|pair| pair.large_latency_ms),
            by_query: (0..length).collect(),
        };
        pairing.queries = pairs.into_iter().map(|pair| pair.query).collect();
        let queries = &pairing.queries;
        pairing.by_query.sort_by(|&a, &b| queries[a as usize].cmp(&queries[b as usize]));
        if let Some(twice) =
            pairing.by_query.windows(2).find(|two| queries[two[0] as usize] == queries[two[1] as usize])
        {
            let message = format!("query `{}` is there twice", queries[twice[0] as usize]);
            return Err(Error::new(ErrorKind::Duplicate, message));
        }
        Ok(pairing)
    }

    /// The same queries under another rule: `score` gives each its new score.
    ///
    /// # Errors
    /// [`ErrorKind::Value`] if a new score is not finite.
    pub fn rescored(&self, score: impl Fn(&Pair) -> f64) -> Result<Self> {
        let pairs = self.pairs().map(|pair| Pair { score: score(&pair), ..pair });
        Self::new(pairs.collect())
    }

    /// The same queries under the oracle, which knows both qualities: its score is what keeping gains,
    /// `small_quality - large_quality`. No rule's curve is above its curve at any deferral rate.
    #[must_use]
    pub fn oracle(&self) -> Self {
        // The difference of two numbers in [0, 1] is finite, and the rest was checked: this cannot fail.
        self.rescored(|pair| pair.small_quality - pair.large_quality).unwrap_or_else(|_| self.clone())
    }

    /// The queries one by one, in the order of the arrays.
    pub fn pairs(&self) -> impl ExactSizeIterator<Item = Pair> {
        (0..self.len()).map(|i| Pair {
            query: self.queries[i].clone(),
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
        self.len() == other.len() && self.names().eq(other.names())
    }

    /// The queries' names in their order.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.by_query.iter().map(|&at| self.queries[at as usize].as_str())
    }

    /// The queries' names.
    #[must_use]
    pub fn queries(&self) -> &[String] {
        &self.queries
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

impl Pair {
    fn check(&self) -> Result<()> {
        let qualities = [self.small_quality, self.large_quality];
        let amounts = [Some(self.small_flops), Some(self.large_flops), self.small_latency_ms, self.large_latency_ms];
        let fault = if !self.score.is_finite() {
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
