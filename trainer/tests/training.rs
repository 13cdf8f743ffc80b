//! Training, reading off and saving, on a task small enough for a test: the same words back.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::ops::ControlFlow;

use margay_trainer::data::{Encoded, Example};
use margay_trainer::objective::ObjectiveOptions;
use margay_trainer::{
    Annotations, Architecture, CausalLm, Checkpoint, Device, ErrorKind, Objective, Tokenizer, TrainOptions, Training,
    train,
};

struct Task {
    tokenizer: Tokenizer,
    data: Vec<Encoded>,
    architecture: Architecture,
    device: Device,
}

impl Task {
    fn new() -> Self {
        let words = ["balance", "weather", "alarm", "music", "translate", "timer"];
        let examples: Vec<Example> = (0..48)
            .map(|n| {
                let word = words[n % words.len()];
                let input = format!("please {} {word}", ["show", "tell me the", "start"][n % 3]);
                Example { id: n.to_string(), task: "words".into(), input, target: word.into(), ..Example::default() }
            })
            .collect();
        let texts = examples.iter().flat_map(|e| [e.input.as_str(), e.target.as_str()]).collect::<Vec<_>>();
        let tokenizer = Tokenizer::train(texts.into_iter(), 320).unwrap();
        let data = Encoded::all(&examples, &tokenizer, 64).unwrap();
        let architecture = Architecture::llama(tokenizer.vocabulary_size(), 32, 64, 1, 2, 1);
        Self { tokenizer, data, architecture, device: Device::flex() }
    }

    fn options(objective: Objective) -> TrainOptions {
        TrainOptions {
            objective,
            objective_options: ObjectiveOptions::default(),
            seed: 7,
            training: Training { batch_size: 16, dropout: 0.1, ..Training::epochs(12, 1e-2) },
        }
    }

    fn model(&self) -> CausalLm {
        CausalLm::random(&self.architecture, 3, &self.device).unwrap()
    }

    /// A trained model and the losses on the way.
    fn train(&self, options: &TrainOptions, annotations: Option<&Annotations>) -> (CausalLm, Vec<f64>) {
        let mut losses = Vec::new();
        let model = train(self.model(), &self.data, annotations, options, &self.device, &mut |report| {
            losses.push(report.loss);
            ControlFlow::Continue(())
        });
        (model.unwrap(), losses)
    }

    fn annotate(&self, model: &CausalLm) -> Annotations {
        Annotations::read_off(model, &self.data, 4, 16, &self.device, &mut |_| {}).unwrap()
    }
}

#[test]
fn a_model_learns_the_task_and_the_same_run_gives_the_same_weights() {
    let task = Task::new();
    let (first, losses) = task.train(&Task::options(Objective::Xent), None);
    let (second, _) = task.train(&Task::options(Objective::Xent), None);
    assert!(losses.last().unwrap() < &(losses[0] / 4.0), "{losses:?}");
    assert!(task.annotate(&first).exact_match() > 0.9);
    assert_eq!(first.logits(&task.data[0].prompt), second.logits(&task.data[0].prompt));
}

#[test]
fn a_checkpoint_gives_back_the_same_model_in_the_layout_of_hugging_face() {
    let task = Task::new();
    let folder = tempfile::tempdir().unwrap();
    let model = task.model();
    Checkpoint::save(folder.path(), &task.architecture, &model, &task.tokenizer).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.architecture(), &task.architecture);
    let ids = &task.data[0].prompt;
    assert_eq!(checkpoint.model(&task.device).unwrap().logits(ids), model.logits(ids));
    // PyTorch's layout is [outputs, inputs].
    checkpoint.weights().unwrap().tensor("model.layers.0.mlp.up_proj.weight", &[64, 32]).unwrap();
    let config = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    assert!(config.contains("LlamaForCausalLM"), "{config}");
}

#[test]
fn a_damaged_checkpoint_is_a_typed_error_that_names_the_file() {
    let task = Task::new();
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::save(folder.path(), &task.architecture, &task.model(), &task.tokenizer).unwrap();
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for cut in [0, 4, 100, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let error = checkpoint.model(&task.device).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Checkpoint);
        assert!(error.to_string().contains("model.safetensors"), "{error}");
    }
    std::fs::write(folder.path().join("config.json"), "{\"model_type\": \"mamba\"}").unwrap();
    assert!(Checkpoint::open(folder.path()).unwrap_err().to_string().contains("config.json"));
}

#[test]
fn what_stands_to_the_right_changes_nothing_to_the_left() {
    let task = Task::new();
    let model = task.model();
    let ids = &task.data[0].prompt;
    let whole = model.logits(ids);
    let part = model.logits(&ids[..3]);
    for (a, b) in whole[..3].iter().flatten().zip(part.iter().flatten()) {
        assert!((a - b).abs() < 1e-5);
    }
}

#[test]
fn annotations_survive_the_disk_and_belong_to_their_data() {
    let task = Task::new();
    let annotations = task.annotate(&task.model());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.annotations");
    annotations.save(&path).unwrap();
    assert_eq!(Annotations::open(&path).unwrap(), annotations);

    let bytes = std::fs::read(&path).unwrap();
    for cut in 0..bytes.len() {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        assert_eq!(Annotations::open(&path).unwrap_err().kind(), ErrorKind::Checkpoint, "cut at {cut}");
    }

    let mut other = task.data.clone();
    other[5].target[0] += 1;
    let options = Task::options(Objective::CatXent);
    for (data, annotations) in [(&other, Some(&annotations)), (&task.data, None)] {
        let trained =
            train(task.model(), data, annotations, &options, &task.device, &mut |_| ControlFlow::Continue(()));
        assert_eq!(trained.unwrap_err().kind(), ErrorKind::Config);
    }
}

#[test]
fn the_large_models_view_is_its_forward_pass() {
    let task = Task::new();
    let model = task.model();
    let annotations = task.annotate(&model);
    for (row, example) in task.data.iter().enumerate().take(4) {
        let mut ids = example.prompt.clone();
        ids.extend(&example.target);
        let logits = model.logits(&ids);
        let teacher = annotations.batch(std::slice::from_ref(&task.data[row])).unwrap();
        for (i, &target) in example.target.iter().enumerate() {
            let at = &logits[example.prompt.len() - 1 + i];
            let best = margay_trainer::argmax(at);
            assert_eq!(teacher.hits[i], best == target);
            assert_eq!(teacher.top_ids[i * teacher.k], best);
            let sum: f32 = at.iter().map(|x| x.exp()).sum();
            let expected = at[best as usize] - sum.ln();
            // Kept in 16 bits: 11 of them are the number.
            assert!((teacher.top_log_probabilities[i * teacher.k] - expected).abs() < expected.abs() / 1024.0 + 1e-4);
        }
    }
}

#[test]
fn a_diverging_run_stops_with_the_step() {
    let task = Task::new();
    let training = Training { clip: 1e30, ..Training::epochs(12, 1e30) };
    let options = TrainOptions { training, ..Task::options(Objective::Xent) };
    let error = train(task.model(), &task.data, None, &options, &task.device, &mut |_| ControlFlow::Continue(()));
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Diverged);
    assert!(error.to_string().contains("step") && error.to_string().contains("row "), "{error}");
}

#[test]
fn every_objective_trains_to_a_model_that_answers() {
    let task = Task::new();
    let (large, _) = task.train(&Task::options(Objective::Xent), None);
    let annotations = task.annotate(&large);
    for objective in Objective::ALL {
        // Gatekeeper sharpens a model that can already answer; from random weights it has nothing to be sure of.
        let initial = if objective == Objective::Gatekeeper { large.clone() } else { task.model() };
        let options = Task::options(objective);
        let small =
            train(initial, &task.data, Some(&annotations), &options, &task.device, &mut |_| ControlFlow::Continue(()));
        assert!(task.annotate(&small.unwrap()).exact_match() > 0.5, "{objective}");
    }
}
