//! What a person sees of a run: its rows, a bar with the time left, every examination, what it left.

use std::path::Path;

use margay_trainer::Recipe;
use margay_trainer::training::{Event, Finished, Measured};

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

/// The last lines.
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
    if recipe.objective.name.masks() && finished.hits.total() > 0 {
        let kept = 1.0 - finished.hits.neither as f64 / finished.hits.total() as f64;
        lines.push(format!("{:.1} % of target tokens counted", 100.0 * kept));
    }
    if !finished.test.is_empty() {
        let right: f64 = finished.test.iter().map(|answer| answer.quality).sum();
        let count = finished.test.len();
        lines.push(format!("test: {:.1} % of {count} rows right", 100.0 * right / count as f64));
    }
    if let Some(best) = &finished.best {
        lines.push(format!("best model: {}", best.display()));
    }
    if let Some(model) = &finished.model {
        lines.push(format!("last model: {}", model.display()));
    }
    lines
}
