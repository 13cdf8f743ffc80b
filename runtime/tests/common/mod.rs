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

use margay::bundle::manifest::FileEntry;
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
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "manifest.json")
        .collect();
    names.sort();
    let files: Vec<FileEntry> = names.into_iter().map(|name| FileEntry::of(folder, name).unwrap()).collect();
    edit_manifest(folder, |manifest| manifest["files"] = serde_json::to_value(files).unwrap());
}

/// ONNX Runtime as everybody finds it, fetched by the first test program that needs it.
pub fn library() -> Library {
    static LIBRARY: LazyLock<Library> =
        LazyLock::new(|| Locate::from_environment().find_or_fetch(&mut |progress| eprintln!("{progress}")).unwrap());
    LIBRARY.clone()
}

pub fn engine_of(folder: &Path) -> Engine {
    let options = DeviceOptions { threads: Some(1), library: Some(library()), ..DeviceOptions::default() };
    Engine::load(&Bundle::open(folder).unwrap(), options).unwrap()
}

/// The toy, loaded once for all tests of a program.
pub fn engine() -> &'static Engine {
    static ENGINE: LazyLock<Engine> = LazyLock::new(|| engine_of(&fixtures().join("toy")));
    &ENGINE
}
