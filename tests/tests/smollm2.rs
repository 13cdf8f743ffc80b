//! A real model from its GGUF file: the ids of its tokenizer, and its graphs held against the trainer.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use margay::device::library::Locate;
use margay_exporter::{ExportOptions, Operators, WeightFormat, export_as};
use margay_tests::smollm2;
use margay_trainer::Checkpoint;
use serde::Deserialize;

/// A text, and what llama.cpp makes of it.
#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
}

#[test]
#[ignore = "fetches SmolLM2-135M-Instruct, 98 MB"]
fn the_tokenizer_gives_the_ids_that_llama_cpp_gives() {
    let tokenizer = Checkpoint::open(&smollm2::gguf().unwrap()).unwrap().tokenizer().unwrap();
    let golden = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/smollm2_tokens.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_slice(&golden).unwrap();
    assert!(cases.len() > 40);
    for Case { text, ids } in cases {
        assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{text:?}");
    }
}

/// An export is verified by itself, at once and token by token: that it succeeds is the proof.
#[test]
#[ignore = "fetches SmolLM2-135M-Instruct, 98 MB, and exports it twice"]
fn both_operator_forms_of_a_real_model_compute_what_the_trainer_does() {
    Locate::from_environment().find_or_fetch(&mut |_| ()).unwrap().initialise().unwrap();
    let checkpoint = Checkpoint::open(&smollm2::gguf().unwrap()).unwrap();
    assert_eq!(checkpoint.architecture().parameters(), 134_515_008);
    let out = tempfile::tempdir().unwrap();
    for operators in [Operators::Fused, Operators::Standard] {
        let options = ExportOptions {
            name: "smollm2".into(),
            licence: "Apache-2.0".into(),
            provenance: BTreeMap::new(),
            golden_prompts: vec!["What is the capital of France?".into()],
            operators,
            ..Default::default()
        };
        let exported =
            export_as(&checkpoint, &out.path().join("bundle"), &options, WeightFormat::F32, &mut |_| ()).unwrap();
        assert_eq!(exported.verification.argmax_agreement, 1.0, "{operators}");
        assert!(exported.verification.mean_kl < 1e-6, "{operators}: {}", exported.verification);
    }
}
