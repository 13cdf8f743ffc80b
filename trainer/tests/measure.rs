//! What is measured while training, against the plain way: one forward pass a token.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::ops::ControlFlow;

use margay_trainer::data::{Corpus, Encoded, EncodedCorpus, PromptFormat, PromptStyle, Rows, Source};
use margay_trainer::objective::ObjectiveOptions;
use margay_trainer::recipe::BadRows;
use margay_trainer::training::{Examiner, Measure};
use margay_trainer::{
    Annotations, Architecture, CausalLm, Device, Objective, Session, Tokenizer, TrainOptions, Training, Work, argmax,
    train,
};

const CONTEXT: usize = 48;

struct Task {
    corpus: Corpus,
    format: PromptFormat,
    rows: Vec<Encoded>,
    architecture: Architecture,
    device: Device,
    _folder: tempfile::TempDir,
}

impl Task {
    fn new() -> Self {
        let answers = ["balance", "weather report", "alarm", "music please", "translate that for me"];
        let row = |n: usize| {
            let answer = answers[n % answers.len()];
            format!(
                "{{\"input\": \"{} {n} {}\", \"target\": \"{answer}\"}}\n",
                ["ask", "say"][n % 2],
                "x ".repeat(n % 6)
            )
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        std::fs::write(&path, (0..30).map(row).collect::<String>()).unwrap();
        let corpus = Corpus::index(&[Source::new(path)], 0.0, BadRows::Refuse).unwrap().train;
        let texts: Vec<String> = (0..30).map(row).collect();
        let tokenizer = Tokenizer::train(texts.iter().map(String::as_str), 300).unwrap();
        let architecture = Architecture::llama(tokenizer.vocabulary_size(), 32, 48, 1, 2, 1);
        let format = PromptFormat::of_tokenizer(tokenizer, PromptStyle::Chat, None).unwrap();
        let encoded = EncodedCorpus { corpus: &corpus, format: &format, context: CONTEXT };
        let rows = (0..corpus.len()).map(|row| encoded.encoded(row).unwrap()).collect();
        Self { corpus, format, rows, architecture, device: Device::flex(), _folder: folder }
    }

    fn options(training: Training) -> TrainOptions {
        let objective_options = ObjectiveOptions::default();
        TrainOptions { objective: Objective::Xent, objective_options, seed: 3, training }
    }

    /// A model that has learned some of the answers.
    fn half_trained(&self) -> CausalLm {
        let options = Self::options(Training { batch_size: 8, ..Training::epochs(6, 1e-2) });
        let model = CausalLm::random(&self.architecture, 1, &self.device).unwrap();
        train(model, &self.rows, None, &options, &self.device, &mut |_| ControlFlow::Continue(())).unwrap()
    }
}

#[test]
fn answers_are_those_of_decoding_token_by_token() {
    let task = Task::new();
    let model = task.half_trained();
    let examiner = Examiner::new(&task.corpus, &task.format, CONTEXT, None, 7, &task.device).unwrap();
    let answers = examiner.answers(&model, &mut |_| {}).unwrap();
    let longest = task.rows.iter().map(|row| row.target.len()).max().unwrap() + 2;
    for (answer, row) in answers.iter().zip(&task.rows) {
        let (mut ids, mut sum) = (row.prompt.clone(), 0.0);
        while ids.len() < row.prompt.len() + longest {
            let logits = model.logits(&ids).pop().unwrap();
            let best = argmax(&logits);
            let normaliser: f32 = logits.iter().map(|x| x.exp()).sum();
            sum += f64::from(logits[best as usize] - normaliser.ln());
            ids.push(best);
            if task.format.ends(best) {
                break;
            }
        }
        let said = &ids[row.prompt.len()..];
        let text = said.split_last().filter(|(last, _)| task.format.ends(**last)).map_or(said, |(_, text)| text);
        assert_eq!(answer.text, task.format.answer(text).unwrap());
        assert!((answer.score - sum / said.len() as f64).abs() < 1e-4);
        assert_eq!(answer.quality, f64::from(u8::from(answer.text == answer.example.target)));
    }
    assert!(answers.iter().any(|answer| answer.quality == 1.0) && answers.iter().any(|answer| answer.quality == 0.0));
}

#[test]
fn a_perfect_large_model_gives_the_ideal_end_of_the_curve() {
    let task = Task::new();
    let model = task.half_trained();
    let annotations = Annotations::read_off(&model, &task.rows, 2, 8, &task.device, &mut |_| {}).unwrap();
    let examiner = Examiner::new(&task.corpus, &task.format, CONTEXT, Some(&annotations), 8, &task.device).unwrap();
    // In front of itself a model gains nothing, wherever it defers.
    let own = examiner.measure(&model).unwrap();
    assert_eq!(own.large_quality, Some(own.quality));
    assert!((own.audc.unwrap() - own.quality).abs() < 1e-12);
    assert_eq!(own.merit(Measure::Loss), Some(-own.loss));
    assert!(own.loss > 0.0);
}

#[test]
fn packing_changes_the_layout_and_nothing_else() {
    let task = Task::new();
    let options = Task::options(Training { batch_size: 8, ..Training::epochs(2, 1e-2) });
    let losses = |packing| {
        let model = CausalLm::random(&task.architecture, 1, &task.device).unwrap();
        let work = Work { packing, ..Work::new(&task.rows, None, &options, &task.device) };
        let mut session = Session::new(model, work).unwrap();
        let mut losses = Vec::new();
        while let Some(report) = session.step().unwrap() {
            losses.push(report.loss);
        }
        losses
    };
    let (apart, packed) = (losses(false), losses(true));
    assert_eq!(apart.len(), 8);
    for (a, b) in apart.iter().zip(&packed) {
        assert!((a - b).abs() < 1e-4, "{apart:?} {packed:?}");
    }
}

#[test]
fn gradients_of_several_batches_are_those_of_one() {
    let task = Task::new();
    // Rows of one length, so that only their number differs between batches.
    let rows: Vec<Encoded> =
        task.rows.iter().filter(|row| row.target.len() == task.rows[0].target.len()).cloned().collect();
    let rows = rows[..4].to_vec();
    let first = |batch_size, accumulate| {
        let options = Task::options(Training { batch_size, accumulate, ..Training::epochs(1, 1e-2) });
        let model = CausalLm::random(&task.architecture, 1, &task.device).unwrap();
        let mut session = Session::new(model, Work::new(&rows, None, &options, &task.device)).unwrap();
        let report = session.step().unwrap().unwrap();
        (report.loss, report.gradient_norm)
    };
    let (one, four) = (first(4, 1), first(1, 4));
    assert!((one.0 - four.0).abs() < 1e-5 && (one.1 - four.1).abs() < 1e-5, "{one:?} {four:?}");
}

#[test]
fn activations_recomputed_on_the_way_back_give_the_same_gradients() {
    let task = Task::new();
    let norms = |checkpoint_activations| {
        let options = Task::options(Training { batch_size: 8, checkpoint_activations, ..Training::epochs(1, 1e-2) });
        let model = CausalLm::random(&task.architecture, 1, &task.device).unwrap();
        let mut session = Session::new(model, Work::new(&task.rows, None, &options, &task.device)).unwrap();
        std::iter::from_fn(|| session.step().unwrap().map(|report| report.gradient_norm)).collect::<Vec<_>>()
    };
    for (kept, again) in norms(false).into_iter().zip(norms(true)) {
        assert!((kept - again).abs() < 1e-4 * kept, "{kept} {again}");
    }
}
