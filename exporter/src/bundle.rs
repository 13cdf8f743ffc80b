//! Writing bundles: everything into a staging folder beside the target, verified there, then moved into place.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use margay::bundle::digest::ModelDigest;
use margay::bundle::manifest::{FileEntry, Manifest, Measurement, Model, Operators, Prompt, SCHEMA};
use margay::bundle::signature::{SIGNATURE_FILE, Signatures};
use margay::bundle::{Bundle, CalibratedPolicy, MANIFEST_FILE, POLICY_FILE, REPORT_FILE};
use margay::{DeviceOptions, Engine};
use margay_trainer::{Architecture, Checkpoint, Device, Tokenizer};
use prost::Message;
use serde::Serialize;
use tempfile::TempDir;

use crate::canary;
use crate::error::{Error, ErrorKind, Result};
use crate::measure::{self, Quality, of_engine, of_model};
use crate::onnx::{ExternalData, decoder_graph, own_operators};
use crate::quantize::{Method, Recipe, WeightFormat, probe, promote};
use crate::signing::SecretKey;
use crate::texts::{Text, calibration_texts};
use crate::verify::{Verification, compare, verify};

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
    pub in_8_bits: Vec<String>,
}

/// How far an export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The checkpoint is being read into the trainer.
    Reading,
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
    let architecture = checkpoint.architecture();
    let tokenizer = checkpoint.tokenizer()?;
    let conversation = checkpoint.conversation(&tokenizer)?;
    let prompts = golden(architecture, &tokenizer, &options.golden_prompts)?;
    let measured = match &options.measure {
        Some(measure) => {
            let texts = measure::encode(&measure.texts, &tokenizer, architecture.max_position_embeddings)?;
            let own = checkpoint.model(&Device::flex())?;
            let before = of_model(&own, &texts);
            Some((measure, before, probe(&own, &texts), texts))
        }
        None => None,
    };
    // One model at a time is in memory.
    let recipe = recipe(checkpoint, &tokenizer, format, options)?;
    let (mut model, mut stored) = recipe.apply(checkpoint)?;
    let mut in_8_bits = vec![];
    if let Some((MeasureOptions { max_perplexity_increase: Some(percent), .. }, before, likely, texts)) = &measured {
        let most = before.perplexity() * (1.0 + percent / 100.0);
        in_8_bits = promote(&mut model, &mut stored, checkpoint, texts, likely, most)?;
    }
    let canary = match format {
        WeightFormat::F32 => canary::of_floats(&model, &prompts[0], &conversation.stop_tokens, architecture),
        _ => canary::of_quantized(&model, &prompts, &conversation.stop_tokens, architecture),
    };

    let staging = Staging::beside(folder)?;
    let mut data = ExternalData::create(staging.path(), WEIGHTS)?;
    let written = &mut |layers| progress(Progress::Written(layers));
    let graph = decoder_graph(architecture, &checkpoint.weights()?, &stored, options.operators, &mut data, written)?;
    data.finish()?;
    staging.write(GRAPH, &graph.encode_to_vec())?;
    let own = own_operators(&graph);
    if let Some(own) = &own {
        staging.write(OWN_GRAPH, &own.encode_to_vec())?;
    }
    staging.write(TOKENIZER, tokenizer.to_json()?.as_bytes())?;

    let mut manifest = Manifest {
        schema: SCHEMA,
        name: options.name.clone(),
        model_digest: None,
        model: Model {
            own_graph: own.is_some().then(|| OWN_GRAPH.into()),
            ..describe(architecture, format, options.operators)
        },
        prompt: Prompt {
            chat_template: conversation.chat_template,
            special_tokens: conversation.special_tokens,
            stop_tokens: conversation.stop_tokens,
        },
        canary,
        golden: vec![],
        measurements: vec![],
        variants: vec![],
        files: vec![],
        licence: options.licence.clone(),
        provenance: options.provenance.clone(),
    };
    for path in [GRAPH, WEIGHTS].into_iter().chain(own.is_some().then_some(OWN_GRAPH)).chain([TOKENIZER]) {
        manifest.files.push(FileEntry::of(staging.path(), path)?);
    }
    manifest.model_digest = Some(ModelDigest::compute(&manifest));
    staging.write_json(MANIFEST_FILE, &manifest)?;

    let staged = Bundle::open(staging.path())?;
    let portable = DeviceOptions { portable: true, ..DeviceOptions::default() };
    let mut engine = Engine::load(&staged, portable)?;
    let verification = compare(&engine, &model, &prompts, &mut |prompts| progress(Progress::Compared(prompts)))?;
    verification.require(format)?;
    if own.is_some() {
        // Where this processor does not know the operators, this is the portable graph once more.
        engine = Engine::load(&staged, DeviceOptions::default())?;
        compare(&engine, &model, &prompts, &mut |_| ())?.require(format)?;
    }
    drop(model);
    let quantization = match format {
        WeightFormat::F32 => None,
        _ => Some(compare(&engine, &checkpoint.model(&Device::flex())?, &prompts, &mut |_| ())?),
    };
    let quality = match measured {
        Some((measure, before, _, texts)) => {
            let after = of_engine(&engine, &texts)?;
            manifest.measurements = measurements(&measure.data, &before, &after);
            if !in_8_bits.is_empty() {
                manifest.provenance.insert(IN_8_BITS.into(), in_8_bits.join(" "));
            }
            staging.write_json(MANIFEST_FILE, &manifest)?;
            Some((before, after))
        }
        None => None,
    };
    drop(engine);
    staging.replace(folder)?;
    Ok(Export { bundle: Bundle::open(folder)?, verification, quantization, quality, in_8_bits })
}

/// Holds a bundle against the checkpoint that it was exported from. Weights in few bits are quantized again, as `options` say
/// they were; golden prompts are those of the options too.
///
/// # Errors
/// [`ErrorKind::Bundle`] when it does not run, or its weights are stored in a way that this version does not know;
/// [`ErrorKind::Mismatch`] when it computes something else than the checkpoint.
pub fn verify_checkpoint(bundle: &Bundle, checkpoint: &Checkpoint, options: &ExportOptions) -> Result<Verification> {
    let manifest = bundle.manifest();
    let stored = &manifest.model.quantization;
    let format = stored.parse().map_err(|e| Error::new(ErrorKind::Bundle, format!("model.quantization: {e}")))?;
    let tokenizer = checkpoint.tokenizer()?;
    let prompts = golden(checkpoint.architecture(), &tokenizer, &options.golden_prompts)?;
    let mut recipe = recipe(checkpoint, &tokenizer, format, options)?;
    if let Some(names) = manifest.provenance.get(IN_8_BITS) {
        recipe.in_8_bits = names.split(' ').map(str::to_owned).collect();
    }
    let verification = verify(bundle, &recipe.apply(checkpoint)?.0, &prompts)?;
    verification.require(format)?;
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
    if format == WeightFormat::Int4 && options.method == Method::Feedback {
        let built_in = if options.calibration.is_empty() { calibration_texts()? } else { vec![] };
        let texts = if options.calibration.is_empty() { &built_in } else { &options.calibration };
        let context = checkpoint.architecture().max_position_embeddings;
        recipe.calibration = measure::calibration(texts, tokenizer, context)?;
    }
    Ok(recipe)
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
fn golden(architecture: &Architecture, tokenizer: &Tokenizer, texts: &[String]) -> Result<Vec<Vec<u32>>> {
    let mut prompts = Vec::with_capacity(texts.len());
    for text in texts {
        let mut ids = if tokenizer.has_marks() { tokenizer.prompt(text)? } else { tokenizer.encode(text)? };
        // One position is left for the canary's continuation.
        ids.truncate(architecture.max_position_embeddings - 1);
        if !ids.is_empty() {
            prompts.push(ids);
        }
    }
    if prompts.is_empty() {
        return Err(Error::new(ErrorKind::Mismatch, "an export needs at least one golden prompt to be held against"));
    }
    Ok(prompts)
}

/// Puts a calibrated policy into a bundle with the numbers behind it, replacing what is there, and opens the bundle again.
///
/// A bundle that is signed is signed again with `key`, and with no other: those who signed the old policy have not seen
/// the new one.
///
/// # Errors
/// [`ErrorKind::Bundle`] when the policy was calibrated on another model, [`ErrorKind::Key`] when the bundle is signed and
/// there is no key, [`ErrorKind::Io`] when a file cannot be written; the bundle is then as it was before.
pub fn write_policy(
    bundle: &Bundle,
    policy: &CalibratedPolicy,
    report: Option<&serde_json::Value>,
    key: Option<&SecretKey>,
) -> Result<Bundle> {
    policy.check(bundle.model_digest())?;
    if let (Some(signer), None) = (bundle.signers().first(), key) {
        let message =
            "a new policy would end what it vouches for. Sign again with a key, or remove the signatures first";
        let message = format!("{} is signed by {signer}, and {message}", bundle.root().display());
        return Err(Error::new(ErrorKind::Key, message));
    }
    let staging = Staging::beside(bundle.root())?;
    let mut manifest = bundle.manifest().clone();
    manifest.files.retain(|entry| entry.path != POLICY_FILE && entry.path != REPORT_FILE);
    for entry in &manifest.files {
        staging.link(bundle.root(), &entry.path)?;
    }
    staging.write_json(POLICY_FILE, policy)?;
    manifest.files.push(FileEntry::of(staging.path(), POLICY_FILE)?);
    if let Some(report) = report {
        staging.write_json(REPORT_FILE, report)?;
        manifest.files.push(FileEntry::of(staging.path(), REPORT_FILE)?);
    }
    manifest.files.sort_by(|a, b| a.path.cmp(&b.path));
    staging.write_manifest(&manifest, key)?;
    Bundle::open(staging.path())?;
    staging.replace(bundle.root())?;
    Ok(Bundle::open(bundle.root())?)
}

const GRAPH: &str = "model.onnx";
const WEIGHTS: &str = "model.onnx.data";
const OWN_GRAPH: &str = "own.onnx";
const TOKENIZER: &str = "tokenizer.json";

/// Names, in the manifest's provenance, of the matrices that got 8 bits instead of 4.
const IN_8_BITS: &str = "in-8-bits";

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

/// A folder beside the target that becomes it, or disappears.
struct Staging {
    folder: TempDir,
}

impl Staging {
    fn beside(target: &Path) -> Result<Self> {
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(|e| Error::io("make the folder", parent, e))?;
        let folder = tempfile::Builder::new().prefix(".export-").tempdir_in(parent);
        Ok(Self { folder: folder.map_err(|e| Error::io("make a folder in", parent, e))? })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path().join(name);
        let written = File::create(&path).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
        written.map_err(|e| Error::io("write", &path, e))
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        self.write(name, &to_json(&self.path().join(name), value)?)
    }

    /// Written last of all files, and signed.
    fn write_manifest(&self, manifest: &Manifest, key: Option<&SecretKey>) -> Result<()> {
        let json = to_json(&self.path().join(MANIFEST_FILE), manifest)?;
        self.write(MANIFEST_FILE, &json)?;
        key.map_or(Ok(()), |key| self.write(SIGNATURE_FILE, &key.signed(&json, Signatures::none())))
    }

    /// Takes a file over from another bundle, without copying it where the file system allows.
    fn link(&self, from: &Path, name: &str) -> Result<()> {
        let (from, to) = (from.join(name), self.path().join(name));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(|e| Error::io("make the folder", parent, e))?;
        }
        fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop)).map_err(|e| Error::io("copy", &from, e))
    }

    /// Takes the target's place. The folder that was there is moved aside first and deleted last: whatever
    /// happens in between, one of the two is whole.
    fn replace(self, target: &Path) -> Result<()> {
        let staged = self.folder.keep();
        let aside = with_suffix(&staged, ".old");
        let replaced = target.exists();
        if replaced {
            fs::rename(target, &aside).map_err(|e| Error::io("move aside", target, e))?;
        }
        if let Err(error) = fs::rename(&staged, target) {
            if replaced {
                fs::rename(&aside, target).map_err(|e| Error::io("move back", target, e))?;
            }
            fs::remove_dir_all(&staged).map_err(|e| Error::io("remove", &staged, e))?;
            return Err(Error::io("replace", target, error));
        }
        if replaced {
            fs::remove_dir_all(&aside).map_err(|e| Error::io("remove", &aside, e))?;
        }
        Ok(())
    }
}

fn to_json(path: &Path, value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|error| Error::io("write", path, std::io::Error::other(error)))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
