//! Exported graphs against Hugging Face transformers, live: the real model from its GGUF file, which transformers reads
//! itself, and small random checkpoints of every family, which it makes itself.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::fs;
use std::path::Path;

use margay::device::library::Locate;
use margay::{DeviceOptions, Engine};
use margay_exporter::{ExportOptions, WeightFormat, calibration_texts, export_as};
use margay_tests::python::{Python, TRANSFORMERS, say};
use margay_tests::smollm2;
use margay_trainer::Checkpoint;
use serde::de::DeserializeOwned;
use serde_json::json;

const PROMPTS: usize = 20;
const POSITIONS: usize = 256;

/// Ids of a prompt that is continued, and how many are taken greedily after them.
const BEGIN: usize = 32;
const GREEDY: usize = 64;

#[test]
#[ignore = "installs transformers and PyTorch (several GB), and makes small random checkpoints with them"]
fn every_family_computes_what_transformers_does() {
    let families = ["llama", "qwen2", "qwen3", "gemma3"];
    let out = tempfile::tempdir().unwrap();
    ask(out.path(), json!({"families": families}));
    for family in families {
        compare(&out.path().join(family).join("checkpoint"), &out.path().join(family), family);
    }
}

#[test]
#[ignore = "installs transformers and PyTorch (several GB), fetches SmolLM2-135M-Instruct (98 MB), and needs 1.1 GB for its logits"]
fn a_real_model_computes_what_transformers_does() {
    let (path, out) = (smollm2::gguf().unwrap(), tempfile::tempdir().unwrap());
    let ids = prompts(&Checkpoint::open(&path).unwrap());
    ask(out.path(), json!({"families": [], "gguf": {"path": path, "ids": ids}}));
    compare(&path, &out.path().join("gguf"), "SmolLM2");
}

/// Real text in pieces of one length: arithmetic in words, requests, prose and code.
fn prompts(checkpoint: &Checkpoint) -> Vec<Vec<u32>> {
    let tokenizer = checkpoint.tokenizer().unwrap();
    let texts = calibration_texts().unwrap().into_iter().map(|text| match text {
        margay_exporter::Text::Plain(text) => text,
        margay_exporter::Text::Answer { input, target } => format!("{input}\n{target}"),
    });
    let ids: Vec<u32> = texts.flat_map(|text| tokenizer.encode(&text).unwrap()).collect();
    let prompts: Vec<Vec<u32>> = ids.chunks_exact(POSITIONS).take(PROMPTS).map(<[u32]>::to_vec).collect();
    assert_eq!(prompts.len(), PROMPTS);
    prompts
}

/// Has transformers compute what the request asks for into `out`.
fn ask(out: &Path, mut request: serde_json::Value) {
    for (key, value) in [("prompts", PROMPTS), ("positions", POSITIONS), ("begin", BEGIN), ("greedy", GREEDY)] {
        request[key] = value.into();
    }
    request["out"] = json!(out);
    let file = out.join("request.json");
    fs::write(&file, request.to_string()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/reference.py");
    Python::with(TRANSFORMERS).unwrap().run(&script, &[&file]).unwrap();
}

/// Exports a checkpoint and holds the graph against what transformers computed into `folder`.
fn compare(checkpoint: &Path, folder: &Path, name: &str) {
    Locate::from_environment().find_or_fetch(&mut |_| ()).unwrap().initialise().unwrap();
    let options = ExportOptions {
        name: name.into(),
        licence: "NOASSERTION".into(),
        golden_prompts: vec!["What is the capital of France?".into()],
        ..ExportOptions::default()
    };
    let checkpoint = Checkpoint::open(checkpoint).unwrap();
    let exported = export_as(&checkpoint, &folder.join("bundle"), &options, WeightFormat::F32, &mut |_| ()).unwrap();
    let engine = Engine::load(&exported.bundle, DeviceOptions::default()).unwrap();
    let reference = folder.join("reference");
    let (all, greedy): (Vec<Vec<u32>>, Vec<Vec<u32>>) = (read(&reference, "ids.json"), read(&reference, "greedy.json"));
    assert_eq!((all.len(), greedy.len()), (PROMPTS, PROMPTS), "{name}");
    let stop = &exported.bundle.manifest().prompt.stop_tokens;
    let mut largest = 0.0_f32;
    for (prompt, (ids, greedy)) in all.iter().zip(&greedy).enumerate() {
        assert_eq!((ids.len(), greedy.len()), (POSITIONS, GREEDY), "{name}");
        let expected = floats(&reference.join(format!("logits-{prompt}.f32")));
        let logits = engine.decode_logits(ids).unwrap();
        assert_eq!(logits.iter().map(Vec::len).sum::<usize>(), expected.len(), "{name}");
        for (position, (row, expected)) in logits.iter().zip(expected.chunks_exact(logits[0].len())).enumerate() {
            let difference = row.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(difference < 1e-3, "{name}, prompt {prompt}, position {position}: {difference}");
            largest = largest.max(difference);
        }
        let at_once = engine.logits(ids).unwrap();
        let last = &expected[expected.len() - at_once.len()..];
        assert!(at_once.iter().zip(last).all(|(a, b)| (a - b).abs() < 1e-3), "{name}, prompt {prompt} at once");
        // Margay ends at a token that ends an answer; transformers was told not to.
        let mut continued = ids[..BEGIN].to_vec();
        while continued.len() < BEGIN + GREEDY {
            continued.extend(engine.greedy(&continued, BEGIN + GREEDY - continued.len()).unwrap());
        }
        assert_eq!(continued[BEGIN..], greedy[..], "{name}, prompt {prompt}; stop tokens {stop:?}");
    }
    say(&format!("{name}: {PROMPTS} x {POSITIONS} positions, largest difference of a logit {largest:.1e}")).unwrap();
}

fn read<T: DeserializeOwned>(folder: &Path, name: &str) -> T {
    serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap()
}

fn floats(path: &Path) -> Vec<f32> {
    fs::read(path).unwrap().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}
