//! What a manifest must fulfil before any file it names is touched.

use super::digest::{ModelDigest, in_variant, parse_hexadecimal};
use super::manifest::{Canary, FileEntry, Golden, Manifest, Measurement, Model, SCHEMA, Variant};
use super::signature::SIGNATURE_FILE;
use super::{MANIFEST_FILE, MAX_FILES, MAX_GRAPH_BYTES, MAX_TOKENIZER_BYTES, MAX_TOTAL_BYTES, VARIANTS_FOLDER};
use crate::error::{Error, ErrorKind, Result};

/// Longest path inside a bundle, in bytes: what common file systems take.
const MAX_PATH_BYTES: usize = 255;

/// Bounds on the graph's dimensions, far above any model that fits on a device: they keep products of two or three of
/// them, and what is allocated for them, within reason.
const MAX_LAYERS: usize = 1 << 10;
const MAX_WIDTH: usize = 1 << 16;
const MAX_VOCABULARY: usize = 1 << 24;
const MAX_CONTEXT: usize = 1 << 24;

pub(super) fn malformed(message: String) -> Error {
    Error::new(ErrorKind::Bundle, message)
}

pub(super) fn manifest(manifest: &Manifest) -> Result<()> {
    if manifest.schema != SCHEMA {
        return Err(malformed(format!(
            "the manifest's schema is {}, this version of Margay reads {SCHEMA}",
            manifest.schema
        )));
    }
    files(&manifest.files)?;
    model(&manifest.model)?;
    own(manifest, &manifest.model.graph, MAX_GRAPH_BYTES)?;
    if let Some(graph) = &manifest.model.own_graph {
        own(manifest, graph, MAX_GRAPH_BYTES)?;
    }
    own(manifest, &manifest.model.tokenizer, MAX_TOKENIZER_BYTES)?;
    ids("prompt.stop_tokens", &manifest.prompt.stop_tokens, &manifest.model)?;
    canary("canary", &manifest.canary, &manifest.model)?;
    for (index, vector) in manifest.golden.iter().enumerate() {
        golden(&format!("golden[{index}]"), vector, &manifest.model)?;
    }
    for (index, measurement) in manifest.measurements.iter().enumerate() {
        measured(&format!("measurements[{index}]"), measurement)?;
    }
    variants(manifest)?;
    match manifest.model_digest {
        Some(stated) if stated != ModelDigest::compute(manifest) => {
            let message = format!("model_digest is {stated}, the model's is {}", ModelDigest::compute(manifest));
            Err(Error::new(ErrorKind::Digest, message))
        }
        _ => Ok(()),
    }
}

fn files(files: &[FileEntry]) -> Result<()> {
    if files.len() > MAX_FILES {
        return Err(malformed(format!("the manifest lists {} files, more than {MAX_FILES}", files.len())));
    }
    let mut total: u64 = 0;
    for entry in files {
        path(&entry.path)?;
        if parse_hexadecimal::<32>(&entry.sha256).is_none() {
            return Err(malformed(format!("the SHA-256 of {} is not 64 lower-case hexadecimal digits", entry.path)));
        }
        total = total.saturating_add(entry.size);
    }
    if total > MAX_TOTAL_BYTES {
        return Err(malformed(format!("the bundle has {total} bytes, more than {MAX_TOTAL_BYTES}")));
    }
    // Strictly ascending: one form for one bundle, and no path twice.
    match files.windows(2).find(|pair| pair[0].path >= pair[1].path) {
        Some(pair) if pair[0].path == pair[1].path => Err(malformed(format!("{} is listed twice", pair[0].path))),
        Some(pair) => Err(malformed(format!("files are not sorted: {} before {}", pair[0].path, pair[1].path))),
        None => Ok(()),
    }
}

/// A path is relative, stays inside, and means the same on every operating system.
fn path(path: &str) -> Result<()> {
    let refuse = |why: &str| Err(malformed(format!("the path {path:?} {why}")));
    if path.is_empty() || path.len() > MAX_PATH_BYTES {
        return refuse(&format!("is empty or longer than {MAX_PATH_BYTES} bytes"));
    }
    if path.chars().any(|character| character.is_control() || "\\:*?\"<>|".contains(character)) {
        return refuse("has a character that not every file system takes");
    }
    if path.split('/').any(|component| matches!(component, "" | "." | "..")) {
        return refuse("is absolute or has an empty component, `.` or `..`");
    }
    if path == MANIFEST_FILE || path == SIGNATURE_FILE {
        return refuse("is the manifest's or its signatures' own");
    }
    Ok(())
}

fn model(model: &Model) -> Result<()> {
    let dimensions = [
        ("vocabulary_size", model.vocabulary_size, MAX_VOCABULARY),
        ("context_length", model.context_length, MAX_CONTEXT),
        ("layers", model.layers, MAX_LAYERS),
        ("key_value_heads", model.key_value_heads, MAX_WIDTH),
        ("head_size", model.head_size, MAX_WIDTH),
    ];
    for (name, value, most) in dimensions {
        if value == 0 || value > most {
            return Err(malformed(format!("model.{name} is {value}, not in 1..={most}")));
        }
    }
    Ok(())
}

/// A file of the bundle's own graph: listed, no larger than its kind may be, and in no variant's folder.
fn own(manifest: &Manifest, path: &str, most: u64) -> Result<()> {
    if path.starts_with(VARIANTS_FOLDER) {
        return Err(malformed(format!("the model needs {path:?}, which is a variant's")));
    }
    listed(manifest, path, most)
}

fn listed(manifest: &Manifest, path: &str, most: u64) -> Result<()> {
    let entry = manifest
        .files
        .iter()
        .find(|entry| entry.path == path)
        .ok_or_else(|| malformed(format!("the model needs {path:?}, which is not among the files")))?;
    if entry.size > most {
        return Err(malformed(format!("{path} has {} bytes, more than {most}", entry.size)));
    }
    Ok(())
}

fn variants(manifest: &Manifest) -> Result<()> {
    let mut names: Vec<&str> = manifest.variants.iter().map(|variant| variant.name.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(malformed(format!("two variants are called {:?}", pair[0])));
    }
    for file in manifest.files.iter().filter(|file| file.path.starts_with(VARIANTS_FOLDER)) {
        if in_variant(&file.path).0.is_none_or(|name| names.binary_search(&name).is_err()) {
            return Err(malformed(format!("{} belongs to no variant", file.path)));
        }
    }
    manifest.variants.iter().try_for_each(|one| variant(manifest, one))
}

fn variant(manifest: &Manifest, variant: &Variant) -> Result<()> {
    let field = format!("variants.{}", variant.name);
    if variant.name.contains('/') {
        return Err(malformed(format!("{field}: a variant's name is that of one folder")));
    }
    if !variant.graph.starts_with(&variant.folder()) {
        return Err(malformed(format!("{field}: the graph {:?} is not in {}", variant.graph, variant.folder())));
    }
    listed(manifest, &variant.graph, MAX_GRAPH_BYTES)?;
    let lower_case = |name: &String| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase());
    if variant.providers.is_empty() || !variant.providers.iter().all(lower_case) {
        return Err(malformed(format!("{field}: providers are names of lower-case letters, at least one")));
    }
    canary(&format!("{field}.canary"), &variant.canary, &manifest.model)
}

fn ids(field: &str, ids: &[u32], model: &Model) -> Result<()> {
    match ids.iter().find(|id| **id as usize >= model.vocabulary_size) {
        Some(id) => Err(malformed(format!("{field} has id {id}, the vocabulary has {}", model.vocabulary_size))),
        None => Ok(()),
    }
}

fn canary(field: &str, canary: &Canary, model: &Model) -> Result<()> {
    ids(&format!("{field}.prompt"), &canary.prompt, model)?;
    ids(&format!("{field}.continuation"), &canary.continuation, model)?;
    if canary.prompt.is_empty() || canary.continuation.is_empty() || canary.logits.is_empty() {
        return Err(malformed(format!("{field} needs a prompt, a continuation and logits")));
    }
    if canary.prompt.len() + canary.continuation.len() > model.context_length {
        return Err(malformed(format!("{field} does not fit the model's context")));
    }
    if canary.logits.len() > model.vocabulary_size || canary.logits.iter().any(|logit| !logit.is_finite()) {
        return Err(malformed(format!("{field}.logits are not finite or more than the vocabulary")));
    }
    tolerance(field, canary.tolerance)
}

fn golden(field: &str, golden: &Golden, model: &Model) -> Result<()> {
    ids(&format!("{field}.ids"), &golden.ids, model)?;
    let greedy = golden.greedy.as_ref().map_or(&[][..], |greedy| &greedy.ids);
    ids(&format!("{field}.greedy"), greedy, model)?;
    if golden.ids.len() + greedy.len() > model.context_length {
        return Err(malformed(format!("{field} does not fit the model's context")));
    }
    let positions = &golden.positions;
    let ascending = positions.windows(2).all(|pair| pair[0].position < pair[1].position);
    if positions.is_empty() || !ascending || positions.iter().any(|at| at.position >= golden.ids.len()) {
        return Err(malformed(format!("{field}.positions are not ascending, outside its ids, or none")));
    }
    for position in positions {
        let field = format!("{field}.positions.{}", position.position);
        let (top, logits): (Vec<u32>, Vec<f32>) = position.top.iter().copied().unzip();
        ids(&field, &top, model)?;
        if top.is_empty() || logits.iter().any(|logit| !logit.is_finite()) || !logits.is_sorted_by(|a, b| a >= b) {
            return Err(malformed(format!("{field}.top is empty, not finite or not the largest first")));
        }
    }
    tolerance(field, golden.tolerance)
}

fn tolerance(field: &str, tolerance: f32) -> Result<()> {
    match tolerance.is_finite() && tolerance >= 0.0 {
        true => Ok(()),
        false => Err(malformed(format!("{field}.tolerance is {tolerance}"))),
    }
}

fn measured(field: &str, measurement: &Measurement) -> Result<()> {
    if measurement.quantity.is_empty() || measurement.data.is_empty() || measurement.sample_size == 0 {
        return Err(malformed(format!("{field} needs a quantity, data and a sample")));
    }
    if measurement.data_sha256.as_deref().is_some_and(|digest| parse_hexadecimal::<32>(digest).is_none()) {
        return Err(malformed(format!("{field}.data_sha256 is not 64 lower-case hexadecimal digits")));
    }
    if !measurement.after.is_finite() || measurement.before.is_some_and(|before| !before.is_finite()) {
        return Err(malformed(format!("{field} is not finite")));
    }
    Ok(())
}
