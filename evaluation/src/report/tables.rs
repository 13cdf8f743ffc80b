//! The two tables: one column per objective, so that they fit a phone.

use super::markup::{escape, flops, percent, rate};
use crate::bootstrap::Interval;
use crate::summary::{ObjectiveSummary, Summary};

type Row = (String, Box<dyn Fn(&ObjectiveSummary) -> String>);

/// Small alone, the cascade at several deferral rates, large alone, cost at 95 and 99 %.
pub(super) fn cascade(summary: &Summary) -> String {
    let mut rows: Vec<Row> = vec![(
        "small alone".into(),
        Box::new(|o| quality(o.small_accuracy, o.intervals.get("small_accuracy"), o.small_flops, o)),
    )];
    let rates = summary.objectives.values().next().map(|objective| &objective.at_deferral[..]).unwrap_or_default();
    for (at, rated) in rates.iter().enumerate() {
        rows.push((
            format!("{} deferred", rate(rated.deferral_rate)),
            Box::new(move |o| {
                let cell = o.at_deferral.get(at).map(|at| quality(at.accuracy, at.interval.as_ref(), at.mean_flops, o));
                cell.unwrap_or_else(undefined)
            }),
        ));
    }
    rows.push((
        "large alone".into(),
        Box::new(|o| accuracy(o.large_accuracy, o.intervals.get("large_accuracy"), &flops(o.large_flops))),
    ));
    rows.push((
        "cost at 95\u{a0}%<small>of the large model’s accuracy</small>".into(),
        Box::new(|o| cost(o.cost_at_95.zip(o.deferral_rate_at_95), o)),
    ));
    rows.push((
        "cost at 99\u{a0}%<small>of the large model’s accuracy</small>".into(),
        Box::new(|o| cost(o.cost_at_99.zip(o.deferral_rate_at_99), o)),
    ));
    rows.push((
        "threshold in use".into(),
        Box::new(|o| {
            let point = &o.operating_point;
            let latency = o
                .p50_ms
                .zip(o.p95_ms)
                .map(|(p50, p95)| format!("<small>p50\u{a0}{p50:.1}\u{a0}ms, p95\u{a0}{p95:.1}\u{a0}ms</small>"));
            format!(
                "<b>{}</b><small>{} deferred, score\u{a0}≥\u{a0}{:.3}</small><small>{}</small>{}",
                percent(point.accuracy),
                percent(point.deferral_rate),
                point.threshold,
                spent(point.mean_flops, o),
                latency.unwrap_or_default(),
            )
        }),
    ));
    table(summary, "Accuracy with its interval, and mean cost per query", &rows)
}

/// Areas and confidence measures, each with what it is in a few words.
pub(super) fn measures(summary: &Summary) -> String {
    fn row(
        name: &str,
        what: &str,
        value: impl Fn(&ObjectiveSummary) -> Option<f64> + 'static,
        key: &'static str,
    ) -> Row {
        let header = format!("{name}<small>{what}</small>");
        let cell = move |objective: &ObjectiveSummary| {
            let Some(value) = value(objective) else {
                return undefined();
            };
            let interval = objective.intervals.get(key);
            let interval =
                interval.map(|i| format!("<small>{:.4} to {:.4}</small>", i.low, i.high)).unwrap_or_default();
            format!("{value:.4}{interval}")
        };
        (header, Box::new(cell))
    }
    let rows = [
        row("AUDC", "area under the deferral curve", |o| Some(o.audc), "audc"),
        row("AUDC, random", "deferring without looking", |o| Some(o.audc_random), ""),
        row("AUDC, ideal", "an oracle", |o| Some(o.audc_ideal), ""),
        row("APGR", "mean share of the gap closed", |o| o.apgr, "apgr"),
        row("s_d", "0 is random, 1 is ideal", |o| o.s_d, "s_d"),
        row("AUROC", "does the score tell right from wrong", |o| o.auroc, "auroc"),
        row("benefit AUROC", "does it tell what deferring mends", |o| o.benefit_auroc, "benefit_auroc"),
        row("FPR at 95\u{a0}% TPR", "wrong answers that pass", |o| o.confidence.fpr95, ""),
        row("AURC", "risk against coverage", |o| o.confidence.aurc, ""),
        row("E-AURC", "excess over the best order", |o| o.confidence.e_aurc, ""),
        row("AUGRC", "risk of a silent failure", |o| o.confidence.augrc, ""),
        row("ECE, equal width", "accuracy against confidence", |o| o.confidence.ece_width, ""),
        row("ECE, equal mass", "the same, in equal groups", |o| o.confidence.ece_mass, ""),
        row("MCE", "the worst group", |o| o.confidence.mce, ""),
        row("Brier score", "squared error of confidence", |o| o.confidence.brier, ""),
        row("NLL", "log loss of confidence, nats", |o| o.confidence.nll, ""),
    ];
    table(summary, "Measures of the deferral curve and of the score", &rows)
}

fn quality(quality: f64, interval: Option<&Interval>, mean_flops: f64, objective: &ObjectiveSummary) -> String {
    accuracy(quality, interval, &spent(mean_flops, objective))
}

fn accuracy(accuracy: f64, interval: Option<&Interval>, cost: &str) -> String {
    let interval = interval
        .map(|interval| format!("<small>{:.1} to {:.1}\u{a0}%</small>", 100.0 * interval.low, 100.0 * interval.high));
    format!("<b>{}</b>{}<small>{cost}</small>", percent(accuracy), interval.unwrap_or_default())
}

fn cost(found: Option<(f64, f64)>, objective: &ObjectiveSummary) -> String {
    let Some((mean_flops, deferred)) = found else {
        return undefined();
    };
    let share = share(mean_flops, objective).unwrap_or_else(|| flops(mean_flops));
    format!("<b>{share}</b><small>{} deferred</small><small>{}</small>", percent(deferred), flops(mean_flops))
}

fn spent(mean_flops: f64, objective: &ObjectiveSummary) -> String {
    let share = share(mean_flops, objective).map(|share| format!(", {share}\u{a0}of\u{a0}large")).unwrap_or_default();
    format!("{}{share}", flops(mean_flops))
}

fn share(mean_flops: f64, objective: &ObjectiveSummary) -> Option<String> {
    (objective.large_flops > 0.0).then(|| percent(mean_flops / objective.large_flops))
}

fn undefined() -> String {
    "<span aria-label=\"undefined\">–</span>".into()
}

fn table(summary: &Summary, caption: &str, rows: &[Row]) -> String {
    let names: String =
        summary.objectives.keys().map(|name| format!("<th scope=\"col\">{}</th>", escape(name))).collect();
    let line = |(header, cell): &Row| {
        let cells: String =
            summary.objectives.values().map(|objective| format!("<td>{}</td>", cell(objective))).collect();
        format!("<tr><th scope=\"row\">{header}</th>{cells}</tr>\n")
    };
    let body: String = rows.iter().map(line).collect();
    format!(
        "<div class=\"scroll\"><table>\n<caption>{caption}</caption>\n<thead><tr><td></td>{names}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n"
    )
}
