//! From answers to the outcome table, and from the table to thresholds, summary and report.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use margay::Bundle;
use margay::bundle::{CalibratedPolicy, Calibration};
use margay::policy::{Policy, Threshold};
use margay_evaluation::bootstrap::Bootstrap;
use margay_evaluation::outcome::{Outcome, Table};
use margay_evaluation::pairing::Pairing;
use margay_evaluation::report::{Example as Shown, Report};
use margay_evaluation::summary::{
    Comparison, DEFERRED_SIGNAL, Dataset, ObjectiveSummary, Options, ScoreKind, Served, Summary,
};
use margay_evaluation::threshold;
use margay_exporter::write_policy;
use margay_trainer::Objective;
use margay_trainer::data::Example;

use super::models::Trained;
use super::run::{Cloud, Said, device_answers};
use super::{Data, RULE, Recipe, screen, si};
use crate::console::Console;
use crate::error::{Error, Result};

/// Everything that was said, as one outcome table and as the few texts that the report shows.
pub(super) struct Results {
    max_tokens: usize,
    table: Table,
    thresholds: BTreeMap<Objective, f64>,
    /// What each model said to each test query, in the order of the test rows.
    said: BTreeMap<String, Vec<Said>>,
}

/// The large model's name in the table.
const LARGE: &str = "large";

fn small_name(objective: Objective) -> String {
    format!("small-{objective}")
}

fn cascade_name(objective: Objective) -> String {
    format!("cascade-{objective}")
}

impl Results {
    /// No answer yet; answers will be of at most `max_tokens` tokens.
    pub(super) fn new(max_tokens: usize) -> Self {
        Self { max_tokens, table: Table::default(), thresholds: BTreeMap::new(), said: BTreeMap::new() }
    }

    /// Asks the large model every calibration and every test query.
    pub(super) fn large_alone(&mut self, console: &Console, cloud: &Cloud, data: &Data) -> Result<()> {
        let bar = console.bar("large alone", (data.calibration.len() + data.test.len()) as u64);
        for (split, rows) in [("calibration", &data.calibration), ("test", &data.test)] {
            let said = cloud.answers(rows, self.max_tokens, &bar)?;
            self.keep(LARGE.into(), split, rows, said)?;
        }
        Ok(())
    }

    /// Percentage of the test queries that the large model answers right.
    pub(super) fn large_accuracy(&self) -> f64 {
        let rows = self.table.split("test").filter(|row| row.model() == LARGE);
        let (right, all) = rows.fold((0.0, 0.0), |(right, all), row| (right + row.quality(), all + 1.0));
        100.0 * right / f64::max(all, 1.0)
    }

    /// Calibrates a bundle's threshold, then answers every test query on the device alone and through the cascade.
    /// Returns one line about it.
    pub(super) fn cascade(
        &mut self,
        console: &Console,
        recipe: &Recipe,
        objective: Objective,
        bundle: Bundle,
        cloud: &Cloud,
        data: &Data,
    ) -> Result<String> {
        let (calibration, test) = (&data.calibration, &data.test);
        let bar = console.bar("calibrating", calibration.len() as u64);
        let said = device_answers(&bundle, calibration, self.max_tokens, &bar)?;
        let scores: Vec<f64> = said.iter().filter_map(|said| said.score).collect();
        let choice = threshold::for_deferral_rate(&scores, recipe.deferral_rate)?;
        self.keep(small_name(objective), "calibration", calibration, said)?;
        let bundle = write_policy(&bundle, &calibrated(&bundle, recipe, choice.threshold, scores.len())?, None, None)?;

        let bar = console.bar("device alone", test.len() as u64);
        let said = device_answers(&bundle, test, self.max_tokens, &bar)?;
        self.keep(small_name(objective), "test", test, said)?;

        let bar = console.bar("cascade", test.len() as u64);
        let said = cloud.cascade(&bundle, test, self.max_tokens, &bar)?;
        let deferred = said.iter().filter(|said| said.deferred).count();
        self.keep(cascade_name(objective), "test", test, said)?;
        self.thresholds.insert(objective, choice.threshold);
        Ok(format!(
            "{deferred} of {} requests deferred over HTTPS, {} answered on the device; threshold {:.3} nats from {} \
             calibration requests",
            test.len(),
            test.len() - deferred,
            choice.threshold,
            scores.len(),
        ))
    }

    /// Puts answers into the table.
    fn keep(&mut self, model: String, split: &str, rows: &[Example], said: Vec<Said>) -> Result<()> {
        let cascade = model.starts_with("cascade-");
        for (row, said) in rows.iter().zip(&said) {
            let right = said.text == row.target;
            let mut outcome = Outcome::new(&row.id, &model, f64::from(u8::from(right)));
            outcome.task = Some(row.task.clone());
            outcome.split = Some(split.into());
            outcome.score = said.score;
            outcome.tokens_in = Some(said.tokens.input);
            outcome.tokens_out = Some(said.tokens.output);
            outcome.flops = Some(said.flops);
            outcome.latency_ms = Some(said.latency.as_secs_f64() * 1e3);
            if cascade {
                outcome.signals.insert(DEFERRED_SIGNAL.into(), f64::from(u8::from(said.deferred)));
            }
            self.table.push(outcome)?;
        }
        if split == "test" {
            self.said.insert(model, said);
        }
        Ok(())
    }

    /// Measures everything and writes `outcomes.csv`, `summary.json` and `report.html`. Returns the summary and the
    /// lines for the screen.
    pub(super) fn finish(
        self,
        out: &Path,
        recipe: &Recipe,
        data: &Data,
        facts: BTreeMap<String, String>,
    ) -> Result<(Summary, Vec<String>)> {
        let bootstrap = Bootstrap { resamples: recipe.resamples, seed: recipe.seed, ..Bootstrap::default() };
        let name = data.test.first().map_or("", |row| row.task.as_str());
        let dataset = Dataset { name: name.into(), split: "test".into(), queries: data.test.len() };
        let mut summary = Summary::new(dataset, bootstrap);
        summary.facts = facts;
        let mut pairings: Vec<(Objective, Pairing)> = Vec::new();
        for (&objective, &threshold) in &self.thresholds {
            let pairing = Pairing::join(self.table.split("test"), &small_name(objective), LARGE)?;
            let cascade = cascade_name(objective);
            let served = self.table.split("test").filter(|row| row.model() == cascade).map(Served::from_outcome);
            let served = served.collect::<Result<Vec<_>, _>>()?;
            let options = Options { bootstrap, score: ScoreKind::LogProbability, threshold, served: Some(&served) };
            summary.objectives.insert(objective.to_string(), ObjectiveSummary::from_pairing(&pairing, &options)?);
            pairings.push((objective, pairing));
        }
        if let Some((_, baseline)) = pairings.iter().find(|(objective, _)| *objective == Objective::Xent) {
            for (objective, pairing) in pairings.iter().filter(|(objective, _)| *objective != Objective::Xent) {
                let pair = ((objective.name(), pairing), (Objective::Xent.name(), baseline));
                summary.comparisons.push(Comparison::new(pair.0, pair.1, &bootstrap)?);
            }
        }
        let shown = self.examples(&data.test);
        self.table.write(&out.join(OUTCOMES))?;
        summary.write(&out.join(SUMMARY))?;
        Report { title: TITLE, lead: LEAD, summary: &summary, examples: &shown }.write(&out.join(REPORT))?;
        let lines = screen::lines(&summary, &shown);
        Ok((summary, lines))
    }

    /// Six queries of the last objective: two kept and right, one kept and wrong, two that deferring mended, one that
    /// it did not.
    fn examples(&self, test: &[Example]) -> Vec<Shown> {
        let Some(&objective) = self.thresholds.keys().next_back() else { return vec![] };
        let (small, cascade) = (&self.said[&small_name(objective)], &self.said[&cascade_name(objective)]);
        let right = |said: &Said, row: &Example| said.text == row.target;
        let kinds = [(false, true, true, 2), (false, false, false, 1), (true, false, true, 2), (true, false, false, 1)];
        let mut shown = Vec::new();
        for (deferred, small_right, final_right, count) in kinds {
            let of_kind = test.iter().zip(small.iter().zip(cascade)).filter(|(row, (small, cascade))| {
                cascade.deferred == deferred && right(small, row) == small_right && right(cascade, row) == final_right
            });
            shown.extend(of_kind.take(count).map(|(row, (small, cascade))| Shown {
                objective: objective.to_string(),
                prompt: row.input.clone(),
                expected: row.target.clone(),
                device_answer: small.text.clone(),
                score: small.score.unwrap_or(f64::NEG_INFINITY),
                cloud_answer: cascade.deferred.then(|| cascade.text.clone()),
                right: final_right,
            }));
        }
        shown
    }
}

const OUTCOMES: &str = "outcomes.csv";
const SUMMARY: &str = "summary.json";
const REPORT: &str = "report.html";
const TITLE: &str = "A small model that knows when to ask a large one";
const LEAD: &str = "A small language model answers on the device and defers what it is unsure of to a large one over HTTPS. \
    Both were trained from scratch on the same requests; the small one by each objective from the same initial weights.";

/// Removes the results of an earlier run, so that a failed run leaves none that look like its own.
pub(super) fn clear(out: &Path) -> Result<()> {
    for name in [OUTCOMES, SUMMARY, REPORT] {
        let path = out.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &path, error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What a reader of the report wants to know about the models.
pub(super) fn facts(large: &Trained, small: &[(Objective, Trained)]) -> BTreeMap<String, String> {
    let describe = |trained: &Trained| {
        let a = trained.checkpoint.architecture();
        let (parameters, flops) = (si(a.parameters()), si(a.flops_per_token()));
        format!("{parameters} parameters, {flops} FLOPs per token, {} layers of {}", a.num_hidden_layers, a.hidden_size)
    };
    let mut facts = BTreeMap::from([("large model".to_owned(), describe(large))]);
    if let Some((_, trained)) = small.first() {
        facts.insert("small model".into(), describe(trained));
    }
    for (objective, trained) in small {
        if let Some(share) = trained.unmasked {
            let counted =
                format!("{:.1} % of the target tokens it saw; neither model predicted the others", 100.0 * share);
            facts.insert(format!("{objective} counted"), counted);
        }
    }
    facts.insert("FLOPs".into(), "two per weight in a matrix product, for each token read or written".into());
    facts
}

/// The policy for a model whose scores the threshold was chosen on.
fn calibrated(bundle: &Bundle, recipe: &Recipe, threshold: f64, sample_size: usize) -> Result<CalibratedPolicy> {
    // Scores are 32-bit, and the threshold is one of them.
    let threshold = Threshold::new(threshold as f32).map_err(|e| Error::Usage(e.to_string()))?;
    Ok(CalibratedPolicy {
        model_digest: *bundle.model_digest(),
        policy: Policy::new(RULE, threshold),
        router: None,
        calibration: Calibration {
            method: "deferral-rate".into(),
            target: recipe.deferral_rate,
            data: "training rows held back by a hash of their words".into(),
            sample_size: sample_size as u64,
            guarantee: "none: on the calibration rows at most the target share is deferred; on others it may be more"
                .into(),
        },
        certificates: vec![],
    })
}
