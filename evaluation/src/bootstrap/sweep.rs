//! All numbers of a deferral curve from one pass over queries in the order of their scores, for eight resamples at once.
//!
//! A resample is a weight on each query, so nothing is sorted again. What needs a point of the curve, such as the first
//! that reaches a quality, is looked up in segments whose ends the pass kept.

use super::draws::LANES;
use crate::measures;
use crate::pairing::{Pairing, RIGHT};

/// Queries of a segment, before ties are added.
const SEGMENT: usize = 1024;

type Lanes = [f64; LANES];

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

/// What the pass reads of a query.
struct Row {
    /// What deferring gains: the large model's quality less the small one's.
    gain: f64,
    small_quality: f64,
    small_cost: f64,
    large_cost: f64,
    right: f64,
    /// 0 where only the large model is right, else 1.
    no_benefit: f64,
    /// Which of the distinct gains, from the greatest down.
    class: u32,
    /// Whether the next query has another score.
    ends_tie: bool,
}

/// The queries of a pairing in the order of their scores, ready to be swept with any weights.
pub(super) struct Track {
    rows: Vec<Row>,
    /// Distinct gains, descending: the order in which an oracle defers.
    gains: Vec<f64>,
}

impl Track {
    pub(super) fn of(pairing: &Pairing) -> Self {
        let (small, large) = (pairing.small_quality(), pairing.large_quality());
        let scores = pairing.scores();
        let mut gains: Vec<f64> = small.iter().zip(large).map(|(small, large)| large - small).collect();
        gains.sort_by(|a, b| b.total_cmp(a));
        gains.dedup();
        let row = |at: usize| {
            let gain = large[at] - small[at];
            let (small_right, large_right) = (small[at] >= RIGHT, large[at] >= RIGHT);
            Row {
                gain,
                small_quality: small[at],
                small_cost: pairing.small_flops()[at],
                large_cost: pairing.large_flops()[at],
                right: f64::from(u8::from(small_right)),
                no_benefit: f64::from(u8::from(small_right || !large_right)),
                class: gains.partition_point(|other| *other > gain) as u32,
                ends_tie: scores.get(at + 1) != Some(&scores[at]),
            }
        };
        Self { rows: (0..scores.len()).map(row).collect(), gains }
    }

    /// The numbers of each lane's resample, `counts` being aligned with the pairing's arrays.
    pub(super) fn sweep(&self, counts: &[[u8; LANES]], wanted: &Wanted<'_>) -> [Numbers; LANES] {
        let pass = self.pass(counts);
        let peaks = self.peaks_above_hull(counts, &pass);
        std::array::from_fn(|lane| Resample { track: self, counts, pass: &pass, lane }.numbers(wanted, &peaks))
    }

    fn pass(&self, counts: &[[u8; LANES]]) -> Pass {
        let mut pass = Pass::new(self.gains.len());
        let mut all = Deferred::default();
        let (mut tie, mut tie_right, mut tie_no_benefit) = (Deferred::default(), Lanes::default(), Lanes::default());
        let (mut peak, mut segment, mut ties) = ([f64::NEG_INFINITY; LANES], 0, 0);
        for (at, (row, counts)) in self.rows.iter().zip(counts).enumerate() {
            let weights: Lanes = counts.map(f64::from);
            let class = &mut pass.classes[row.class as usize];
            for lane in 0..LANES {
                let weight = weights[lane];
                tie.weight[lane] += weight;
                tie.gain[lane] += weight * row.gain;
                tie.cost[lane] += weight * row.large_cost;
                tie_right[lane] += weight * row.right;
                tie_no_benefit[lane] += weight * row.no_benefit;
                pass.small_quality[lane] += weight * row.small_quality;
                pass.small_cost[lane] += weight * row.small_cost;
                class[lane] += weight;
            }
            if !row.ends_tie {
                continue;
            }
            ties += 1;
            pass.right.add(&tie.weight, &tie_right);
            pass.no_benefit.add(&tie.weight, &tie_no_benefit);
            for lane in 0..LANES {
                pass.area[lane] += tie.weight[lane] * (all.gain[lane] + tie.gain[lane] / 2.0);
                all.weight[lane] += tie.weight[lane];
                all.gain[lane] += tie.gain[lane];
                all.cost[lane] += tie.cost[lane];
                all.pay(lane, tie.cost[lane]);
            }
            for (peak, gain) in peak.iter_mut().zip(all.gain) {
                *peak = if gain > *peak { gain } else { *peak };
            }
            (tie, tie_right, tie_no_benefit) = (Deferred::default(), Lanes::default(), Lanes::default());
            if at + 1 - segment >= SEGMENT || at + 1 == self.rows.len() {
                pass.ends.push(End { next: at + 1, ties, peak, deferred: all });
                (peak, segment, ties) = ([f64::NEG_INFINITY; LANES], at + 1, 0);
            }
        }
        pass
    }

    /// For each segment and lane, whether a point of the segment lies above the hull of the segments' ends.
    fn peaks_above_hull(&self, counts: &[[u8; LANES]], pass: &Pass) -> Vec<[bool; LANES]> {
        let hulls: [Vec<(f64, f64)>; LANES] = std::array::from_fn(|lane| pass.slopes(lane));
        let mut above = Vec::with_capacity(pass.ends.len());
        let mut all = Deferred::default();
        for (segment, end) in pass.ends.iter().enumerate() {
            let rows = pass.rows_of(segment);
            let lines: [(f64, f64); LANES] = std::array::from_fn(|lane| hulls[lane][segment]);
            let mut highest = [f64::NEG_INFINITY; LANES];
            let mut height = Lanes::default();
            for lane in 0..LANES {
                height[lane] = all.gain[lane] - lines[lane].1 * all.cost[lane];
            }
            for (row, counts) in self.rows[rows.clone()].iter().zip(&counts[rows]) {
                let weights: Lanes = counts.map(f64::from);
                for lane in 0..LANES {
                    height[lane] += weights[lane] * (row.gain - lines[lane].1 * row.large_cost);
                }
                if row.ends_tie {
                    for lane in 0..LANES {
                        highest[lane] = if height[lane] > highest[lane] { height[lane] } else { highest[lane] };
                    }
                }
            }
            all = end.deferred;
            above.push(std::array::from_fn(|lane| highest[lane] > lines[lane].0));
        }
        above
    }
}

/// Sums over the queries deferred so far, by lane, and the area under gain over cost up to there.
#[derive(Debug, Clone, Copy, Default)]
struct Deferred {
    weight: Lanes,
    gain: Lanes,
    cost: Lanes,
    /// Area under the curve of gain over cost, points of equal cost counting once, with the best gain.
    cost_area: Lanes,
    /// Best gain at this cost.
    level: Lanes,
    /// The last step in cost that was not 0.
    step: Lanes,
}

impl Deferred {
    /// Takes a step in cost to the gain that is there already.
    fn pay(&mut self, lane: usize, cost: f64) {
        let (gain, level) = (self.gain[lane], self.level[lane]);
        let lift = if gain > level { gain - level } else { 0.0 };
        let paid = cost > 0.0;
        self.cost_area[lane] += if paid { cost * (level + gain) / 2.0 } else { self.step[lane] * lift / 2.0 };
        self.level[lane] = if paid { gain } else { level + lift };
        self.step[lane] = if paid { cost } else { self.step[lane] };
    }
}

/// Concordant pairs of positive and negative queries, by lane.
#[derive(Default)]
struct Pairs {
    positive: Lanes,
    negative: Lanes,
    concordant: Lanes,
}

impl Pairs {
    fn add(&mut self, weight: &Lanes, positive: &Lanes) {
        for lane in 0..LANES {
            let negative = weight[lane] - positive[lane];
            self.concordant[lane] += positive[lane] * (self.negative[lane] + negative / 2.0);
            self.positive[lane] += positive[lane];
            self.negative[lane] += negative;
        }
    }

    fn auroc(&self, lane: usize) -> Option<f64> {
        let pairs = self.positive[lane] * self.negative[lane];
        (pairs > 0.0).then(|| self.concordant[lane] / pairs)
    }
}

/// The end of a segment.
struct End {
    /// The row after it.
    next: usize,
    /// Number of its distinct scores.
    ties: usize,
    /// Greatest gain of a point in the segment.
    peak: Lanes,
    deferred: Deferred,
}

/// What one pass leaves behind.
struct Pass {
    ends: Vec<End>,
    /// Weight of each distinct gain.
    classes: Vec<Lanes>,
    area: Lanes,
    small_quality: Lanes,
    small_cost: Lanes,
    right: Pairs,
    no_benefit: Pairs,
}

impl Pass {
    fn new(gains: usize) -> Self {
        Self {
            ends: Vec::new(),
            classes: vec![Lanes::default(); gains],
            area: Lanes::default(),
            small_quality: Lanes::default(),
            small_cost: Lanes::default(),
            right: Pairs::default(),
            no_benefit: Pairs::default(),
        }
    }

    fn rows_of(&self, segment: usize) -> std::ops::Range<usize> {
        segment.checked_sub(1).map_or(0, |before| self.ends[before].next)..self.ends[segment].next
    }

    /// (cost, gain) at the start of the curve and at the end of each segment.
    fn corners(&self, lane: usize) -> impl Iterator<Item = (f64, f64)> {
        let ends = self.ends.iter().map(move |end| (end.deferred.cost[lane], end.deferred.gain[lane]));
        std::iter::once((0.0, 0.0)).chain(ends)
    }

    /// For each segment the line of the non-decreasing upper hull of all corners over it, as (height at cost 0, slope).
    fn slopes(&self, lane: usize) -> Vec<(f64, f64)> {
        let hull = measures::upper_hull(self.corners(lane)).unwrap_or_default();
        let mut edge = 0;
        let line = |end: &End| {
            let cost = end.deferred.cost[lane];
            while edge + 1 < hull.len() && hull[edge + 1].0 < cost {
                edge += 1;
            }
            let slope = match hull.get(edge + 1) {
                Some(next) => (next.1 - hull[edge].1) / (next.0 - hull[edge].0),
                None => 0.0,
            };
            (hull[edge].1 - slope * hull[edge].0, slope)
        };
        self.ends.iter().map(line).collect()
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

impl Resample<'_> {
    fn numbers(&self, wanted: &Wanted<'_>, above_hull: &[[bool; LANES]]) -> Numbers {
        let (pass, lane) = (self.pass, self.lane);
        let all = self.before(pass.ends.len());
        let (small, small_cost) = (pass.small_quality[lane] / all.weight, pass.small_cost[lane] / all.weight);
        let large = small + all.gain / all.weight;
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
            audc: small + pass.area[lane] / (all.weight * all.weight),
            audc_ideal: small + self.ideal_area() / (all.weight * all.weight),
            auroc: pass.right.auroc(lane),
            benefit_auroc: pass.no_benefit.auroc(lane),
            error_cost_area,
            aiq,
            cpt: wanted.gaps.iter().map(|gap| self.reach(gap * all.gain)).collect(),
            quality_at: wanted.rates.iter().map(|rate| small + self.gain_at(rate * all.weight) / all.weight).collect(),
        }
    }

    /// The point at which a segment begins.
    fn before(&self, segment: usize) -> Sums {
        segment.checked_sub(1).map_or(Sums::default(), |before| {
            let Deferred { weight, gain, cost, .. } = &self.pass.ends[before].deferred;
            Sums { weight: weight[self.lane], gain: gain[self.lane], cost: cost[self.lane] }
        })
    }

    /// The points after the start of a segment, to the end of the curve; those of queries that were not drawn are the same as
    /// the one before.
    fn points(&self, segment: usize) -> impl Iterator<Item = Sums> {
        let first = self.pass.rows_of(segment).start;
        let mut sums = self.before(segment);
        let weighted = self.track.rows[first..].iter().zip(&self.counts[first..]);
        weighted.filter_map(move |(row, counts)| {
            let weight = f64::from(counts[self.lane]);
            sums.weight += weight;
            sums.gain += weight * row.gain;
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
        let segment = self.pass.ends.partition_point(|end| end.deferred.weight[self.lane] < weight);
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
        let lane = self.lane;
        let segment = self.pass.ends.partition_point(|end| end.deferred.cost[lane] <= cost);
        let mut at = segment.checked_sub(1).map_or(Deferred::default(), |before| self.pass.ends[before].deferred);
        if segment == self.pass.ends.len() {
            return at.cost_area[lane] + (cost - at.cost[lane]) * at.level[lane];
        }
        // The best gain at the cost of the next point is only known once a dearer one came.
        let mut before = at;
        for point in self.points(segment) {
            if point.cost > cost && at.cost[lane] <= cost {
                before = at;
            }
            if at.cost[lane] > cost && point.cost > at.cost[lane] {
                break;
            }
            let step = point.cost - at.cost[lane];
            (at.gain[lane], at.cost[lane]) = (point.gain, point.cost);
            at.pay(lane, step);
        }
        let share = (cost - before.cost[lane]) / (at.cost[lane] - before.cost[lane]);
        let height = before.level[lane] + (at.level[lane] - before.level[lane]) * share;
        before.cost_area[lane] + (cost - before.cost[lane]) * (before.level[lane] + height) / 2.0
    }

    /// The corners of segments, and every point above their hull: the hull of these is that of all points.
    fn hull_points(&self, above_hull: &[[bool; LANES]]) -> Vec<(f64, f64)> {
        let mut points: Vec<(f64, f64)> = self.pass.corners(self.lane).collect();
        let lines = self.pass.slopes(self.lane);
        for (segment, (above, (height, slope))) in above_hull.iter().zip(lines).enumerate() {
            if above[self.lane] {
                let of_segment = self.points(segment).take(self.pass.ends[segment].ties);
                let peaks = of_segment.filter(|point| point.gain > height + slope * point.cost);
                points.extend(peaks.map(|point| (point.cost, point.gain)));
            }
        }
        points
    }

    /// Area under the gain of an oracle, which defers where it gains most first.
    fn ideal_area(&self) -> f64 {
        let (mut area, mut gain) = (0.0, 0.0);
        for (class, each) in self.pass.classes.iter().zip(&self.track.gains) {
            let weight = class[self.lane];
            area += weight * (gain + weight * each / 2.0);
            gain += weight * each;
        }
        area
    }
}

#[cfg(test)]
mod tests;
