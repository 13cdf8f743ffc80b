//! Paired bootstrap over queries: how much a number would move with another draw of queries.
//!
//! Both models' answers to a query are drawn together, so their agreement is kept (Efron & Tibshirani 1993, ch. 13).

mod draws;
mod sweep;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::pairing::Pairing;
use crate::quantile;
use crate::sample::Sample;

use draws::{Draws, LANES};
use sweep::Track;

pub use sweep::{Numbers, Wanted};

/// How to bootstrap. Equal settings give equal intervals on any number of threads.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// Number of resamples, at least 1.
    pub resamples: usize,
    /// Share of resamples that an interval covers, in (0, 1).
    pub level: f64,
    /// Where the random draws begin.
    pub seed: u64,
}

impl Default for Bootstrap {
    /// 1000 resamples, level 0.95, seed 0.
    fn default() -> Self {
        Self { resamples: 1000, level: 0.95, seed: 0 }
    }
}

/// A percentile interval; written as `[low, high]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "[f64; 2]", into = "[f64; 2]")]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Whether a value lies inside, ends included.
    #[must_use]
    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

impl From<[f64; 2]> for Interval {
    fn from([low, high]: [f64; 2]) -> Self {
        Self { low, high }
    }
}

impl From<Interval> for [f64; 2] {
    fn from(interval: Interval) -> Self {
        [interval.low, interval.high]
    }
}

/// A difference between two cascades on the same queries.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// First less second, on the queries as measured.
    pub estimate: f64,
    /// Percentile interval of the paired difference.
    pub interval: Interval,
}

impl Bootstrap {
    /// The interval of one statistic of one pairing; `None` where [`Bootstrap::intervals`] gives `None`.
    ///
    /// # Errors
    /// As [`Bootstrap::intervals`].
    pub fn interval(
        &self,
        pairing: &Pairing,
        statistic: impl Fn(&Sample<'_>) -> Option<f64> + Sync,
    ) -> Result<Option<Interval>> {
        let intervals = self.intervals([pairing], |[sample]| vec![statistic(sample)])?;
        Ok(intervals.first().copied().flatten())
    }

    /// `statistic(first) - statistic(second)` with its interval, the same queries drawn for both; `None` where the
    /// statistic or [`Bootstrap::intervals`] is undefined.
    ///
    /// # Errors
    /// As [`Bootstrap::intervals`].
    pub fn difference(
        &self,
        first: &Pairing,
        second: &Pairing,
        statistic: impl Fn(&Sample<'_>) -> Option<f64> + Sync,
    ) -> Result<Option<Difference>> {
        let differences = self.differences(first, second, |sample| vec![statistic(sample)])?;
        Ok(differences.first().copied().flatten())
    }

    /// [`Bootstrap::difference`] of several statistics, all from the same draws.
    ///
    /// # Errors
    /// As [`Bootstrap::intervals`].
    pub fn differences(
        &self,
        first: &Pairing,
        second: &Pairing,
        statistics: impl Fn(&Sample<'_>) -> Vec<Option<f64>> + Sync,
    ) -> Result<Vec<Option<Difference>>> {
        let differences = |[first, second]: [&Sample<'_>; 2]| {
            let pairs = statistics(first).into_iter().zip(statistics(second));
            pairs.map(|(first, second)| Some(first? - second?)).collect::<Vec<_>>()
        };
        let intervals = self.intervals([first, second], differences)?;
        let estimates = differences([&first.sample(), &second.sample()]);
        let pairs = estimates.into_iter().zip(intervals);
        Ok(pairs.map(|(estimate, interval)| Some(Difference { estimate: estimate?, interval: interval? })).collect())
    }

    /// Percentile intervals of several statistics of several pairings of the same queries, all from the same draws.
    ///
    /// Each resample draws as many queries as there are, with replacement, and gives `statistic` one [`Sample`] per
    /// pairing; `statistic` returns the same number of values every time. A resample in which a value is undefined is
    /// left out of that value's interval; an interval is `None` if fewer than half of the resamples are left.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] without resamples or with a level outside (0, 1), [`ErrorKind::MissingPair`] if the
    /// pairings are not about the same queries.
    pub fn intervals<const P: usize>(
        &self,
        pairings: [&Pairing; P],
        statistic: impl Fn([&Sample<'_>; P]) -> Vec<Option<f64>> + Sync,
    ) -> Result<Vec<Option<Interval>>> {
        self.check()?;
        let Some(first) = pairings.first() else {
            return Ok(Vec::new());
        };
        if !pairings.iter().all(|pairing| pairing.same_queries(first)) {
            return Err(Error::new(ErrorKind::MissingPair, "the pairings compared are not about the same queries"));
        }
        let queries = first.len();
        let buffers = || (Draws::new(queries), pairings.map(|_| vec![0; queries]));
        let groups: Vec<Vec<Vec<Option<f64>>>> = (0..self.groups())
            .into_par_iter()
            .map_init(buffers, |(draws, weights), group| {
                let counts = draws.draw(self.seed, group, self.lanes(group).len());
                let mut of_lane = |lane: usize| {
                    for (pairing, weights) in pairings.iter().zip(weights.iter_mut()) {
                        for (at, from) in pairing.by_query().iter().zip(first.by_query()) {
                            weights[*at as usize] = u32::from(counts[*from as usize][lane]);
                        }
                    }
                    let samples: [Sample<'_>; P] = std::array::from_fn(|i| Sample::weighted(pairings[i], &weights[i]));
                    statistic(std::array::from_fn(|i| &samples[i]))
                };
                self.lanes(group).map(&mut of_lane).collect()
            })
            .collect();
        let resamples: Vec<Vec<Option<f64>>> = groups.into_iter().flatten().collect();
        let statistics = resamples.first().map_or(0, Vec::len);
        Ok((0..statistics)
            .map(|at| self.percentiles(resamples.iter().filter_map(|values| values.get(at).copied().flatten())))
            .collect())
    }

    /// The numbers of the curve in each resample, from the draws that [`Bootstrap::intervals`] of this pairing makes, in
    /// one pass over its queries: for a report, some hundred times faster than a curve for each.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] without resamples or with a level outside (0, 1).
    pub fn sweep(&self, pairing: &Pairing, wanted: &Wanted<'_>) -> Result<Vec<Numbers>> {
        self.check()?;
        let track = Track::of(pairing);
        let groups: Vec<Vec<Numbers>> = (0..self.groups())
            .into_par_iter()
            .map_init(
                || Draws::new(pairing.len()),
                |draws, group| {
                    let lanes = self.lanes(group).len();
                    track.sweep(draws.draw(self.seed, group, lanes), lanes, wanted)
                },
            )
            .collect();
        Ok(groups.into_iter().flatten().collect())
    }

    fn check(&self) -> Result<()> {
        if self.resamples == 0 || !(self.level > 0.0 && self.level < 1.0) {
            return Err(Error::new(ErrorKind::Invalid, "a bootstrap needs a resample and a level in (0, 1)"));
        }
        Ok(())
    }

    /// Number of groups of resamples that are drawn together.
    fn groups(&self) -> u64 {
        self.resamples.div_ceil(LANES) as u64
    }

    /// The lanes of a group that are wanted; the last group's may be fewer.
    fn lanes(&self, group: u64) -> std::ops::Range<usize> {
        0..LANES.min(self.resamples - LANES * group as usize)
    }

    /// The interval of one number of resamples; `None` if fewer than half of them have it.
    pub fn percentiles(&self, values: impl Iterator<Item = f64>) -> Option<Interval> {
        let mut values: Vec<f64> = values.collect();
        if values.len() * 2 < self.resamples {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let tail = (1.0 - self.level) / 2.0;
        Some(Interval { low: quantile::of_sorted(&values, tail)?, high: quantile::of_sorted(&values, 1.0 - tail)? })
    }
}

#[cfg(test)]
mod tests;
