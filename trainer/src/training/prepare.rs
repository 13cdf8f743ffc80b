//! From a recipe to what a session needs: rows, format, the first weights, the large model's annotations.

use std::mem;
use std::path::Path;

use burn::tensor::Device;
use sha2::{Digest, Sha256};

use super::run::Event;
use crate::annotate::{Annotations, Journal, LocalTeacher, Spent};
use crate::architecture::Architecture;
use crate::checkpoint::Checkpoint;
use crate::data::{Corpus, Encoded, EncodedCorpus, Fold, PromptFormat, Rows};
use crate::error::{Error, ErrorKind, Result};
use crate::model::CausalLm;
use crate::recipe::{BadRows, Recipe, ScratchRecipe};
use crate::tokenizer::Tokenizer;

/// The rows of a run.
#[derive(Debug)]
pub struct RunData {
    /// To train on.
    pub train: Corpus,
    /// To measure on while training; may be empty.
    pub evaluation: Corpus,
    /// To measure on once; may be empty.
    pub test: Corpus,
}

impl RunData {
    /// Finds and checks the rows.
    ///
    /// # Errors
    /// As [`Corpus::index`].
    pub fn of(recipe: &Recipe) -> Result<Self> {
        let data = &recipe.data;
        let indexed = Corpus::index(&data.train, data.calibration_share, data.bad_rows)?;
        let read = |sources: &[_]| Ok::<_, Error>(Corpus::index(sources, 0.0, data.bad_rows)?.train);
        let mut evaluation = if data.evaluation.is_empty() { indexed.held_back } else { read(&data.evaluation)? };
        if let Some(most) = recipe.evaluation.rows {
            evaluation = evaluation.first_of_each(most);
        }
        let train = match data.leave_out {
            Some(fold) => indexed.train.without(fold),
            None => indexed.train,
        };
        Ok(Self { train, evaluation, test: read(&data.test)? })
    }
}

/// The first weights and how rows are put to them.
#[derive(Debug)]
pub struct Start {
    /// What the model is made of.
    pub architecture: Architecture,
    /// The weights before the first step, without adapters.
    pub model: CausalLm,
    /// How rows are encoded.
    pub format: PromptFormat,
}

impl Start {
    /// Reads the checkpoint, or draws weights and trains a tokenizer if there is none to use.
    ///
    /// # Errors
    /// Those of reading a checkpoint or the rows; [`ErrorKind::Config`] naming the key.
    pub fn of(recipe: &Recipe, train: &Corpus, device: &Device) -> Result<Self> {
        let data = &recipe.data;
        let (style, system) = (data.prompt, data.system.as_deref());
        if let Some(folder) = &recipe.model.checkpoint {
            let checkpoint = Checkpoint::open(folder)?;
            let format = PromptFormat::of(&checkpoint, style, system)?;
            let mut architecture = checkpoint.architecture().clone();
            let mut model = checkpoint.model(device)?;
            if data.context > architecture.max_position_embeddings {
                let most = architecture.max_position_embeddings;
                let message = format!("data.context: {} is beyond the model's {most}", data.context);
                return Err(Error::new(ErrorKind::Config, message));
            }
            if let Some(layers) = recipe.model.first_layers {
                if layers > architecture.num_hidden_layers {
                    let has = architecture.num_hidden_layers;
                    let message = format!("model.first_layers: {layers}, but the checkpoint has {has}");
                    return Err(Error::new(ErrorKind::Config, message));
                }
                architecture.num_hidden_layers = layers;
                if let Some(sliding) = &mut architecture.sliding {
                    sliding.layer_types.truncate(layers);
                }
                model.model.layers.truncate(layers);
            }
            return Ok(Self { architecture, model, format });
        }
        let scratch = recipe.model.scratch.as_ref();
        let scratch = scratch.ok_or_else(|| Error::new(ErrorKind::Config, "model: needs `checkpoint` or `scratch`"))?;
        let tokenizer = match &scratch.tokenizer {
            Some(folder) => Tokenizer::open(&folder.join("tokenizer.json"))?,
            None => trained_tokenizer(train, scratch.vocabulary)?,
        };
        let architecture = scratch.architecture(tokenizer.vocabulary_size(), data.context);
        let model = CausalLm::random(&architecture, recipe.seed, device)?;
        Ok(Self { architecture, model, format: PromptFormat::of_tokenizer(tokenizer, style, system)? })
    }
}

impl ScratchRecipe {
    fn architecture(&self, vocabulary: usize, context: usize) -> Architecture {
        let Self { hidden, intermediate, layers, heads, key_value_heads, .. } = *self;
        let shape = Architecture::llama(vocabulary, hidden, intermediate, layers, heads, key_value_heads);
        Architecture { max_position_embeddings: context, ..shape }
    }
}

/// Trains a tokenizer on the training rows, or on as many of them, spread over all, as a tokenizer can learn from.
fn trained_tokenizer(train: &Corpus, vocabulary: usize) -> Result<Tokenizer> {
    let every = train.len().div_ceil(TOKENIZER_ROWS).max(1);
    let mut texts = Vec::new();
    for row in (0..train.len()).step_by(every) {
        let example = train.example(row)?;
        texts.extend([example.input, example.target]);
    }
    Tokenizer::train(texts.iter().map(String::as_str), vocabulary)
}

/// More rows than this change a small vocabulary no more.
const TOKENIZER_ROWS: usize = 200_000;

/// Opens the recipe's annotation cache; makes it first, for all rows of the run, if only the large model is there.
///
/// # Errors
/// [`ErrorKind::Config`] when the cache was made for another tokenizer or template; those of making it.
pub(super) fn annotations(
    recipe: &Recipe,
    data: &RunData,
    format: &PromptFormat,
    device: &Device,
    on: &mut dyn FnMut(Event<'_>),
) -> Result<Option<Annotations>> {
    let Some(large) = &recipe.large else { return Ok(None) };
    let tokenizer = format.tokenizer().fingerprint()?;
    let template = format.fingerprint();
    if large.annotations.exists() {
        let annotations = Annotations::open(&large.annotations)?;
        let info = annotations.info();
        if info.tokenizer != tokenizer || info.template != template {
            let what = if info.tokenizer == tokenizer { "prompt format" } else { "tokenizer" };
            let message = format!("{}: was made for another {what}", large.annotations.display());
            return Err(Error::new(ErrorKind::Config, message));
        }
        return Ok(Some(annotations));
    }
    let Some(folder) = &large.checkpoint else {
        let message = format!(
            "large.annotations: {} is not there; make it with `margay annotate`, or name large.checkpoint",
            large.annotations.display()
        );
        return Err(Error::new(ErrorKind::Config, message));
    };
    let teacher = |folder: &Path| local_teacher(folder, large.top_k, &tokenizer, device);
    let (cloud, flops) = teacher(folder)?;
    let info = cloud.info(tokenizer, template, flops);
    if let Some(folder) = large.annotations.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, e))?;
    }
    let source: Vec<String> =
        std::iter::once(folder).chain(&large.cross_fit).map(|f| f.display().to_string()).collect();
    let mut journal = Journal::open(&large.annotations, &info, &source.join(" "))?;
    let total = data.train.len() + data.evaluation.len() + data.test.len();
    let skip = recipe.data.bad_rows == BadRows::Skip;
    let mut done = 0;
    let mut read = |corpus: &Corpus, teacher: &LocalTeacher, journal: &mut Journal| {
        annotate_with(teacher, corpus, format, recipe.data.context, skip, journal, &mut |rows| {
            done += rows;
            on(Event::Annotating { done, total });
        })
    };
    let of = large.cross_fit.len() as u32;
    for (fold, folder) in (0..of).zip(&large.cross_fit) {
        read(&data.train.fold(Fold { fold, of }), &teacher(folder)?.0, &mut journal)?;
    }
    let train = if of == 0 { Some(&data.train) } else { None };
    for corpus in train.into_iter().chain([&data.evaluation, &data.test]) {
        read(corpus, &cloud, &mut journal)?;
    }
    journal.finish().map(Some)
}

/// A large model of this machine with the small model's tokenizer, and its FLOPs per token.
fn local_teacher(folder: &Path, k: usize, tokenizer: &[u8; 32], device: &Device) -> Result<(LocalTeacher, f64)> {
    let checkpoint = Checkpoint::open(folder)?;
    if checkpoint.tokenizer()?.fingerprint()? != *tokenizer {
        let message =
            format!("{}: has another tokenizer; make the annotations with `margay annotate`", folder.display());
        return Err(Error::new(ErrorKind::Config, message));
    }
    let teacher = LocalTeacher::new(&checkpoint.model(device)?, k, device)?;
    Ok((teacher, checkpoint.architecture().flops_per_token() as f64))
}

/// Reads the rows of files that the journal does not have yet; `progress` is told how many more are done.
///
/// # Errors
/// Those of encoding a row, unless it may be skipped, and of writing the journal.
pub fn annotate_with(
    teacher: &LocalTeacher,
    corpus: &Corpus,
    format: &PromptFormat,
    context: usize,
    skip: bool,
    journal: &mut Journal,
    progress: &mut dyn FnMut(usize),
) -> Result<()> {
    annotate_rows(&EncodedCorpus { corpus, format, context }, teacher, journal, skip, progress)
}

/// Reads the rows that the journal does not have yet.
///
/// # Errors
/// Those of encoding a row, unless it may be skipped, and of writing the journal.
fn annotate_rows(
    rows: &dyn Rows,
    teacher: &LocalTeacher,
    journal: &mut Journal,
    skip: bool,
    progress: &mut dyn FnMut(usize),
) -> Result<()> {
    let mut waiting: Vec<Encoded> = Vec::new();
    let keep = |waiting: &mut Vec<Encoded>, journal: &mut Journal| {
        mem::take(waiting).chunks(ANNOTATED_TOGETHER).try_for_each(|rows| {
            teacher.annotate(rows).iter().try_for_each(|record| journal.append(record, Spent::default()))
        })
    };
    // In the order of the length, as batches are in training: less padding.
    let mut order: Vec<usize> = (0..rows.count()).collect();
    order.sort_by_key(|&row| rows.length(row));
    for row in order {
        match rows.encoded(row) {
            Ok(encoded) if !journal.has(encoded.key()) => waiting.push(encoded),
            Ok(_) => {}
            Err(e) if skip && e.kind() == ErrorKind::Data => {}
            Err(e) => return Err(Error::new(e.kind(), format!("{}: {e}", rows.name(row)))),
        }
        if waiting.len() == ANNOTATED_TOGETHER {
            keep(&mut waiting, journal)?;
        }
        progress(1);
    }
    keep(&mut waiting, journal)
}

/// Rows that the large model reads side by side.
const ANNOTATED_TOGETHER: usize = 32;

/// Digest of what must not change when a run goes on: everything but where it writes and how often it looks.
pub(super) fn digest(recipe: &Recipe) -> Result<String> {
    let same = Recipe {
        out: Path::new("").into(),
        evaluation: Default::default(),
        checkpoints: Default::default(),
        ..recipe.clone()
    };
    let mut hash = Sha256::new();
    hash.update(same.to_toml()?);
    Ok(hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}
