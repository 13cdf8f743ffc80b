//! A page about an evaluation of a chain of models, and beside it the numbers of every figure as CSV and JSON.

use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::details::Details;
use super::markup::{attribute, escape, percent, prefix};
use super::plot::{Axis, Line, Paint, Plot, SERIES};
use crate::certificate::Guarantee;
use crate::cost::Unit;
use crate::error::{Error, ErrorKind, Result};
use crate::evaluation::{Evaluation, OfGoal};
use crate::file::{write_atomically, write_json};

/// What a page shows.
#[derive(Debug, Clone, Copy)]
pub struct ChainReport<'a> {
    /// The page's title.
    pub title: &'a str,
    /// The numbers.
    pub evaluation: &'a Evaluation,
    /// What they do not say.
    pub details: &'a Details,
}

/// A figure or a table: what is shown, and the numbers behind it.
struct Exhibit {
    /// Name of its files.
    name: &'static str,
    title: String,
    caption: String,
    /// The drawing and its legend, or a table.
    body: String,
    columns: Vec<&'static str>,
    rows: Vec<Vec<Value>>,
}

impl ChainReport<'_> {
    /// The page, self-contained.
    ///
    /// # Errors
    /// [`ErrorKind::Report`] if a figure cannot be drawn.
    pub fn render(&self) -> Result<String> {
        Ok(self.page(&self.exhibits()?))
    }

    /// Writes `index.html`, `evaluation.json`, and each exhibit's numbers as `.csv` and `.json` into a folder, which is made
    /// if it is not there.
    ///
    /// # Errors
    /// As [`ChainReport::render`], and [`ErrorKind::Io`] with the path.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let io = |source| Error::new(ErrorKind::Io, "cannot make").at_path(folder).with_source(source);
        std::fs::create_dir_all(folder).map_err(io)?;
        let exhibits = self.exhibits()?;
        for exhibit in &exhibits {
            write_text(&folder.join(format!("{}.csv", exhibit.name)), &exhibit.csv())?;
            write_json(&folder.join(format!("{}.json", exhibit.name)), &exhibit.json())?;
        }
        self.evaluation.write(&folder.join("evaluation.json"))?;
        write_text(&folder.join("index.html"), &self.page(&exhibits))
    }

    fn page(&self, exhibits: &[Exhibit]) -> String {
        let evaluation = self.evaluation;
        let lead = format!("{} queries, {}.", evaluation.queries, evaluation.chain.join(" then "));
        let cards: String = exhibits.iter().map(Exhibit::html).collect();
        let json = serde_json::to_string_pretty(evaluation).unwrap_or_default();
        format!(
            r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="lead">{lead}</p>
</header>
<main>
<section aria-labelledby="short">
<h2 id="short">In short</h2>
{words}</section>
<section aria-labelledby="certificates">
<h2 id="certificates">Thresholds and what is promised of them</h2>
{certificates}</section>
<section aria-labelledby="figures">
<h2 id="figures">Figures and tables</h2>
<div class="figures">
{cards}</div>
</section>
<section aria-labelledby="method">
<h2 id="method">How it was measured</h2>
{method}<details><summary>All numbers as JSON</summary><pre tabindex="0">{json}</pre></details>
</section>
</main>
</body>
</html>
"#,
            title = escape(self.title),
            lead = escape(&lead),
            style = include_str!("style.css"),
            words = self.words(),
            certificates = self.certificates(),
            method = self.method(),
            json = escape(&json),
        )
    }

    fn words(&self) -> String {
        let e = self.evaluation;
        let mut items = Vec::new();
        for model in &e.chain {
            if let Some(alone) = e.alone.get(model) {
                let auroc = e.confidence.get(model).and_then(|confidence| confidence.auroc);
                let auroc = auroc.map(|a| format!("; its score has an AUROC of {a:.3}")).unwrap_or_default();
                items.push(format!(
                    "<b>{}</b> alone reaches {} at a cost of {}{auroc}.",
                    escape(model),
                    percent(alone.quality),
                    self.cost(alone.cost)
                ));
            }
        }
        if let Some(((audc, random), (ideal, s_d))) = e.audc.zip(e.audc_random).zip(e.audc_ideal.zip(e.s_d)) {
            let better = match s_d {
                s_d if s_d < 0.05 => "hardly better than deferring at random",
                s_d if s_d < 0.5 => "nearer to random than to an oracle",
                _ => "nearer to an oracle than to random",
            };
            items.push(format!(
                "Averaged over all deferral rates the cascade reaches {}, against {} at random and {} by an oracle: {better}.",
                percent(audc),
                percent(random),
                percent(ideal)
            ));
        }
        for (share, cost) in &e.cost_at {
            if let Some(cost) = cost {
                items.push(format!("{share}\u{a0}% of the last model’s quality costs {} per query.", self.cost(*cost)));
            }
        }
        items.push(format!("A cost is {}.", escape(&e.cost_in_words)));
        let items: String = items.iter().map(|item| format!("<li>{item}</li>\n")).collect();
        format!("<ul>\n{items}</ul>\n")
    }

    fn certificates(&self) -> String {
        if self.evaluation.certificates.is_empty() {
            return "<p>No goal was asked for, so no threshold was chosen.</p>\n".to_owned();
        }
        let cards: String = self.evaluation.certificates.iter().map(certificate).collect();
        format!("<div class=\"cards\">\n{cards}</div>\n")
    }

    fn method(&self) -> String {
        let bootstrap = &self.evaluation.bootstrap;
        format!(
            "<p>A query is kept if its score is at least the threshold; queries of equal score go together, and between two \
             thresholds the tied ones are deferred at random. Every model that was asked is paid. Intervals are {:.0}\u{a0}% \
             percentiles of {} bootstrap resamples of queries, all models’ answers drawn together, seed {}; each is read on its \
             own, without a correction for their number. Beside this page lie the numbers of each figure and table as CSV and \
             JSON.</p>\n",
            100.0 * bootstrap.level,
            bootstrap.resamples,
            bootstrap.seed
        )
    }

    /// A cost with its unit.
    fn cost(&self, cost: f64) -> String {
        let (scale, letter) = prefix(cost);
        match self.evaluation.cost_model.unit {
            Unit::Flops => format!("{:.3}\u{a0}{letter}FLOPs", cost / scale),
            Unit::Money => format!("{cost:.6}"),
            Unit::Milliseconds => format!("{cost:.1}\u{a0}ms"),
            Unit::Joules { .. } => format!("{cost:.3}\u{a0}J"),
        }
    }

    fn exhibits(&self) -> Result<Vec<Exhibit>> {
        let mut exhibits = Vec::new();
        if self.evaluation.audc.is_some() {
            exhibits.push(self.deferral()?);
        }
        exhibits.push(self.cost_quality()?);
        if let Some(first) = self.details.models.first() {
            exhibits.push(self.histogram(&first.model)?);
        }
        if self.details.models.iter().any(|model| !model.reliability.is_empty()) {
            exhibits.push(self.reliability()?);
        }
        exhibits.push(self.risk_coverage()?);
        exhibits.extend(self.numbers());
        exhibits.push(self.confidence());
        exhibits.extend(self.rules());
        exhibits.extend(self.tasks());
        exhibits.extend(self.changes());
        Ok(exhibits)
    }

    fn deferral(&self) -> Result<Exhibit> {
        let e = self.evaluation;
        let curve: Vec<(f64, f64)> = e.points.iter().map(|point| (point.deferral_rate, point.quality)).collect();
        let ends = (curve.first().map_or(0.0, |at| at.1), curve.last().map_or(0.0, |at| at.1));
        let band = e.band.iter().flat_map(|point| [point.quality.low, point.quality.high]);
        let ideal = e.ideal.iter().map(|point| (point.deferral_rate, point.quality)).collect::<Vec<_>>();
        let y = Axis::around("quality", curve.iter().chain(&ideal).map(|at| at.1).chain(band));
        let mut plot = Plot::new(Axis::share("queries deferred"), y);
        let band = e.band.iter().map(|point| (point.deferral_rate, point.quality.low, point.quality.high));
        plot.band(band.collect(), Paint::series(0));
        plot.line(ideal, Paint::Muted, Line::Dotted);
        plot.line(vec![(0.0, ends.0), (1.0, ends.1)], Paint::Muted, Line::Dashed);
        plot.line(curve, Paint::series(0), Line::Solid);
        for goal in &e.certificates {
            if let Some(scored) = &goal.scored {
                plot.dot((scored.deferral_rate, scored.quality), Paint::series(0));
            }
        }
        let legend = [
            ("s0", "this rule"),
            ("dotted", "ideal"),
            ("dashed", "random"),
            ("ring", "chosen threshold, on the queries scored"),
        ];
        let rows = e.points.iter().map(|point| {
            let threshold = point.thresholds.first().filter(|threshold| threshold.is_finite());
            vec![json!("curve"), json!(threshold), json!(point.deferral_rate), json!(point.quality), json!(point.cost)]
        });
        let of_ideal = e.ideal.iter().map(|point| {
            vec![json!("ideal"), Value::Null, json!(point.deferral_rate), json!(point.quality), json!(point.cost)]
        });
        Exhibit::figure(
            "deferral-curve",
            "Deferral curve",
            "Quality as more queries go to the large model. The band is the bootstrap interval at each deferral rate.",
            &plot,
            &legend,
            (vec!["line", "threshold", "deferral_rate", "quality", "cost"], rows.chain(of_ideal).collect()),
        )
    }

    fn cost_quality(&self) -> Result<Exhibit> {
        let e = self.evaluation;
        let largest = e.points.iter().map(|point| point.cost).chain(e.alone.values().map(|alone| alone.cost));
        let largest = largest.fold(0.0, f64::max);
        let (scale, title) = match e.cost_model.unit {
            Unit::Flops => {
                let (scale, letter) = prefix(largest);
                (scale, format!("mean {letter}FLOPs per query"))
            }
            Unit::Money => (1.0, "mean money per query".to_owned()),
            Unit::Milliseconds => (1.0, "mean milliseconds per query".to_owned()),
            Unit::Joules { .. } => (1.0, "mean joules per query".to_owned()),
        };
        let qualities = e.points.iter().map(|point| point.quality).chain(e.alone.values().map(|alone| alone.quality));
        let mut plot = Plot::new(Axis::from_zero(&title, largest / scale), Axis::around("quality", qualities));
        let line = e.points.iter().map(|point| (point.cost / scale, point.quality)).collect();
        plot.line(line, Paint::series(0), Line::Solid);
        for (at, model) in e.chain.iter().enumerate() {
            if let Some(alone) = e.alone.get(model) {
                plot.dot((alone.cost / scale, alone.quality), Paint::series(at + 1));
            }
        }
        let names: Vec<(String, String)> = e
            .chain
            .iter()
            .enumerate()
            .map(|(at, model)| (format!("s{}", (at + 1) % SERIES), format!("{model} alone")))
            .collect();
        let what = if e.chain.len() > 2 { "cascade: the best threshold vectors" } else { "cascade" };
        let mut legend = vec![("s0", what)];
        legend.extend(names.iter().map(|(class, text)| (class.as_str(), text.as_str())));
        let rows = e.points.iter().map(|point| vec![json!("cascade"), json!(point.cost), json!(point.quality)]);
        let alone = e.alone.iter().map(|(model, alone)| vec![json!(model), json!(alone.cost), json!(alone.quality)]);
        Exhibit::figure(
            "cost-quality",
            "Cost and quality",
            "What quality costs. A cascade pays every model it asks, so deferring everything costs more than the last model \
             alone.",
            &plot,
            &legend,
            (vec!["line", "cost", "quality"], rows.chain(alone).collect()),
        )
    }

    fn histogram(&self, model: &str) -> Result<Exhibit> {
        let bins =
            self.details.models.iter().find(|of| of.model == model).map(|of| &of.histogram[..]).unwrap_or_default();
        let tallest = bins.iter().map(|bin| bin.right + bin.wrong).max().unwrap_or(0) as f64;
        let x = Axis::spanning("score", bins.iter().flat_map(|bin| [bin.low, bin.high]));
        let mut plot = Plot::new(x, Axis::from_zero("queries", tallest));
        for bin in bins {
            let (wrong, right) = (bin.wrong as f64, bin.right as f64);
            plot.bar((bin.low, 0.0), (bin.high, wrong), Paint::Wrong);
            plot.bar((bin.low, wrong), (bin.high, wrong + right), Paint::Right);
        }
        let threshold = self.details.changes.as_ref().map(|changes| changes.threshold);
        let inside =
            |at: &f64| bins.first().is_some_and(|bin| bin.low <= *at) && bins.last().is_some_and(|bin| *at <= bin.high);
        if let Some(at) = threshold.filter(inside) {
            plot.line(vec![(at, 0.0), (at, tallest)], Paint::Ink, Line::Dashed);
        }
        let rows = bins.iter().map(|bin| vec![json!(bin.low), json!(bin.high), json!(bin.right), json!(bin.wrong)]);
        Exhibit::figure(
            "scores",
            &format!("Scores of {model}"),
            "Right answers stacked on wrong ones. Left of the dashed threshold queries are deferred.",
            &plot,
            &[("right", "right"), ("wrong", "wrong"), ("dashed ink", "threshold")],
            (vec!["low", "high", "right", "wrong"], rows.collect()),
        )
    }

    fn reliability(&self) -> Result<Exhibit> {
        let mut plot = Plot::new(Axis::share("confidence"), Axis::share("share of right answers"));
        plot.line(vec![(0.0, 0.0), (1.0, 1.0)], Paint::Muted, Line::Dashed);
        let mut rows = Vec::new();
        for (at, of) in self.details.models.iter().enumerate() {
            let filled = of.reliability.iter().filter(|bin| bin.count > 0);
            let points: Vec<(f64, f64)> = filled.map(|bin| (bin.confidence, bin.accuracy)).collect();
            points.iter().for_each(|point| plot.dot(*point, Paint::series(at)));
            plot.line(points, Paint::series(at), Line::Solid);
            rows.extend(of.reliability.iter().map(|bin| {
                let count = json!(bin.count);
                vec![
                    json!(of.model),
                    json!(bin.low),
                    json!(bin.high),
                    count,
                    json!(bin.confidence),
                    json!(bin.accuracy),
                ]
            }));
        }
        let mut legend = self.series();
        legend.push(("dashed".to_owned(), "calibrated".to_owned()));
        Exhibit::figure(
            "reliability",
            "Reliability",
            "Whether a model is right as often as its confidence says. Under the diagonal it is too sure of itself.",
            &plot,
            &borrowed(&legend),
            (vec!["model", "low", "high", "count", "confidence", "accuracy"], rows),
        )
    }

    fn risk_coverage(&self) -> Result<Exhibit> {
        let risks = || self.details.models.iter().flat_map(|of| of.risk_coverage.iter().map(|point| point.risk));
        let mut plot = Plot::new(Axis::share("answers kept, surest first"), Axis::around("their mean loss", risks()));
        let mut rows = Vec::new();
        for (at, of) in self.details.models.iter().enumerate() {
            let points = of.risk_coverage.iter().map(|point| (point.coverage, point.risk)).collect();
            plot.line(points, Paint::series(at), Line::Solid);
            let row =
                |point: &super::details::RiskPoint| vec![json!(of.model), json!(point.coverage), json!(point.risk)];
            rows.extend(of.risk_coverage.iter().map(row));
        }
        Exhibit::figure(
            "risk-coverage",
            "Risk and coverage",
            "How much is lost on the answers that are kept, as fewer are. A score that knows falls to the left.",
            &plot,
            &borrowed(&self.series()),
            (vec!["model", "coverage", "risk"], rows),
        )
    }

    fn series(&self) -> Vec<(String, String)> {
        let models = self.details.models.iter().enumerate();
        models.map(|(at, of)| (format!("s{}", at % SERIES), of.model.clone())).collect()
    }

    fn confidence(&self) -> Exhibit {
        let rows = self.evaluation.confidence.iter().map(|(model, of)| {
            let numbers =
                [of.auroc, of.fpr95, of.aurc, of.e_aurc, of.augrc, of.ece_width, of.ece_mass, of.mce, of.brier, of.nll];
            std::iter::once(json!(model)).chain(numbers.map(|number| json!(number))).collect()
        });
        Exhibit::table(
            "confidence",
            "Confidence",
            "Measures of each model’s score on its own answers.",
            vec!["model", "auroc", "fpr95", "aurc", "e_aurc", "augrc", "ece_width", "ece_mass", "mce", "brier", "nll"],
            rows.collect(),
        )
    }

    /// The numbers of the curve with their intervals.
    fn numbers(&self) -> Option<Exhibit> {
        let e = self.evaluation;
        let mut numbers: Vec<(String, Option<f64>)> = [
            ("audc", e.audc),
            ("audc_random", e.audc_random),
            ("audc_ideal", e.audc_ideal),
            ("apgr", e.apgr),
            ("s_d", e.s_d),
            ("benefit_auroc", e.benefit_auroc),
            ("error_cost_area", e.error_cost_area),
            ("aiq", e.aiq),
        ]
        .map(|(name, number)| (name.to_owned(), number))
        .into();
        numbers.extend(e.cpt.iter().map(|(share, rate)| (format!("cpt_{share}"), *rate)));
        numbers.extend(e.cost_at.iter().map(|(share, cost)| (format!("cost_at_{share}"), *cost)));
        numbers.extend(e.ibc_lift.iter().map(|(rate, lift)| (format!("ibc_lift_{rate}"), *lift)));
        numbers.retain(|(_, number)| number.is_some());
        let rows = numbers.into_iter().map(|(name, number)| {
            let interval = e.intervals.get(&name);
            let end = |end: fn(&crate::bootstrap::Interval) -> f64| json!(interval.map(end));
            vec![json!(name), json!(number), end(|interval| interval.low), end(|interval| interval.high)]
        });
        let exhibit = Exhibit::table(
            "measures",
            "Measures of the cascade",
            "With their bootstrap intervals. Areas over cost are taken on the interval of cost that evaluation.json names.",
            vec!["measure", "value", "low", "high"],
            rows.collect(),
        );
        (!exhibit.rows.is_empty()).then_some(exhibit)
    }

    fn rules(&self) -> Option<Exhibit> {
        let rows = self.evaluation.rules.iter().map(|(name, of)| {
            vec![json!(name), json!(of.audc), json!(of.s_d), json!(of.auroc), json!(of.benefit_auroc)]
        });
        let exhibit = Exhibit::table(
            "rules",
            "Rules compared",
            "Other ways to score the same answers, on the same queries. s_d is 0 for random and 1 for an oracle.",
            vec!["rule", "audc", "s_d", "auroc", "benefit_auroc"],
            rows.collect(),
        );
        (!exhibit.rows.is_empty()).then_some(exhibit)
    }

    fn tasks(&self) -> Option<Exhibit> {
        let rows = self.evaluation.tasks.iter().map(|(task, of)| {
            vec![
                json!(task),
                json!(of.queries),
                json!(of.small_quality),
                json!(of.large_quality),
                json!(of.audc),
                json!(of.s_d),
                json!(of.auroc),
            ]
        });
        let exhibit = Exhibit::table(
            "tasks",
            "By task",
            "Each task by itself.",
            vec!["task", "queries", "small_quality", "large_quality", "audc", "s_d", "auroc"],
            rows.collect(),
        );
        (!exhibit.rows.is_empty()).then_some(exhibit)
    }

    fn changes(&self) -> Option<Exhibit> {
        let changes = self.details.changes.as_ref()?;
        let counts: Vec<String> = changes.counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let rows = changes.queries.iter().map(|change| {
            let qualities = [json!(change.small_quality), json!(change.large_quality)];
            let who = [json!(change.kind), json!(change.query), json!(change.task), json!(change.score)];
            who.into_iter().chain(qualities).collect()
        });
        Some(Exhibit::table(
            "changed-hands",
            "Queries that changed hands",
            &format!(
                "Queries on which the models differ, at {}: {}. Those nearest to the threshold are shown.",
                changes.threshold_in_words,
                counts.join(", ")
            ),
            vec!["what", "query", "task", "score", "small_quality", "large_quality"],
            rows.collect(),
        ))
    }
}

fn certificate(of: &OfGoal) -> String {
    let goal = escape(&of.goal);
    match &of.guarantee {
        Guarantee::Certified(certified) => {
            let scored = of.scored.as_ref().map(|scored| {
                let rate = percent(scored.deferral_rate);
                format!("<dt>on these</dt><dd>{rate} deferred, quality {}</dd>\n", percent(scored.quality))
            });
            let level = certified.certificate.level.map(|level| format!("<dt>level</dt><dd>{level}</dd>\n"));
            format!(
                "<article aria-label=\"Certificate: {label}\">\n<p class=\"prompt\">{goal}</p>\n<p>{promise}</p>\n<dl>\n<dt>keep if</dt><dd>score ≥ {threshold:.6}</dd>\n<dt>method</dt><dd>{method}</dd>\n{level}<dt>sample</dt><dd>{sample} queries, {measured:.4} measured on them</dd>\n{scored}</dl>\n<p><small>{assumptions}</small></p>\n</article>\n",
                label = attribute(&of.goal),
                promise = escape(&certified.certificate.to_string()),
                threshold = certified.threshold,
                method = escape(&json!(certified.certificate.method).as_str().unwrap_or_default().replace('-', " ")),
                level = level.unwrap_or_default(),
                sample = certified.certificate.sample_size,
                measured = certified.certificate.measured,
                scored = scored.unwrap_or_default(),
                assumptions = escape(&certified.certificate.assumptions),
            )
        }
        Guarantee::CannotGuarantee { needed, have } => {
            let needed = needed.map_or_else(
                || "More queries like these would not help: the bound is not met on them.".to_owned(),
                |needed| format!("About {needed} like these would do."),
            );
            format!(
                "<article aria-label=\"No certificate: {label}\">\n<p class=\"prompt\">{goal}</p>\n<p><span class=\"badge wrong\">cannot be promised</span> with {have} calibration queries. {needed}</p>\n</article>\n",
                label = attribute(&of.goal),
            )
        }
    }
}

impl Exhibit {
    fn figure(
        name: &'static str,
        title: &str,
        caption: &str,
        plot: &Plot,
        legend: &[(&str, &str)],
        (columns, rows): (Vec<&'static str>, Vec<Vec<Value>>),
    ) -> Result<Self> {
        let svg =
            plot.draw().map_err(|fault| Error::new(ErrorKind::Report, format!("cannot draw `{title}`: {fault}")))?;
        let opening = svg.find("viewBox").ok_or_else(|| Error::new(ErrorKind::Report, "the plot is not an SVG"))?;
        let label = attribute(&format!("{title}. {caption}"));
        let keys: String = legend
            .iter()
            .map(|(classes, text)| format!("<li><i class=\"key {classes}\"></i>{}</li>", escape(text)))
            .collect();
        let body =
            format!("<ul class=\"legend\">{keys}</ul>\n<svg role=\"img\" aria-label=\"{label}\" {}\n", &svg[opening..]);
        Ok(Self { name, title: title.to_owned(), caption: caption.to_owned(), body, columns, rows })
    }

    fn table(
        name: &'static str,
        title: &str,
        caption: &str,
        columns: Vec<&'static str>,
        rows: Vec<Vec<Value>>,
    ) -> Self {
        let heads: String = columns
            .iter()
            .map(|column| format!("<th scope=\"col\">{}</th>", escape(&column.replace('_', " "))))
            .collect();
        let line = |row: &Vec<Value>| {
            let cells = row.iter().enumerate().map(|(at, value)| match (at, value) {
                (0, value) => format!("<th scope=\"row\">{}</th>", escape(&shown(value))),
                (_, Value::String(text)) => format!("<td class=\"text\">{}</td>", escape(text)),
                (_, value) => format!("<td>{}</td>", escape(&shown(value))),
            });
            format!("<tr>{}</tr>\n", cells.collect::<String>())
        };
        let lines: String = rows.iter().map(line).collect();
        let body = format!(
            "<div class=\"scroll\" tabindex=\"0\"><table class=\"numbers\">\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{lines}</tbody>\n</table></div>\n"
        );
        Self { name, title: title.to_owned(), caption: caption.to_owned(), body, columns, rows }
    }

    fn html(&self) -> String {
        let wide = if self.body.starts_with("<div") && self.columns.len() > 4 { " class=\"wide\"" } else { "" };
        format!(
            "<figure{wide} id=\"{name}\">\n<h3>{title}</h3>\n{body}<figcaption>{caption}</figcaption>\n<details><summary>CSV</summary><pre tabindex=\"0\">{csv}</pre></details>\n<details><summary>JSON</summary><pre tabindex=\"0\">{json}</pre></details>\n</figure>\n",
            name = self.name,
            title = escape(&self.title),
            body = self.body,
            caption = escape(&self.caption),
            csv = escape(&self.csv()),
            json = escape(&self.json().to_string()),
        )
    }

    fn csv(&self) -> String {
        let mut csv = self.columns.join(",");
        csv.push('\n');
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(csv_cell).collect();
            csv += &cells.join(",");
            csv.push('\n');
        }
        csv
    }

    fn json(&self) -> Value {
        let object = |row: &Vec<Value>| -> Value {
            self.columns
                .iter()
                .map(|column| (*column).to_owned())
                .zip(row.iter().cloned())
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        self.rows.iter().map(object).collect()
    }
}

/// A number to four digits behind the point, and nothing for what is undefined.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().unwrap_or_default();
            if number != 0.0 && (number.abs() >= 1e5 || number.abs() < 1e-4) {
                format!("{number:.3e}")
            } else {
                format!("{number:.4}")
            }
        }
        other => other.to_string(),
    }
}

fn csv_cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) if text.contains([',', '"', '\n', '\r']) => format!("\"{}\"", text.replace('"', "\"\"")),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn borrowed(legend: &[(String, String)]) -> Vec<(&str, &str)> {
    legend.iter().map(|(class, text)| (class.as_str(), text.as_str())).collect()
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    write_atomically(path, |file| {
        file.write_all(text.as_bytes()).map_err(|source| Error::new(ErrorKind::Io, "cannot write").with_source(source))
    })
}
