//! What a manifest must fulfil before any file it names is touched.

use super::digest::parse_hexadecimal;
use super::manifest::{Canary, FileEntry, Manifest, Model, SCHEMA};
use super::{MANIFEST_FILE, MAX_FILES, MAX_GRAPH_BYTES, MAX_TOKENIZER_BYTES, MAX_TOTAL_BYTES};
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
    listed(manifest, &manifest.model.graph, MAX_GRAPH_BYTES)?;
    listed(manifest, &manifest.model.tokenizer, MAX_TOKENIZER_BYTES)?;
    ids("prompt.stop_tokens", &manifest.prompt.stop_tokens, &manifest.model)?;
    canary(&manifest.canary, &manifest.model)
}

fn files(files: &[FileEntry]) -> Result<()> {
    if files.len() > MAX_FILES {
        return Err(malformed(format!("the manifest lists {} files, more than {MAX_FILES}", files.len())));
    }
    let mut total: u64 = 0;
    for entry in files {
        path(&entry.path)?;
        if parse_hexadecimal(&entry.sha256).is_none() {
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
    if path == MANIFEST_FILE {
        return refuse("is the manifest's own");
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

fn ids(field: &str, ids: &[u32], model: &Model) -> Result<()> {
    match ids.iter().find(|id| **id as usize >= model.vocabulary_size) {
        Some(id) => Err(malformed(format!("{field} has id {id}, the vocabulary has {}", model.vocabulary_size))),
        None => Ok(()),
    }
}

fn canary(canary: &Canary, model: &Model) -> Result<()> {
    ids("canary.prompt", &canary.prompt, model)?;
    ids("canary.continuation", &canary.continuation, model)?;
    if canary.prompt.is_empty() || canary.continuation.is_empty() || canary.logits.is_empty() {
        return Err(malformed("the canary needs a prompt, a continuation and logits".to_owned()));
    }
    if canary.prompt.len() + canary.continuation.len() > model.context_length {
        return Err(malformed("the canary does not fit the model's context".to_owned()));
    }
    if canary.logits.len() > model.vocabulary_size || canary.logits.iter().any(|logit| !logit.is_finite()) {
        return Err(malformed("the canary's logits are not finite or more than the vocabulary".to_owned()));
    }
    if !canary.tolerance.is_finite() || canary.tolerance < 0.0 {
        return Err(malformed(format!("the canary's tolerance is {}", canary.tolerance)));
    }
    Ok(())
}
