//! Writing bundles: everything into a staging folder beside the target, verified there, then moved into place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use margay::bundle::digest::ModelDigest;
use margay::bundle::manifest::{FileEntry, Manifest, Measurement, Model, Operators, Prompt, SCHEMA};
use margay::bundle::{Bundle, MANIFEST_FILE};
use margay::{DeviceOptions, Engine};
use margay_trainer::{Architecture, CausalLm, Checkpoint, Conversation, Device, Tokenizer};
use prost::Message;

use crate::error::{Error, ErrorKind, Result};
use crate::measure::{self, Quality, of_engine, of_model};
use crate::onnx::{ExternalData, decoder_graph, own_operators};
use crate::quantize::{EMBEDDING, Fitted, Method, Recipe, Scheme, StoredMatrices, WeightFormat, fit, probe, promote};
use crate::staging::Staging;
use crate::texts::{Text, calibration_texts};
use crate::verify::{Verification, compare};
use crate::{canary, golden};

/// What an export says about the model beside what the checkpoint knows.
#[derive(Debug, Clone, Default)]
pub struct ExportOptions {
    /// A name for people.
    pub name: String,
    /// SPDX expression for the weights.
    pub licence: String,
    /// Who made the model from what.
    pub provenance: BTreeMap<String, String>,
    /// Prompts on which the graph is held against the trainer; the first is the bundle's canary.
    pub golden_prompts: Vec<String>,
    /// What the graph is made of: fused operators are faster, standard ones run on every provider.
    pub operators: Operators,
    /// How 4-bit codes are chosen.
    pub method: Method,
    /// Texts that show what the inputs of 4-bit matrices look like; without any, [`calibration_texts`].
    pub calibration: Vec<Text>,
    /// Bytes that the bundle's files may have for each parameter. 4-bit matrices are stored in what fits with the least loss
    /// on the calibration texts: those on grids of their own rounded to plain blocks, others in 8 bits.
    pub max_bytes_per_parameter: Option<f64>,
    /// Texts on which perplexity and accuracy are measured, of the checkpoint and of the bundle.
    pub measure: Option<MeasureOptions>,
}

/// What is measured.
#[derive(Debug, Clone)]
pub struct MeasureOptions {
    /// Name of the texts.
    pub data: String,
    /// The texts; none of those that weights are calibrated on.
    pub texts: Vec<Text>,
    /// By how many percent the perplexity may rise: matrices get 8 bits instead of 4 until it rises by no more.
    pub max_perplexity_increase: Option<f64>,
}

/// A bundle that was just written, and what was compared.
#[derive(Debug)]
#[non_exhaustive]
pub struct Export {
    /// The bundle, opened.
    pub bundle: Bundle,
    /// The graph against the trainer with the weights that are stored: is it the same computation?
    pub verification: Verification,
    /// The graph against the trainer with the checkpoint's own weights: what did quantization cost? `None` without it.
    pub quantization: Option<Verification>,
    /// The texts as the checkpoint and as the bundle predict them, if there are any.
    pub quality: Option<(Quality, Quality)>,
    /// Matrices that got 8 bits instead of 4.
    pub in_8_bits: BTreeSet<String>,
    /// Matrices that lie on 4-bit grids of their own and were rounded all the same, to save bytes.
    pub rounded: BTreeSet<String>,
}

/// How far an export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The checkpoint is being read into the trainer.
    Reading,
    /// Codes of weights are being chosen.
    Quantizing,
    /// Layers written.
    Written(usize),
    /// Prompts compared, of as many as there are golden prompts.
    Compared(usize),
}

/// Exports a checkpoint to a bundle in `folder` with weights as floats, replacing a bundle that is there.
///
/// # Errors
/// As [`export_as`].
pub fn export(checkpoint: &Checkpoint, folder: &Path, options: &ExportOptions) -> Result<(Bundle, Verification)> {
    let exported = export_as(checkpoint, folder, options, WeightFormat::F32, &mut |_| ())?;
    Ok((exported.bundle, exported.verification))
}

/// Exports a checkpoint to a bundle in `folder`, replacing a bundle that is there.
///
/// The graph is run under ONNX Runtime and compared with the trainer's own forward pass before anything
/// appears at `folder`; ONNX Runtime's library must have been initialised.
///
/// # Errors
/// [`ErrorKind::Checkpoint`] when the checkpoint is not whole, [`ErrorKind::Io`] when a file cannot be written,
/// [`ErrorKind::Mismatch`] when graph and trainer disagree. `folder` is then as it was before.
pub fn export_as(
    checkpoint: &Checkpoint,
    folder: &Path,
    options: &ExportOptions,
    format: WeightFormat,
    progress: &mut dyn FnMut(Progress),
) -> Result<Export> {
    refuse_strangers(folder)?;
    progress(Progress::Reading);
    let source = Source::open(checkpoint, options)?;
    let architecture = checkpoint.architecture();
    let measured = match &options.measure {
        Some(measure) => {
            let texts = measure::encode(&measure.texts, &source.tokenizer, architecture.max_position_embeddings)?;
            let own = checkpoint.model(&Device::flex())?;
            let before = of_model(&own, &texts);
            let likely = if measure.max_perplexity_increase.is_some() { probe(&own, &texts) } else { vec![] };
            Some((measure, before, likely, texts))
        }
        None => None,
    };
    // One model at a time is in memory.
    progress(Progress::Quantizing);
    let recipe = recipe(checkpoint, &source.tokenizer, format, options)?;
    let (mut model, mut stored) = recipe.apply(checkpoint)?;
    let mut fitted = Fitted::default();
    if let Some((MeasureOptions { max_perplexity_increase: Some(percent), .. }, before, likely, texts)) = &measured {
        let most = before.perplexity() * (1.0 + percent / 100.0);
        fitted.in_8_bits = promote(&mut model, &mut stored, checkpoint, texts, likely, most)?;
    }

    let staging = Staging::beside(folder)?;
    staging.write(TOKENIZER, source.tokenizer.to_json()?.as_bytes())?;
    let form = (format, options.operators);
    let mut files = write_graphs(&staging, checkpoint, &stored, form, progress)?;
    if let Some(most) = options.max_bytes_per_parameter {
        let (most, size) = (bytes(most, architecture), |files: &[FileEntry]| files.iter().map(|file| file.size).sum());
        let more = fit_to(most, size(&files), &mut model, &mut stored, checkpoint, &recipe, options.operators)?;
        if more != Fitted::default() {
            fitted.in_8_bits.extend(more.in_8_bits);
            fitted.rounded = more.rounded;
            files = write_graphs(&staging, checkpoint, &stored, form, &mut |_| ())?;
        }
        let size: u64 = size(&files);
        if size > most {
            let message = format!("the bundle has {size} bytes instead of {most} at most, and nothing can be smaller");
            return Err(Error::new(ErrorKind::Quality, message));
        }
    }

    let mut manifest = source.manifest(architecture, &model, form, files, options);
    note(&mut manifest.provenance, format, options.method, &fitted);
    staging.write_json(MANIFEST_FILE, &manifest)?;

    let staged = Bundle::open(staging.path())?;
    let portable = DeviceOptions { portable: true, ..DeviceOptions::default() };
    let mut engine = Engine::load(&staged, portable.clone())?;
    let sequences = golden::continued(&engine, &source.prompts)?;
    let ids = || sequences.iter().map(|sequence| sequence.ids.as_slice());
    let verification = compare(&engine, &model, ids(), &mut |compared| {
        let vector = golden::vector(&sequences[compared.index], compared, format, &source.tokenizer)?;
        manifest.golden.push(vector);
        progress(Progress::Compared(compared.index + 1));
        Ok(())
    })?;
    verification.require(format)?;
    let mut apart = engine.report().canary_error;
    let two_graphs = manifest.model.own_graph.is_some();
    if two_graphs {
        drop(engine);
        // Where this processor does not know the operators, this is the portable graph once more.
        engine = Engine::load(&staged, DeviceOptions::default())?;
        compare(&engine, &model, ids(), &mut |_| Ok(()))?.require(format)?;
        apart = apart.max(engine.report().canary_error);
    }
    if !format.is_float() {
        drop(engine);
        let stop = &source.conversation.stop_tokens;
        manifest.canary = canary::measured(&manifest.canary, &model, stop, architecture, format, apart);
        staging.write_json(MANIFEST_FILE, &manifest)?;
        // What was any canary so far must be answered by both graphs.
        let staged = Bundle::open(staging.path())?;
        if two_graphs {
            Engine::load(&staged, portable)?;
        }
        engine = Engine::load(&staged, DeviceOptions::default())?;
    }
    engine.check_golden(&manifest.golden)?;
    drop(model);
    let quantization = match format {
        WeightFormat::F32 => None,
        _ => Some(compare(&engine, &checkpoint.model(&Device::flex())?, ids(), &mut |_| Ok(()))?),
    };
    let quality = match measured {
        Some((measure, before, _, texts)) => {
            let after = of_engine(&engine, &texts)?;
            manifest.measurements = measurements(&measure.data, &before, &after);
            Some((before, after))
        }
        None => None,
    };
    drop(engine);
    staging.write_json(MANIFEST_FILE, &manifest)?;
    staging.replace(folder)?;
    let Fitted { rounded, in_8_bits } = fitted;
    Ok(Export { bundle: Bundle::open(folder)?, verification, quantization, quality, in_8_bits, rounded })
}

/// Everything of a checkpoint but its weights, and the prompts that both sides are to read.
struct Source {
    tokenizer: Tokenizer,
    conversation: Conversation,
    /// Ids of the golden prompts, with the text that the tokenizer alone makes them of.
    prompts: Vec<(Option<String>, Vec<u32>)>,
}

impl Source {
    fn open(checkpoint: &Checkpoint, options: &ExportOptions) -> Result<Self> {
        let tokenizer = checkpoint.tokenizer()?;
        let conversation = checkpoint.conversation(&tokenizer)?;
        let prompts = prompts(checkpoint.architecture(), &tokenizer, &options.golden_prompts)?;
        Ok(Self { tokenizer, conversation, prompts })
    }

    /// The manifest but for what is measured later.
    fn manifest(
        &self,
        architecture: &Architecture,
        model: &CausalLm,
        (format, operators): (WeightFormat, Operators),
        files: Vec<FileEntry>,
        options: &ExportOptions,
    ) -> Manifest {
        let Conversation { chat_template, special_tokens, stop_tokens } = self.conversation.clone();
        let own_graph = files.iter().any(|file| file.path == OWN_GRAPH).then(|| OWN_GRAPH.into());
        let mut manifest = Manifest {
            schema: SCHEMA,
            name: options.name.clone(),
            model_digest: None,
            model: Model { own_graph, ..describe(architecture, format, operators) },
            canary: canary::of(model, &self.prompts, &stop_tokens, architecture, format),
            prompt: Prompt { chat_template, special_tokens, stop_tokens },
            golden: vec![],
            measurements: vec![],
            variants: vec![],
            files,
            licence: options.licence.clone(),
            provenance: options.provenance.clone(),
        };
        manifest.model_digest = Some(ModelDigest::compute(&manifest));
        manifest
    }
}

/// Writes graph and weights, over those of before if there are any, and lists all files of the bundle.
fn write_graphs(
    staging: &Staging,
    checkpoint: &Checkpoint,
    stored: &StoredMatrices,
    (format, operators): (WeightFormat, Operators),
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<FileEntry>> {
    let mut data = ExternalData::create(staging.path(), WEIGHTS)?;
    let written = &mut |layers| progress(Progress::Written(layers));
    let (architecture, weights) = (checkpoint.architecture(), checkpoint.weights()?);
    let graph = decoder_graph(architecture, &weights, stored, format, operators, &mut data, written)?;
    data.finish()?;
    staging.write(GRAPH, &graph.encode_to_vec())?;
    let own = own_operators(&graph);
    if let Some(own) = &own {
        staging.write(OWN_GRAPH, &own.encode_to_vec())?;
    }
    let paths = [GRAPH, WEIGHTS].into_iter().chain(own.is_some().then_some(OWN_GRAPH)).chain([TOKENIZER]);
    paths.map(|path| Ok(FileEntry::of(staging.path(), path)?)).collect()
}

/// So many bytes for each parameter.
fn bytes(per_parameter: f64, architecture: &Architecture) -> u64 {
    (per_parameter.max(0.0) * architecture.parameters() as f64) as u64
}

/// Changes how matrices are stored until a bundle of `size` bytes has `most`, or less.
fn fit_to(
    most: u64,
    size: u64,
    model: &mut CausalLm,
    stored: &mut StoredMatrices,
    checkpoint: &Checkpoint,
    recipe: &Recipe,
    operators: Operators,
) -> Result<Fitted> {
    let twice = operators == Operators::Standard && checkpoint.architecture().tie_word_embeddings;
    let sizes = |name: &str, scheme: Scheme, shape| match operators {
        Operators::Fused => scheme.bytes(shape, 2),
        Operators::Standard => scheme.bytes(shape, 4) * if name == EMBEDDING && twice { 2 } else { 1 },
    };
    let room = i64::try_from(most).unwrap_or(i64::MAX).saturating_sub_unsigned(size + BESIDE);
    fit(model, stored, checkpoint, &recipe.calibration, room, &sizes)
}

/// Bytes left free for alignment and for what a manifest takes.
const BESIDE: u64 = 1 << 16;

/// Holds a bundle against the checkpoint that it was exported from: in its own form and, from the same weights, in the other
/// form of operators. Weights in few bits are quantized again, in the way that the bundle says they were, on the texts of
/// the options; golden prompts are those of the options too. The bundle's own golden vectors are checked first.
///
/// # Errors
/// [`ErrorKind::Bundle`] when it does not run or does not reproduce its golden vectors, or its weights are stored in a way that
/// this version does not know; [`ErrorKind::Mismatch`] when it computes something else than the checkpoint.
pub fn verify_checkpoint(bundle: &Bundle, checkpoint: &Checkpoint, options: &ExportOptions) -> Result<Verification> {
    let manifest = bundle.manifest();
    let unknown = |field: &str, error: String| Error::new(ErrorKind::Bundle, format!("{field}: {error}"));
    let format = manifest.model.quantization.parse().map_err(|error| unknown("model.quantization", error))?;
    let method = manifest.provenance.get(ROUNDING).map(|method| method.parse()).transpose();
    let method = method.map_err(|error| unknown("provenance.rounding", error))?.unwrap_or(options.method);
    let names = |key: &str| {
        let names = manifest.provenance.get(key).map(|names| names.split(' ').map(str::to_owned).collect());
        names.unwrap_or_default()
    };
    let other = match manifest.model.operators {
        Operators::Fused => Operators::Standard,
        Operators::Standard => Operators::Fused,
    };
    let (rounded, in_8_bits): (BTreeSet<String>, BTreeSet<String>) = (names(ROUNDED), names(IN_8_BITS));
    let options = ExportOptions { method, operators: other, ..options.clone() };
    let source = Source::open(checkpoint, &options)?;
    let engine = Engine::load(bundle, DeviceOptions::default())?;
    engine.check_golden(&manifest.golden)?;
    let mut recipe = recipe(checkpoint, &source.tokenizer, format, &options)?;
    if !rounded.is_empty() {
        recipe.calibration = calibration(checkpoint, &source.tokenizer, &options)?;
    }
    (recipe.rounded, recipe.in_8_bits) = (rounded, in_8_bits);
    let (model, stored) = recipe.apply(checkpoint)?;
    let prompts = || source.prompts.iter().map(|(_, ids)| ids.as_slice());
    let verification = compare(&engine, &model, prompts(), &mut |_| Ok(()))?;
    verification.require(format)?;
    drop(engine);

    let scratch = tempfile::tempdir().map_err(|error| Error::io("make a folder in", &std::env::temp_dir(), error))?;
    let staging = Staging::beside(&scratch.path().join("other"))?;
    staging.write(TOKENIZER, source.tokenizer.to_json()?.as_bytes())?;
    let files = write_graphs(&staging, checkpoint, &stored, (format, other), &mut |_| ())?;
    let manifest = source.manifest(checkpoint.architecture(), &model, (format, other), files, &options);
    staging.write_json(MANIFEST_FILE, &manifest)?;
    let engine = Engine::load(&Bundle::open(staging.path())?, DeviceOptions::default())?;
    compare(&engine, &model, prompts(), &mut |_| Ok(()))?.require(format)?;
    Ok(verification)
}

/// How the weights of a checkpoint are to be stored.
fn recipe(
    checkpoint: &Checkpoint,
    tokenizer: &Tokenizer,
    format: WeightFormat,
    options: &ExportOptions,
) -> Result<Recipe> {
    let mut recipe = Recipe { format, method: options.method, ..Recipe::default() };
    let budget = options.max_bytes_per_parameter.is_some();
    if format == WeightFormat::Int4 && (options.method == Method::Feedback || budget) {
        recipe.calibration = calibration(checkpoint, tokenizer, options)?;
    }
    Ok(recipe)
}

/// Ids of the texts that 4-bit weights are calibrated on.
fn calibration(checkpoint: &Checkpoint, tokenizer: &Tokenizer, options: &ExportOptions) -> Result<Vec<Vec<u32>>> {
    let built_in = if options.calibration.is_empty() { calibration_texts()? } else { vec![] };
    let texts = if options.calibration.is_empty() { &built_in } else { &options.calibration };
    measure::calibration(texts, tokenizer, checkpoint.architecture().max_position_embeddings)
}

/// Notes how weights were stored, for people and for [`verify_checkpoint`].
fn note(provenance: &mut BTreeMap<String, String>, format: WeightFormat, method: Method, fitted: &Fitted) {
    if format == WeightFormat::Int4 {
        provenance.insert(ROUNDING.into(), method.to_string());
    }
    for (key, names) in [(IN_8_BITS, &fitted.in_8_bits), (ROUNDED, &fitted.rounded)] {
        if !names.is_empty() {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            provenance.insert(key.into(), names.join(" "));
        }
    }
}

/// What was measured, as the manifest says it.
fn measurements(data: &str, before: &Quality, after: &Quality) -> Vec<Measurement> {
    let of = |quantity: &str, sample_size: usize, before: Option<f64>, after: f64| Measurement {
        quantity: quantity.into(),
        data: data.into(),
        data_sha256: None,
        sample_size: sample_size as u64,
        before,
        after,
    };
    let perplexity = of("perplexity", after.tokens, Some(before.perplexity()), after.perplexity());
    let accuracy = after.accuracy().map(|own| of("accuracy", after.answers, before.accuracy(), own));
    [perplexity].into_iter().chain(accuracy).collect()
}

/// What stands at the target is replaced whole: it must be a bundle, or empty.
fn refuse_strangers(folder: &Path) -> Result<()> {
    let occupied = match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_some() && !folder.join(MANIFEST_FILE).is_file(),
        Err(e) => e.kind() != std::io::ErrorKind::NotFound,
    };
    match occupied {
        true => Err(Error::io("replace", folder, std::io::Error::other("it is neither a bundle nor an empty folder"))),
        false => Ok(()),
    }
}

/// Ids of the golden prompts: between the marks of our own tokenizers, bare under others. At least one, none empty.
fn prompts(
    architecture: &Architecture,
    tokenizer: &Tokenizer,
    texts: &[String],
) -> Result<Vec<(Option<String>, Vec<u32>)>> {
    let mut prompts = Vec::with_capacity(texts.len());
    for text in texts {
        let bare = tokenizer.encode(text)?;
        let mut ids = if tokenizer.has_marks() { tokenizer.prompt(text)? } else { bare.clone() };
        // One position is left for the canary's continuation.
        ids.truncate(architecture.max_position_embeddings - 1);
        if !ids.is_empty() {
            prompts.push(((ids == bare).then(|| text.clone()), ids));
        }
    }
    if prompts.is_empty() {
        return Err(Error::new(ErrorKind::Mismatch, "an export needs at least one golden prompt to be held against"));
    }
    Ok(prompts)
}

const GRAPH: &str = "model.onnx";
const WEIGHTS: &str = "model.onnx.data";
const OWN_GRAPH: &str = "own.onnx";
const TOKENIZER: &str = "tokenizer.json";

/// Names, in the manifest's provenance, of the matrices that got 8 bits instead of 4.
const IN_8_BITS: &str = "in-8-bits";

/// Names of those that lie on 4-bit grids of their own and were rounded all the same.
const ROUNDED: &str = "rounded";

/// How 4-bit codes were chosen.
const ROUNDING: &str = "rounding";

fn describe(a: &Architecture, format: WeightFormat, operators: Operators) -> Model {
    Model {
        graph: GRAPH.into(),
        own_graph: None,
        tokenizer: TOKENIZER.into(),
        architecture: a.model_type.clone(),
        quantization: format.to_string(),
        operators,
        scoring: true,
        vocabulary_size: a.vocab_size,
        context_length: a.max_position_embeddings,
        layers: a.num_hidden_layers,
        key_value_heads: a.num_key_value_heads,
        head_size: a.head_dim,
        flops_per_token: a.flops_per_token(),
        parameters: a.parameters(),
    }
}
