//! The tables of a page about a chain.

use serde_json::json;

use super::ChainReport;
use crate::bootstrap::Interval;
use crate::report::exhibit::Exhibit;

impl ChainReport<'_> {
    pub(super) fn confidence(&self) -> Exhibit {
        let rows = self.evaluation.confidence.iter().map(|(model, of)| {
            let numbers =
                [of.auroc, of.fpr95, of.aurc, of.e_aurc, of.augrc, of.ece_width, of.ece_mass, of.mce, of.brier, of.nll];
            std::iter::once(json!(model)).chain(numbers.map(|number| json!(number))).collect()
        });
        Exhibit::table(
            "confidence",
            "Confidence",
            "Each model’s score on its own answers. AUROC and the false positives at 95\u{a0}% true ones tell right from wrong; AURC, \
             E-AURC and AUGRC are risks over coverage; ECE, MCE, Brier and NLL say whether the score means what it says. A high \
             AUROC is good, and low others.",
            vec!["model", "auroc", "fpr95", "aurc", "e_aurc", "augrc", "ece_width", "ece_mass", "mce", "brier", "nll"],
            rows.collect(),
        )
    }

    /// The numbers of the curve with their intervals.
    pub(super) fn numbers(&self) -> Option<Exhibit> {
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
            let end = |end: fn(&Interval) -> f64| json!(interval.map(end));
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

    pub(super) fn rules(&self) -> Option<Exhibit> {
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

    pub(super) fn tasks(&self) -> Option<Exhibit> {
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

    pub(super) fn changes(&self) -> Option<Exhibit> {
        let changes = self.details.changes.as_ref()?;
        let rows = changes.queries.iter().map(|change| {
            let qualities = [json!(change.small_quality), json!(change.large_quality)];
            let who = [json!(change.kind), json!(change.query), json!(change.task), json!(change.score)];
            who.into_iter().chain(qualities).collect()
        });
        Some(Exhibit::folded(
            "changed-hands",
            "Queries that changed hands",
            &format!(
                "Queries on which the models differ, at {}; of each kind those nearest to the threshold.",
                changes.threshold_in_words
            ),
            (vec!["what", "query", "task", "score", "small_quality", "large_quality"], rows.collect()),
            changes.counts.iter().copied(),
        ))
    }
}
