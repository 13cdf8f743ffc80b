//! A pairing with a weight on each query: once each for what was measured, resampled counts for the bootstrap.
//!
//! One pass over the sorted arrays gives every measure, so a resample costs no sorting.

use crate::curve::{Curve, Point};
use crate::measures::auroc_of_blocks;
use crate::pairing::{Pairing, RIGHT};

/// The queries of a [`Pairing`], each as often as its weight says.
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a> {
    pairing: &'a Pairing,
    /// Aligned with the pairing's arrays; `None` is once each.
    weights: Option<&'a [u32]>,
}

impl<'a> Sample<'a> {
    pub(crate) fn whole(pairing: &'a Pairing) -> Self {
        Self { pairing, weights: None }
    }

    pub(crate) fn weighted(pairing: &'a Pairing, weights: &'a [u32]) -> Self {
        Self { pairing, weights: Some(weights) }
    }

    /// The pairing this is a sample of.
    #[must_use]
    pub fn pairing(&self) -> &'a Pairing {
        self.pairing
    }

    /// Mean quality of the small model alone.
    #[must_use]
    pub fn small_quality(&self) -> f64 {
        let all = self.all();
        all.small_quality / all.weight
    }

    /// Mean quality of the large model alone.
    #[must_use]
    pub fn large_quality(&self) -> f64 {
        let all = self.all();
        all.large_quality / all.weight
    }

    /// Mean floating-point operations of the small model alone.
    #[must_use]
    pub fn small_flops(&self) -> f64 {
        let all = self.all();
        all.small_flops / all.weight
    }

    /// Mean floating-point operations of the large model alone, without the small one before it.
    #[must_use]
    pub fn large_flops(&self) -> f64 {
        let all = self.all();
        all.large_flops / all.weight
    }

    /// The deferral curve.
    #[must_use]
    pub fn curve(&self) -> Curve {
        let all = self.all();
        let mut deferred = Block::default();
        let mut points = Vec::with_capacity(self.pairing.len() + 1);
        let mut point = |threshold: f64, deferred: &Block| {
            points.push(Point {
                threshold,
                deferral_rate: deferred.weight / all.weight,
                quality: (deferred.large_quality + (all.small_quality - deferred.small_quality)) / all.weight,
                mean_flops: (all.small_flops + deferred.large_flops) / all.weight,
            });
        };
        for block in self.blocks() {
            point(block.score, &deferred);
            deferred.add(&block);
        }
        point(f64::INFINITY, &deferred);
        Curve::from_points(points)
    }

    /// Share deferred, mean quality and mean floating-point operations of a cascade that keeps these queries, in the order of
    /// the pairing's arrays, and defers the others.
    pub(crate) fn decided(&self, kept: &[bool]) -> (f64, f64, f64) {
        let pairing = self.pairing;
        let (mut all, mut deferred, mut quality, mut flops) = (0.0, 0.0, 0.0, 0.0);
        for (at, kept) in kept.iter().enumerate() {
            let weight = self.weight(at);
            all += weight;
            flops += weight * pairing.small_flops()[at];
            if *kept {
                quality += weight * pairing.small_quality()[at];
            } else {
                deferred += weight;
                quality += weight * pairing.large_quality()[at];
                flops += weight * pairing.large_flops()[at];
            }
        }
        (deferred / all, quality / all, flops / all)
    }

    /// Area under the ROC curve of the score as a detector of right answers of the small model; see
    /// [`measures::auroc`](crate::measures::auroc).
    #[must_use]
    pub fn auroc(&self) -> Option<f64> {
        self.auroc_of(|i| self.pairing.small_quality()[i] >= RIGHT)
    }

    /// Area under the ROC curve of the negated score as a detector of queries that deferring mends; see
    /// [`measures::benefit_auroc`](crate::measures::benefit_auroc).
    #[must_use]
    pub fn benefit_auroc(&self) -> Option<f64> {
        self.auroc_of(|i| self.pairing.small_quality()[i] >= RIGHT || self.pairing.large_quality()[i] < RIGHT)
    }

    /// The area for queries that are positive or not, weighted; a pass of its own, because it needs little of each query.
    fn auroc_of(&self, positive: impl Fn(usize) -> bool) -> Option<f64> {
        let scores = self.pairing.scores();
        let mut next = 0;
        auroc_of_blocks(std::iter::from_fn(|| {
            let score = scores.get(next)?;
            let (mut positives, mut negatives) = (0.0, 0.0);
            while scores.get(next) == Some(score) {
                *(if positive(next) { &mut positives } else { &mut negatives }) += self.weight(next);
                next += 1;
            }
            Some((positives, negatives))
        }))
    }

    /// The sums over all queries, added up block by block as the curve does, so that its ends are exact.
    fn all(&self) -> Block {
        self.blocks().fold(Block::default(), |mut all, block| {
            all.add(&block);
            all
        })
    }

    fn weight(&self, i: usize) -> f64 {
        self.weights.map_or(1.0, |weights| f64::from(weights[i]))
    }

    /// Queries of equal score taken together, by ascending score; only those with a weight.
    fn blocks(&self) -> impl Iterator<Item = Block> {
        let pairing = self.pairing;
        let mut next = 0;
        std::iter::from_fn(move || {
            loop {
                let score = *pairing.scores().get(next)?;
                let mut block = Block { score, ..Block::default() };
                while pairing.scores().get(next) == Some(&score) {
                    let weight = self.weight(next);
                    let (small, large) = (pairing.small_quality()[next], pairing.large_quality()[next]);
                    block.weight += weight;
                    block.small_quality += weight * small;
                    block.large_quality += weight * large;
                    block.small_flops += weight * pairing.small_flops()[next];
                    block.large_flops += weight * pairing.large_flops()[next];
                    next += 1;
                }
                if block.weight > 0.0 {
                    return Some(block);
                }
            }
        })
    }
}

/// Weighted sums over queries.
#[derive(Debug, Clone, Copy, Default)]
struct Block {
    score: f64,
    weight: f64,
    small_quality: f64,
    large_quality: f64,
    small_flops: f64,
    large_flops: f64,
}

impl Block {
    fn add(&mut self, other: &Self) {
        self.weight += other.weight;
        self.small_quality += other.small_quality;
        self.large_quality += other.large_quality;
        self.small_flops += other.small_flops;
        self.large_flops += other.large_flops;
    }
}
