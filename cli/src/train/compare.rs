//! `margay train --compare`: the same recipe once for each objective and seed, and what the difference is worth.
//!
//! Every run has the same rows, steps and first weights of its seed. Intervals over seeds are Student's; those over
//! queries are the evaluation's paired bootstrap, seed by seed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use margay_evaluation::bootstrap::Bootstrap;
use margay_evaluation::measures;
use margay_evaluation::outcome::{Outcome, Table};
use margay_evaluation::pairing::Pairing;
use margay_evaluation::report::Report;
use margay_evaluation::summary::{Comparison, DEFERRAL_RATES, Dataset, ObjectiveSummary, Options, ScoreKind, Summary};
use margay_evaluation::threshold;
use margay_trainer::training::{Answered, Event, Finished, Resume, run};
use margay_trainer::{Objective, Recipe};
use serde::Serialize;
use serde_json::json;

use super::screen::Screen;
use crate::console::Console;
use crate::error::{Error, Result};

/// What a comparison found.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Compared {
    /// Seeds, in the order of the numbers.
    pub seeds: Vec<u64>,
    /// By objective and measure.
    pub objectives: BTreeMap<String, BTreeMap<String, OverSeeds>>,
    /// Of every other objective against the first one, by measure: differences within the seed.
    pub differences: BTreeMap<String, BTreeMap<String, OverSeeds>>,
    /// Paired bootstrap over queries: one comparison a seed.
    pub comparisons: Vec<Comparison>,
    /// Share of target tokens that each objective's mask let through.
    pub unmasked: BTreeMap<String, f64>,
}

/// A number of every seed, and what they say together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct OverSeeds {
    /// One a seed; a seed in which it is undefined is left out.
    pub values: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// Student's 95 % interval of the mean; `None` with fewer than two seeds.
    pub interval: Option<[f64; 2]>,
}

impl OverSeeds {
    fn of(values: Vec<f64>) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count.max(1.0);
        let interval = student(values.len()).map(|t| {
            let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
            let half = t * (variance / count).sqrt();
            [mean - half, mean + half]
        });
        Self { values, mean, interval }
    }
}

/// The 97.5 % quantile of Student's t for the mean of so many values.
fn student(values: usize) -> Option<f64> {
    const QUANTILES: [f64; 19] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
        2.120, 2.110, 2.101, 2.093,
    ];
    let freedom = values.checked_sub(2)?;
    Some(QUANTILES.get(freedom).copied().unwrap_or(1.96))
}

/// One run of the comparison.
struct Run {
    objective: Objective,
    seed: u64,
    finished: Finished,
    pairing: Pairing,
}

/// Runs every objective with every seed, writes the report and prints the table. Runs that are done are not done again.
///
/// # Errors
/// [`Error`] naming the file, key, or step and rows.
pub(super) fn compare(
    recipe: &Recipe,
    objectives: &[Objective],
    seeds: u64,
    stop: &AtomicBool,
    console: &mut Console,
) -> Result<Option<Compared>> {
    check(recipe, objectives, seeds)?;
    let mut table = Table::default();
    let mut runs = Vec::new();
    let seeds: Vec<u64> = (0..seeds).map(|n| recipe.seed + n).collect();
    for &seed in &seeds {
        for &objective in objectives {
            let mut one = recipe.clone();
            (one.seed, one.objective.name) = (seed, objective);
            one.out = recipe.out.join(format!("{objective}-{seed}"));
            console.line(format!("{objective}, seed {seed}: {}", one.out.display()))?;
            let finished = {
                let mut screen = Screen::new(console, &one);
                let finished = run(&one, Resume::Continue, stop, &mut |event: Event<'_>| screen.show(&event));
                screen.result()?;
                finished?
            };
            if finished.model.is_none() {
                let stopped =
                    json!({"objective": objective, "seed": seed, "step": finished.step, "steps": finished.steps});
                console.result(&json!({"stopped": stopped}), ["stopped; the same command goes on"])?;
                return Ok(None);
            }
            let name = format!("{objective}@{seed}");
            let large = format!("large@{seed}");
            let first = objective == objectives[0];
            keep(&mut table, &finished, &name, first.then_some(large.as_str()))?;
            let pairing = Pairing::join(table.rows(), &name, &large)?;
            runs.push(Run { objective, seed, finished, pairing });
        }
    }
    let compared = weigh(objectives, &seeds, &runs)?;
    write(recipe, objectives, &runs, &table, &compared)?;
    let mut lines = screen_lines(objectives, &compared);
    let page = recipe.out.join("report.html");
    lines.push(format!("{}, summary.json, comparison.json, outcomes.csv", page.display()));
    console.result(&compared, lines)?;
    Ok(Some(compared))
}

fn check(recipe: &Recipe, objectives: &[Objective], seeds: u64) -> Result<()> {
    let refuse = |why: &str| Err(Error::Usage(why.into()));
    if seeds == 0 {
        return refuse("--seeds: at least 1");
    }
    if recipe.data.test.is_empty() {
        return refuse("--compare: the recipe names no data.test to compare on");
    }
    if recipe.large.is_none() {
        return refuse("--compare: the recipe names no large model to defer to");
    }
    let twice = objectives.iter().enumerate().find(|(at, objective)| objectives[..*at].contains(objective));
    match twice {
        Some((_, objective)) => refuse(&format!("--compare: {objective} stands there twice")),
        None => Ok(()),
    }
}

/// Puts a run's test answers, and once a seed the large model's, into the table.
fn keep(table: &mut Table, finished: &Finished, small: &str, large: Option<&str>) -> Result<()> {
    let small_flops = finished.flops_per_token as f64;
    // A server does not tell; then the large model's cost is its share of deferred queries.
    let large_flops = finished.large_flops_per_token.unwrap_or(0.0);
    for (split, answers) in [("calibration", &finished.calibration), ("test", &finished.test)] {
        for answer in answers {
            let Answered { example, .. } = answer;
            let tokens = answer.tokens_in + answer.tokens_out;
            let query = format!("{split}/{}/{}", example.task, example.id);
            let mut row = Outcome::new(&query, small, answer.quality);
            row.task = Some(example.task.clone());
            row.split = Some(split.into());
            row.score = Some(answer.score);
            row.tokens_in = Some(answer.tokens_in as u64);
            row.tokens_out = Some(answer.tokens_out as u64);
            row.flops = Some(tokens as f64 * small_flops);
            if split == "test" {
                table.push(row)?;
            }
            let (Some(large), "test") = (large, split) else { continue };
            let quality = answer.large_quality.ok_or_else(|| {
                Error::Usage(format!(
                    "large.annotations: has nothing about the test row {}; annotate data.test too",
                    example.id
                ))
            })?;
            let mut row = Outcome::new(&query, large, quality);
            row.task = Some(example.task.clone());
            row.split = Some(split.into());
            row.flops = Some((answer.tokens_in + answer.target_tokens) as f64 * large_flops);
            table.push(row)?;
        }
    }
    Ok(())
}

/// What is compared, for one run.
fn numbers(pairing: &Pairing) -> Vec<(String, Option<f64>)> {
    let (sample, curve) = (pairing.sample(), pairing.curve());
    let mut numbers = vec![
        ("small alone".to_owned(), Some(sample.small_quality())),
        ("large alone".to_owned(), Some(sample.large_quality())),
    ];
    for rate in DEFERRAL_RATES {
        numbers.push((format!("cascade at {:.0} %", 100.0 * rate), Some(curve.at(rate).quality)));
    }
    numbers.push(("area under deferral curve".to_owned(), Some(measures::audc(&curve))));
    numbers.push(("AUROC of confidence".to_owned(), sample.auroc()));
    numbers
}

fn weigh(objectives: &[Objective], seeds: &[u64], runs: &[Run]) -> Result<Compared> {
    let found =
        |objective: Objective, seed: u64| runs.iter().find(|run| run.objective == objective && run.seed == seed);
    let mut compared = Compared {
        seeds: seeds.to_vec(),
        objectives: BTreeMap::new(),
        differences: BTreeMap::new(),
        comparisons: vec![],
        unmasked: BTreeMap::new(),
    };
    for &objective in objectives {
        let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        let mut against: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for &seed in seeds {
            let (Some(own), Some(base)) = (found(objective, seed), found(objectives[0], seed)) else { continue };
            let pairs = numbers(&own.pairing).into_iter().zip(numbers(&base.pairing));
            for ((name, value), (_, base)) in pairs {
                values.entry(name.clone()).or_default().extend(value);
                against.entry(name).or_default().extend(value.zip(base).map(|(value, base)| value - base));
            }
            if objective != objectives[0] {
                let names = (format!("{objective}, seed {seed}"), format!("{}, seed {seed}", objectives[0]));
                let bootstrap = Bootstrap { seed, ..Bootstrap::default() };
                let pair = ((names.0.as_str(), &own.pairing), (names.1.as_str(), &base.pairing));
                compared.comparisons.push(Comparison::new(pair.0, pair.1, &bootstrap)?);
            }
        }
        let over = |values: BTreeMap<String, Vec<f64>>| {
            values.into_iter().map(|(name, values)| (name, OverSeeds::of(values))).collect::<BTreeMap<_, _>>()
        };
        compared.objectives.insert(objective.to_string(), over(values));
        if objective != objectives[0] {
            compared.differences.insert(objective.to_string(), over(against));
        }
        let hits = runs.iter().filter(|run| run.objective == objective).map(|run| run.finished.hits);
        let (neither, total) =
            hits.fold((0, 0), |(neither, total), hits| (neither + hits.neither, total + hits.total()));
        if objective.masks() && total > 0 {
            compared.unmasked.insert(objective.to_string(), 1.0 - neither as f64 / total as f64);
        }
    }
    Ok(compared)
}

/// The table and the numbers as files, and the evaluation's report on the first seed.
fn write(recipe: &Recipe, objectives: &[Objective], runs: &[Run], table: &Table, compared: &Compared) -> Result<()> {
    let out = &recipe.out;
    let bootstrap = Bootstrap { seed: recipe.seed, ..Bootstrap::default() };
    let first: Vec<&Run> = runs.iter().filter(|run| run.seed == recipe.seed).collect();
    let name = recipe.data.test.iter().map(|source| source.path.display().to_string()).collect::<Vec<_>>().join(", ");
    let queries = first.first().map_or(0, |run| run.pairing.len());
    let mut summary = Summary::new(Dataset { name, split: "test".into(), queries }, bootstrap);
    summary.facts.insert("seed of the figures".into(), recipe.seed.to_string());
    summary.facts.insert("seeds compared".into(), compared.seeds.len().to_string());
    for run in &first {
        let scores: Vec<f64> = run.finished.calibration.iter().map(|answer| answer.score).collect();
        // Without held-back rows the operating point is that of keeping everything.
        let threshold = match scores.is_empty() {
            true => run.pairing.scores().first().copied().unwrap_or(0.0),
            false => threshold::for_deferral_rate(&scores, DEFERRED)?.threshold,
        };
        let options = Options { bootstrap, score: ScoreKind::LogProbability, threshold, served: None };
        let of = ObjectiveSummary::from_pairing(&run.pairing, &options)?;
        summary.objectives.insert(run.objective.to_string(), of);
    }
    if let Some(base) = first.iter().find(|run| run.objective == objectives[0]) {
        for run in first.iter().filter(|run| run.objective != objectives[0]) {
            let pair = ((run.objective.name(), &run.pairing), (base.objective.name(), &base.pairing));
            summary.comparisons.push(Comparison::new(pair.0, pair.1, &bootstrap)?);
        }
    }
    table.write(&out.join("outcomes.csv"))?;
    summary.write(&out.join("summary.json"))?;
    Report { title: TITLE, lead: LEAD, summary: &summary, examples: &[] }.write(&out.join("report.html"))?;
    write_text(&out.join("comparison.json"), &serde_json::to_string_pretty(compared).unwrap_or_default())?;
    let markdown = markdown(objectives, compared);
    write_text(&out.join("comparison.md"), &markdown)
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|e| Error::io("write", path, e))
}

/// Share of queries that the report's operating point is to defer.
const DEFERRED: f64 = 0.3;

const TITLE: &str = "Objectives compared";
const LEAD: &str = "The same small model trained with each objective, from the same weights and rows in equal steps, in front \
                    of the same large model. Figures are those of the first seed; comparison.md has all of them.";

/// A row for each measure, a column for each objective, means over seeds with their interval.
fn rows(objectives: &[Objective], compared: &Compared) -> Vec<(String, Vec<String>)> {
    let Some(first) = objectives.first().and_then(|first| compared.objectives.get(first.name())) else { return vec![] };
    let order = ["small alone", "large alone"].map(str::to_owned).into_iter();
    let order = order.chain(DEFERRAL_RATES.map(|rate| format!("cascade at {:.0} %", 100.0 * rate)));
    let order = order.chain(["area under deferral curve", "AUROC of confidence"].map(str::to_owned));
    let cell = |objective: &Objective, name: &str| {
        let over = compared.objectives.get(objective.name()).and_then(|measures| measures.get(name));
        over.map_or("-".into(), shown)
    };
    order
        .filter(|name| first.contains_key(name))
        .map(|name| {
            let cells = objectives.iter().map(|objective| cell(objective, &name)).collect();
            (name, cells)
        })
        .collect()
}

fn shown(over: &OverSeeds) -> String {
    match over.interval {
        Some([low, high]) => format!("{:.4} [{low:.4}, {high:.4}]", over.mean),
        None => format!("{:.4}", over.mean),
    }
}

fn markdown(objectives: &[Objective], compared: &Compared) -> String {
    let mut text = format!("Means over seeds {:?}, Student's 95 % interval.\n\n| |", compared.seeds);
    objectives.iter().for_each(|objective| text.push_str(&format!(" {objective} |")));
    text.push_str(&format!("\n|{}\n", " --- |".repeat(objectives.len() + 1)));
    for (name, cells) in rows(objectives, compared) {
        text.push_str(&format!("| {name} | {} |\n", cells.join(" | ")));
    }
    text.push('\n');
    for line in remarks(objectives, compared) {
        text.push_str(&format!("- {line}\n"));
    }
    text
}

/// What may be said about the differences.
fn remarks(objectives: &[Objective], compared: &Compared) -> Vec<String> {
    let mut lines = Vec::new();
    for (objective, share) in &compared.unmasked {
        lines.push(format!("{objective} counted {:.1} % of the target tokens.", 100.0 * share));
    }
    for (objective, measures) in &compared.differences {
        for name in ["area under deferral curve", "AUROC of confidence", "small alone"] {
            let Some(over) = measures.get(name) else { continue };
            let verdict = match over.interval {
                Some([low, _]) if low > 0.0 => "above",
                Some([_, high]) if high < 0.0 => "below",
                Some(_) => "not told apart over seeds",
                None => "one seed only",
            };
            lines.push(format!("{objective} less {}, {name}: {} ({verdict}).", objectives[0], shown(over)));
        }
    }
    lines.extend(compared.comparisons.iter().map(|comparison| comparison.sentence.clone()));
    lines
}

fn screen_lines(objectives: &[Objective], compared: &Compared) -> Vec<String> {
    let rows = rows(objectives, compared);
    let width = |column: usize| {
        let cells = rows.iter().map(|(_, cells)| cells[column].chars().count());
        cells.chain([objectives[column].name().len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..objectives.len()).map(width).collect();
    let line = |name: &str, cells: Vec<&str>| {
        let cells: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("  {name:<26} {}", cells.join("  ")).trim_end().to_owned()
    };
    let mut lines = vec![String::new(), line("", objectives.iter().map(|objective| objective.name()).collect())];
    lines.extend(rows.iter().map(|(name, cells)| line(name, cells.iter().map(String::as_str).collect())));
    lines.push(String::new());
    lines.extend(remarks(objectives, compared));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_over_seeds_is_students() {
        // scipy.stats.t.interval(0.95, 2, loc=2, scale=scipy.stats.sem([1, 2, 3])).
        let over = OverSeeds::of(vec![1.0, 2.0, 3.0]);
        let [low, high] = over.interval.unwrap();
        assert!((over.mean - 2.0).abs() < 1e-12 && (low + 0.4842).abs() < 1e-3 && (high - 4.4842).abs() < 1e-3);
        assert_eq!(OverSeeds::of(vec![1.0]).interval, None);
    }
}
