//! A bundle that is not exactly what its manifest says is refused with a typed error, never a panic.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

mod common;

use std::fs;
use std::path::Path;

use common::{Expected, edit_manifest, fixtures, relist, toy};
use margay::bundle::digest::ModelDigest;
use margay::bundle::manifest::{FileEntry, Manifest};
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
    let digest = |edit: fn(&mut Manifest)| {
        let mut manifest = original.manifest().clone();
        edit(&mut manifest);
        ModelDigest::compute(&manifest)
    };
    assert_eq!(digest(|manifest| manifest.name.push('x')), *original.model_digest());
    assert_eq!(digest(|manifest| manifest.provenance.clear()), *original.model_digest());
    let policy = |manifest: &mut Manifest| {
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
    // A file is taken for an archive.
    assert_eq!(kind(&fixtures().join("toy.json")), ErrorKind::Bundle);
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

fn golden() -> Value {
    json!([{
        "text": "two cats", "ids": [5, 6, 7],
        "positions": [{"position": 0, "top": [[9, 2.5], [4, 1.0]]}, {"position": 2, "top": [[8, 0.5]]}],
        "tolerance": 0.01,
    }])
}

#[test]
fn what_a_manifest_may_say_besides_survives_reading_and_writing() {
    let folder = toy();
    edit_manifest(folder.path(), |manifest| {
        manifest["golden"] = golden();
        manifest["model_digest"] = Expected::read().model_digest.into();
        manifest["measurements"] = json!([
            {"quantity": "perplexity", "data": "toy/test", "data_sha256": "0".repeat(64), "sample_size": 9, "before": 3.5, "after": 4.0},
            {"quantity": "accuracy", "data": "toy/test", "sample_size": 9, "after": 0.5},
        ]);
    });
    let bundle = Bundle::open(folder.path()).unwrap();
    assert_eq!(bundle.model_digest().to_string(), Expected::read().model_digest, "none of it makes another model");
    let manifest = bundle.manifest();
    assert_eq!(manifest.golden[0].positions[0].top, [(9, 2.5), (4, 1.0)]);
    assert_eq!((manifest.measurements[0].before, manifest.measurements[1].before), (Some(3.5), None));
    let written = serde_json::to_vec(manifest).unwrap();
    assert_eq!(Manifest::parse(&written).unwrap(), *manifest);
}

/// Gives the bundle a variant, which has a graph of its own and the weights under another name.
fn add_variant(folder: &Path, name: &str) {
    let own = folder.join("variants").join(name);
    fs::create_dir_all(&own).unwrap();
    for file in ["model.onnx", "weights.bin"] {
        fs::copy(folder.join(file), own.join(file)).unwrap();
    }
    relist(folder);
    edit_manifest(folder, |manifest| {
        let mut variant = json!({
            "name": name, "device": "gpu", "providers": ["webgpu"], "requires": {"soc": "any"},
            "graph": format!("variants/{name}/model.onnx"), "quantization": "f16",
        });
        variant["canary"] = manifest["canary"].clone();
        let variants = manifest.as_object_mut().unwrap().entry("variants").or_insert(json!([]));
        variants.as_array_mut().unwrap().push(variant);
    });
}

#[test]
fn a_variant_is_a_model_of_its_own_in_the_same_bundle() {
    let folder = toy();
    calibrate(folder.path(), &Expected::read().model_digest);
    add_variant(folder.path(), "gpu-f16");
    let bundle = Bundle::open(folder.path()).unwrap();
    assert_eq!(bundle.model_digest().to_string(), Expected::read().model_digest, "the model is the same without it");
    assert!(bundle.policy().is_some());
    let variant = bundle.variant("gpu-f16").unwrap();
    assert_eq!(variant.graph(), folder.path().join("variants/gpu-f16/model.onnx"));
    assert_eq!(variant.manifest().model.quantization, "f16");
    assert_ne!(variant.model_digest(), bundle.model_digest());
    assert!(variant.policy().is_none(), "the thresholds are not its own");
    assert_eq!(bundle.variant("npu").unwrap_err().kind(), ErrorKind::InvalidRequest);
    common::load(&variant);

    // Another variant changes neither, and a variant's policy is bound to the variant.
    add_variant(folder.path(), "npu");
    let policy = folder.path().join("variants/gpu-f16/policy.json");
    for (digest, opens) in [(variant.model_digest().to_string(), true), (bundle.model_digest().to_string(), false)] {
        let written = fs::read_to_string(folder.path().join("policy.json")).unwrap();
        fs::write(&policy, written.replace(&bundle.model_digest().to_string(), &digest)).unwrap();
        relist(folder.path());
        match Bundle::open(folder.path()) {
            Ok(again) => {
                assert!(opens && again.model_digest() == bundle.model_digest());
                assert_eq!(again.variant("gpu-f16").unwrap().model_digest(), variant.model_digest());
                assert!(again.variant("gpu-f16").unwrap().policy().is_some());
            }
            Err(error) => assert!(!opens && error.kind() == ErrorKind::Digest, "{error}"),
        }
    }
}

#[test]
fn a_certificate_is_about_a_threshold_of_its_policy_and_its_model() {
    let certified = |digest: &str| {
        json!({
            "threshold": -0.25, "deferral_rate": 0.3,
            "certificate": {
                "method": "learn-then-test-binomial", "target": {"of": "risk", "risk": "worse-among-kept", "at_most": 0.05},
                "level": 0.95, "measured": 0.02, "sample_size": 1000, "joint": 1, "assumptions": "exchangeable",
                "model_digest": digest,
            },
        })
    };
    type Spoil = fn(&mut Value);
    let cases: &[(Spoil, Option<ErrorKind>)] = &[
        (|_| (), None),
        (|list| list[0]["threshold"] = (-0.26).into(), Some(ErrorKind::Bundle)),
        (|list| list[0]["threshold"] = "inf".into(), Some(ErrorKind::Bundle)),
        (|list| list[0]["threshold"] = "many".into(), Some(ErrorKind::Bundle)),
        (|list| list[0]["task"] = "alarm".into(), Some(ErrorKind::Bundle)),
        (|list| list[0]["certificate"]["level"] = 1.0.into(), Some(ErrorKind::Bundle)),
        (|list| list[0]["certificate"]["sample_size"] = 0.into(), Some(ErrorKind::Bundle)),
        (|list| list[0]["certificate"]["colour"] = 0.into(), Some(ErrorKind::Bundle)),
        (|list| list[0]["certificate"]["model_digest"] = Value::Null, Some(ErrorKind::Bundle)),
        (|list| *list = json!([list[0], list[0]]), Some(ErrorKind::Bundle)),
        (
            |list| list[0]["certificate"]["model_digest"] = format!("sha256:{}", "0".repeat(64)).into(),
            Some(ErrorKind::Digest),
        ),
    ];
    let digest = Expected::read().model_digest;
    for (index, (spoil, expected)) in cases.iter().enumerate() {
        let folder = toy();
        calibrate(folder.path(), &digest);
        let path = folder.path().join("policy.json");
        let mut policy: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let mut certificates = json!([certified(&digest)]);
        spoil(&mut certificates);
        policy["certificates"] = certificates;
        fs::write(&path, policy.to_string()).unwrap();
        relist(folder.path());
        let opened = Bundle::open(folder.path());
        assert_eq!(opened.err().map(|error| error.kind()), *expected, "{index}");
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
            let files = manifest["files"].as_array_mut().unwrap();
            files.push(files.last().unwrap().clone());
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
        ("canary.logits", |manifest| manifest["canary"]["logits"] = vec![0.0; 321].into()),
        ("tolerance", |manifest| manifest["canary"]["tolerance"] = (-1.0).into()),
        ("golden[0].ids", |manifest| manifest["golden"][0]["ids"][1] = 320.into()),
        ("golden[0].positions", |manifest| manifest["golden"][0]["positions"] = json!([])),
        ("golden[0].positions", |manifest| manifest["golden"][0]["positions"][1]["position"] = 3.into()),
        ("golden[0].positions", |manifest| manifest["golden"][0]["positions"][1]["position"] = 0.into()),
        ("golden[0].positions.0", |manifest| manifest["golden"][0]["positions"][0]["top"][0][0] = 320.into()),
        ("largest first", |manifest| manifest["golden"][0]["positions"][0]["top"][1][1] = 3.0.into()),
        ("golden[0].tolerance", |manifest| manifest["golden"][0]["tolerance"] = (-1.0).into()),
        ("measurements[0]", |manifest| {
            manifest["measurements"] = json!([{"quantity": "", "data": "d", "sample_size": 1, "after": 1.0}])
        }),
        ("called \"gpu\"", |manifest| {
            let variant = manifest["variants"][0].clone();
            manifest["variants"].as_array_mut().unwrap().push(variant);
        }),
        ("belongs to no variant", |manifest| manifest["variants"] = json!([])),
        ("not in variants/gpu/", |manifest| manifest["variants"][0]["graph"] = "model.onnx".into()),
        ("which is a variant's", |manifest| manifest["model"]["graph"] = "variants/gpu/model.onnx".into()),
        ("not among the files", |manifest| manifest["variants"][0]["graph"] = "variants/gpu/other.onnx".into()),
        ("lower-case letters", |manifest| manifest["variants"][0]["providers"] = json!([])),
        ("unknown variant `tpu`", |manifest| manifest["variants"][0]["device"] = "tpu".into()),
        ("variants.gpu.canary", |manifest| manifest["variants"][0]["canary"]["prompt"] = json!([320])),
    ];
    for (why, edit) in cases {
        let folder = toy();
        add_variant(folder.path(), "gpu");
        edit_manifest(folder.path(), |manifest| manifest["golden"] = golden());
        edit_manifest(folder.path(), edit);
        let error = Bundle::open(folder.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Bundle, "{why}: {error}");
        assert!(error.to_string().contains(why), "{why}: {error}");
    }
}

#[test]
fn a_key_that_comes_twice_is_refused_at_every_depth() {
    let content = fs::read_to_string(fixtures().join("toy/manifest.json")).unwrap();
    for key in ["\"schema\": 1", "\"layers\": 2", "\"eos_token\": \"<|end|>\"", "\"made-by\": \"make_toy.py\""] {
        let folder = toy();
        assert_eq!(content.matches(key).count(), 1, "{key}");
        fs::write(folder.path().join("manifest.json"), content.replace(key, &format!("{key}, {key}"))).unwrap();
        let error = Bundle::open(folder.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Bundle);
        assert!(error.to_string().contains("duplicate"), "{key}: {error}");
    }
}

#[test]
fn a_wrong_model_digest_is_refused() {
    let folder = toy();
    edit_manifest(folder.path(), |manifest| manifest["model_digest"] = format!("sha256:{}", "0".repeat(64)).into());
    assert_eq!(kind(folder.path()), ErrorKind::Digest);
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
