//! A small model that is sure of nothing, and a large one that says what it was asked.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::path::PathBuf;

use margay::cloud::{BoxFuture, CloudAnswer, LargeModel};
use margay::{Bundle, Request, Tokens};
use margay_cli::authority::Authority;
use serde_json::{Value, json};

pub(crate) fn toy() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../runtime/tests/fixtures/toy")
}

/// Says what it was asked last.
pub(crate) struct Echo;

impl LargeModel for Echo {
    fn answer<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, margay::Result<CloudAnswer>> {
        let mut answer = CloudAnswer::new(format!("you said: {}", request.messages.last().unwrap().content));
        answer.usage = Some(Tokens { input: 1_000, output: 100 });
        Box::pin(async { Ok(answer) })
    }
}

/// The toy with a threshold that none of its answers reaches, as a folder with a `margay.toml` beside it.
pub(crate) fn cascade(endpoint: &str, authority: &Authority) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let small = folder.path().join("small");
    std::fs::create_dir(&small).unwrap();
    for entry in std::fs::read_dir(toy()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), small.join(entry.file_name())).unwrap();
    }
    let digest = Bundle::open(toy()).unwrap().model_digest().to_string();
    let calibration =
        json!({"method": "by hand", "target": 0.0, "data": "none", "sample_size": 0, "guarantee": "none"});
    let policy = json!({"rule": "chow-average", "default": -1e-6, "tasks": {}});
    let policy = json!({"model_digest": digest, "policy": policy, "calibration": calibration});
    std::fs::write(small.join("policy.json"), policy.to_string()).unwrap();
    let path = small.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let listed = margay::bundle::manifest::FileEntry::of(&small, "policy.json").unwrap();
    let files = manifest["files"].as_array_mut().unwrap();
    files.push(serde_json::to_value(listed).unwrap());
    files.sort_by_key(|file| file["path"].as_str().unwrap().to_owned());
    std::fs::write(&path, manifest.to_string()).unwrap();
    std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    let toml = format!(
        "version = 1\n[device]\nbundle = \"small\"\n\
         [cloud.server]\nendpoint = \"{endpoint}\"\nmodel = \"large\"\nroots = {{ pem = \"ca.pem\" }}\n\
         [privacy]\naudit = \"audit.jsonl\"\n\
         [budget]\nfile = \"budget.redb\"\ninput_price = \"2.50\"\noutput_price = \"10\"\n\
         [[budget.limit]]\nper = \"day\"\nmoney = \"0.01\"\n"
    );
    std::fs::write(folder.path().join("margay.toml"), toml).unwrap();
    folder
}
