//! A joint model tabulated, so that thresholds can be tried quickly, and the search for the best.

use super::{Expected, Gumbel, JointModel, Last, Marginal, TunedPoint, log_odds};

/// Cells between grid points: half of them equally wide, half equally likely.
const CELLS: usize = 64;
/// Nodes and weights of Gauss and Legendre's rule on [0, 1] with four points, in each cell.
const RULE: [(f64, f64); 4] = [
    (0.069_431_844_202_973_71, 0.173_927_422_568_726_93),
    (0.330_009_478_207_571_87, 0.326_072_577_431_273_07),
    (0.669_990_521_792_428_1, 0.326_072_577_431_273_07),
    (0.930_568_155_797_026_3, 0.173_927_422_568_726_93),
];
/// Most rounds over all thresholds.
const MAX_ROUNDS: usize = 20;
/// A gain below this ends the search.
const TOLERANCE: f64 = 1e-10;

/// A model with its distribution functions at the points that integrals need.
pub(super) struct Tables<'a> {
    model: &'a JointModel,
    before_last: Vec<Table>,
    last: Option<Table>,
}

/// One marginal's distribution function at its grid and between.
struct Table {
    grid: Vec<f64>,
    /// At each grid point.
    at_grid: Vec<f64>,
    /// In each cell, at the rule's nodes.
    in_cells: Vec<[f64; RULE.len()]>,
}

impl Table {
    fn of(marginal: &Marginal) -> Self {
        let (low, high) = (marginal.low, marginal.high);
        let mut grid: Vec<f64> = (0..=CELLS / 2).map(|i| low + (high - low) * i as f64 / (CELLS / 2) as f64).collect();
        grid.extend((1..CELLS / 2).map(|i| quantile(marginal, i as f64 / (CELLS / 2) as f64)));
        grid.sort_by(f64::total_cmp);
        grid.dedup_by(|later, earlier| *later - *earlier < 1e-9 * (high - low));
        if let Some(end) = grid.last_mut() {
            *end = high;
        }
        // Below the lowest confidence nothing is handed on, not even the lump there.
        grid.insert(0, low.next_down());
        let at_grid = grid.iter().map(|x| marginal.cdf(*x)).collect();
        let in_cells = grid.windows(2).map(|cell| nodes(cell[0], cell[1]).map(|x| marginal.cdf(x))).collect();
        Self { grid, at_grid, in_cells }
    }
}

fn nodes(from: f64, to: f64) -> [f64; RULE.len()] {
    RULE.map(|(node, _)| from + (to - from) * node)
}

/// The confidence below which a share of queries lies, by bisection.
fn quantile(marginal: &Marginal, share: f64) -> f64 {
    let (mut low, mut high) = (marginal.low, marginal.high);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        *(if marginal.cdf(middle) < share { &mut low } else { &mut high }) = middle;
    }
    high
}

/// What a model does with queries that came to it.
struct Stage {
    /// Probability of handing on.
    defers: f64,
    /// Probability of keeping and being right.
    keeps_right: f64,
}

impl<'a> Tables<'a> {
    pub(super) fn of(model: &'a JointModel) -> Self {
        let last = match &model.last {
            Last::Confidence { marginal, .. } => Some(Table::of(marginal)),
            Last::Before { .. } => None,
        };
        Self { model, before_last: model.marginals.iter().map(Table::of).collect(), last }
    }

    pub(super) fn expect(&self, thresholds: &[f64]) -> Expected {
        let (mut quality, mut cost, mut reached, mut spent) = (0.0, 0.0, 1.0, 0.0);
        let mut deferral_rate = 1.0;
        for at in 0..thresholds.len() {
            spent += self.model.costs[at];
            let before = at.checked_sub(1).map(|before| self.model.marginals[before].cdf(thresholds[before]));
            let Stage { defers, keeps_right } = self.stage(at, before, thresholds[at]);
            quality += reached * keeps_right;
            cost += reached * (1.0 - defers) * spent;
            reached *= defers;
            if at == 0 {
                deferral_rate = defers;
            }
        }
        spent += self.model.costs[thresholds.len()];
        let last = thresholds.last().map_or(0.0, |threshold| self.last_right(*threshold));
        Expected { deferral_rate, quality: quality + reached * last, cost: cost + reached * spent }
    }

    pub(super) fn tune(&self, price: f64) -> TunedPoint {
        let mut thresholds = self.best_of_grid(price);
        let loss = |thresholds: &[f64]| {
            let expected = self.expect(thresholds);
            1.0 - expected.quality + price * expected.cost
        };
        let mut best = loss(&thresholds);
        for _ in 0..MAX_ROUNDS {
            let before = best;
            for at in 0..thresholds.len() {
                let grid = &self.before_last[at].grid;
                let above = grid.partition_point(|point| *point <= thresholds[at]);
                let low = grid[above.saturating_sub(2)];
                let high = grid[(above + 1).min(grid.len() - 1)];
                let mut tried = thresholds.clone();
                let found = golden(low, high, |threshold| {
                    tried[at] = threshold;
                    loss(&tried)
                });
                if found.1 < best {
                    (thresholds[at], best) = found;
                }
            }
            if before - best < TOLERANCE {
                break;
            }
        }
        TunedPoint { price, expected: self.expect(&thresholds), thresholds }
    }

    /// The best vector of grid points: from the last model to the first, the best that can still come of a query depends
    /// only on the threshold that it failed last.
    fn best_of_grid(&self, price: f64) -> Vec<f64> {
        let models = self.before_last.len();
        let spent: Vec<f64> = self
            .model
            .costs
            .iter()
            .scan(0.0, |sum, cost| {
                *sum += cost;
                Some(*sum)
            })
            .collect();
        let last = &self.before_last[models - 1].grid;
        let mut worth: Vec<f64> =
            last.iter().map(|threshold| self.last_right(*threshold) - price * spent[models]).collect();
        let mut choices: Vec<Vec<usize>> = Vec::new();
        for at in (0..models).rev() {
            let came: Vec<Option<f64>> = match at.checked_sub(1) {
                Some(before) => self.before_last[before].at_grid.iter().map(|share| Some(*share)).collect(),
                None => vec![None],
            };
            let (mut next_worth, mut choice) = (Vec::new(), Vec::new());
            for came in came {
                let mut best = (f64::NEG_INFINITY, 0);
                for (index, stage) in self.stages(at, came).into_iter().enumerate() {
                    let value =
                        stage.keeps_right - price * (1.0 - stage.defers) * spent[at] + stage.defers * worth[index];
                    if value > best.0 {
                        best = (value, index);
                    }
                }
                next_worth.push(best.0);
                choice.push(best.1);
            }
            worth = next_worth;
            choices.push(choice);
        }
        let mut came = 0;
        let chosen = choices.iter().rev().enumerate().map(|(at, choice)| {
            came = choice[came];
            self.before_last[at].grid[came]
        });
        chosen.collect()
    }

    /// A model's part at one threshold; `came` is the share of queries at or under the threshold before, `None` for the
    /// first model.
    fn stage(&self, at: usize, came: Option<f64>, threshold: f64) -> Stage {
        let (marginal, table) = (&self.model.marginals[at], &self.before_last[at]);
        let given = self.given(at, came);
        let defers = given(marginal.cdf(threshold));
        let cell = table.grid.partition_point(|point| *point <= threshold);
        let mut area = 0.0;
        if cell < table.grid.len() {
            let (from, to) = (threshold.max(marginal.low), table.grid[cell]);
            area += cell_area(from, to, nodes(from, to).map(|x| marginal.cdf(x)), &given);
            let rest = table.in_cells.iter().zip(table.grid.windows(2)).skip(cell);
            area += rest.map(|(values, ends)| cell_area(ends[0], ends[1], *values, &given)).sum::<f64>();
        }
        Stage::new(marginal, threshold, defers, area)
    }

    /// The same for every grid point, the areas being added up from the end.
    fn stages(&self, at: usize, came: Option<f64>) -> Vec<Stage> {
        let (marginal, table) = (&self.model.marginals[at], &self.before_last[at]);
        let given = self.given(at, came);
        let mut areas = vec![0.0; table.grid.len()];
        for cell in (0..table.in_cells.len()).rev() {
            let ends = (table.grid[cell], table.grid[cell + 1]);
            areas[cell] = areas[cell + 1] + cell_area(ends.0, ends.1, table.in_cells[cell], &given);
        }
        let points = table.grid.iter().zip(&table.at_grid).zip(areas);
        points.map(|((threshold, share), area)| Stage::new(marginal, *threshold, given(*share), area)).collect()
    }

    /// The distribution of a model's confidence given that a query came to it, as a map of the marginal one.
    fn given(&self, at: usize, came: Option<f64>) -> impl Fn(f64) -> f64 {
        let copula = at.checked_sub(1).map_or(Gumbel { theta: 1.0 }, |before| self.model.copulas[before]);
        conditional(copula, came)
    }

    /// Probability that the last model is right, given that the one before it was at most this sure.
    fn last_right(&self, threshold: f64) -> f64 {
        let before = &self.model.marginals[self.model.marginals.len() - 1];
        let came = before.cdf(threshold);
        match (&self.model.last, &self.last) {
            (Last::Confidence { marginal, copula }, table) => {
                let given = conditional(*copula, Some(came));
                let cells = table.iter().flat_map(|table| table.in_cells.iter().zip(table.grid.windows(2)));
                marginal.high - cells.map(|(values, ends)| cell_area(ends[0], ends[1], *values, &given)).sum::<f64>()
            }
            (Last::Before { slope, intercept }, _) => {
                let right = |x: f64| 1.0 / (1.0 + (-(slope * log_odds(x) + intercept)).exp());
                let threshold = threshold.clamp(before.low, before.high);
                if came <= 0.0 || *slope == 0.0 {
                    return right(before.low);
                }
                // By parts: r(t) F(t) - integral of r' F, over F(t).
                let table = &self.before_last[self.before_last.len() - 1];
                let mut area = 0.0;
                for (cell, ends) in table.grid.windows(2).enumerate() {
                    if ends[0] >= threshold {
                        break;
                    }
                    let to = ends[1].min(threshold);
                    let places = nodes(ends[0], to);
                    let shares = if to < ends[1] { places.map(|x| before.cdf(x)) } else { table.in_cells[cell] };
                    for ((x, share), (_, weight)) in places.into_iter().zip(shares).zip(RULE) {
                        let r = right(x);
                        area += (to - ends[0]) * weight * slope * r * (1.0 - r) / (x * (1.0 - x)) * share;
                    }
                }
                right(threshold) - area / came
            }
        }
    }
}

impl Stage {
    /// `E[X; X > t] = high - t G(t) - integral of G from t to high`, G being the distribution function.
    fn new(marginal: &Marginal, threshold: f64, defers: f64, area: f64) -> Self {
        let threshold = threshold.clamp(marginal.low, marginal.high);
        Self { defers, keeps_right: (marginal.high - threshold * defers - area).max(0.0) }
    }
}

fn conditional(copula: Gumbel, came: Option<f64>) -> impl Fn(f64) -> f64 {
    move |share: f64| match came {
        // Nobody comes: what would be, were all as unsure as can be, does not matter.
        Some(came) if came <= 0.0 => share,
        Some(came) => (copula.cdf(came, share) / came).min(1.0),
        None => share,
    }
}

fn cell_area(from: f64, to: f64, values: [f64; RULE.len()], given: &impl Fn(f64) -> f64) -> f64 {
    (to - from) * values.into_iter().zip(RULE).map(|(value, (_, weight))| weight * given(value)).sum::<f64>()
}

/// The least value between two places, and where; the ends count too.
fn golden(low: f64, high: f64, mut value: impl FnMut(f64) -> f64) -> (f64, f64) {
    const RATIO: f64 = 0.618_033_988_749_894_9;
    let (mut low, mut high) = (low, high);
    let ends = [(low, value(low)), (high, value(high))];
    let (mut left, mut right) = (high - RATIO * (high - low), low + RATIO * (high - low));
    let (mut at_left, mut at_right) = (value(left), value(right));
    for _ in 0..40 {
        if at_left <= at_right {
            (high, right, at_right) = (right, left, at_left);
            left = high - RATIO * (high - low);
            at_left = value(left);
        } else {
            (low, left, at_left) = (left, right, at_right);
            right = low + RATIO * (high - low);
            at_right = value(right);
        }
    }
    let inner = if at_left <= at_right { (left, at_left) } else { (right, at_right) };
    ends.into_iter().fold(inner, |best, end| if end.1 < best.1 { end } else { best })
}
