//! The passes over the queries: what every resample needs of every query, and nothing else.
//!
//! A query's share in an area is its gain times the deferral rate at its place. So areas are sums over queries, and a lane is
//! an element of the processor's vectors.

use std::collections::HashMap;
use std::ops::Range;

use super::super::draws::LANES;
use crate::measures;
use crate::pairing::{Pairing, RIGHT};

/// Lanes that one pass carries in registers.
const WIDTH: usize = 8;
const PARTS: usize = LANES / WIDTH;
/// Queries of a segment, before ties are added.
const SEGMENT: usize = 1024;

pub(super) type Lanes = [f64; LANES];
type Part = [f64; WIDTH];

/// The queries of a pairing in the order of their scores, ready to be swept with any weights.
pub(in crate::bootstrap) struct Track {
    pub(super) rows: Vec<Row>,
    /// Distinct qualities of both models, by descending gain: the order in which an oracle defers.
    pub(super) classes: Vec<Class>,
    pub(super) segments: Vec<Segment>,
    /// Whether some queries cost nothing when they are deferred, so that several points of a curve have one cost.
    pub(super) free: bool,
}

/// What the passes read of a query.
pub(super) struct Row {
    pub(super) small_cost: f64,
    pub(super) large_cost: f64,
    pub(super) class: u32,
    /// Whether the next query has another score.
    pub(super) ends_tie: bool,
}

/// What both models made of a query.
pub(super) struct Class {
    /// What deferring gains: the large model's quality less the small one's.
    pub(super) gain: f64,
    pub(super) small_quality: f64,
    pub(super) right: f64,
    /// 0 where only the large model is right, else 1.
    pub(super) no_benefit: f64,
}

/// Queries whose ends a pass keeps. No tie crosses from one to the next.
pub(super) struct Segment {
    pub(super) rows: Range<usize>,
    /// Number of distinct scores.
    pub(super) ties: usize,
}

/// Sums over the queries of the curve's beginning, by lane.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct End {
    pub(super) weight: Lanes,
    pub(super) gain: Lanes,
    pub(super) cost: Lanes,
    /// Area under the curve of gain over cost; without meaning where something is free.
    pub(super) cost_area: Lanes,
    /// Greatest gain of a point in the segment.
    pub(super) peak: Lanes,
}

/// What one pass leaves behind.
pub(super) struct Pass {
    /// The end of each segment.
    pub(super) ends: Vec<End>,
    /// Weight of each class.
    pub(super) classes: Vec<[u32; LANES]>,
    pub(super) small_cost: Lanes,
    /// Sums of what a query adds times the weight deferred up to the middle of its tie: gain, right answers, queries without
    /// a benefit.
    pub(super) ranked: [Lanes; 3],
}

/// What a pass carries from query to query.
#[derive(Clone, Copy, Default)]
struct Carried {
    weight: Part,
    gain: Part,
    cost: Part,
    peak: Part,
    ranked: [Part; 3],
    /// Gain times the cost up to the middle of the tie.
    costed: Part,
    small_cost: Part,
}

impl Track {
    pub(in crate::bootstrap) fn of(pairing: &Pairing) -> Self {
        let (small, large) = (pairing.small_quality(), pairing.large_quality());
        let (scores, large_costs) = (pairing.scores(), pairing.large_flops());
        let mut numbers = HashMap::new();
        let mut classes = Vec::new();
        let class_of: Vec<u32> = (small.iter().zip(large))
            .map(|(small, large)| {
                *numbers.entry((small.to_bits(), large.to_bits())).or_insert_with(|| {
                    classes.push(Class::of(*small, *large));
                    classes.len() as u32 - 1
                })
            })
            .collect();
        let mut order: Vec<u32> = (0..classes.len() as u32).collect();
        order.sort_by(|a, b| classes[*b as usize].gain.total_cmp(&classes[*a as usize].gain));
        let mut place = vec![0; order.len()];
        order.iter().zip(0..).for_each(|(class, to)| place[*class as usize] = to);
        classes.sort_by(|a, b| b.gain.total_cmp(&a.gain));
        let row = |at: usize| Row {
            small_cost: pairing.small_flops()[at],
            large_cost: large_costs[at],
            class: place[class_of[at] as usize],
            ends_tie: scores.get(at + 1) != Some(&scores[at]),
        };
        let rows: Vec<Row> = (0..scores.len()).map(row).collect();
        let segments = segments(&rows);
        Self { rows, classes, segments, free: large_costs.contains(&0.0) }
    }

    /// For each segment and lane, whether a point of the segment lies above the hull of the segments' ends.
    pub(super) fn peaks_above_hull(&self, counts: &[[u8; LANES]], lanes: usize, pass: &Pass) -> Vec<[bool; LANES]> {
        let hulls: [Vec<(f64, f64)>; LANES] =
            std::array::from_fn(|lane| if lane < lanes { pass.lines(lane) } else { Vec::new() });
        self.rise(counts, lanes, pass, &hulls)
    }

    /// Everything that the numbers of the first `lanes` lanes are made of.
    pub(super) fn pass(&self, counts: &[[u8; LANES]], lanes: usize) -> Pass {
        let mut carried = [Carried::default(); PARTS];
        let mut classes = vec![[0; LANES]; self.classes.len()];
        let mut ends = Vec::with_capacity(self.segments.len());
        for segment in &self.segments {
            let mut end = End::default();
            for (part, carried) in carried.iter_mut().enumerate().take(lanes.div_ceil(WIDTH)) {
                carried.peak = [f64::NEG_INFINITY; WIDTH];
                let rows = segment.rows.clone();
                self.sum_segment(&self.rows[rows.clone()], &counts[rows], part, carried, &mut classes);
                let area = |lane| carried.cost[lane] * carried.gain[lane] - carried.costed[lane];
                let sums = [
                    (&mut end.weight, carried.weight),
                    (&mut end.gain, carried.gain),
                    (&mut end.cost, carried.cost),
                    (&mut end.cost_area, std::array::from_fn(area)),
                    (&mut end.peak, carried.peak),
                ];
                for (of_end, of_part) in sums {
                    of_end[part * WIDTH..][..WIDTH].copy_from_slice(&of_part);
                }
            }
            ends.push(end);
        }
        let all = |of: fn(&Carried) -> &Part| std::array::from_fn(|lane| of(&carried[lane / WIDTH])[lane % WIDTH]);
        let ranked = [all(|carried| &carried.ranked[0]), all(|carried| &carried.ranked[1]), all(|c| &c.ranked[2])];
        Pass { ends, classes, small_cost: all(|carried| &carried.small_cost), ranked }
    }

    fn sum_segment(
        &self,
        rows: &[Row],
        counts: &[[u8; LANES]],
        part: usize,
        carried: &mut Carried,
        classes: &mut [[u32; LANES]],
    ) {
        let mut sums = *carried;
        let mut at = 0;
        while let (Some(row), Some(weights)) = (rows.get(at), counts.get(at)) {
            if row.ends_tie {
                let weight = sums.add(row, weights, part, &self.classes, classes);
                let half = |sum: &Part, of: f64| std::array::from_fn(|lane| sum[lane] + weight[lane] * of / 2.0);
                let (rank, price) = (half(&sums.weight, 1.0), half(&sums.cost, row.large_cost));
                sums.rank(&weight, &self.classes[row.class as usize], &rank, &price);
                sums.step(&weight, &std::array::from_fn(|lane| weight[lane] * row.large_cost));
                at += 1;
                continue;
            }
            // Queries of one score: what they weigh together comes first, then each is ranked in their middle.
            let tied = rows[at..].iter().take_while(|row| !row.ends_tie).count() + 1;
            let tie = || rows[at..].iter().zip(&counts[at..]).take(tied);
            let (mut of_tie, mut of_cost) = (Part::default(), Part::default());
            for (row, weights) in tie() {
                let weight = sums.add(row, weights, part, &self.classes, classes);
                for lane in 0..WIDTH {
                    of_tie[lane] += weight[lane];
                    of_cost[lane] += weight[lane] * row.large_cost;
                }
            }
            let rank = std::array::from_fn(|lane| sums.weight[lane] + of_tie[lane] / 2.0);
            let price = std::array::from_fn(|lane| sums.cost[lane] + of_cost[lane] / 2.0);
            for (row, weights) in tie() {
                sums.rank(&part_of(weights, part), &self.classes[row.class as usize], &rank, &price);
            }
            sums.step(&of_tie, &of_cost);
            at += tied;
        }
        *carried = sums;
    }

    fn rise(
        &self,
        counts: &[[u8; LANES]],
        lanes: usize,
        pass: &Pass,
        hulls: &[Vec<(f64, f64)>; LANES],
    ) -> Vec<[bool; LANES]> {
        let mut above = vec![[false; LANES]; self.segments.len()];
        for (at, (segment, above)) in self.segments.iter().zip(&mut above).enumerate() {
            let start = at.checked_sub(1).map_or(End::default(), |before| pass.ends[before]);
            for part in 0..lanes.div_ceil(WIDTH) {
                let of = |lane: usize| hulls[part * WIDTH + lane].get(at).copied().unwrap_or((f64::INFINITY, 0.0));
                let lines: [(f64, f64); WIDTH] = std::array::from_fn(of);
                let slopes: Part = std::array::from_fn(|lane| lines[lane].1);
                let mut height: Part = std::array::from_fn(|lane| {
                    let lane = part * WIDTH + lane;
                    start.gain[lane] - slopes[lane % WIDTH] * start.cost[lane]
                });
                let mut highest = [f64::NEG_INFINITY; WIDTH];
                for (row, weights) in self.rows[segment.rows.clone()].iter().zip(&counts[segment.rows.clone()]) {
                    let (weight, gain) = (part_of(weights, part), self.classes[row.class as usize].gain);
                    for lane in 0..WIDTH {
                        height[lane] += weight[lane] * (gain - slopes[lane] * row.large_cost);
                    }
                    if row.ends_tie {
                        for lane in 0..WIDTH {
                            highest[lane] = if height[lane] > highest[lane] { height[lane] } else { highest[lane] };
                        }
                    }
                }
                for lane in 0..WIDTH {
                    above[part * WIDTH + lane] = highest[lane] > lines[lane].0;
                }
            }
        }
        above
    }
}

impl Carried {
    /// What does not depend on a query's place. Gives its weights.
    #[inline]
    fn add(
        &mut self,
        row: &Row,
        weights: &[u8; LANES],
        part: usize,
        classes: &[Class],
        counted: &mut [[u32; LANES]],
    ) -> Part {
        let (gain, weight) = (classes[row.class as usize].gain, part_of(weights, part));
        let counted = &mut counted[row.class as usize][part * WIDTH..][..WIDTH];
        for lane in 0..WIDTH {
            self.gain[lane] += weight[lane] * gain;
            self.small_cost[lane] += weight[lane] * row.small_cost;
            counted[lane] += u32::from(weights[part * WIDTH + lane]);
        }
        weight
    }

    /// What a query adds times the weight and the cost up to the middle of its tie.
    #[inline]
    fn rank(&mut self, weight: &Part, class: &Class, rank: &Part, price: &Part) {
        for lane in 0..WIDTH {
            let ranked = weight[lane] * rank[lane];
            self.ranked[0][lane] += ranked * class.gain;
            self.ranked[1][lane] += ranked * class.right;
            self.ranked[2][lane] += ranked * class.no_benefit;
            self.costed[lane] += weight[lane] * price[lane] * class.gain;
        }
    }

    /// The end of a tie, which is a point of the curve.
    #[inline]
    fn step(&mut self, weight: &Part, cost: &Part) {
        for lane in 0..WIDTH {
            self.weight[lane] += weight[lane];
            self.cost[lane] += cost[lane];
            self.peak[lane] = if self.gain[lane] > self.peak[lane] { self.gain[lane] } else { self.peak[lane] };
        }
    }
}

impl Class {
    fn of(small: f64, large: f64) -> Self {
        let (small_right, large_right) = (small >= RIGHT, large >= RIGHT);
        Self {
            gain: large - small,
            small_quality: small,
            right: f64::from(u8::from(small_right)),
            no_benefit: f64::from(u8::from(small_right || !large_right)),
        }
    }
}

impl Pass {
    /// (cost, gain) at the start of the curve and at the end of each segment.
    pub(super) fn corners(&self, lane: usize) -> impl Iterator<Item = (f64, f64)> {
        std::iter::once((0.0, 0.0)).chain(self.ends.iter().map(move |end| (end.cost[lane], end.gain[lane])))
    }

    /// For each segment the line of the non-decreasing upper hull of all corners over it, as (height at cost 0, slope).
    pub(super) fn lines(&self, lane: usize) -> Vec<(f64, f64)> {
        let hull = measures::upper_hull(self.corners(lane)).unwrap_or_default();
        let mut edge = 0;
        let line = |end: &End| {
            while edge + 1 < hull.len() && hull[edge + 1].0 < end.cost[lane] {
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

    /// The weight of each class in a lane, in the order of the classes.
    pub(super) fn weights(&self, lane: usize) -> impl Iterator<Item = f64> {
        self.classes.iter().map(move |class| f64::from(class[lane]))
    }
}

#[inline]
fn part_of(weights: &[u8; LANES], part: usize) -> Part {
    std::array::from_fn(|lane| f64::from(weights[part * WIDTH + lane]))
}

fn segments(rows: &[Row]) -> Vec<Segment> {
    let mut segments = Vec::with_capacity(rows.len() / SEGMENT + 1);
    let (mut start, mut ties) = (0, 0);
    for (at, _) in rows.iter().enumerate().filter(|(_, row)| row.ends_tie) {
        ties += 1;
        if at + 1 - start >= SEGMENT || at + 1 == rows.len() {
            segments.push(Segment { rows: start..at + 1, ties });
            (start, ties) = (at + 1, 0);
        }
    }
    segments
}
