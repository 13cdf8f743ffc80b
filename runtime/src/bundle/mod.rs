//! A model and its calibrated policy as one folder in which every byte is accounted for.
//!
//! [`Bundle::open`] reads `manifest.json`, checks it, and verifies the size and SHA-256 of every file it
//! lists. Loading the graph is the engine's work; writing bundles is the exporter's.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

mod calibrated;
mod check;
pub mod digest;
pub mod manifest;

pub use calibrated::{CalibratedPolicy, Calibration};
use check::malformed;
use digest::{ModelDigest, sha256_file};
use manifest::{FileEntry, Manifest};

/// Name of the manifest inside a bundle.
pub const MANIFEST_FILE: &str = "manifest.json";

/// Name of the calibrated policy inside a bundle. It is the only file that the model's digest leaves out.
pub const POLICY_FILE: &str = "policy.json";

/// Longest manifest, in bytes: a hundred times what a chat template and a full file list need.
pub const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// Longest policy, in bytes.
pub const MAX_POLICY_BYTES: u64 = 1 << 20;

/// Longest tokenizer, in bytes: the largest in use (a vocabulary of 262144) takes 33 MB.
pub const MAX_TOKENIZER_BYTES: u64 = 128 << 20;

/// Longest ONNX graph, in bytes: a protocol buffer cannot hold more.
pub const MAX_GRAPH_BYTES: u64 = (2 << 30) - 1;

/// Longest bundle, in bytes, all files together: four times a model of 8 billion parameters in half precision.
pub const MAX_TOTAL_BYTES: u64 = 64 << 30;

/// Most files and folders in a bundle: a graph with its weights in shards, and room.
pub const MAX_FILES: usize = 256;

/// A verified bundle.
///
/// The files were as the manifest says when the bundle was opened. Whoever can write to the folder
/// afterwards can change what the engine loads: keep it where only the app can write.
#[derive(Debug, Clone)]
pub struct Bundle {
    root: PathBuf,
    manifest: Manifest,
    digest: ModelDigest,
    policy: Option<CalibratedPolicy>,
}

impl Bundle {
    /// Opens the bundle in the folder `root` and verifies every file.
    ///
    /// A file that the manifest does not list is refused too, and so is a symbolic link: what is in the folder
    /// is what was verified. `root` itself may be a link.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the folder or the manifest cannot be read; [`ErrorKind::Bundle`] if the manifest is
    /// malformed, a file is missing, unlisted or over a size cap; [`ErrorKind::Digest`] if a file's size or SHA-256 is not
    /// the manifest's, or the policy was calibrated on another model.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        let path = root.join(MANIFEST_FILE);
        let manifest: Manifest = parse(&path, &read_capped(&path, MAX_MANIFEST_BYTES)?)?;
        check::manifest(&manifest)?;
        check_listing(root, &manifest.files)?;
        for entry in &manifest.files {
            verify(root, entry)?;
        }
        let digest = ModelDigest::compute(&manifest);
        let policy = manifest
            .files
            .iter()
            .any(|entry| entry.path == POLICY_FILE)
            .then(|| CalibratedPolicy::open(&root.join(POLICY_FILE), &digest))
            .transpose()?;
        tracing::debug!(bundle = %root.display(), name = manifest.name, %digest, "opened a bundle");
        Ok(Self { root: root.to_owned(), manifest, digest, policy })
    }

    /// What the bundle says about itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Digest of everything that decides what the model answers; thresholds are bound to it.
    #[must_use]
    pub fn model_digest(&self) -> &ModelDigest {
        &self.digest
    }

    /// The calibrated policy, if the bundle has one; it belongs to this very model.
    #[must_use]
    pub fn policy(&self) -> Option<&CalibratedPolicy> {
        self.policy.as_ref()
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Path of the ONNX graph on this machine.
    #[must_use]
    pub fn graph(&self) -> PathBuf {
        self.root.join(&self.manifest.model.graph)
    }

    /// Path of the tokenizer on this machine.
    #[must_use]
    pub fn tokenizer(&self) -> PathBuf {
        self.root.join(&self.manifest.model.tokenizer)
    }
}

/// Compares what is in the folder with what the manifest lists: names, kinds and sizes.
fn check_listing(root: &Path, entries: &[FileEntry]) -> Result<()> {
    let mut found = BTreeMap::new();
    let mut folders = vec![(root.to_owned(), String::new())];
    let mut seen = 0;
    while let Some((folder, prefix)) = folders.pop() {
        for item in fs::read_dir(&folder).map_err(|error| unreadable(&folder, error))? {
            let item = item.map_err(|error| unreadable(&folder, error))?;
            seen += 1;
            // The manifest itself is one more.
            if seen > MAX_FILES + 1 {
                return Err(malformed(format!("{} holds more than {MAX_FILES} files", root.display())));
            }
            let name = item.file_name();
            let name = name
                .to_str()
                .ok_or_else(|| malformed(format!("a file's name is not Unicode: {}", item.path().display())))?;
            let path = format!("{prefix}{name}");
            let metadata = fs::symlink_metadata(item.path()).map_err(|error| unreadable(&item.path(), error))?;
            if metadata.is_dir() {
                folders.push((item.path(), format!("{path}/")));
            } else if metadata.is_file() {
                found.insert(path, metadata.len());
            } else {
                return Err(malformed(format!("{} is neither a file nor a folder", item.path().display())));
            }
        }
    }
    found.remove(MANIFEST_FILE);
    for entry in entries {
        let size = found
            .remove(&entry.path)
            .ok_or_else(|| malformed(format!("{} is missing from {}", entry.path, root.display())))?;
        if size != entry.size {
            let message = format!("{} has {size} bytes, the manifest says {}", entry.path, entry.size);
            return Err(Error::new(ErrorKind::Digest, message));
        }
    }
    match found.keys().next() {
        Some(path) => Err(malformed(format!("{path} is in {} but not in its manifest", root.display()))),
        None => Ok(()),
    }
}

fn verify(root: &Path, entry: &FileEntry) -> Result<()> {
    let actual = sha256_file(&root.join(&entry.path))?;
    if actual.sha256 != entry.sha256 || actual.size != entry.size {
        let message = format!("{} has SHA-256 {}, the manifest says {}", entry.path, actual.sha256, entry.sha256);
        return Err(Error::new(ErrorKind::Digest, message));
    }
    Ok(())
}

/// Reads a small file whole, refusing to read more than `cap` bytes of it.
fn read_capped(path: &Path, cap: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|error| unreadable(path, error))?;
    let mut bytes = Vec::new();
    file.take(cap + 1).read_to_end(&mut bytes).map_err(|error| unreadable(path, error))?;
    if bytes.len() as u64 > cap {
        return Err(malformed(format!("{} is longer than {cap} bytes", path.display())));
    }
    Ok(bytes)
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| malformed(format!("{} is not what it should be: {error}", path.display())).with_source(error))
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot read {}", path.display())).with_source(error)
}
