//! The toy bundle, and ONNX Runtime for the tests.
#![expect(dead_code, unreachable_pub, reason = "each test program uses its own part of a module that it includes")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a failed preparation fails the test, and fetching is worth a line"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use ed25519_dalek::{Signer as _, SigningKey};
use margay::bundle::PublicKey;
use margay::bundle::manifest::FileEntry;
use margay::bundle::signature::{Signatures, message};
use margay::device::library::{Library, Locate};
use margay::{Bundle, DeviceOptions, Engine, Message};
use serde::Deserialize;
use serde_json::Value;

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// What `make_toy.py` says the toy computes.
#[derive(Deserialize)]
pub struct Expected {
    pub model_digest: String,
    pub messages: Vec<Message>,
    pub text: String,
    pub prompt: Vec<u32>,
    pub greedy: Vec<u32>,
    pub greedy_text: String,
    pub logits: Vec<Vec<f32>>,
    /// Log-probability, margin and entropy of each greedy token.
    pub signals: Vec<[f32; 3]>,
}

impl Expected {
    pub fn read() -> Self {
        serde_json::from_slice(&fs::read(fixtures().join("toy.json")).unwrap()).unwrap()
    }
}

/// A copy of the toy bundle that a test may spoil.
pub fn toy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixtures().join("toy")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

pub fn edit_manifest(folder: &Path, edit: impl FnOnce(&mut Value)) {
    let path = folder.join("manifest.json");
    let mut manifest = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut manifest);
    fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
}

/// Brings the manifest's file list up to date with the folder.
pub fn relist(folder: &Path) {
    let mut names = files_in(folder, "");
    names.retain(|name| name != "manifest.json" && name != "manifest.sig");
    names.sort();
    let files: Vec<FileEntry> = names.into_iter().map(|name| FileEntry::of(folder, name).unwrap()).collect();
    edit_manifest(folder, |manifest| manifest["files"] = serde_json::to_value(files).unwrap());
}

/// A secret key; number 0 is that of `signature.json`.
pub fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&std::array::from_fn(|at| at as u8 + number))
}

pub fn public(key: &SigningKey) -> PublicKey {
    PublicKey::of(&key.verifying_key())
}

pub fn signature(key: &SigningKey, manifest: &[u8]) -> [u8; 64] {
    key.sign(&message(manifest)).to_bytes()
}

/// Signs the manifest with these keys and no others.
pub fn sign(folder: &Path, keys: &[SigningKey]) {
    let manifest = fs::read(folder.join("manifest.json")).unwrap();
    let signed = |all: Signatures, key: &SigningKey| all.with(public(key), signature(key, &manifest));
    fs::write(folder.join("manifest.sig"), keys.iter().fold(Signatures::none(), signed).to_json()).unwrap();
}

fn files_in(folder: &Path, prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let files = entries.flat_map(|entry| {
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() { files_in(&entry.path(), &format!("{name}/")) } else { vec![name] }
    });
    files.collect()
}

/// ONNX Runtime as everybody finds it, fetched by the first test program that needs it.
pub fn library() -> Library {
    static LIBRARY: LazyLock<Library> =
        LazyLock::new(|| Locate::from_environment().find_or_fetch(&mut |progress| eprintln!("{progress}")).unwrap());
    LIBRARY.clone()
}

pub fn engine_of(folder: &Path) -> Engine {
    load(&Bundle::open(folder).unwrap())
}

pub fn load(bundle: &Bundle) -> Engine {
    Engine::load(bundle, device()).unwrap()
}

pub fn device() -> DeviceOptions {
    DeviceOptions { threads: Some(1), library: Some(library()), ..DeviceOptions::default() }
}

/// The toy, loaded once for all tests of a program.
pub fn engine() -> &'static Engine {
    static ENGINE: LazyLock<Engine> = LazyLock::new(|| engine_of(&fixtures().join("toy")));
    &ENGINE
}
