use super::*;
use crate::error::ErrorKind;

fn row(input: &str, target: &str) -> Example {
    Example { id: input.into(), task: "home".into(), input: input.into(), target: target.into(), ..Example::default() }
}

fn rows() -> Vec<Example> {
    let rooms = ["kitchen", "hall", "bedroom", "garage", "garden", "attic"];
    let mut rows = Vec::new();
    for room in rooms {
        rows.push(row(&format!("turn on the light in the {room}"), "turn on"));
        rows.push(row(&format!("switch the {room} lamp off please"), "turn off"));
        rows.push(row(&format!("how warm is it in the {room}"), "temperature"));
    }
    rows
}

fn options() -> IntentOptions {
    IntentOptions { buckets: 256, hidden: 8, epochs: 30, rate: 0.5, dropout: 0.1 }
}

fn train(seed: u64) -> (IntentClassifier, Vec<f64>) {
    let mut losses = Vec::new();
    let trained =
        IntentClassifier::train(&rows(), &options(), &BTreeMap::new(), seed, &mut |_, loss| losses.push(loss)).unwrap();
    (trained, losses)
}

#[test]
fn it_learns_what_words_mean() {
    let (classifier, losses) = train(7);
    assert!(losses[29] < 0.1 * losses[0], "{losses:?}");
    assert_eq!(classifier.accuracy(&rows()).unwrap(), 1.0);
    let unseen = [
        row("light on in the cellar", "turn on"),
        row("off with the lamp", "turn off"),
        row("how warm", "temperature"),
    ];
    assert_eq!(classifier.accuracy(&unseen).unwrap(), 1.0);
    assert_eq!(classifier.intents(), ["temperature", "turn off", "turn on"]);
}

#[test]
fn a_seed_is_the_same_bits_and_another_one_is_not() {
    assert_eq!(train(7).0, train(7).0);
    assert_ne!(train(7).0, train(8).0);
}

/// Each weight's step against the loss's central difference in the direction of that weight alone.
#[test]
fn a_step_is_down_the_gradient() {
    let (classifier, _) = train(7);
    let buckets = training::buckets("is the light in the hall on", classifier.buckets());
    let loss = |classifier: &IntentClassifier| {
        let logits = classifier.forward(&buckets, &mut [0.0; 8]);
        let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        sum.ln() - f64::from(logits[2])
    };
    let stepped = training::step_once(&classifier, &buckets, 2, 1e-3);
    let tensors = |of: &IntentClassifier| [of.output.clone(), of.biases.clone(), of.embedding.clone()].concat();
    let (before, after) = (tensors(&classifier), tensors(&stepped));
    let nudged = |place: usize, by: f32| {
        let mut other = classifier.clone();
        let (outputs, biases) = (other.output.len(), other.biases.len());
        if place < outputs {
            other.output[place] += by;
        } else if place < outputs + biases {
            other.biases[place - outputs] += by;
        } else {
            other.embedding[place - outputs - biases] += by;
        }
        loss(&other)
    };
    // An n-gram's row moves sqrt(N) times as far as its gradient says, every other weight just as far.
    let outputs_and_biases = classifier.output.len() + classifier.biases.len();
    let count = buckets.len() as f64;
    let mut moved = 0;
    for place in 0..before.len() {
        let step = f64::from(before[place] - after[place]) / 1e-3;
        let pace = if place < outputs_and_biases { 1.0 } else { count.sqrt() };
        let slope = pace * (nudged(place, 5e-3) - nudged(place, -5e-3)) / 1e-2;
        assert!((step - slope).abs() < 2e-3 + 0.02 * slope.abs(), "weight {place}: {step} for {slope}");
        moved += usize::from(step != 0.0);
    }
    assert!(moved > 30, "{moved}");
}

#[test]
fn it_is_read_back_and_what_is_malformed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (classifier, _) = train(7);
    assert!(!IntentClassifier::is_in(folder.path()));
    let path = classifier.save(folder.path()).unwrap();
    assert_eq!(IntentClassifier::open(folder.path()).unwrap(), classifier);

    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let error = IntentClassifier::open(folder.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Checkpoint);
    assert!(error.to_string().contains("not a finite number"), "{error}");
    std::fs::write(&path, &bytes[..last]).unwrap();
    assert_eq!(IntentClassifier::open(folder.path()).unwrap_err().kind(), ErrorKind::Checkpoint);
}

#[test]
fn what_cannot_be_learned_is_refused() {
    let refused = |rows: &[Example], options: IntentOptions| {
        IntentClassifier::train(rows, &options, &BTreeMap::new(), 7, &mut |_, _| {}).unwrap_err()
    };
    assert_eq!(refused(&rows()[..1], options()).kind(), ErrorKind::Data);
    assert_eq!(refused(&rows(), IntentOptions { buckets: 100, ..options() }).kind(), ErrorKind::Config);
    assert_eq!(refused(&rows(), IntentOptions { hidden: 65, ..options() }).kind(), ErrorKind::Config);
    assert_eq!(refused(&rows(), IntentOptions { rate: f32::NAN, ..options() }).kind(), ErrorKind::Config);
    assert_eq!(refused(&rows(), IntentOptions { rate: 1e30, ..options() }).kind(), ErrorKind::Diverged);
}
