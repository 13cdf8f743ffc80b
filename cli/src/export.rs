//! `margay export` and `margay verify`: from a checkpoint to a bundle, and a bundle held against its checkpoint.

mod firmware;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, ValueEnum};
use margay::Bundle;
use margay_exporter::{
    Export, ExportOptions, MeasureOptions, Method, Operators, Progress, Quality, SecretKey, Text, Verification,
    WeightFormat, export_as, read_texts, sign, verify_checkpoint,
};
use margay_trainer::Checkpoint;
use serde_json::{Value, json};

use crate::console::{Bar, Console};
use crate::error::{Error, Result};
use crate::library;

pub use self::firmware::FirmwareExport;

/// What `margay export` makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Target {
    /// A bundle, for the runtime
    #[default]
    Bundle,
    /// A Rust module of an intent classifier, for microcontrollers
    Firmware,
}

/// What `margay export` is told.
#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// Folder with config.json, safetensors and tokenizer.json, as Hugging Face transformers writes it, or a GGUF file
    #[arg(long, value_name = "DIR|FILE.gguf")]
    pub checkpoint: PathBuf,
    /// Folder of the bundle, or of the module; one that is there is replaced
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// What is made
    #[arg(long, value_enum, default_value_t)]
    pub target: Target,
    /// How weights are stored: f32, f16, int8 or int4
    #[arg(long, value_name = "FORMAT", default_value_t)]
    pub weights: WeightFormat,
    /// What the graph is made of: fused (ONNX Runtime's own operators, faster) or standard (runs on every provider)
    #[arg(long, value_name = "FORM", default_value_t)]
    pub operators: Operators,
    /// A name for people [default: that of the checkpoint]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// How 4-bit codes are chosen: gptq, or nearest
    #[arg(long, value_name = "METHOD", default_value_t)]
    pub rounding: Method,
    /// Texts for gptq, JSON Lines with `text`, or `input` and `target` [default: texts that come with margay]; for firmware:
    /// utterances and their intents, on which the threshold is chosen
    #[arg(long, value_name = "FILE")]
    pub calibration_data: Option<PathBuf>,
    /// Bytes that the bundle may have for each parameter: int4 stores every matrix in what fits with the least loss
    #[arg(long, value_name = "BYTES")]
    pub max_bytes_per_parameter: Option<f64>,
    /// Texts to measure perplexity and accuracy on, before and after, in the same form
    #[arg(long, value_name = "FILE")]
    pub perplexity_data: Option<PathBuf>,
    /// Percent by which the perplexity may rise: matrices get 8 bits instead of 4 until it rises by no more
    #[arg(long, value_name = "PERCENT", requires = "perplexity_data")]
    pub max_perplexity_increase: Option<f64>,
    /// Firmware: utterances and their intents to measure on; what the device must say to them goes to expected.txt
    #[arg(long, value_name = "FILE")]
    pub test_data: Option<PathBuf>,
    /// Firmware: share of utterances that the device may answer wrongly
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    pub max_risk: f64,
    /// SPDX expression for the weights
    #[arg(long, value_name = "SPDX", default_value = "NOASSERTION")]
    pub licence: String,
    /// File of the secret key to sign the bundle with; `margay bundle keygen` makes one
    #[arg(long, value_name = "FILE")]
    pub sign: Option<PathBuf>,
    /// Print one JSON object: digest, sizes, what was verified and measured; for firmware the policy and its promise
    #[arg(long)]
    pub json: bool,
}

/// What `margay verify` is told.
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// Folder of the bundle
    #[arg(value_name = "BUNDLE")]
    pub bundle: PathBuf,
    /// Folder or GGUF file of the checkpoint that it was exported from
    #[arg(long, value_name = "DIR|FILE.gguf")]
    pub checkpoint: PathBuf,
    /// The texts that its 4-bit weights were calibrated on, if not those that come with margay
    #[arg(long, value_name = "FILE")]
    pub calibration_data: Option<PathBuf>,
    /// Print one JSON object: the digest, and how far both are apart
    #[arg(long)]
    pub json: bool,
}

/// Exports what the command line says: a bundle, or a module for firmware.
///
/// # Errors
/// As [`export`] and [`export_firmware`].
pub fn run(args: &ExportArgs, console: &mut Console) -> Result<()> {
    match args.target {
        Target::Bundle if args.test_data.is_some() => Err(Error::Usage("--test-data is for --target firmware".into())),
        Target::Bundle => export(args, console).map(drop),
        Target::Firmware => export_firmware(args, console).map(drop),
    }
}

/// Exports an intent classifier as a Rust module.
///
/// # Errors
/// [`crate::Error`] naming the file; also if 8 bits cost more than a point of accuracy, or no threshold keeps the risk.
pub fn export_firmware(args: &ExportArgs, console: &mut Console) -> Result<FirmwareExport> {
    firmware::export(args, console)
}

/// Exports a checkpoint.
///
/// # Errors
/// [`crate::Error`] naming the file or field; the bundle appears whole and verified or not at all.
pub fn export(args: &ExportArgs, console: &mut Console) -> Result<Export> {
    console.for_programs(args.json);
    let started = Instant::now();
    let key = args.sign.as_deref().map(SecretKey::read).transpose()?;
    let checkpoint = Checkpoint::open(&args.checkpoint)?;
    library::prepare(console, "")?;
    let architecture = checkpoint.architecture();
    let parameters = architecture.parameters();
    console.line(format!(
        "{}: {}, {} layers, {:.1} M parameters, context {}",
        args.checkpoint.display(),
        architecture.model_type,
        architecture.num_hidden_layers,
        parameters as f64 / 1e6,
        architecture.max_position_embeddings,
    ))?;
    let options = ExportOptions {
        name: args.name.clone().unwrap_or_else(|| name_of(&args.checkpoint)),
        licence: args.licence.clone(),
        provenance: BTreeMap::from([(
            "made-by".to_owned(),
            concat!("margay export ", env!("CARGO_PKG_VERSION")).to_owned(),
        )]),
        golden_prompts: golden_prompts(),
        operators: args.operators,
        method: args.rounding,
        calibration: texts(args.calibration_data.as_deref())?,
        max_bytes_per_parameter: args.max_bytes_per_parameter,
        measure: args.perplexity_data.as_deref().map(|path| measure(path, args.max_perplexity_increase)).transpose()?,
    };
    let mut exported = {
        let length = architecture.num_hidden_layers + options.golden_prompts.len();
        let bar: Bar = console.bar("exporting", length as u64);
        let mut progress = |step| match step {
            Progress::Reading => bar.say("reading the checkpoint".into()),
            Progress::Quantizing => bar.say("reading, and choosing codes".into()),
            Progress::Written(_) => {
                bar.advance(1);
                bar.say("writing layers".into());
            }
            Progress::Compared(_) => {
                bar.advance(1);
                bar.say("comparing graph and trainer".into());
            }
            _ => {}
        };
        export_as(&checkpoint, &args.out, &options, args.weights, &mut progress)?
    };
    let seconds = started.elapsed().as_secs_f64();
    if let Some(key) = &key {
        exported.bundle = sign(&exported.bundle, key)?;
    }
    console.result(&of_export(args, &exported, seconds), lines(args, &exported, seconds))?;
    Ok(exported)
}

fn bytes_of(exported: &Export) -> u64 {
    exported.bundle.manifest().files.iter().map(|file| file.size).sum()
}

/// For programs.
fn of_export(args: &ExportArgs, exported: &Export, seconds: f64) -> Value {
    let of = |quality: &Quality| {
        json!({
            "perplexity": quality.perplexity(),
            "tokens": quality.tokens,
            "accuracy": quality.accuracy(),
            "answers": quality.answers,
        })
    };
    let Export { bundle, verification, quantization, quality, in_8_bits, rounded, .. } = exported;
    json!({
        "bundle": args.out.to_string_lossy(),
        "model_digest": bundle.model_digest(),
        "weights": bundle.manifest().model.quantization,
        "parameters": bundle.manifest().model.parameters,
        "bytes": bytes_of(exported),
        "seconds": seconds,
        "verification": verification,
        "quantization": quantization,
        "quality": quality.as_ref().map(|(before, after)| json!({"before": of(before), "after": of(after)})),
        "in_8_bits": in_8_bits,
        "rounded": rounded,
        "signers": bundle.signers(),
    })
}

/// For people.
fn lines(args: &ExportArgs, exported: &Export, seconds: f64) -> Vec<String> {
    let Export { bundle, verification, quantization, quality, in_8_bits, rounded, .. } = exported;
    let (bytes, parameters) = (bytes_of(exported) as f64, bundle.manifest().model.parameters as f64);
    let mut lines = vec![format!(
        "{}: {:.1} MB as {}, {:.3} bytes per parameter, in {seconds:.1} s",
        args.out.display(),
        bytes / 1e6,
        args.weights,
        bytes / parameters,
    )];
    if let Some(quantization) = quantization {
        lines.push(format!("{} against the checkpoint's own weights: {quantization}", args.weights));
    }
    if let Some((before, after)) = quality {
        lines.push(format!(
            "perplexity over {} tokens: {:.3} of the checkpoint, {:.3} of the bundle ({:+.2} %)",
            after.tokens,
            before.perplexity(),
            after.perplexity(),
            100.0 * (after.perplexity() / before.perplexity() - 1.0),
        ));
        if let (Some(before), Some(own)) = (before.accuracy(), after.accuracy()) {
            let (before, own) = (100.0 * before, 100.0 * own);
            lines.push(format!("accuracy over {} answers: {before:.1} % and {own:.1} %", after.answers));
        }
    }
    if !in_8_bits.is_empty() {
        lines.push(format!("in 8 bits: {}", joined(in_8_bits)));
    }
    if !rounded.is_empty() {
        lines.push(format!("rounded, to save bytes, from 4-bit grids of their own: {}", joined(rounded)));
    }
    lines.push(verified(args.weights, verification));
    lines.extend(bundle.signers().iter().map(|key| format!("signed by {key}")));
    lines
}

/// Holds a bundle against its checkpoint.
///
/// # Errors
/// [`crate::Error`] when either cannot be read or they do not compute the same.
pub fn verify(args: &VerifyArgs, console: &mut Console) -> Result<Verification> {
    console.for_programs(args.json);
    let bundle = Bundle::open(&args.bundle)?;
    let checkpoint = Checkpoint::open(&args.checkpoint)?;
    library::prepare(console, "")?;
    let options = ExportOptions {
        golden_prompts: golden_prompts(),
        calibration: texts(args.calibration_data.as_deref())?,
        ..ExportOptions::default()
    };
    let verification = verify_checkpoint(&bundle, &checkpoint, &options)?;
    let facts = json!({
        "bundle": args.bundle.to_string_lossy(),
        "model_digest": bundle.model_digest(),
        "verification": verification,
    });
    console.result(&facts, [verified(&bundle.manifest().model.quantization, &verification)])?;
    Ok(verification)
}

fn joined(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn verified(weights: impl std::fmt::Display, verification: &Verification) -> String {
    format!("verified, ONNX Runtime against the trainer with {weights} weights: {verification}")
}

/// Texts of a file; none without one.
fn texts(path: Option<&Path>) -> Result<Vec<Text>> {
    Ok(path.map(read_texts).transpose()?.unwrap_or_default())
}

fn measure(path: &Path, max_perplexity_increase: Option<f64>) -> Result<MeasureOptions> {
    Ok(MeasureOptions { data: name_of(path), texts: read_texts(path)?, max_perplexity_increase })
}

/// The folder's name, or the file's without its ending.
fn name_of(checkpoint: &Path) -> String {
    let absolute = std::path::absolute(checkpoint).unwrap_or_else(|_| checkpoint.to_owned());
    let name = if absolute.is_dir() { absolute.file_name() } else { absolute.file_stem() };
    name.map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}

/// Texts on which graph and trainer are compared: several scripts, code, digits, and one long enough for far positions.
fn golden_prompts() -> Vec<String> {
    let texts = [
        "What is the capital of France?",
        "Wake me at half past six tomorrow and tell me whether I need an umbrella.",
        "Schreibe einen kurzen Brief an die Katze: Grüße, Fisch und ein Kissen für 12,50 €.",
        "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n",
        "山猫は木の上で眠る。 \u{1F408} Маргай охотится ночью.",
        "A margay is a small wild cat. It lives in the forests of Central and South America, where it spends most of its \
         life in the trees. Its ankles turn by 180 degrees, so that it climbs down head first like a squirrel. It hunts \
         at night: rodents, birds, eggs, lizards and tree frogs. In 2005 researchers heard one imitate the call of a \
         young tamarin to lure its parents closer; the attempt failed, but nobody had seen a cat of the Americas do \
         that before. It needs undisturbed forest, and therefore it is rare:",
    ];
    texts.map(str::to_owned).into()
}
