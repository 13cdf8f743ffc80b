//! Steps of training at a fixed size, with their losses, times and the most memory used, as one line of JSON;
//! `benches/peer.py` runs it beside the same in PyTorch.
//!
//! `step small|large STEPS FOLDER`: FOLDER gets the first weights as a checkpoint, for the peer.

use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use margay_trainer::data::Encoded;
use margay_trainer::objective::ObjectiveOptions;
use margay_trainer::{
    Annotations, Architecture, CacheInfo, CausalLm, Checkpoint, Device, Objective, Record, Session, Tokenizer,
    TrainOptions, Training, Work,
};

/// As the binary has it: a quarter faster than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LENGTH: u32 = 128;
const TARGETS: u32 = 64;
const TOP: usize = 8;

/// Ids that look drawn and that Python makes as easily.
fn id(row: u32, at: u32, vocabulary: u32) -> u32 {
    ((row * 7919 + at * 104_729).wrapping_mul(2_654_435_761) >> 8) % vocabulary
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, size, steps, folder] = arguments.as_slice() else { return Err("step small|large STEPS FOLDER".into()) };
    // 15 M parameters, and SmolLM2-135M's shape.
    let (architecture, rows) = match size.as_str() {
        "small" => (Architecture::llama(8192, 384, 1024, 6, 6, 6), 8),
        "large" => (Architecture::llama(49_152, 576, 1536, 30, 9, 3), 4),
        other => return Err(format!("`{other}` is neither small nor large").into()),
    };
    let steps: usize = steps.parse()?;
    let device = Device::flex();
    let vocabulary = architecture.vocab_size as u32;
    let (mut data, mut records) = (Vec::new(), Vec::new());
    for row in 0..rows {
        let ids: Vec<u32> = (0..LENGTH).map(|at| id(row, at, vocabulary)).collect();
        let (prompt, target) = ids.split_at((LENGTH - TARGETS) as usize);
        let row = Encoded { prompt: prompt.to_vec(), target: target.to_vec() };
        // The large model gives the target a half, seven tokens after it a half of what is left, each.
        let likeliest = target.iter().flat_map(|&id| (0..TOP as u32).map(move |k| (id + k) % vocabulary)).collect();
        let probabilities = (0..TOP).map(|k| -(k as f32 + 1.0) * std::f32::consts::LN_2);
        records.push(Record {
            key: row.key(),
            hits: (0..TARGETS).map(|at| at % 4 != 0).collect(),
            top_ids: likeliest,
            top_log_probabilities: (0..TARGETS).flat_map(|_| probabilities.clone()).collect(),
            answer: None,
        });
        data.push(row);
    }
    let (tokenizer, template) = ([0; 32], [0; 32]);
    let info = CacheInfo { k: TOP, vocabulary: architecture.vocab_size, tokenizer, template, flops_per_token: 0.0 };
    let annotations = Annotations::from_records(&info, records)?;
    let model = CausalLm::random(&architecture, 7, &device)?;
    let text = "the peer reads weights only";
    Checkpoint::save(Path::new(folder), &architecture, &model, &Tokenizer::train([text].into_iter(), 300)?)?;

    let training = Training {
        steps: Some(steps),
        epochs: None,
        batch_size: rows as usize,
        warm_up: 0.0,
        floor: 1.0,
        weight_decay: 0.01,
        ..Training::epochs(1, 1e-3)
    };
    let objective_options = ObjectiveOptions::default();
    let options = TrainOptions { objective: Objective::CatDist, objective_options, seed: 7, training };
    let mut session = Session::new(model, Work::new(&data, Some(&annotations), &options, &device))?;
    let (mut losses, mut seconds) = (Vec::new(), Vec::new());
    loop {
        let begin = Instant::now();
        let Some(report) = session.step()? else { break };
        seconds.push(begin.elapsed().as_secs_f64());
        losses.push(report.loss);
    }
    let result = serde_json::json!({ "losses": losses, "seconds": seconds });
    writeln!(std::io::stdout(), "{result}")?;
    Ok(())
}
