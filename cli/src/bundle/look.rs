//! `margay bundle inspect` and `verify`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use margay::bundle::archive;
use margay::{Bundle, DeviceOptions, Engine};
use serde_json::json;

use super::{TrustArgs, bytes_of};
use crate::console::Console;
use crate::error::Result;
use crate::library;

/// What `margay bundle inspect` is told.
#[derive(Debug, Clone, Args)]
pub struct InspectArgs {
    /// Folder or file of the bundle
    #[arg(value_name = "BUNDLE")]
    pub bundle: PathBuf,
    /// Print one JSON object: manifest, policy, digest and signers
    #[arg(long)]
    pub json: bool,
}

/// What `margay bundle verify` is told.
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// Folder or file of the bundle
    #[arg(value_name = "BUNDLE")]
    pub bundle: PathBuf,
    /// Whose bundles are wanted
    #[command(flatten)]
    pub trust: TrustArgs,
    /// Load the model too: decode its canary and hold it against its golden vectors
    #[arg(long)]
    pub run: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

pub(super) fn inspect(args: &InspectArgs, console: &mut Console) -> Result<()> {
    console.for_programs(args.json);
    let bundle = Bundle::open(&args.bundle)?;
    let facts = json!({
        "model_digest": bundle.model_digest(),
        "signers": bundle.signers(),
        "bytes": bytes_of(&bundle),
        "manifest": bundle.manifest(),
        "policy": bundle.policy(),
    });
    console.result(&facts, lines(&bundle))
}

fn lines(bundle: &Bundle) -> Vec<String> {
    let manifest = bundle.manifest();
    let model = &manifest.model;
    let fact = |name: &str, value: String| format!("{name:<13} {value}");
    let mut lines = vec![
        fact("name", manifest.name.clone()),
        fact("model", bundle.model_digest().to_string()),
        fact(
            "architecture",
            format!(
                "{}, {} layers, {:.1} M parameters as {}",
                model.architecture,
                model.layers,
                model.parameters as f64 / 1e6,
                model.quantization
            ),
        ),
        fact("vocabulary", format!("{}, context {}", model.vocabulary_size, model.context_length)),
        fact("licence", manifest.licence.clone()),
    ];
    lines.extend(manifest.provenance.iter().map(|(key, value)| fact("provenance", format!("{key}: {value}"))));
    match bundle.signers() {
        [] => lines.push(fact("signed by", "nobody".into())),
        signers => lines.extend(signers.iter().map(|key| fact("signed by", key.to_string()))),
    }
    for m in &manifest.measurements {
        let before = m.before.map(|before| format!(", {before:.4} before it was quantized")).unwrap_or_default();
        let on = format!("on {} ({} samples)", m.data, m.sample_size);
        lines.push(fact("measured", format!("{} {:.4} {on}{before}", m.quantity, m.after)));
    }
    if let Some(calibrated) = bundle.policy() {
        let policy = &calibrated.policy;
        lines.push(fact("policy", format!("keep if {} >= {}", policy.rule(), policy.default_threshold())));
        let tasks = policy.tasks();
        lines.extend(tasks.map(|(task, threshold)| fact("", format!("for task {task}: >= {threshold}"))));
        let calibration = &calibrated.calibration;
        let queries = calibration.sample_size;
        lines.push(fact("calibrated", format!("{} on {} ({queries} queries)", calibration.method, calibration.data)));
        lines.push(fact("promise", calibration.guarantee.clone()));
    }
    for variant in &manifest.variants {
        let device = json!(variant.device);
        let (kind, on) = (device.as_str().unwrap_or_default(), variant.providers.join(", "));
        lines.push(fact("variant", format!("{}: {} for {kind} through {on}", variant.name, variant.quantization)));
    }
    for file in &manifest.files {
        lines.push(format!("{:>13} {}", file.size, file.path));
    }
    lines
}

pub(super) fn verify(args: &VerifyArgs, console: &mut Console) -> Result<()> {
    console.for_programs(args.json);
    let started = Instant::now();
    let options = args.trust.options();
    if args.bundle.is_file() {
        // The cache folder may hold what this file once was: the file itself is read whole.
        archive::verify(&args.bundle, &options)?;
    }
    let bundle = Bundle::open_with(&args.bundle, &options)?;
    let (bytes, took) = (bytes_of(&bundle), started.elapsed());
    let model = match args.run {
        true => {
            library::prepare(console, "")?;
            let engine = Engine::load(&bundle, DeviceOptions::default())?;
            Some((engine.report().canary_error, engine.check_golden(&bundle.manifest().golden)?))
        }
        false => None,
    };
    let (files, ms) = (bundle.manifest().files.len(), took.as_secs_f64() * 1e3);
    let facts = json!({
        "model_digest": bundle.model_digest(),
        "signers": bundle.signers(),
        "trusted": !args.trust.trust.is_empty(),
        "files": files,
        "bytes": bytes,
        "milliseconds": ms,
        "canary_error": model.as_ref().map(|(error, _)| error),
        "golden": model.as_ref().map(|(_, golden)| golden),
    });
    let name = args.bundle.display();
    let mut lines = vec![format!(
        "{name}: {files} files, {:.1} MB, every byte as the manifest says ({ms:.0} ms)",
        bytes as f64 / 1e6
    )];
    lines.push(match (bundle.signers(), args.trust.trust.is_empty()) {
        ([], _) => "not signed".into(),
        (signers, anyone) => {
            let note = if anyone { "; --trust KEY says whether that is who you want" } else { ", which is trusted" };
            let signers: Vec<String> = signers.iter().map(ToString::to_string).collect();
            format!("signed by {}{note}", signers.join(", "))
        }
    });
    if let Some((canary_error, golden)) = &model {
        lines.push(format!("canary decoded, its logits within {canary_error:.1e}"));
        lines.push(golden.to_string());
    }
    console.result(&facts, lines)
}
