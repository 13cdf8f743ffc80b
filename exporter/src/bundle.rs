//! Writing bundles: everything into a staging folder beside the target, verified there, then moved into place.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use margay::bundle::manifest::{Canary, FileEntry, Manifest, Model, Prompt, SCHEMA};
use margay::bundle::{Bundle, CalibratedPolicy, MANIFEST_FILE, POLICY_FILE};
use margay_trainer::{Architecture, CHAT_TEMPLATE, CausalLm, Checkpoint, Device};
use prost::Message;
use serde::Serialize;
use tempfile::TempDir;

use crate::error::{Error, ErrorKind, Result};
use crate::onnx::{ExternalData, decoder_graph};
use crate::verify::{Verification, verify};

/// What an export says about the model beside what the checkpoint knows.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// A name for people.
    pub name: String,
    /// SPDX expression for the weights.
    pub licence: String,
    /// Who made the model from what.
    pub provenance: BTreeMap<String, String>,
    /// Prompts on which the graph is held against the trainer; the first is the bundle's canary.
    pub golden_prompts: Vec<String>,
}

/// Exports a checkpoint to a bundle in `folder`, replacing a bundle that is there.
///
/// The graph is run under ONNX Runtime and compared with the trainer's own forward pass before anything
/// appears at `folder`; ONNX Runtime's library must have been initialised.
///
/// # Errors
/// [`ErrorKind::Checkpoint`] when the checkpoint is not whole, [`ErrorKind::Io`] when a file cannot be written,
/// [`ErrorKind::Mismatch`] when graph and trainer disagree. `folder` is then as it was before.
pub fn export(checkpoint: &Checkpoint, folder: &Path, options: &ExportOptions) -> Result<(Bundle, Verification)> {
    let device = Device::flex();
    let architecture = checkpoint.architecture();
    let tokenizer = checkpoint.tokenizer()?;
    let model = checkpoint.model(&device)?;
    let prompts = options.golden_prompts.iter().map(|text| tokenizer.prompt(text));
    let prompts = prompts.collect::<Result<Vec<_>, _>>()?;
    let Some(first) = prompts.first() else {
        return Err(Error::new(ErrorKind::Mismatch, "an export needs at least one golden prompt to be held against"));
    };

    let staging = Staging::beside(folder)?;
    let mut data = ExternalData::create(staging.path(), WEIGHTS)?;
    let graph = decoder_graph(architecture, &checkpoint.weights()?, &mut data)?;
    data.finish()?;
    staging.write(GRAPH, &graph.encode_to_vec())?;
    staging.write(TOKENIZER, tokenizer.to_json()?.as_bytes())?;

    let canary = canary(&model, first, tokenizer.end(), architecture.max_position_embeddings);
    let mut manifest = Manifest {
        schema: SCHEMA,
        name: options.name.clone(),
        model: describe(architecture),
        prompt: Prompt {
            chat_template: CHAT_TEMPLATE.into(),
            special_tokens: BTreeMap::new(),
            stop_tokens: vec![tokenizer.end()],
        },
        canary,
        files: vec![],
        licence: options.licence.clone(),
        provenance: options.provenance.clone(),
    };
    for path in [GRAPH, WEIGHTS, TOKENIZER] {
        manifest.files.push(FileEntry::of(staging.path(), path)?);
    }
    staging.write_json(MANIFEST_FILE, &manifest)?;

    let verification = verify(&Bundle::open(staging.path())?, &model, &prompts)?;
    verification.require(TOLERANCE)?;
    staging.replace(folder)?;
    Ok((Bundle::open(folder)?, verification))
}

/// Puts a calibrated policy into a bundle, replacing one that is there, and opens the bundle again.
///
/// # Errors
/// [`ErrorKind::Bundle`] when the policy was calibrated on another model, [`ErrorKind::Io`] when a file cannot be
/// written; the bundle is then as it was before.
pub fn write_policy(bundle: &Bundle, policy: &CalibratedPolicy) -> Result<Bundle> {
    policy.check(bundle.model_digest())?;
    let staging = Staging::beside(bundle.root())?;
    let mut manifest = bundle.manifest().clone();
    manifest.files.retain(|entry| entry.path != POLICY_FILE);
    for entry in &manifest.files {
        staging.link(bundle.root(), &entry.path)?;
    }
    staging.write_json(POLICY_FILE, policy)?;
    manifest.files.push(FileEntry::of(staging.path(), POLICY_FILE)?);
    manifest.files.sort_by(|a, b| a.path.cmp(&b.path));
    staging.write_json(MANIFEST_FILE, &manifest)?;
    staging.replace(bundle.root())?;
    Ok(Bundle::open(bundle.root())?)
}

/// Largest absolute difference between a logit of the graph and of the trainer.
const TOLERANCE: f32 = 1e-4;

const GRAPH: &str = "model.onnx";
const WEIGHTS: &str = "model.onnx.data";
const TOKENIZER: &str = "tokenizer.json";

fn describe(a: &Architecture) -> Model {
    Model {
        graph: GRAPH.into(),
        tokenizer: TOKENIZER.into(),
        architecture: a.model_type.clone(),
        quantization: "f32".into(),
        vocabulary_size: a.vocab_size,
        context_length: a.max_position_embeddings,
        layers: a.num_hidden_layers,
        key_value_heads: a.num_key_value_heads,
        head_size: a.head_dim,
        flops_per_token: a.flops_per_token(),
        parameters: a.parameters(),
    }
}

/// The trainer's greedy continuation of a prompt, and the logits that begin it.
fn canary(model: &CausalLm, prompt: &[u32], end: u32, context: usize) -> Canary {
    let mut ids = prompt.to_vec();
    let mut logits = Vec::new();
    while ids.len() < context.min(prompt.len() + CANARY_TOKENS) {
        let last = last_logits(model, &ids);
        let best = margay_trainer::argmax(&last);
        if logits.is_empty() {
            logits = last;
            logits.truncate(CANARY_LOGITS);
        }
        ids.push(best);
        if best == end {
            break;
        }
    }
    Canary { prompt: prompt.to_vec(), continuation: ids.split_off(prompt.len()), logits, tolerance: CANARY_TOLERANCE }
}

fn last_logits(model: &CausalLm, ids: &[u32]) -> Vec<f32> {
    model.logits(ids).pop().unwrap_or_default()
}

/// Longest canary: enough to pass through prefill and several decode steps.
const CANARY_TOKENS: usize = 8;

/// How many logits the canary keeps.
const CANARY_LOGITS: usize = 64;

/// A device's arithmetic may differ more than this machine's: wide enough for half precision, far below a wrong result.
const CANARY_TOLERANCE: f32 = 0.05;

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
        let json = serde_json::to_vec_pretty(value)
            .map_err(|e| Error::io("write", &self.path().join(name), std::io::Error::other(e)))?;
        self.write(name, &json)
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

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
