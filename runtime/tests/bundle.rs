//! A bundle that is not exactly what its manifest says is refused with a typed error, never a panic.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

mod common;

use std::fs;
use std::path::Path;

use common::{Expected, edit_manifest, fixtures, relist, toy};
use margay::bundle::digest::ModelDigest;
use margay::bundle::manifest::FileEntry;
use margay::policy::{Policy, Rule, Threshold};
use margay::{Bundle, ErrorKind};
use proptest::prelude::*;
use serde_json::{Value, json};

const FILES: [&str; 3] = ["model.onnx", "tokenizer.json", "weights.bin"];

fn kind(folder: &Path) -> ErrorKind {
    Bundle::open(folder).unwrap_err().kind()
}

#[test]
fn the_model_digest_is_the_documented_one() {
    let bundle = Bundle::open(fixtures().join("toy")).unwrap();
    assert_eq!(bundle.model_digest().to_string(), Expected::read().model_digest);
    assert_eq!(*bundle.model_digest(), ModelDigest::compute(bundle.manifest()));
    assert!(bundle.policy().is_none());
}

#[test]
fn the_model_digest_changes_with_the_model_and_with_nothing_else() {
    let original = Bundle::open(fixtures().join("toy")).unwrap();
    let digest = |edit: fn(&mut margay::bundle::manifest::Manifest)| {
        let mut manifest = original.manifest().clone();
        edit(&mut manifest);
        ModelDigest::compute(&manifest)
    };
    assert_eq!(digest(|manifest| manifest.name.push('x')), *original.model_digest());
    assert_eq!(digest(|manifest| manifest.provenance.clear()), *original.model_digest());
    let policy = |manifest: &mut margay::bundle::manifest::Manifest| {
        let entry = FileEntry { path: "policy.json".to_owned(), size: 1, sha256: "0".repeat(64) };
        manifest.files.insert(1, entry);
    };
    assert_eq!(digest(policy), *original.model_digest());
    assert_ne!(digest(|manifest| manifest.model.quantization.push('x')), *original.model_digest());
    assert_ne!(digest(|manifest| manifest.prompt.chat_template.push(' ')), *original.model_digest());
    assert_ne!(digest(|manifest| manifest.files[2].sha256 = "0".repeat(64)), *original.model_digest());
}

/// Puts a `policy.json` for the model with this digest into the bundle.
fn calibrate(folder: &Path, model_digest: &str) {
    let policy = json!({
        "model_digest": model_digest,
        "policy": Policy::<32>::new(Rule::ChowAverage, Threshold::new(-0.25).unwrap()),
        "calibration": {
            "method": "deferral-rate", "target": 0.3, "data": "toy/calibration", "sample_size": 100, "guarantee": "none",
        },
    });
    fs::write(folder.join("policy.json"), policy.to_string()).unwrap();
    relist(folder);
}

#[test]
fn a_policy_belongs_to_the_model_it_was_calibrated_on() {
    let (folder, expected) = (toy(), Expected::read());
    calibrate(folder.path(), &expected.model_digest);
    let bundle = Bundle::open(folder.path()).unwrap();
    let calibrated = bundle.policy().unwrap();
    assert_eq!(calibrated.policy, Policy::new(Rule::ChowAverage, Threshold::new(-0.25).unwrap()));
    assert_eq!((calibrated.calibration.sample_size, calibrated.calibration.target), (100, 0.3));
    assert_eq!(bundle.model_digest().to_string(), expected.model_digest, "calibrating changes no model");

    // The same policy on a model quantized otherwise, and a policy of another model on this one.
    edit_manifest(folder.path(), |manifest| manifest["model"]["quantization"] = "int4".into());
    assert_eq!(kind(folder.path()), ErrorKind::Digest);
    let folder = toy();
    calibrate(folder.path(), &format!("sha256:{}", "0".repeat(64)));
    let error = Bundle::open(folder.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Digest);
    assert!(error.to_string().contains(&expected.model_digest), "{error}");
}

#[test]
fn a_malformed_policy_is_refused() {
    for digest in ["", "sha256:", "md5:00"] {
        let folder = toy();
        calibrate(folder.path(), digest);
        assert_eq!(kind(folder.path()), ErrorKind::Bundle);
    }
    for content in ["", "{}", &" ".repeat((1 << 20) + 1)] {
        let folder = toy();
        fs::write(folder.path().join("policy.json"), content).unwrap();
        relist(folder.path());
        assert_eq!(kind(folder.path()), ErrorKind::Bundle);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_changed_byte_is_noticed(file in 0..FILES.len(), at in any::<prop::sample::Index>(), mask in 1..=u8::MAX) {
        let folder = toy();
        let path = folder.path().join(FILES[file]);
        let mut content = fs::read(&path).unwrap();
        let at = at.index(content.len());
        content[at] ^= mask;
        fs::write(&path, content).unwrap();
        prop_assert_eq!(kind(folder.path()), ErrorKind::Digest);
    }

    #[test]
    fn any_other_length_is_noticed(file in 0..FILES.len(), at in any::<prop::sample::Index>(), more in any::<bool>()) {
        let folder = toy();
        let path = folder.path().join(FILES[file]);
        let mut content = fs::read(&path).unwrap();
        if more {
            content.push(0);
        } else {
            content.truncate(at.index(content.len()));
        }
        fs::write(&path, content).unwrap();
        prop_assert_eq!(kind(folder.path()), ErrorKind::Digest);
    }

    /// A byte of a name or a licence may change unnoticed: signatures are for that. Nothing else may, and nothing panics.
    #[test]
    fn a_spoilt_manifest_is_refused_or_changes_no_file(at in any::<prop::sample::Index>(), mask in 1..=u8::MAX, cut in any::<bool>()) {
        let folder = toy();
        let path = folder.path().join("manifest.json");
        let mut content = fs::read(&path).unwrap();
        let at = at.index(content.len());
        if cut {
            content.truncate(at);
        } else {
            content[at] ^= mask;
        }
        fs::write(&path, content).unwrap();
        match Bundle::open(folder.path()) {
            Ok(bundle) => {
                let original = Bundle::open(fixtures().join("toy")).unwrap();
                prop_assert_eq!(&bundle.manifest().files, &original.manifest().files);
            }
            Err(error) => prop_assert!(matches!(error.kind(), ErrorKind::Bundle | ErrorKind::Digest), "{}", error),
        }
    }
}

#[test]
fn what_is_missing_is_named() {
    for file in FILES {
        let folder = toy();
        fs::remove_file(folder.path().join(file)).unwrap();
        let error = Bundle::open(folder.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Bundle);
        assert!(error.to_string().contains(file), "{error}");
    }
    let folder = toy();
    fs::remove_file(folder.path().join("manifest.json")).unwrap();
    assert_eq!(kind(folder.path()), ErrorKind::Io);
    assert_eq!(kind(&folder.path().join("nowhere")), ErrorKind::Io);
    assert_eq!(kind(&fixtures().join("toy.json")), ErrorKind::Io);
}

#[test]
fn what_is_not_listed_is_refused() {
    let folder = toy();
    fs::write(folder.path().join("more.bin"), b"unverified").unwrap();
    let error = Bundle::open(folder.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Bundle);
    assert!(error.to_string().contains("more.bin"), "{error}");
    relist(folder.path());
    Bundle::open(folder.path()).unwrap();
    fs::create_dir(folder.path().join("deeper")).unwrap();
    Bundle::open(folder.path()).unwrap();
    fs::write(folder.path().join("deeper/more.bin"), b"unverified").unwrap();
    assert_eq!(kind(folder.path()), ErrorKind::Bundle);
    fs::remove_file(folder.path().join("deeper/more.bin")).unwrap();
    for index in 0..300 {
        fs::create_dir(folder.path().join(format!("deeper/{index}"))).unwrap();
    }
    assert_eq!(kind(folder.path()), ErrorKind::Bundle);
}

#[test]
#[cfg(unix)]
fn a_symbolic_link_is_refused_unless_it_is_the_bundle_itself() {
    let (folder, other) = (toy(), toy());
    for target in [other.path().join("weights.bin"), other.path().to_owned()] {
        let path = folder.path().join("weights.bin");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(target, &path).unwrap();
        assert_eq!(kind(folder.path()), ErrorKind::Bundle);
    }
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(other.path(), &link).unwrap();
    Bundle::open(link).unwrap();
}

#[test]
fn a_path_stays_inside_and_means_the_same_everywhere() {
    let long = "a".repeat(256);
    let paths = [
        "",
        ".",
        "..",
        "../weights.bin",
        "a/../weights.bin",
        "./weights.bin",
        "/etc/hostname",
        "//host/share",
        "a//b",
        "a/",
        "a\\b",
        "..\\weights.bin",
        "C:weights.bin",
        "C:\\weights.bin",
        "weights.bin:stream",
        "nul\0",
        "line\nbreak",
        "manifest.json",
        &long,
    ];
    for path in paths {
        let folder = toy();
        edit_manifest(folder.path(), |manifest| {
            let mut entry = manifest["files"][2].clone();
            entry["path"] = path.into();
            manifest["files"].as_array_mut().unwrap().push(entry);
        });
        let error = Bundle::open(folder.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Bundle, "{path:?}");
        assert!(error.to_string().contains("the path"), "{path:?}: {error}");
    }
}

/// A change to the manifest.
type Edit = fn(&mut Value);

#[test]
fn a_malformed_manifest_is_refused() {
    let cases: &[(&str, Edit)] = &[
        ("schema", |manifest| manifest["schema"] = 2.into()),
        ("unknown field", |manifest| manifest["colour"] = "ocelot".into()),
        ("unknown field", |manifest| manifest["model"]["colour"] = 1.into()),
        ("unknown field", |manifest| manifest["prompt"]["colour"] = 1.into()),
        ("unknown field", |manifest| manifest["canary"]["colour"] = 1.into()),
        ("unknown field", |manifest| manifest["files"][0]["colour"] = 1.into()),
        ("missing field", |manifest| drop(manifest.as_object_mut().unwrap().remove("canary"))),
        ("invalid type", |manifest| manifest["model"]["layers"] = "2".into()),
        ("invalid value", |manifest| manifest["model"]["layers"] = (-2).into()),
        ("listed twice", |manifest| {
            let entry = manifest["files"][2].clone();
            manifest["files"].as_array_mut().unwrap().push(entry);
        }),
        ("not sorted", |manifest| manifest["files"].as_array_mut().unwrap().swap(0, 1)),
        ("not among the files", |manifest| manifest["model"]["graph"] = "other.onnx".into()),
        ("not among the files", |manifest| manifest["model"]["tokenizer"] = "../tokenizer.json".into()),
        ("hexadecimal", |manifest| manifest["files"][0]["sha256"] = "A".repeat(64).into()),
        ("hexadecimal", |manifest| manifest["files"][0]["sha256"] = "".into()),
        ("more than", |manifest| manifest["files"][1]["size"] = (1_u64 << 40).into()),
        ("more than", |manifest| manifest["files"][1]["size"] = u64::MAX.into()),
        ("more than", |manifest| manifest["files"][1]["size"] = (1_u64 << 30).into()),
        ("more than 256", |manifest| {
            let files = manifest["files"].as_array_mut().unwrap();
            files.extend((0..300).map(|n| json!({"path": format!("x{n:03}"), "size": 0, "sha256": "0".repeat(64)})));
        }),
        ("layers", |manifest| manifest["model"]["layers"] = 0.into()),
        ("layers", |manifest| manifest["model"]["layers"] = u64::MAX.into()),
        ("context_length", |manifest| manifest["model"]["context_length"] = u64::MAX.into()),
        ("head_size", |manifest| manifest["model"]["head_size"] = 0.into()),
        ("stop_tokens", |manifest| manifest["prompt"]["stop_tokens"] = json!([320])),
        ("canary.prompt", |manifest| manifest["canary"]["prompt"] = json!([320])),
        ("canary.continuation", |manifest| manifest["canary"]["continuation"] = json!([u32::MAX])),
        ("canary needs", |manifest| manifest["canary"]["prompt"] = json!([])),
        ("canary needs", |manifest| manifest["canary"]["logits"] = json!([])),
        ("does not fit", |manifest| manifest["canary"]["prompt"] = vec![1; 640].into()),
        ("canary's logits", |manifest| manifest["canary"]["logits"] = vec![0.0; 321].into()),
        ("tolerance", |manifest| manifest["canary"]["tolerance"] = (-1.0).into()),
    ];
    for (why, edit) in cases {
        let folder = toy();
        edit_manifest(folder.path(), edit);
        let error = Bundle::open(folder.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Bundle, "{why}: {error}");
        assert!(error.to_string().contains(why), "{why}: {error}");
    }
}

#[test]
fn a_manifest_that_is_too_much_is_refused() {
    let entry = r#"{"path":"a","size":0,"sha256":""},"#;
    let contents = [
        format!("{{\"files\":[{}", entry.repeat(1_000_000)),
        "[".repeat(1 << 19),
        " ".repeat((1 << 20) + 1),
        String::new(),
        "null".to_owned(),
    ];
    for content in contents {
        let folder = toy();
        fs::write(folder.path().join("manifest.json"), content).unwrap();
        assert_eq!(kind(folder.path()), ErrorKind::Bundle);
    }
}
