//! The result as a person at a terminal wants it: one table, the comparison in words, six queries.

use margay_evaluation::report::Example;
use margay_evaluation::summary::{ObjectiveSummary, Summary};

/// Lines for the screen.
pub(super) fn lines(summary: &Summary, examples: &[Example]) -> Vec<String> {
    let mut lines = vec![String::new()];
    lines.extend(table(summary));
    lines.push(String::new());
    lines.extend(summary.comparisons.iter().map(|comparison| comparison.sentence.clone()));
    lines.push(String::new());
    lines.extend(examples.iter().flat_map(example));
    lines
}

/// A row for each measure, a column for each objective.
fn table(summary: &Summary) -> Vec<String> {
    let mut rows: Vec<(String, Vec<String>)> = Vec::new();
    let objectives: Vec<_> = summary.objectives.iter().collect();
    let mut row = |name: &str, cell: &dyn Fn(&ObjectiveSummary) -> String| {
        rows.push((name.into(), objectives.iter().map(|(_, o)| cell(o)).collect()));
    };
    row("small alone", &|o| with_interval(o, o.small_accuracy, "small_accuracy"));
    row("large alone", &|o| with_interval(o, o.large_accuracy, "large_accuracy"));
    for (index, rate) in margay_evaluation::summary::DEFERRAL_RATES.iter().enumerate() {
        let percent = format!("{:.0}", 100.0 * rate);
        row(&format!("cascade at {percent} %"), &|o| match o.at_deferral.get(index) {
            Some(at) => with_interval(o, at.accuracy, &format!("accuracy_at_{percent}")),
            None => "-".into(),
        });
    }
    row("gap closed at 30 %", &|o| o.gap_closed_at_30.map_or("-".into(), |share| format!("{:.0} %", 100.0 * share)));
    row("AUROC of confidence", &|o| o.auroc.map_or("-".into(), |auroc| format!("{auroc:.3}")));
    row("cost at 95 % of large", &|o| cost(o, o.cost_at_95, o.deferral_rate_at_95));
    row("cost at 99 % of large", &|o| cost(o, o.cost_at_99, o.deferral_rate_at_99));
    row("measured, calibrated", &|o| {
        let at = &o.operating_point;
        format!("{:.1} % deferring {:.1} %", 100.0 * at.accuracy, 100.0 * at.deferral_rate)
    });
    row("latency p50 / p95", &|o| match (o.p50_ms, o.p95_ms) {
        (Some(p50), Some(p95)) => format!("{p50:.1} / {p95:.1} ms"),
        _ => "-".into(),
    });

    let widths: Vec<usize> = (0..objectives.len())
        .map(|column| rows.iter().map(|(_, cells)| cells[column].chars().count()).max().unwrap_or(0))
        .collect();
    let line = |name: &str, cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("  {name:<22} {}", cells.join("  ")).trim_end().to_owned()
    };
    let mut lines = vec![line("", &mut objectives.iter().map(|(name, _)| name.as_str()))];
    lines.extend(rows.iter().map(|(name, cells)| line(name, &mut cells.iter().map(String::as_str))));
    lines
}

fn with_interval(objective: &ObjectiveSummary, value: f64, name: &str) -> String {
    let value = 100.0 * value;
    match objective.intervals.get(name) {
        Some(interval) => format!("{value:.1} % [{:.1}, {:.1}]", 100.0 * interval.low, 100.0 * interval.high),
        None => format!("{value:.1} %"),
    }
}

/// Mean FLOPs per query against the large model's, and how much is deferred there.
fn cost(objective: &ObjectiveSummary, flops: Option<f64>, deferral_rate: Option<f64>) -> String {
    match (flops, deferral_rate) {
        (Some(flops), Some(rate)) => {
            format!("{:.0} % of its FLOPs, deferring {:.0} %", 100.0 * flops / objective.large_flops, 100.0 * rate)
        }
        _ => "not reached".into(),
    }
}

fn example(example: &Example) -> [String; 2] {
    let mark = if example.right { "right" } else { "wrong" };
    let score = format!("\"{}\" at {:.2} nats", example.device_answer, example.score);
    let outcome = match &example.cloud_answer {
        None => format!("kept: {mark}"),
        Some(answer) => format!("deferred: the large model says \"{answer}\": {mark}"),
    };
    [format!("  \"{}\" ({})", example.prompt, example.expected), format!("      device says {score}; {outcome}")]
}
