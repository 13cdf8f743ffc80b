//! GGUF files hold the same model as the folders they were made from: same architecture, weights, logits, ids.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use margay_trainer::{Architecture, Checkpoint, Device, ErrorKind};
use serde_json::Value;

fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("exporter/tests/fixtures").join(family)
}

fn both(family: &str) -> [Checkpoint; 2] {
    [folder(family), folder(family).join("model.gguf")].map(|place| Checkpoint::open(&place).unwrap())
}

#[test]
fn llama_computes_what_transformers_does() {
    let [directory, file] = both("llama-bias");
    assert_eq!(file.architecture(), directory.architecture());
    let golden: Value = serde_json::from_slice(&fs::read(folder("llama-bias").join("golden.json")).unwrap()).unwrap();
    let ids: Vec<u32> = serde_json::from_value(golden["ids"].clone()).unwrap();
    let rows: BTreeMap<usize, Vec<f32>> = serde_json::from_value(golden["logits"].clone()).unwrap();
    let logits = file.model(&Device::flex()).unwrap().logits(&ids);
    for (position, expected) in rows {
        let differences = logits[position].iter().zip(&expected).map(|(a, b)| (a - b).abs());
        assert!(differences.fold(0.0, f32::max) < 2e-5, "at {position}");
    }
}

/// GGUF cannot say that scores are scaled by another number than the head's width, as this family's fixture does.
#[test]
fn gemmas_weights_are_the_folders() {
    let [directory, file] = both("gemma3");
    let a = Architecture { query_pre_attn_scalar: None, ..directory.architecture().clone() };
    assert_eq!(*file.architecture(), a);
    file.model(&Device::flex()).unwrap();
    let [theirs, ours] = [&directory, &file].map(|checkpoint| checkpoint.weights().unwrap());
    for (name, shape) in [
        ("model.embed_tokens.weight", vec![a.vocab_size, a.hidden_size]),
        ("model.norm.weight", vec![a.hidden_size]),
        ("model.layers.1.self_attn.q_proj.weight", vec![a.query_size(), a.hidden_size]),
        ("model.layers.1.self_attn.k_norm.weight", vec![a.head_dim]),
        ("model.layers.2.post_attention_layernorm.weight", vec![a.hidden_size]),
        ("model.layers.2.pre_feedforward_layernorm.weight", vec![a.hidden_size]),
        ("model.layers.2.post_feedforward_layernorm.weight", vec![a.hidden_size]),
        ("model.layers.2.mlp.down_proj.weight", vec![a.hidden_size, a.intermediate_size]),
    ] {
        let pairs = ours.tensor(name, &shape).unwrap().into_iter().zip(theirs.tensor(name, &shape).unwrap());
        assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-6), "{name}");
    }
}

#[test]
fn the_tokenizer_and_the_conversation_are_the_folders() {
    for family in ["llama-bias", "gemma3"] {
        let [directory, file] = both(family);
        let [theirs, ours] = [&directory, &file].map(|checkpoint| checkpoint.tokenizer().unwrap());
        for text in ["the cat", "Überall 1234 Katzen! \u{1F408}\u{200D} ", "a  b\t\n\nc<|im_end|>d", ""] {
            assert_eq!(ours.encode(text).unwrap(), theirs.encode(text).unwrap(), "{text:?}");
        }
        let [expected, found] = [(&directory, &theirs), (&file, &ours)].map(|(c, t)| c.conversation(t).unwrap());
        assert_eq!(found.chat_template, expected.chat_template);
        assert_eq!(found.stop_tokens, expected.stop_tokens);
        assert_eq!(found.special_tokens["eos_token"], expected.special_tokens["eos_token"]);
    }
}

#[test]
fn a_damaged_file_is_an_error() {
    let bytes = fs::read(folder("gemma3").join("model.gguf")).unwrap();
    let copy = tempfile::tempdir().unwrap();
    let path = copy.path().join("model.gguf");
    let open = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        Checkpoint::open(&path).and_then(|checkpoint| checkpoint.model(&Device::flex()).map(drop))
    };
    for length in [0, 3, 20, 200, 5000, bytes.len() / 2, bytes.len() - 40] {
        assert_eq!(open(&bytes[..length]).unwrap_err().kind(), ErrorKind::Checkpoint, "cut to {length}");
    }
    let at = |text: &str| bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
    let with = |text: &str, other: &str| {
        let mut bytes = bytes.clone();
        bytes[at(text)..][..other.len()].copy_from_slice(other.as_bytes());
        open(&bytes).unwrap_err()
    };
    for (text, other, message) in [
        ("gemma3", "gemma4", "general.architecture: `gemma4`"),
        ("blk.1.attn_q_norm", "blk.1.attn_x_norm", "blk.1.attn_q_norm.weight: missing"),
        ("output_norm.weight", "output_nomr.weight", "output_norm.weight: missing"),
        ("gemma3.block_count", "gemma3.block_c0unt", "gemma3.block_count: missing"),
    ] {
        let error = with(text, other);
        assert!(error.kind() == ErrorKind::Checkpoint && error.to_string().contains(message), "{error}");
    }
    let missing = Checkpoint::open(&copy.path().join("none.gguf")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Io);
}
