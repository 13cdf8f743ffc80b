//! The deferral curve of a two-model cascade: quality and cost against deferral rate as the threshold sweeps.
//!
//! A query is kept if its score is at least the threshold. Queries of equal score are kept or deferred together.
//! Between two thresholds the tied queries at the boundary are deferred at random: the curve is a straight line there.

/// A point of a deferral curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Scores below it are deferred and scores above it are kept. Scores equal to it are kept at a curve's own point;
    /// at a point between two of them they are deferred at random with the probability that meets the rate.
    /// The lowest score at the start, where nothing is deferred; +inf at the end.
    pub threshold: f64,
    /// Share of queries deferred, in [0, 1].
    pub deferral_rate: f64,
    /// Mean quality of the answers given, in [0, 1]; an expectation between two of the curve's own points.
    pub quality: f64,
    /// Mean floating-point operations per query: the small model's always, the large one's when deferred.
    pub mean_flops: f64,
}

/// Quality and cost as functions of the deferral rate: linear between points, from none deferred to all deferred.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// By ascending deferral rate: one for each distinct score, and one for deferring everything. So at least two.
    points: Vec<Point>,
}

impl Curve {
    pub(crate) fn from_points(points: Vec<Point>) -> Self {
        debug_assert!(points.len() >= 2, "a pairing has a query, so a curve has a start and an end");
        Self { points }
    }

    /// One point for each threshold that makes a difference, by ascending deferral rate: the first defers nothing,
    /// the last everything.
    #[must_use]
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// The curve at a deferral rate, which is clamped to [0, 1].
    ///
    /// Between two points the value is linear: that is the expectation when the tied queries at the boundary are
    /// deferred at random so that `rate` is met.
    #[must_use]
    pub fn at(&self, rate: f64) -> Point {
        let rate = rate.clamp(0.0, 1.0);
        let after = self.points.partition_point(|point| point.deferral_rate <= rate).min(self.points.len() - 1);
        let (low, high) = (&self.points[after.saturating_sub(1)], &self.points[after]);
        if high.deferral_rate <= rate {
            return *high;
        }
        let share = (rate - low.deferral_rate) / (high.deferral_rate - low.deferral_rate);
        low.towards(high, share)
    }

    /// The least deferral, and with it the least cost, at which the curve reaches `quality`; `None` if it never does.
    #[must_use]
    pub fn reach(&self, quality: f64) -> Option<Point> {
        let after = self.points.iter().position(|point| point.quality >= quality)?;
        let high = &self.points[after];
        if after == 0 || high.quality == quality {
            return Some(*high);
        }
        let low = &self.points[after - 1];
        Some(low.towards(high, (quality - low.quality) / (high.quality - low.quality)))
    }

    /// At most `points` points (at least 2) that draw the curve: its own if they are few enough, otherwise evenly
    /// spaced deferral rates including both ends.
    #[must_use]
    pub fn thinned(&self, points: usize) -> Vec<Point> {
        let points = points.max(2);
        if self.points.len() <= points {
            return self.points.clone();
        }
        (0..points).map(|i| self.at(i as f64 / (points - 1) as f64)).collect()
    }
}

impl Point {
    /// Whether a threshold gives this point: not one that keeps what a router has sent away.
    pub(crate) fn keeps_only_scored(&self) -> bool {
        self.threshold > f64::NEG_INFINITY
    }

    /// The point a `share` in [0, 1] of the way to the next one.
    fn towards(&self, next: &Self, share: f64) -> Self {
        let mix = |from: f64, to: f64| from + (to - from) * share;
        Self {
            threshold: self.threshold,
            deferral_rate: mix(self.deferral_rate, next.deferral_rate),
            quality: mix(self.quality, next.quality),
            mean_flops: mix(self.mean_flops, next.mean_flops),
        }
    }
}
