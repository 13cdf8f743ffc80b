//! What the exporter writes, in the hands of others: ONNX's checker accepts it, ONNX Runtime's Python package runs it and
//! gives what Margay's engine gives, and both operator forms say the same.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use margay::device::library::Locate;
use margay::{DeviceOptions, Engine};
use margay_exporter::{ExportOptions, Operators, WeightFormat, export_as};
use margay_tests::python::{ONNX, Python};
use margay_trainer::Checkpoint;
use serde::Deserialize;
use serde_json::json;

/// What `run_graph.py` says of one bundle.
#[derive(Deserialize)]
struct Ran {
    domains: Vec<String>,
    node_domains: Vec<String>,
    at_once: Vec<f32>,
    stepped: Vec<f32>,
    log_probabilities: Vec<f32>,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn others_accept_and_run_both_operator_forms() {
    let python = Python::with(ONNX).unwrap();
    Locate::from_environment().find_or_fetch(&mut |_| ()).unwrap().initialise().unwrap();
    let out = tempfile::tempdir().unwrap();
    let ids: Vec<u32> = (0..40).map(|i| 3 + i * 37 % 290).collect();
    let mut cases = vec![];
    for family in ["llama3", "llama-bias", "qwen2", "qwen3", "gemma3"] {
        let checkpoint = Checkpoint::open(&repository().join("exporter/tests/fixtures").join(family)).unwrap();
        for format in [WeightFormat::F32, WeightFormat::Int8, WeightFormat::Int4] {
            for operators in [Operators::Fused, Operators::Standard] {
                let options = ExportOptions {
                    name: family.into(),
                    licence: "CC0-1.0".into(),
                    provenance: BTreeMap::new(),
                    golden_prompts: vec!["the margay".into()],
                    operators,
                    ..ExportOptions::default()
                };
                let folder = out.path().join(format!("{family}-{format}-{operators}"));
                let bundle = export_as(&checkpoint, &folder, &options, format, &mut |_| ()).unwrap().bundle;
                cases.push((format, operators, bundle));
            }
        }
    }
    let request = out.path().join("request.json");
    let folders: Vec<&Path> = cases.iter().map(|(_, _, bundle)| bundle.root()).collect();
    fs::write(&request, json!({"ids": ids, "prompt": 11, "bundles": folders}).to_string()).unwrap();
    let script = repository().join("tests/python/run_graph.py");
    let ran: Vec<Ran> = serde_json::from_str(&python.run(&script, &[&request]).unwrap()).unwrap();
    assert_eq!(ran.len(), cases.len());

    for (pair, results) in cases.chunks(2).zip(ran.chunks(2)) {
        for ((format, operators, bundle), ran) in pair.iter().zip(results) {
            let case = bundle.root().file_name().unwrap().display();
            if *operators == Operators::Standard {
                assert_eq!((&ran.domains[..], &ran.node_domains[..]), (&[String::new()][..], &[String::new()][..]));
            }
            // Activations of quantized products are rounded to 8 bits, by runs of different shape a little differently.
            let tolerance = if *format == WeightFormat::F32 { 1e-4 } else { 0.2 };
            let engine = Engine::load(bundle, DeviceOptions::default()).unwrap();
            let (logits, scores) = (engine.logits(&ids).unwrap(), engine.log_probabilities(&ids).unwrap());
            for (what, difference) in [
                ("at once", difference(&ran.at_once, &logits)),
                ("stepped", difference(&ran.stepped, &logits)),
                ("scored", difference(&ran.log_probabilities, &scores)),
            ] {
                assert!(difference < tolerance, "{case}, {what}: {difference}");
            }
        }
        let [fused, standard] = results else { unreachable!("an operator form is missing") };
        let tolerance = if pair[0].0 == WeightFormat::F32 { 1e-4 } else { 0.2 };
        let case = pair[0].2.root().file_name().unwrap().display();
        assert!(difference(&fused.at_once, &standard.at_once) < tolerance, "{case}: fused and standard differ");
        assert!(difference(&fused.log_probabilities, &standard.log_probabilities) < tolerance, "{case}");
    }
}
