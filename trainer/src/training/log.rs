//! `metrics.jsonl`: one line for every step and every examination, flushed as it is written.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::measure::Measured;
use super::session::StepReport;
use crate::error::{Error, Result};
use crate::files::write_atomically;

/// A line of `metrics.jsonl`.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Line {
    /// One step.
    Step {
        /// This step, from 1.
        step: usize,
        /// The objective, nats per target token.
        loss: f64,
        /// Global gradient norm before clipping.
        gradient_norm: f64,
        /// The learning rate that was applied.
        learning_rate: f64,
        /// Tokens a second that went through the model, prompts included.
        tokens_per_second: f64,
        /// Share of target tokens that the objective counts.
        unmasked: f64,
        /// Share of target tokens that both models predict.
        both: f64,
        /// Share that only the small one does.
        small_only: f64,
        /// Share that only the large one does.
        large_only: f64,
        /// Share that neither does.
        neither: f64,
        /// Rows left out so far.
        skipped: usize,
    },
    /// One examination.
    Evaluation {
        /// After this step.
        step: usize,
        /// What was found.
        #[serde(flatten)]
        measured: Measured,
        /// Whether this is the best so far.
        best: bool,
    },
}

impl Line {
    /// The line of a step that took so many seconds.
    #[must_use]
    pub fn of_step(report: &StepReport, masks: bool, seconds: f64) -> Self {
        let hits = report.hits;
        let share = |count: usize| count as f64 / hits.total().max(1) as f64;
        Self::Step {
            step: report.step,
            loss: report.loss,
            gradient_norm: report.gradient_norm,
            learning_rate: report.learning_rate,
            tokens_per_second: report.tokens as f64 / seconds.max(1e-9),
            unmasked: if masks { 1.0 - share(hits.neither) } else { 1.0 },
            both: share(hits.both),
            small_only: share(hits.small_only),
            large_only: share(hits.large_only),
            neither: share(hits.neither),
            skipped: report.skipped,
        }
    }
}

/// The file that is written to.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    /// Opens the log of a run that has taken `steps` steps: lines of later ones, from before it was stopped, are dropped.
    pub(super) fn open(path: &Path, steps: usize) -> Result<Self> {
        let mut kept = Vec::new();
        if steps > 0 && path.exists() {
            let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
            for line in BufReader::new(file).lines() {
                let line = line.map_err(|e| Error::io("read", path, e))?;
                // A line that was cut by the end of the process is no line.
                let Ok(Numbered { step }) = serde_json::from_str(&line) else { continue };
                if step <= steps {
                    kept.extend_from_slice(line.as_bytes());
                    kept.push(b'\n');
                }
            }
        }
        write_atomically(path, &kept)?;
        let file = OpenOptions::new().append(true).open(path).map_err(|e| Error::io("open", path, e))?;
        Ok(Self { file, path: path.to_owned() })
    }

    pub(super) fn write(&mut self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_vec(line).map_err(|e| Error::io("write", &self.path, e.into()))?;
        text.push(b'\n');
        self.file.write_all(&text).map_err(|e| Error::io("write", &self.path, e))
    }
}

#[derive(Deserialize)]
struct Numbered {
    step: usize,
}
