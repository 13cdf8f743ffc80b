//! A whole run from its recipe: measured and saved on the way, stopped and gone on with, the best model kept.
//!
//! `OUT/recipe.toml`, `metrics.jsonl`, `events.out.tfevents.*`, `states/step-N` to go on from, `best` and `model` as
//! checkpoints.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use burn::tensor::Device;

use super::log::{Line, Log};
use super::measure::{Answered, Examiner, Measured};
use super::options::TrainOptions;
use super::prepare::{self, RunData, Start};
use super::session::{Session, StepReport, Work};
use super::state;
use super::tensorboard::EventFile;
use crate::annotate::Annotations;
use crate::checkpoint::Checkpoint;
use crate::data::{Corpus, Encoded, EncodedCorpus, Mixture, PromptFormat, Rows};
use crate::error::{Error, ErrorKind, Result};
use crate::files::write_atomically;
use crate::model::CausalLm;
use crate::objective::{Hits, Objective};
use crate::recipe::Recipe;

/// Whether a run that is there is gone on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// There must be none.
    Refuse,
    /// From its last state, or from the beginning if it has none.
    Continue,
}

/// What happens in a run, as it happens.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The rows were found.
    Data(&'a RunData),
    /// The large model reads rows.
    Annotating {
        /// Rows read.
        done: usize,
        /// Rows in all.
        total: usize,
    },
    /// Training begins, or goes on after so many steps.
    Begins {
        /// Steps taken before.
        step: usize,
        /// Steps in all.
        steps: usize,
        /// Parameters of the model.
        parameters: u64,
    },
    /// A step was taken.
    Step {
        /// What it did.
        report: &'a StepReport,
        /// How long it took, in seconds.
        seconds: f64,
    },
    /// The model was measured.
    Measured {
        /// After this step.
        step: usize,
        /// What was found.
        measured: &'a Measured,
        /// Whether this is the best so far.
        best: bool,
    },
    /// A state was saved.
    Saved {
        /// After this step.
        step: usize,
    },
}

/// What a run left.
#[derive(Debug)]
pub struct Finished {
    /// Steps taken.
    pub step: usize,
    /// Steps in all; more than `step` if the run was stopped.
    pub steps: usize,
    /// Loss of the last step of this process, if it took one.
    pub loss: Option<f64>,
    /// Where the guesses fell in the steps of this process.
    pub hits: Hits,
    /// The last examination.
    pub measured: Option<Measured>,
    /// The finished model as a checkpoint; `None` if the run was stopped.
    pub model: Option<PathBuf>,
    /// The best model as a checkpoint, if it was measured.
    pub best: Option<PathBuf>,
    /// The test rows as the best model, or the finished one if none was measured, answered them.
    pub test: Vec<Answered>,
    /// The rows measured while training as that model answered them, if there are test rows.
    pub calibration: Vec<Answered>,
    /// Forward FLOPs of the trained model per token.
    pub flops_per_token: u64,
    /// Forward FLOPs of the large model per token, if they are known.
    pub large_flops_per_token: Option<f64>,
}

const STATES: &str = "states";
const BEST: &str = "best";
const MODEL: &str = "model";
const METRICS: &str = "metrics.jsonl";
const RECIPE: &str = "recipe.toml";
/// Beginnings of folders that only a process that was killed leaves behind.
const UNFINISHED: &str = ".checkpoint-";
const REPLACED: &str = ".replaced-";

/// Trains what the recipe says. `stop` is looked at after every step; a run that was stopped has saved its state.
///
/// # Errors
/// Those of the parts, naming file, key, or step and rows. States saved before are as they were.
pub fn run(recipe: &Recipe, resume: Resume, stop: &AtomicBool, on: &mut dyn FnMut(Event<'_>)) -> Result<Finished> {
    recipe.validate()?;
    let (out, device) = (&recipe.out, recipe.backend.device()?);
    let states = out.join(STATES);
    let last = state::last(&states)?;
    if resume == Resume::Refuse && (last.is_some() || out.join(METRICS).exists()) {
        let message = format!("{}: there is a run already; go on with it, or choose another folder", out.display());
        return Err(Error::new(ErrorKind::Config, message));
    }
    let digest = prepare::digest(recipe)?;
    if let Some(last) = &last
        && state::facts(last)?.recipe != digest
    {
        let message = format!("{}: was begun with another recipe, or another seed", out.display());
        return Err(Error::new(ErrorKind::Config, message));
    }
    let data = RunData::of(recipe)?;
    on(Event::Data(&data));
    let Start { architecture, model, format } = Start::of(recipe, &data.train, &device)?;
    let annotations = prepare::annotations(recipe, &data, &format, &device, on)?;
    fs::create_dir_all(out).map_err(|e| Error::io("make the folder", out, e))?;
    recover(out)?;
    write_atomically(&out.join(RECIPE), recipe.to_toml()?.as_bytes())?;

    let model = match &recipe.model.lora {
        Some(lora) => lora.attach(model, recipe.seed)?,
        None => model,
    };
    let encoded = EncodedCorpus { corpus: &data.train, format: &format, context: recipe.data.context };
    let taught;
    let objective = recipe.objective.name;
    let (rows, teacher): (&dyn Rows, _) = match (objective, &annotations) {
        (Objective::SeqKd, Some(annotations)) => {
            taught = TaughtCorpus { rows: &encoded, annotations };
            (&taught, None)
        }
        _ => (&encoded, annotations.as_ref()),
    };
    let options = TrainOptions {
        objective,
        objective_options: recipe.objective.options,
        seed: recipe.seed,
        training: recipe.training.clone(),
    };
    let work = Work {
        mixture: Mixture::of(data.train.sets(), recipe.data.temperature),
        packing: recipe.data.packing,
        bad_rows: recipe.data.bad_rows,
        ..Work::new(rows, teacher, &options, &device)
    };
    let mut session = Session::new(model, work)?;
    let best = match &last {
        Some(state) => state::restore(&mut session, state)?.best,
        None => None,
    };
    let examiner = |corpus: &Corpus| {
        let (context, batch) = (recipe.data.context, recipe.evaluation.batch_size);
        Examiner::new(corpus, &format, context, annotations.as_ref(), batch, &device)
    };
    let keeper = Keeper { recipe, digest, format: &format, architecture: &architecture, device: &device };
    let mut course = Course {
        log: Log::open(&out.join(METRICS), session.steps_taken())?,
        events: EventFile::create(out, SystemTime::now())?,
        examiner: examiner(&data.evaluation)?,
        keeper,
        best,
        measured: None,
        hits: Hits::default(),
        loss: None,
    };
    let parameters = architecture.parameters();
    on(Event::Begins { step: session.steps_taken(), steps: session.steps(), parameters });
    course.go(&mut session, stop, on).map_err(|e| with_last_state(e, &states))?;

    let done = session.steps_taken() == session.steps();
    let best = Some(out.join(BEST)).filter(|folder| folder.exists());
    let (mut test, mut calibration) = (Vec::new(), Vec::new());
    if done {
        course.keeper.checkpoint(&session.finished_model(), MODEL)?;
        if !data.test.is_empty() {
            let folder = best.clone().unwrap_or_else(|| out.join(MODEL));
            let model = Checkpoint::open(&folder)?.model(&device)?;
            test = examiner(&data.test)?.answers(&model, &mut |_| {})?;
            calibration = course.examiner.answers(&model, &mut |_| {})?;
        }
    }
    Ok(Finished {
        step: session.steps_taken(),
        steps: session.steps(),
        loss: course.loss,
        hits: course.hits,
        measured: course.measured,
        model: done.then(|| out.join(MODEL)),
        best,
        test,
        calibration,
        flops_per_token: architecture.flops_per_token(),
        large_flops_per_token: annotations.map(|a| a.info().flops_per_token).filter(|&flops| flops > 0.0),
    })
}

/// Puts things in order after a process that was killed while it replaced a checkpoint.
fn recover(out: &Path) -> Result<()> {
    for entry in fs::read_dir(out).map_err(|e| Error::io("read", out, e))? {
        let path = entry.map_err(|e| Error::io("read", out, e))?.path();
        let begins =
            |prefix| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix));
        for name in [BEST, MODEL] {
            let (replaced, target) = (path.join(name), out.join(name));
            if begins(REPLACED) && replaced.exists() && !target.exists() {
                fs::rename(&replaced, &target).map_err(|e| Error::io("move back", &target, e))?;
            }
        }
        if begins(REPLACED) || begins(UNFINISHED) {
            fs::remove_dir_all(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
    }
    Ok(())
}

/// The part of a run between its first and its last step.
struct Course<'a> {
    log: Log,
    events: EventFile,
    examiner: Examiner<'a>,
    keeper: Keeper<'a>,
    /// Merit of the best model so far.
    best: Option<f64>,
    measured: Option<Measured>,
    hits: Hits,
    loss: Option<f64>,
}

impl Course<'_> {
    fn go(&mut self, session: &mut Session<'_>, stop: &AtomicBool, on: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        let recipe = self.keeper.recipe;
        let due = |every: usize, step: usize| every > 0 && step.is_multiple_of(every);
        let masks = recipe.objective.name.masks();
        let mut saved = session.steps_taken();
        loop {
            let started = Instant::now();
            let Some(report) = session.step()? else { break };
            let seconds = started.elapsed().as_secs_f64();
            let step = report.step;
            self.hits += report.hits;
            self.loss = Some(report.loss);
            let line = Line::of_step(&report, masks, seconds);
            self.log.write(&line)?;
            self.events.scalars(step, SystemTime::now(), &scalars(&line))?;
            on(Event::Step { report: &report, seconds });
            let stopping = stop.load(Ordering::Relaxed);
            let last = step == session.steps();
            if !self.examiner.rows().eq(&0) && (last || due(recipe.evaluation.every, step)) {
                self.examine(session, on)?;
            }
            if last || stopping || due(recipe.checkpoints.every, step) {
                self.keeper.state(session, self.best)?;
                saved = step;
                on(Event::Saved { step });
            }
            if stopping {
                break;
            }
        }
        // A run that was complete already when it was gone on with.
        if saved != session.steps_taken() {
            self.keeper.state(session, self.best)?;
        }
        Ok(())
    }

    /// Measures the model as it is and keeps it if it is the best so far.
    fn examine(&mut self, session: &Session<'_>, on: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        let step = session.steps_taken();
        let model = session.finished_model();
        let measured = self.examiner.measure(&model)?;
        let measure = self.keeper.recipe.evaluation.best_by;
        let merit = measured.merit(measure).or_else(|| measured.merit(super::Measure::Quality));
        let best = merit > self.best;
        if best {
            self.best = merit;
            self.keeper.checkpoint(&model, BEST)?;
        }
        let line = Line::Evaluation { step, measured, best };
        self.log.write(&line)?;
        self.events.scalars(step, SystemTime::now(), &scalars(&line))?;
        on(Event::Measured { step, measured: &measured, best });
        self.measured = Some(measured);
        Ok(())
    }
}

/// Writes what a run keeps.
struct Keeper<'a> {
    recipe: &'a Recipe,
    digest: String,
    format: &'a PromptFormat,
    architecture: &'a crate::architecture::Architecture,
    device: &'a Device,
}

impl Keeper<'_> {
    fn state(&self, session: &Session<'_>, best: Option<f64>) -> Result<()> {
        let keep = self.recipe.checkpoints.keep;
        state::save(session, &self.recipe.out.join(STATES), &self.digest, best, keep)
    }

    /// Writes a checkpoint beside its place, then puts it there.
    fn checkpoint(&self, model: &CausalLm, name: &str) -> Result<()> {
        let out = &self.recipe.out;
        let staging = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(out);
        let staging = staging.map_err(|e| Error::io("make a folder in", out, e))?;
        let (tokenizer, conversation) = (self.format.tokenizer(), self.format.conversation());
        let model = burn::module::Module::to_device(model.clone(), self.device);
        Checkpoint::save_as(staging.path(), self.architecture, &model, tokenizer, conversation)?;
        let target = out.join(name);
        if target.exists() {
            let old = tempfile::Builder::new().prefix(REPLACED).tempdir_in(out);
            let old = old.map_err(|e| Error::io("make a folder in", out, e))?;
            fs::rename(&target, old.path().join(name)).map_err(|e| Error::io("move", &target, e))?;
        }
        let staging = staging.keep();
        fs::rename(&staging, &target).map_err(|e| Error::io("rename to", &target, e))
    }
}

/// Rows whose targets are the large model's own answers.
struct TaughtCorpus<'a> {
    rows: &'a EncodedCorpus<'a>,
    annotations: &'a Annotations,
}

impl Rows for TaughtCorpus<'_> {
    fn count(&self) -> usize {
        self.rows.count()
    }

    fn length(&self, row: usize) -> usize {
        self.rows.length(row)
    }

    fn name(&self, row: usize) -> String {
        self.rows.name(row)
    }

    fn encoded(&self, row: usize) -> Result<Encoded> {
        let EncodedCorpus { corpus, format, context } = self.rows;
        let mut example = corpus.example(row)?;
        let answer = self.annotations.answer(&format.encode(&example, *context)?);
        let missing = "the annotations have no answer of the large model to this row; seq-kd needs them";
        example.target = answer.ok_or_else(|| Error::new(ErrorKind::Config, missing))?.to_owned();
        format.encode(&example, *context)
    }
}

/// The scalars of a line, by the names that TensorBoard groups.
fn scalars(line: &Line) -> Vec<(&'static str, f64)> {
    match line {
        Line::Step {
            loss,
            gradient_norm,
            learning_rate,
            tokens_per_second,
            unmasked,
            both,
            small_only,
            large_only,
            neither,
            ..
        } => vec![
            ("train/loss", *loss),
            ("train/gradient_norm", *gradient_norm),
            ("train/learning_rate", *learning_rate),
            ("train/tokens_per_second", *tokens_per_second),
            ("mask/unmasked", *unmasked),
            ("mask/both", *both),
            ("mask/small_only", *small_only),
            ("mask/large_only", *large_only),
            ("mask/neither", *neither),
        ],
        Line::Evaluation { measured, .. } => {
            let always = [("evaluation/loss", measured.loss), ("evaluation/quality", measured.quality)];
            let sometimes = [("evaluation/auroc", measured.auroc), ("evaluation/audc", measured.audc)];
            let sometimes = sometimes.into_iter().filter_map(|(tag, value)| Some((tag, value?)));
            always.into_iter().chain(sometimes).collect()
        }
    }
}

/// Says where to go on from.
fn with_last_state(error: Error, states: &Path) -> Error {
    let last = state::last(states).ok().flatten();
    match last {
        Some(last) => {
            let message = format!("{error}; the last state is {}", last.display());
            Error::new(error.kind(), message).with_source(error)
        }
        None => error,
    }
}
