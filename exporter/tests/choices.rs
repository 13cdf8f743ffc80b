//! Choosing among answers on checkpoints of every family, against the likelihoods that Hugging Face transformers computes
//! (`fixtures/make_choices.py`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use margay::bundle::manifest::Operators;
use margay::device::library::Locate;
use margay::{ChooseOptions, DeviceOptions, Engine, GenerateOptions, Request};
use margay_exporter::{ExportOptions, WeightFormat, export_as};
use margay_trainer::Checkpoint;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    prompt: String,
    families: BTreeMap<String, Vec<Answer>>,
}

#[derive(Deserialize)]
struct Answer {
    answer: String,
    ids: Vec<u32>,
    log_likelihood: f64,
}

#[test]
fn choices_are_as_likely_as_transformers_finds_them() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let golden: Golden = serde_json::from_slice(&fs::read(fixtures.join("choices.json")).unwrap()).unwrap();
    assert!(golden.families.contains_key("gemma3"));
    Locate::from_environment().find_or_fetch(&mut |_| ()).unwrap().initialise().unwrap();
    let out = tempfile::tempdir().unwrap();
    let operators = [Operators::Fused, Operators::Standard];
    for ((family, answers), operators) in golden.families.iter().flat_map(|one| operators.map(|of| (one, of))) {
        let options = ExportOptions {
            name: family.clone(),
            licence: "CC0-1.0".into(),
            provenance: BTreeMap::new(),
            golden_prompts: vec![golden.prompt.clone()],
            operators,
            ..ExportOptions::default()
        };
        let checkpoint = Checkpoint::open(&fixtures.join(family)).unwrap();
        let exported = export_as(
            &checkpoint,
            &out.path().join(format!("{family}-{operators}")),
            &options,
            WeightFormat::F32,
            &mut |_| (),
        );
        let engine = Engine::load(&exported.unwrap().bundle, DeviceOptions::default()).unwrap();
        let raw = GenerateOptions { raw_prompt: true, ..GenerateOptions::default() };
        let texts: Vec<&str> = answers.iter().map(|answer| answer.answer.as_str()).collect();
        let request = Request::user(&golden.prompt).options(raw);
        let choice = engine.choose(&request, &texts, &ChooseOptions::default(), None).unwrap();
        for (ours, theirs) in choice.answers.iter().zip(answers) {
            assert_eq!(ours.token_ids, theirs.ids, "{family}: {}", theirs.answer);
            let error = (ours.log_likelihood - theirs.log_likelihood).abs();
            assert!(error < 2e-5 * theirs.ids.len() as f64, "{family}: {}: {error} nats off", theirs.answer);
        }
        let likeliest = |a: &usize, b: &usize| answers[*a].log_likelihood.total_cmp(&answers[*b].log_likelihood);
        assert_eq!(choice.best, (0..answers.len()).max_by(likeliest).unwrap(), "{family}");
    }
}
