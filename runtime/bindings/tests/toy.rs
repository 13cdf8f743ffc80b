//! What the tests of all bindings need: the toy bundle with a policy, ONNX Runtime, and what the toy answers.
#![expect(unreachable_pub, reason = "a module of test programs")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a failed preparation fails the test, and fetching is worth a line"
)]

use std::fs;
use std::path::{Path, PathBuf};

use margay::bundle::CalibratedPolicy;
use margay::bundle::manifest::FileEntry;
use margay::device::library::Locate;
use margay::policy::{Policy, Rule, Threshold};
use margay::{Bundle, DeviceOptions, Engine, Request};

/// Tokens of the toy's answers.
pub const TOKENS: usize = 12;

/// What the programs ask it.
pub const QUESTION: &str = "I am Ada Lovelace, ada@example.com";

pub fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/toy")
}

/// ONNX Runtime's library, fetched by the first test program that needs it.
pub fn library() -> PathBuf {
    let library = Locate::from_environment().find_or_fetch(&mut |progress| eprintln!("{progress}")).unwrap();
    library.path().to_owned()
}

/// A `margay.toml` that asks the server at `endpoint`, whose authority is in the file `authority` beside it.
pub fn configuration(endpoint: &str, authority: &str) -> String {
    format!(
        "version = 1\n[cloud.server]\nendpoint = \"{endpoint}\"\nmodel = \"large\"\nroots = {{ pem = \"{authority}\" }}\n"
    )
}

/// A bundle with a policy that defers everything, but for two tasks: `keep` keeps everything, and `late` defers an answer only
/// once it is whole. And what the toy answers to [`QUESTION`].
pub fn bundle() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let library = margay::device::library::Library::at(library()).unwrap();
    let plain = Bundle::open(folder.path()).unwrap();
    let device = DeviceOptions { threads: Some(1), library: Some(library), ..DeviceOptions::default() };
    let engine = Engine::load(&plain, device).unwrap();
    let policy = |threshold| Policy::new(Rule::ChowAverage, threshold);
    let request = Request::user(QUESTION).max_tokens(TOKENS);
    let go_on = &mut |_: margay::Token<'_>| std::ops::ControlFlow::Continue(());
    let generation = engine.generate(&request, Some(&policy(Threshold::KEEP_ALL)), go_on).unwrap();
    let score = generation.decision.unwrap().score.unwrap();
    let just_above = Threshold::new(score.value().next_up()).unwrap();
    let policy = policy(Threshold::DEFER_ALL).with_task("keep", Threshold::KEEP_ALL).unwrap();
    let calibrated = CalibratedPolicy::by_hand(*plain.model_digest(), policy.with_task("late", just_above).unwrap());
    fs::write(folder.path().join("policy.json"), serde_json::to_vec(&calibrated).unwrap()).unwrap();
    let path = folder.path().join("manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let names = ["model.onnx", "policy.json", "tokenizer.json", "weights.bin"];
    let files: Vec<FileEntry> = names.into_iter().map(|name| FileEntry::of(folder.path(), name).unwrap()).collect();
    manifest["files"] = serde_json::to_value(files).unwrap();
    fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
    (folder, generation.text)
}
