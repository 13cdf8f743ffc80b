//! A page about an evaluation of a chain of models, and beside it the numbers of every figure as CSV and JSON.

mod figures;
mod tables;

use std::path::Path;

use serde_json::json;

use super::details::Details;
use super::exhibit::{self, Exhibit};
use super::markup::{attribute, escape, percent, prefix};
use super::page;
use crate::certificate::Guarantee;
use crate::cost::Unit;
use crate::error::Result;
use crate::evaluation::{Evaluation, OfGoal};

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

impl ChainReport<'_> {
    /// The page, self-contained.
    ///
    /// # Errors
    /// [`ErrorKind::Report`](crate::ErrorKind::Report) if a figure cannot be drawn.
    pub fn render(&self) -> Result<String> {
        self.page(&self.exhibits()?)
    }

    /// Writes `index.html`, `evaluation.json`, and each exhibit's numbers as `.csv` and `.json` into a folder, which is made
    /// if it is not there.
    ///
    /// # Errors
    /// As [`ChainReport::render`], and [`ErrorKind::Io`](crate::ErrorKind::Io) with the path.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let exhibits = self.exhibits()?;
        exhibit::write_folder(folder, &exhibits, "evaluation.json", self.evaluation, &self.page(&exhibits)?)
    }

    fn page(&self, exhibits: &[Exhibit]) -> Result<String> {
        let evaluation = self.evaluation;
        let lead = format!("{} queries, {}.", evaluation.queries, evaluation.chain.join(" then "));
        let cards: String = exhibits.iter().map(Exhibit::html).collect();
        let body = [
            page::section("short", "In short", &self.words()),
            page::section("certificates", "Thresholds and what is promised of them", &self.certificates()),
            page::section("figures", "Figures and tables", &format!("<div class=\"figures\">\n{cards}</div>\n")),
            page::section("method", "How it was measured", &(self.method() + &page::all_numbers(evaluation)?)),
        ];
        Ok(page::page(self.title, &lead, &body.concat()))
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
            Unit::Calls => format!("{cost:.3}\u{a0}calls"),
        }
    }

    fn exhibits(&self) -> Result<Vec<Exhibit>> {
        let mut exhibits = Vec::new();
        if self.evaluation.audc.is_some() {
            exhibits.push(self.deferral()?);
        }
        exhibits.push(self.cost_quality()?);
        exhibits.extend(self.tuning()?);
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
