//! Cascades of two and more models: what a vector of thresholds is worth, and which vectors are worth having.
//!
//! A query goes to the first model; each model but the last keeps it if its score is at least the model's threshold,
//! else hands it on. Every model that was asked is paid.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::cost::CostModel;
use crate::error::{Error, ErrorKind, Result};
use crate::extended;
use crate::joined::{self, Joined};
use crate::outcome::Row;

/// Most threshold vectors of a grid.
pub const MAX_GRID: usize = 1 << 20;

/// The outcomes of models on the same queries, in the order in which the models are asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Chain {
    models: Vec<String>,
    links: Vec<Link>,
}

/// One model: arrays of one number for each query, in the order of query names.
#[derive(Debug, Clone, PartialEq)]
struct Link {
    quality: Vec<f64>,
    cost: Vec<f64>,
    /// Empty for a last model without scores, which keeps everything and needs none.
    scores: Vec<f64>,
}

/// What a vector of thresholds gives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChainPoint {
    /// One for each model but the last: keep if score >= threshold. +inf (`"inf"` in JSON) keeps nothing.
    #[serde(with = "extended::list")]
    pub thresholds: Vec<f64>,
    /// Share of queries that the first model hands on.
    pub deferral_rate: f64,
    /// Mean quality of the answers given.
    pub quality: f64,
    /// Mean cost per query, in the unit of the [`CostModel`].
    pub cost: f64,
}

impl Chain {
    /// Joins the models' rows by query; other models' rows are passed over.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for fewer than two models, one named twice, or no queries; [`ErrorKind::MissingPair`]
    /// naming a query that a model lacks; [`ErrorKind::Duplicate`]; [`ErrorKind::MissingValue`] for an empty `score`
    /// (all models but the last) or an empty column of the cost's unit.
    pub fn join<'a, R: Into<Row<'a>>>(
        rows: impl IntoIterator<Item = R>,
        models: &[&str],
        cost: &CostModel,
    ) -> Result<Self> {
        Self::of(Joined::of(rows, models, cost)?, models)
    }

    fn of(joined: Joined<'_>, models: &[&str]) -> Result<Self> {
        let (_, links, by_name) = joined.finish()?;
        let ordered = |column: Vec<f64>| by_name.iter().map(|at| column[*at as usize]).collect::<Vec<_>>();
        let link = |link: joined::Link| Link {
            quality: ordered(link.quality),
            cost: ordered(link.cost),
            // The last model's scores are of use only if every query has one.
            scores: Some(ordered(link.score)).filter(|scores| !scores.iter().any(|s| s.is_nan())).unwrap_or_default(),
        };
        Ok(Self {
            models: models.iter().map(|model| (*model).to_owned()).collect(),
            links: links.into_iter().map(link).collect(),
        })
    }

    /// The models, in the order in which they are asked.
    #[must_use]
    pub fn models(&self) -> &[String] {
        &self.models
    }

    /// Number of queries, at least 1.
    #[must_use]
    pub fn queries(&self) -> usize {
        self.links[0].quality.len()
    }

    /// Quality of a model's answers, by the order of query names; `None` past the last model.
    #[must_use]
    pub fn quality(&self, model: usize) -> Option<&[f64]> {
        Some(&self.links.get(model)?.quality)
    }

    /// Cost of a model's answers, without those before it; `None` past the last model.
    #[must_use]
    pub fn cost(&self, model: usize) -> Option<&[f64]> {
        Some(&self.links.get(model)?.cost)
    }

    /// A model's scores, by the order of query names; `None` past the last model, and for it if a query has none.
    #[must_use]
    pub fn scores(&self, model: usize) -> Option<&[f64]> {
        Some(&self.links.get(model)?.scores).filter(|scores| !scores.is_empty()).map(Vec::as_slice)
    }

    /// The same chain with other scores: `score` of a model's place and its score.
    #[must_use]
    pub fn rescored(&self, score: impl Fn(usize, f64) -> f64) -> Self {
        let mut chain = self.clone();
        for (model, link) in chain.links.iter_mut().enumerate() {
            for of_query in &mut link.scores {
                *of_query = score(model, *of_query);
            }
        }
        chain
    }

    /// What these thresholds give, one for each model but the last.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for another number of thresholds, or one that is NaN.
    pub fn at(&self, thresholds: &[f64]) -> Result<ChainPoint> {
        if thresholds.len() + 1 != self.models.len() || thresholds.iter().any(|threshold| threshold.is_nan()) {
            let message = format!("{} models take {} thresholds, none NaN", self.models.len(), self.models.len() - 1);
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(self.evaluate(thresholds.to_vec()))
    }

    /// Every combination of thresholds at `steps` evenly spaced quantiles of each model's scores (order statistics, the
    /// lowest score among them) and +inf.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] without steps, [`ErrorKind::TooLarge`] past [`MAX_GRID`] combinations.
    pub fn grid(&self, steps: usize) -> Result<Vec<ChainPoint>> {
        if steps == 0 {
            return Err(Error::new(ErrorKind::Invalid, "a grid needs a step"));
        }
        let axes: Vec<Vec<f64>> = self.links[..self.links.len() - 1].iter().map(|link| link.axis(steps)).collect();
        let size =
            axes.iter().try_fold(1usize, |size, axis| size.checked_mul(axis.len()).filter(|size| *size <= MAX_GRID));
        let Some(size) = size else {
            return Err(Error::new(ErrorKind::TooLarge, format!("more than {MAX_GRID} combinations of thresholds")));
        };
        let vector = |mut index: usize| {
            let pick = |axis: &Vec<f64>| {
                let threshold = axis[index % axis.len()];
                index /= axis.len();
                threshold
            };
            axes.iter().map(pick).collect::<Vec<_>>()
        };
        Ok((0..size).into_par_iter().map(|index| self.evaluate(vector(index))).collect())
    }

    fn evaluate(&self, thresholds: Vec<f64>) -> ChainPoint {
        let (mut quality, mut cost, mut deferred) = (0.0, 0.0, 0usize);
        for query in 0..self.queries() {
            let keeps =
                |at: &usize| thresholds.get(*at).is_none_or(|threshold| self.links[*at].scores[query] >= *threshold);
            let keeper = (0..self.links.len()).find(keeps).unwrap_or_default();
            quality += self.links[keeper].quality[query];
            cost += self.links[..=keeper].iter().map(|link| link.cost[query]).sum::<f64>();
            deferred += usize::from(keeper > 0);
        }
        let queries = self.queries() as f64;
        ChainPoint {
            thresholds,
            deferral_rate: deferred as f64 / queries,
            quality: quality / queries,
            cost: cost / queries,
        }
    }
}

impl Link {
    /// At most `steps` scores, evenly spaced by rank from the lowest, and +inf; each once.
    fn axis(&self, steps: usize) -> Vec<f64> {
        let mut sorted = self.scores.clone();
        sorted.sort_by(f64::total_cmp);
        let mut axis: Vec<f64> = (0..steps).map(|step| sorted[step * sorted.len() / steps]).collect();
        axis.dedup();
        axis.push(f64::INFINITY);
        axis
    }
}

/// The points that no other is cheaper than and at least as good, or as cheap as and better: by ascending cost, quality
/// always rising. Of equal points the first stays.
#[must_use]
pub fn pareto(points: &[ChainPoint]) -> Vec<ChainPoint> {
    let mut order: Vec<&ChainPoint> = points.iter().collect();
    order.sort_by(|a, b| a.cost.total_cmp(&b.cost).then(b.quality.total_cmp(&a.quality)));
    let mut front: Vec<ChainPoint> = Vec::new();
    for point in order {
        if front.last().is_none_or(|best| point.quality > best.quality) {
            front.push(point.clone());
        }
    }
    front
}

#[cfg(test)]
mod tests;
