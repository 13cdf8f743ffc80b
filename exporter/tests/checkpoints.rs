//! Checkpoints that Hugging Face transformers wrote: the trainer and the exported graph compute what transformers does,
//! conversations become the same ids, and quantized weights are what they are said to be.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::fs;
use std::path::{Path, PathBuf};

use margay::device::library::Locate;
use margay::{Bundle, DeviceOptions, Engine, Message};
use margay_exporter::{
    Error, ErrorKind, Export, ExportOptions, MeasureOptions, Method, Operators, Text, WeightFormat, export_as,
    verify_checkpoint,
};
use margay_trainer::{Checkpoint, Device, argmax};
use serde::Deserialize;
use std::collections::BTreeMap;

const FAMILIES: [&str; 5] = ["llama3", "llama-bias", "qwen2", "qwen3", "gemma3"];
const FORMS: [Operators; 2] = [Operators::Fused, Operators::Standard];

/// What transformers computes.
#[derive(Deserialize)]
struct Golden {
    parameters: u64,
    ids: Vec<u32>,
    /// By position.
    logits: BTreeMap<usize, Vec<f32>>,
    /// Continuation of the first 16 ids.
    greedy: Vec<u32>,
    messages: Vec<Message>,
    prompt: Vec<u32>,
    stop_tokens: Vec<u32>,
}

fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(family)
}

fn golden(family: &str) -> Golden {
    serde_json::from_slice(&fs::read(folder(family).join("golden.json")).unwrap()).unwrap()
}

fn options(family: &str) -> ExportOptions {
    ExportOptions {
        name: family.into(),
        licence: "CC0-1.0".into(),
        provenance: BTreeMap::new(),
        golden_prompts: ["what is the name of the cat", "Überall 1234 Katzen!"].map(String::from).into(),
        ..ExportOptions::default()
    }
}

fn export(family: &str, out: &Path, format: WeightFormat) -> Result<Export, Error> {
    export_with(family, out, format, &options(family))
}

fn in_form(family: &str, operators: Operators) -> ExportOptions {
    ExportOptions { operators, ..options(family) }
}

fn export_with(family: &str, out: &Path, format: WeightFormat, options: &ExportOptions) -> Result<Export, Error> {
    Locate::from_environment().find_or_fetch(&mut |_| ()).unwrap().initialise().unwrap();
    export_as(&Checkpoint::open(&folder(family)).unwrap(), out, options, format, &mut |_| ())
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn the_trainer_computes_what_transformers_does() {
    for family in FAMILIES {
        let (checkpoint, golden) = (Checkpoint::open(&folder(family)).unwrap(), golden(family));
        assert_eq!(checkpoint.architecture().parameters(), golden.parameters, "{family}");
        let model = checkpoint.model(&Device::flex()).unwrap();
        let logits = model.logits(&golden.ids);
        for (position, expected) in &golden.logits {
            let difference = difference(&logits[*position], expected);
            assert!(difference < 2e-5, "{family} at {position}: {difference}");
        }
        let mut ids = golden.ids[..16].to_vec();
        for _ in &golden.greedy {
            ids.push(argmax(model.logits(&ids).last().unwrap()));
        }
        assert_eq!(ids[16..], golden.greedy, "{family}");
    }
}

#[test]
fn the_graph_computes_what_transformers_does() {
    let out = tempfile::tempdir().unwrap();
    for (family, operators) in FAMILIES.into_iter().flat_map(|family| FORMS.map(|form| (family, form))) {
        let (golden, case) = (golden(family), format!("{family}, {operators}"));
        let bundle = export_with(family, &out.path().join(&case), WeightFormat::F32, &in_form(family, operators))
            .unwrap()
            .bundle;
        let engine = Engine::load(&bundle, DeviceOptions::default()).unwrap();
        let logits = engine.decode_logits(&golden.ids).unwrap();
        let scores = engine.log_probabilities(&golden.ids).unwrap();
        assert_eq!(scores.len(), golden.ids.len() - 1, "{case}");
        for (position, expected) in &golden.logits {
            let at_once = engine.logits(&golden.ids[..=*position]).unwrap();
            let difference = difference(&logits[*position], expected).max(difference(&at_once, expected));
            assert!(difference < 2e-5, "{case} at {position}: {difference}");
            if let Some(score) = scores.get(*position) {
                let expected = log_probability(expected, golden.ids[position + 1]);
                assert!((score - expected).abs() < 2e-5, "{case} at {position}: {score} {expected}");
            }
        }
        let mut ids = golden.ids[..16].to_vec();
        for _ in &golden.greedy {
            ids.push(argmax(&engine.logits(&ids).unwrap()));
        }
        assert_eq!(ids[16..], golden.greedy, "{case}");
        assert_eq!(engine.encode_prompt(&golden.messages).unwrap(), golden.prompt, "{case}");
        assert_eq!(bundle.manifest().prompt.stop_tokens, golden.stop_tokens, "{case}");
    }
}

fn log_probability(logits: &[f32], id: u32) -> f32 {
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    (f64::from(logits[id as usize]) - sum.ln()) as f32
}

/// Half precision: the file is half as large, and the graph computes what these very weights say.
#[test]
fn halves_are_stored_as_halves() {
    let out = tempfile::tempdir().unwrap();
    for (family, form) in [("llama3", Operators::Fused), ("gemma3", Operators::Standard)] {
        let export = |format| {
            export_with(family, &out.path().join(format!("{family}-{format}")), format, &in_form(family, form))
        };
        let (floats, halves) = (export(WeightFormat::F32).unwrap(), export(WeightFormat::F16).unwrap());
        let size = |exported: &Export| {
            let files = &exported.bundle.manifest().files;
            files.iter().find(|file| file.path == "model.onnx.data").unwrap().size
        };
        assert!(size(&halves) < size(&floats) * 6 / 10, "{family}: {} {}", size(&halves), size(&floats));
        let cost = halves.quantization.unwrap();
        assert!(cost.mean_kl < 1e-4, "{family}: {cost}");
        // Those of Gemma's checkpoint are bfloat16, of which half precision loses what is very small; Llama's are 32-bit floats.
        assert!(family != "llama3" || cost.max_abs_decode > 1e-5, "{family}: {cost}");
        let checkpoint = Checkpoint::open(&folder(family)).unwrap();
        verify_checkpoint(&halves.bundle, &checkpoint, &options(family)).unwrap();
    }
}

/// The graph against the trainer with the very weights that are stored, so layout and zero points are right; and against
/// the checkpoint, where more bits must cost less.
#[test]
fn quantized_graphs_compute_what_their_weights_say() {
    let out = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let mut last = 0.0;
        for format in [WeightFormat::Int8, WeightFormat::Int4] {
            let path = |operators| out.path().join(format!("{family}-{format}-{operators}"));
            let fused = Operators::Fused;
            let exported = export_with(family, &path(fused), format, &in_form(family, fused)).unwrap();
            let Export { bundle, verification, quantization, .. } = exported;
            let cost = quantization.unwrap();
            let standard =
                export_with(family, &path(Operators::Standard), format, &in_form(family, Operators::Standard)).unwrap();
            assert!(standard.verification.mean_kl < 2e-3, "{family} {format}: {}", standard.verification);
            assert!(verification.mean_kl < 2e-3, "{family} {format}: {verification}");
            assert!(cost.mean_kl > last && cost.mean_kl < 0.2, "{family} {format}: {cost}");
            last = cost.mean_kl;
            assert_eq!(bundle.manifest().model.quantization, format.to_string());
            verify_checkpoint(&bundle, &Checkpoint::open(&folder(family)).unwrap(), &options(family)).unwrap();
        }
    }
}

/// Margay's own operators against ONNX Runtime's on the same weights: both round activations to 8 bits, block by block.
/// Where the processor does not know them, both engines run the same graph.
#[test]
fn own_operators_compute_what_onnx_runtimes_do() {
    let out = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let nearest = ExportOptions { method: Method::Nearest, ..options(family) };
        let bundle = export_with(family, &out.path().join(family), WeightFormat::Int4, &nearest).unwrap().bundle;
        assert!(bundle.own_graph().is_some(), "{family}");
        let golden = golden(family);
        let load = |portable| Engine::load(&bundle, DeviceOptions { portable, ..DeviceOptions::default() }).unwrap();
        let (portable, own) = (load(true), load(false));
        assert!(!portable.report().own_operators);
        let (expected, actual) = (portable.decode_logits(&golden.ids), own.decode_logits(&golden.ids));
        for (at, (expected, actual)) in expected.unwrap().iter().zip(actual.unwrap()).enumerate() {
            let difference = difference(expected, &actual);
            assert!(difference < 0.05, "{family} at {at}: {difference}");
        }
        let at_once = own.logits(&golden.ids).unwrap();
        let difference = difference(&portable.logits(&golden.ids).unwrap(), &at_once);
        assert!(difference < 0.05, "{family} at once: {difference}");
    }
}

/// Weights on grids beside zero are multiplied with the sums of blocks too: nodes of the portable graph, which Margay's
/// operators need not have.
#[test]
fn own_operators_sum_blocks_themselves() {
    let (checkpoint, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for entry in fs::read_dir(folder("llama3")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, checkpoint.path().join(path.file_name().unwrap())).unwrap();
    }
    move_to_grids_beside_zero(&checkpoint.path().join("model.safetensors"));
    Locate::from_environment().find_or_fetch(&mut |_| ()).unwrap().initialise().unwrap();
    let open = Checkpoint::open(checkpoint.path()).unwrap();
    let bundle = export_as(&open, out.path(), &options("llama3"), WeightFormat::Int4, &mut |_| ()).unwrap().bundle;
    let has_sums = |graph: &Path| String::from_utf8_lossy(&fs::read(graph).unwrap()).contains("with_block_sums");
    assert!(has_sums(&bundle.root().join("model.onnx")));
    assert!(!has_sums(&bundle.root().join("own.onnx")));

    let load = |portable| Engine::load(&bundle, DeviceOptions { portable, ..DeviceOptions::default() }).unwrap();
    let ids = golden("llama3").ids;
    let difference = difference(&load(true).logits(&ids).unwrap(), &load(false).logits(&ids).unwrap());
    assert!(difference < 0.05, "{difference}");
}

/// Moves every matrix of the layers to 16 steps from the least to the greatest number of each 32, as GGUF's Q4_1 has them.
fn move_to_grids_beside_zero(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let data = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let header: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&bytes[8..data]).unwrap();
    for (_, tensor) in header.iter().filter(|(name, _)| name.ends_with("proj.weight")) {
        let at = |index: usize| data + tensor["data_offsets"][index].as_u64().unwrap() as usize;
        for block in bytes[at(0)..at(1)].as_chunks_mut::<4>().0.chunks_mut(32) {
            let values: Vec<f32> = block.iter().map(|value| f32::from_le_bytes(*value)).collect();
            let least = values.iter().copied().fold(f32::INFINITY, f32::min);
            let step = (values.iter().copied().fold(f32::NEG_INFINITY, f32::max) - least) / 15.0;
            for (place, value) in block.iter_mut().zip(values) {
                *place = (least + step * ((value - least) / step).round()).to_le_bytes();
            }
        }
    }
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_bundle_of_another_checkpoint_is_a_mismatch() {
    let out = tempfile::tempdir().unwrap();
    for format in [WeightFormat::F32, WeightFormat::Int4] {
        let bundle = export("llama3", &out.path().join("bundle"), format).unwrap().bundle;
        let other = Checkpoint::open(&folder("qwen2")).unwrap();
        assert_eq!(verify_checkpoint(&bundle, &other, &options("qwen2")).unwrap_err().kind(), ErrorKind::Mismatch);
    }
}

#[test]
fn what_is_no_bundle_is_not_replaced() {
    let out = tempfile::tempdir().unwrap();
    fs::write(out.path().join("diary.txt"), "mine").unwrap();
    assert_eq!(export("llama3", out.path(), WeightFormat::F32).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(fs::read_to_string(out.path().join("diary.txt")).unwrap(), "mine");
    let bundle = out.path().join("bundle");
    for _ in 0..2 {
        export("llama3", &bundle, WeightFormat::F32).unwrap();
    }
    assert!(Bundle::open(&bundle).is_ok());
}

#[test]
fn a_checkpoint_with_more_than_its_configuration_says_is_refused() {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder("qwen3")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = copy.path().join("config.json");
    let llama = fs::read_to_string(&path).unwrap().replace("\"qwen3\"", "\"llama\"");
    fs::write(&path, llama).unwrap();
    let error = Checkpoint::open(copy.path()).unwrap().model(&Device::flex()).unwrap_err();
    assert!(error.to_string().contains("model.layers.0.self_attn.k_norm.weight"), "{error}");
}

fn bytes(bundle: &Bundle) -> u64 {
    bundle.manifest().files.iter().map(|file| file.size).sum()
}

/// Between all in 4 bits and all in 8, a bundle is as large as it may be, and the more it may take the less is lost.
#[test]
fn a_bundle_is_no_larger_than_it_may_be() {
    let out = tempfile::tempdir().unwrap();
    let family = "qwen3";
    let checkpoint = Checkpoint::open(&folder(family)).unwrap();
    let parameters = checkpoint.architecture().parameters() as f64;
    let export = |most: Option<f64>, operators| {
        let options = ExportOptions { max_bytes_per_parameter: most, ..in_form(family, operators) };
        export_with(family, &out.path().join("bundle"), WeightFormat::Int4, &options)
    };
    for operators in FORMS {
        let free = bytes(&export(None, operators).unwrap().bundle) as f64;
        // What a manifest may take and half of what 8 bits would be more.
        let most = (free + 65536.0 + 0.3 * parameters) / parameters;
        let exported = export(Some(most), operators).unwrap();
        assert!(!exported.in_8_bits.is_empty() && exported.rounded.is_empty(), "{:?}", exported.in_8_bits);
        let size = bytes(&exported.bundle) as f64;
        assert!(size > free && size <= most * parameters, "{free} {size} {}", most * parameters);
        verify_checkpoint(&exported.bundle, &checkpoint, &options(family)).unwrap();
        let error = export(Some(0.9 * free / parameters), operators).unwrap_err();
        assert!(error.kind() == ErrorKind::Quality && error.to_string().contains("too many"), "{error}");
    }
}

/// The checkpoint with every matrix but the embedding in blocks of 16 evenly spaced numbers, as 4-bit files have them.
fn on_grids(family: &str, copy: &Path) -> Checkpoint {
    let checkpoint = Checkpoint::open(&folder(family)).unwrap();
    let (tokenizer, architecture) = (checkpoint.tokenizer().unwrap(), checkpoint.architecture());
    let model = checkpoint.model_through(&Device::flex(), &mut |name, _, values| {
        for block in values.chunks_mut(32).filter(|_| name != "model.embed_tokens.weight") {
            let (low, high) = block.iter().fold((f32::MAX, f32::MIN), |(low, high), &v| (low.min(v), high.max(v)));
            // A power of two is a number of half precision, and so is every multiple of it here.
            let scale = ((high - low) / 15.0).log2().ceil().exp2();
            block.iter_mut().for_each(|value| *value = low + ((*value - low) / scale).round() * scale);
        }
    });
    let conversation = checkpoint.conversation(&tokenizer).unwrap();
    Checkpoint::save_as(copy, architecture, &model.unwrap(), &tokenizer, &conversation).unwrap()
}

/// A checkpoint of 4-bit blocks keeps its grids while there is room, and no longer.
#[test]
fn grids_are_kept_where_they_save_the_most() {
    let (copy, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let checkpoint = on_grids("llama3", copy.path());
    let parameters = checkpoint.architecture().parameters() as f64;
    let export = |most: Option<f64>| {
        Locate::from_environment().find_or_fetch(&mut |_| ()).unwrap().initialise().unwrap();
        let options = ExportOptions { max_bytes_per_parameter: most, ..options("llama3") };
        export_as(&checkpoint, &out.path().join("bundle"), &options, WeightFormat::Int4, &mut |_| ())
    };
    let free = export(None).unwrap();
    let cost = |exported: &Export| exported.quantization.unwrap().mean_kl;
    let most = (bytes(&free.bundle) as f64 + 65536.0) / parameters;
    let less = export(Some(most - 500.0 / parameters)).unwrap();
    assert!(!less.rounded.is_empty() && less.in_8_bits.is_empty(), "{:?} {:?}", less.rounded, less.in_8_bits);
    assert!(bytes(&less.bundle) < bytes(&free.bundle));
    assert!(cost(&less) > cost(&free), "{} {}", cost(&less), cost(&free));
    verify_checkpoint(&less.bundle, &checkpoint, &options("llama3")).unwrap();
}

fn measured(max_perplexity_increase: Option<f64>) -> ExportOptions {
    let texts =
        ["what is the name of the cat, and who are one two three four five?", "Überall 1234 Katzen und 77 Hunde!"];
    let mut texts: Vec<Text> = texts.map(|text| Text::Plain(text.into())).into();
    texts.push(Text::Answer { input: "who are you".into(), target: "a cat".into() });
    let measure = MeasureOptions { data: "cats.jsonl".into(), texts, max_perplexity_increase };
    ExportOptions { method: Method::Nearest, measure: Some(measure), ..options("llama3") }
}

#[test]
fn perplexity_and_accuracy_are_measured_before_and_after() {
    let out = tempfile::tempdir().unwrap();
    let exported = export_with("llama3", out.path(), WeightFormat::Int8, &measured(None)).unwrap();
    let (before, after) = exported.quality.unwrap();
    assert_eq!((before.tokens, before.answers), (after.tokens, 1));
    let ratio = after.perplexity() / before.perplexity();
    assert!((ratio - 1.0).abs() < 5e-3 && ratio != 1.0, "{ratio}");
    let [perplexity, accuracy] = &exported.bundle.manifest().measurements[..] else { panic!("two measurements") };
    assert_eq!((perplexity.quantity.as_str(), perplexity.data.as_str()), ("perplexity", "cats.jsonl"));
    assert_eq!((perplexity.before, perplexity.after), (Some(before.perplexity()), after.perplexity()));
    assert_eq!((accuracy.quantity.as_str(), accuracy.sample_size), ("accuracy", 1));
}

#[test]
fn matrices_get_8_bits_until_the_perplexity_is_low_enough() {
    let out = tempfile::tempdir().unwrap();
    let folder_of = |name: &str| out.path().join(name);
    let export = |name: &str, limit| export_with("llama3", &folder_of(name), WeightFormat::Int4, &measured(limit));
    let percent = |exported: &Export| {
        let (before, after) = exported.quality.unwrap();
        100.0 * (after.perplexity() / before.perplexity() - 1.0)
    };
    let free = export("free", None).unwrap();
    assert!(free.in_8_bits.is_empty() && percent(&free) > 0.1, "{}", percent(&free));
    let limited = export("limited", Some(0.5 * percent(&free))).unwrap();
    assert!(!limited.in_8_bits.is_empty());
    // The limit holds for the trainer's arithmetic; ONNX Runtime rounds activations too.
    assert!(percent(&limited) < 0.6 * percent(&free), "{} {}", percent(&limited), percent(&free));
    let matrices = 1 + 7 * Checkpoint::open(&folder("llama3")).unwrap().architecture().num_hidden_layers;
    assert!(limited.in_8_bits.len() < matrices, "no more than it takes: {:?}", limited.in_8_bits);
    let llama = Checkpoint::open(&folder("llama3")).unwrap();
    verify_checkpoint(&limited.bundle, &llama, &measured(None)).unwrap();
    let error = export("no", Some(-50.0)).unwrap_err();
    assert!(error.kind() == ErrorKind::Quality && error.to_string().contains("out of reach"), "{error}");
    assert!(!folder_of("no").exists());
}
