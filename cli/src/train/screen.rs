//! What a person sees of a run: its rows, a bar with the time left, every examination, what it left.

use std::path::Path;

use margay_trainer::Recipe;
use margay_trainer::training::{Event, Finished, Measured};
use serde_json::{Value, json};

use crate::console::{Bar, Console};
use crate::error::Result;

/// Shows a run as it happens.
pub(super) struct Screen<'a> {
    console: &'a mut Console,
    objective: String,
    bar: Option<Bar>,
    /// The first line that could not be printed.
    failed: Result<()>,
}

impl<'a> Screen<'a> {
    pub(super) fn new(console: &'a mut Console, recipe: &Recipe) -> Self {
        Self { console, objective: recipe.objective.name.to_string(), bar: None, failed: Ok(()) }
    }

    pub(super) fn show(&mut self, event: &Event<'_>) {
        match event {
            Event::Data(data) => {
                let bad = data.train.bad_rows();
                let rows = [("train on", &data.train), ("measure on", &data.evaluation), ("test on", &data.test)];
                let rows = rows.iter().filter(|(_, corpus)| !corpus.is_empty());
                let rows: Vec<String> = rows.map(|(what, corpus)| format!("{} rows to {what}", corpus.len())).collect();
                self.say(rows.join(", "));
                if bad.count > 0 {
                    self.say(format!("{} bad rows are left out:", bad.count));
                    bad.first.iter().for_each(|row| self.say(format!("  {row}")));
                }
            }
            Event::Annotating { done, total } => {
                let console = &*self.console;
                let bar = self.bar.get_or_insert_with(|| console.bar("annotating", *total as u64));
                bar.at(*done as u64);
            }
            Event::Begins { step, steps, parameters } => {
                self.bar = None;
                let from = if *step > 0 { format!(", going on after step {step}") } else { String::new() };
                let millions = *parameters as f64 / 1e6;
                self.say(format!("{}: {millions:.1} M parameters, {steps} steps{from}", self.objective));
                let bar = self.console.bar("training", *steps as u64);
                bar.at(*step as u64);
                self.bar = Some(bar);
            }
            Event::Step { report, seconds } => {
                if let Some(bar) = &self.bar {
                    bar.at(report.step as u64);
                    let speed = report.tokens as f64 / seconds.max(1e-9);
                    bar.say(format!("loss {:.3}  {speed:.0} tokens/s", report.loss));
                }
            }
            Event::Measured { step, measured, best } => {
                let best = if *best { "  best so far" } else { "" };
                self.say(format!("step {step:>6}  {}{best}", measures(measured)));
            }
            _ => {}
        }
    }

    /// Prints above the bar.
    fn say(&mut self, line: String) {
        if self.failed.is_ok() {
            self.failed = match &self.bar {
                Some(bar) => bar.suspend(|| self.console.line(line)),
                None => self.console.line(line),
            };
        }
    }

    /// Whether everything could be printed.
    pub(super) fn result(self) -> Result<()> {
        self.failed
    }
}

fn measures(measured: &Measured) -> String {
    let mut said = format!("quality {:.3}  loss {:.3}", measured.quality, measured.loss);
    if let Some(auroc) = measured.auroc {
        said.push_str(&format!("  AUROC {auroc:.3}"));
    }
    if let (Some(audc), Some(random), Some(large)) = (measured.audc, measured.audc_random, measured.large_quality) {
        said.push_str(&format!("  area under deferral curve {audc:.4} (random {random:.4})  large {large:.3}"));
    }
    said
}

/// What a run left, for programs.
pub(super) fn facts(recipe: &Recipe, finished: &Finished) -> Value {
    json!({
        "objective": recipe.objective.name,
        "step": finished.step,
        "steps": finished.steps,
        "loss": finished.loss,
        "unmasked": unmasked(recipe, finished),
        "measured": finished.measured,
        "test": quality(finished).map(|quality| json!({"rows": finished.test.len(), "quality": quality})),
        "best": finished.best.as_ref().map(|path| path.to_string_lossy()),
        "model": finished.model.as_ref().map(|path| path.to_string_lossy()),
    })
}

/// Share of the target tokens that counted, if some did not have to.
fn unmasked(recipe: &Recipe, finished: &Finished) -> Option<f64> {
    let (neither, total) = (finished.hits.neither as f64, finished.hits.total());
    (recipe.objective.name.masks() && total > 0).then(|| 1.0 - neither / total as f64)
}

/// Mean quality on the test rows.
fn quality(finished: &Finished) -> Option<f64> {
    let right: f64 = finished.test.iter().map(|answer| answer.quality).sum();
    (!finished.test.is_empty()).then(|| right / finished.test.len() as f64)
}

/// The last lines, for people.
pub(super) fn summary(recipe: &Recipe, finished: &Finished, path: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    if finished.step < finished.steps {
        lines.push(format!(
            "stopped after step {} of {}; go on with: margay train {} --resume",
            finished.step,
            finished.steps,
            path.display()
        ));
        return lines;
    }
    if let Some(kept) = unmasked(recipe, finished) {
        lines.push(format!("{:.1} % of target tokens counted", 100.0 * kept));
    }
    if let Some(quality) = quality(finished) {
        lines.push(format!("test: {:.1} % of {} rows right", 100.0 * quality, finished.test.len()));
    }
    if let Some(best) = &finished.best {
        lines.push(format!("best model: {}", best.display()));
    }
    if let Some(model) = &finished.model {
        lines.push(format!("last model: {}", model.display()));
    }
    lines
}
