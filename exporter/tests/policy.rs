//! A calibrated policy goes to the form of the model that it was calibrated on, and leaves the others as they are.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::fs;
use std::path::Path;

use margay::bundle::CalibratedPolicy;
use margay::bundle::digest::ModelDigest;
use margay::bundle::manifest::FileEntry;
use margay::policy::{Policy, Rule, Threshold};
use margay::{Bundle, ErrorKind as RuntimeErrorKind};
use margay_exporter::{ErrorKind, write_policy};
use serde_json::{Value, json};

/// The runtime's toy with a variant, which has a graph of its own and the weights under another name.
fn toy_with_variant(root: &Path) -> Bundle {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/tests/fixtures/toy");
    let own = root.join("variants/gpu");
    fs::create_dir_all(&own).unwrap();
    for entry in fs::read_dir(fixture).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), root.join(entry.file_name())).unwrap();
    }
    for name in ["model.onnx", "weights.bin"] {
        fs::copy(root.join(name), own.join(name)).unwrap();
    }
    let path = root.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["variants"] = json!([{
        "name": "gpu", "device": "gpu", "providers": ["cuda"], "graph": "variants/gpu/model.onnx", "quantization": "f16",
        "canary": manifest["canary"],
    }]);
    let names = ["model.onnx", "tokenizer.json", "variants/gpu/model.onnx", "variants/gpu/weights.bin", "weights.bin"];
    manifest["files"] = names.iter().map(|name| json!(FileEntry::of(root, *name).unwrap())).collect();
    fs::write(&path, manifest.to_string()).unwrap();
    Bundle::open(root).unwrap()
}

fn policy(model_digest: ModelDigest, threshold: f32) -> CalibratedPolicy {
    CalibratedPolicy::by_hand(model_digest, Policy::new(Rule::ChowAverage, Threshold::new(threshold).unwrap()))
}

#[test]
fn each_form_has_its_own_policy() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("toy");
    let whole = toy_with_variant(&root);
    let variant = whole.variant("gpu").unwrap();
    let (own, other) = (policy(*whole.model_digest(), -0.5), policy(*variant.model_digest(), -0.25));
    let report = json!({"queries": 1});

    // Whichever form the bundle is seen as, the policy's digest decides.
    let written = write_policy(&whole, &other, Some(&report), None).unwrap();
    assert_eq!((written.policy(), written.model_digest()), (Some(&other), variant.model_digest()));
    assert!(root.join("variants/gpu/policy.json").is_file() && root.join("variants/gpu/calibration.json").is_file());
    let again = Bundle::open(&root).unwrap();
    assert!(again.policy().is_none(), "the bundle's own form has none yet");
    assert_eq!(again.model_digest(), whole.model_digest());

    let written = write_policy(&again.variant("gpu").unwrap(), &own, None, None).unwrap();
    assert_eq!(written.policy(), Some(&own));
    assert_eq!(written.variant("gpu").unwrap().policy(), Some(&other));

    // Replacing one leaves the other, and what stood behind the old one goes.
    let third = policy(*variant.model_digest(), -0.125);
    write_policy(&written, &third, None, None).unwrap();
    let last = Bundle::open(&root).unwrap();
    assert_eq!((last.policy(), last.variant("gpu").unwrap().policy()), (Some(&own), Some(&third)));
    assert!(!root.join("variants/gpu/calibration.json").exists());
}

#[test]
fn a_policy_of_another_model_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("toy");
    let whole = toy_with_variant(&root);
    let before = fs::read(root.join("manifest.json")).unwrap();
    let digest: ModelDigest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    let error = write_policy(&whole, &policy(digest, 0.0), None, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Bundle);
    let cause = std::error::Error::source(&error).unwrap().downcast_ref::<margay::Error>().unwrap();
    assert_eq!(cause.kind(), RuntimeErrorKind::Digest);
    assert_eq!(fs::read(root.join("manifest.json")).unwrap(), before);
}
