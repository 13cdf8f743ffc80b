//! Opening and loading at once: verified all the same, and the canary decoded once.

mod common;

use std::fs;
use std::path::Path;

use common::{Expected, edit_manifest, library, toy};
use margay::{Bundle, BundleOptions, DeviceOptions, Engine, ErrorKind, Result};

fn open(folder: &Path, options: DeviceOptions) -> Result<(Bundle, Engine)> {
    let options = DeviceOptions { library: Some(library()), threads: Some(1), ..options };
    Engine::open(folder, &BundleOptions::default(), options)
}

#[test]
fn what_is_opened_at_once_is_the_same_model() {
    let (toy, expected) = (toy(), Expected::read());
    let (bundle, engine) = open(toy.path(), DeviceOptions::default()).unwrap();
    assert_eq!(bundle.model_digest().to_string(), expected.model_digest);
    assert_eq!(engine.model_digest(), bundle.model_digest());
    assert_eq!(engine.encode_prompt(&expected.messages).unwrap(), expected.prompt);
    let logits = engine.logits(&expected.prompt).unwrap();
    assert!(logits.iter().zip(expected.logits.last().unwrap()).all(|(a, b)| (a - b).abs() < 1e-4));
}

/// Weights are verified while the graph runs on them: the digest's error comes first, whatever the canary says.
#[test]
fn weights_that_were_changed_answer_nothing() {
    for place in [0.0, 0.5, 1.0] {
        let toy = toy();
        let path = toy.path().join("weights.bin");
        let mut weights = fs::read(&path).unwrap();
        let at = ((weights.len() - 1) as f64 * place) as usize;
        weights[at] ^= 1;
        fs::write(&path, weights).unwrap();
        let error = open(toy.path(), DeviceOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Digest, "{error}");
        assert!(error.to_string().contains("weights.bin"), "{error}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn the_canary_is_decoded_once_and_noted() {
    let (model, cache) = (toy(), tempfile::tempdir().unwrap());
    let folder = Some(cache.path().to_owned());
    let load = |options: DeviceOptions| open(model.path(), options).map(|(_, engine)| engine.report());
    let cached = || DeviceOptions { cache_dir: folder.clone(), ..DeviceOptions::default() };
    let first = load(cached()).unwrap();
    assert!(!first.canary_noted && !first.warm_up.is_zero());
    let again = load(cached()).unwrap();
    assert!(again.canary_noted && again.warm_up.is_zero());
    assert_eq!(again.canary_error, first.canary_error);
    // Whoever wants to see it run does, and without a folder it always runs.
    assert!(!load(DeviceOptions { count_nodes: true, ..cached() }).unwrap().canary_noted);
    assert!(!load(DeviceOptions::default()).unwrap().canary_noted);
    // Another canary is another matter, and one that fails is not noted.
    edit_manifest(model.path(), |manifest| {
        let first = manifest["canary"]["continuation"][0].as_u64().unwrap();
        manifest["canary"]["continuation"][0] = ((first + 1) % 320).into();
    });
    for _ in 0..2 {
        assert_eq!(load(cached()).unwrap_err().kind(), ErrorKind::Inference);
    }
    // A note that says something else counts as none.
    let model = toy();
    for note in fs::read_dir(cache.path()).unwrap() {
        fs::write(note.unwrap().path(), "error 0").unwrap();
    }
    assert!(!open(model.path(), cached()).unwrap().1.report().canary_noted);
}
