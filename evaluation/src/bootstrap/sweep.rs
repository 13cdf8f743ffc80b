//! All numbers of a deferral curve from two passes over queries in the order of their scores, for several resamples at once.
//!
//! A resample is a weight on each query, so nothing is sorted again. What needs a point of the curve, such as the first
//! that reaches a quality, is looked up in segments whose ends the pass kept.

mod track;

use super::draws::LANES;
use crate::measures;

use track::Pass;
pub(super) use track::Track;

/// Which numbers of a curve are wanted beyond those that every curve has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wanted<'a> {
    /// Costs between which [`Numbers::aiq`] and [`Numbers::error_cost_area`] are taken; `None` is from the curve's
    /// start to its end.
    pub cost_interval: Option<(f64, f64)>,
    /// Shares of the gap between the models whose deferral rate is wanted.
    pub gaps: &'a [f64],
    /// Deferral rates whose quality is wanted, in [0, 1].
    pub rates: &'a [f64],
}

/// The numbers of one deferral curve; each is what the function of [`measures`] by its name gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Numbers {
    /// Mean quality of the small model alone.
    pub small_quality: f64,
    /// Mean quality of the large model alone.
    pub large_quality: f64,
    /// Area under the deferral curve.
    pub audc: f64,
    /// The same for the oracle.
    pub audc_ideal: f64,
    /// AUROC of the score as a detector of the small model's right answers.
    pub auroc: Option<f64>,
    /// AUROC of the negated score for queries that only the large model answers right.
    pub benefit_auroc: Option<f64>,
    /// Area under the error-cost curve.
    pub error_cost_area: Option<f64>,
    /// Average improvement in quality.
    pub aiq: Option<f64>,
    /// Call-performance threshold of each of [`Wanted::gaps`].
    pub cpt: Vec<Option<f64>>,
    /// Quality at each of [`Wanted::rates`].
    pub quality_at: Vec<f64>,
}

impl Track {
    /// The numbers of the resamples in the first `lanes` lanes, `counts` being aligned with the pairing's arrays.
    pub(super) fn sweep(&self, counts: &[[u8; LANES]], lanes: usize, wanted: &Wanted<'_>) -> Vec<Numbers> {
        let pass = self.pass(counts, lanes);
        let peaks = self.peaks_above_hull(counts, lanes, &pass);
        let resample = |lane| Resample { track: self, counts, pass: &pass, lane };
        (0..lanes).map(|lane| resample(lane).numbers(wanted, &peaks)).collect()
    }
}

/// One lane of a pass.
struct Resample<'a> {
    track: &'a Track,
    counts: &'a [[u8; LANES]],
    pass: &'a Pass,
    lane: usize,
}

/// A point of the curve, in sums.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    weight: f64,
    gain: f64,
    cost: f64,
}

/// Area under the curve of gain over cost so far, points of equal cost counting once, with the best gain.
#[derive(Debug, Clone, Copy, Default)]
struct Paid {
    gain: f64,
    cost: f64,
    area: f64,
    /// Best gain at this cost.
    level: f64,
    /// The last step in cost that was not 0.
    step: f64,
}

impl Paid {
    /// Goes on to the next point.
    fn pay(&mut self, point: &Sums) {
        let cost = point.cost - self.cost;
        let lift = if point.gain > self.level { point.gain - self.level } else { 0.0 };
        if cost > 0.0 {
            self.area += cost * (self.level + point.gain) / 2.0;
            (self.level, self.step) = (point.gain, cost);
        } else {
            self.area += self.step * lift / 2.0;
            self.level += lift;
        }
        (self.gain, self.cost) = (point.gain, point.cost);
    }
}

/// From the sum of positive queries times the weight up to the middle of their tie; their weight; and the weight of all.
fn auroc(ranked: f64, positives: f64, all: f64) -> Option<f64> {
    let pairs = positives * (all - positives);
    (pairs > 0.0).then(|| (ranked - positives * positives / 2.0) / pairs)
}

impl Resample<'_> {
    fn numbers(&self, wanted: &Wanted<'_>, above_hull: &[[bool; LANES]]) -> Numbers {
        let (pass, lane) = (self.pass, self.lane);
        let all = self.before(pass.ends.len());
        let of_classes = || pass.weights(lane).zip(&self.track.classes);
        let small = of_classes().map(|(weight, class)| weight * class.small_quality).sum::<f64>() / all.weight;
        let small_cost = pass.small_cost[lane] / all.weight;
        let large = small + all.gain / all.weight;
        // The sum of weight times the gain up to the middle of its tie, by parts.
        let area = all.weight * all.gain - pass.ranked[0][lane];
        let rights = of_classes().map(|(weight, class)| weight * class.right).sum();
        let without_benefit = of_classes().map(|(weight, class)| weight * class.no_benefit).sum();
        let (from, to) = wanted.cost_interval.unwrap_or((small_cost, small_cost + all.cost / all.weight));
        let interval = (from < to && to.is_finite() && small_cost <= from).then_some((from, to));
        let error_cost_area = interval.map(|(from, to)| {
            let area = |cost: f64| self.cost_area((cost - small_cost) * all.weight);
            1.0 - small - (area(to) - area(from)) / (all.weight * all.weight * (to - from))
        });
        let aiq = interval.and_then(|(from, to)| {
            let points = self.hull_points(above_hull);
            let mean = |point: (f64, f64)| (small_cost + point.0 / all.weight, small + point.1 / all.weight);
            measures::aiq(points.into_iter().map(mean), from, to)
        });
        Numbers {
            small_quality: small,
            large_quality: large,
            audc: small + area / (all.weight * all.weight),
            audc_ideal: small + self.ideal_area() / (all.weight * all.weight),
            auroc: auroc(pass.ranked[1][lane], rights, all.weight),
            benefit_auroc: auroc(pass.ranked[2][lane], without_benefit, all.weight),
            error_cost_area,
            aiq,
            cpt: wanted.gaps.iter().map(|gap| self.reach(gap * all.gain)).collect(),
            quality_at: wanted.rates.iter().map(|rate| small + self.gain_at(rate * all.weight) / all.weight).collect(),
        }
    }

    /// The point at which a segment begins.
    fn before(&self, segment: usize) -> Sums {
        segment.checked_sub(1).map_or(Sums::default(), |before| {
            let end = &self.pass.ends[before];
            Sums { weight: end.weight[self.lane], gain: end.gain[self.lane], cost: end.cost[self.lane] }
        })
    }

    /// The points after the start of a segment, to the end of the curve; those of queries that were not drawn are the same as
    /// the one before.
    fn points(&self, segment: usize) -> impl Iterator<Item = Sums> {
        let first = self.track.segments[segment].rows.start;
        let mut sums = self.before(segment);
        let weighted = self.track.rows[first..].iter().zip(&self.counts[first..]);
        weighted.filter_map(move |(row, counts)| {
            let weight = f64::from(counts[self.lane]);
            sums.weight += weight;
            sums.gain += weight * self.track.classes[row.class as usize].gain;
            sums.cost += weight * row.large_cost;
            row.ends_tie.then_some(sums)
        })
    }

    /// The least deferral rate whose gain is `gain`; `None` if there is nothing to gain or it is never reached.
    fn reach(&self, gain: f64) -> Option<f64> {
        if gain <= 0.0 {
            return None;
        }
        let segment = self.pass.ends.iter().position(|end| end.peak[self.lane] >= gain)?;
        let mut before = self.before(segment);
        for point in self.points(segment) {
            if point.gain >= gain {
                let share = (gain - before.gain) / (point.gain - before.gain);
                let weight = before.weight + (point.weight - before.weight) * share;
                return Some(weight / self.before(self.pass.ends.len()).weight);
            }
            before = point;
        }
        None
    }

    /// The gain when queries of this weight are deferred.
    fn gain_at(&self, weight: f64) -> f64 {
        let segment = self.pass.ends.partition_point(|end| end.weight[self.lane] < weight);
        if segment == self.pass.ends.len() {
            return self.before(segment).gain;
        }
        let mut before = self.before(segment);
        for point in self.points(segment) {
            if point.weight >= weight && point.weight > before.weight {
                let share = (weight - before.weight) / (point.weight - before.weight);
                return before.gain + (point.gain - before.gain) * share;
            }
            before = point;
        }
        before.gain
    }

    /// Area under gain over cost, from no cost to `cost`; level after the last point.
    fn cost_area(&self, cost: f64) -> f64 {
        let (ends, lane) = (&self.pass.ends, self.lane);
        // Where something is free, only all points in their order tell the best gain at each cost.
        let segment = if self.track.free { 0 } else { ends.partition_point(|end| end.cost[lane] <= cost) };
        let mut at = segment.checked_sub(1).map_or(Paid::default(), |before| {
            let end = &ends[before];
            Paid {
                gain: end.gain[lane],
                cost: end.cost[lane],
                area: end.cost_area[lane],
                level: end.gain[lane],
                step: 0.0,
            }
        });
        if segment == ends.len() {
            return at.area + (cost - at.cost) * at.level;
        }
        // The best gain at the cost of the next point is only known once a dearer one came.
        let mut before = at;
        for point in self.points(segment) {
            if point.cost > cost && at.cost <= cost {
                before = at;
            }
            if at.cost > cost && point.cost > at.cost {
                break;
            }
            at.pay(&point);
        }
        if at.cost <= cost {
            return at.area + (cost - at.cost) * at.level;
        }
        let share = (cost - before.cost) / (at.cost - before.cost);
        let height = before.level + (at.level - before.level) * share;
        before.area + (cost - before.cost) * (before.level + height) / 2.0
    }

    /// The corners of segments, and every point above their hull: the hull of these is that of all points.
    fn hull_points(&self, above_hull: &[[bool; LANES]]) -> Vec<(f64, f64)> {
        let mut points: Vec<(f64, f64)> = self.pass.corners(self.lane).collect();
        let lines = self.pass.lines(self.lane);
        for (segment, (above, (height, slope))) in above_hull.iter().zip(lines).enumerate() {
            if above[self.lane] {
                let of_segment = self.points(segment).take(self.track.segments[segment].ties);
                let peaks = of_segment.filter(|point| point.gain > height + slope * point.cost);
                points.extend(peaks.map(|point| (point.cost, point.gain)));
            }
        }
        points
    }

    /// Area under the gain of an oracle, which defers where it gains most first.
    fn ideal_area(&self) -> f64 {
        let (mut area, mut gain) = (0.0, 0.0);
        for (weight, class) in self.pass.weights(self.lane).zip(&self.track.classes) {
            area += weight * (gain + weight * class.gain / 2.0);
            gain += weight * class.gain;
        }
        area
    }
}

#[cfg(test)]
mod tests;
