//! Losses and gradients against PyTorch's autograd, which knows nothing of this crate: `fixtures/objectives.py`.

use burn::tensor::{Tensor, TensorData};
use margay_trainer::objective::{ObjectiveOptions, loss};
use margay_trainer::{Device, Objective, TeacherBatch};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    objective: Objective,
    options: ObjectiveOptions,
    logits: Vec<Vec<f32>>,
    targets: Vec<u32>,
    hits: Vec<bool>,
    top_ids: Vec<u32>,
    top_log_probabilities: Vec<f32>,
    loss: f64,
    gradient: Vec<Vec<f64>>,
}

#[test]
fn losses_and_gradients_are_those_of_pytorch() {
    let fixture: Fixture = serde_json::from_str(include_str!("fixtures/objectives.json")).unwrap();
    for objective in Objective::ALL {
        assert!(fixture.cases.iter().any(|case| case.objective == objective), "{objective} has no case");
    }
    for case in fixture.cases {
        let shape = [case.logits.len(), case.logits[0].len()];
        let k = case.top_ids.len() / shape[0];
        let teacher = TeacherBatch {
            hits: case.hits,
            top_ids: case.top_ids,
            top_log_probabilities: case.top_log_probabilities,
            k,
        };
        let device = Device::flex().autodiff();
        let logits = Tensor::<2>::from_data(TensorData::new(case.logits.concat(), shape), &device).require_grad();
        let loss = loss(case.objective, &case.options, logits.clone(), &case.targets, Some(&teacher), None).value();
        let gradient = logits.grad(&loss.backward()).unwrap().into_data();
        let value = f64::from(loss.into_scalar::<f32>());
        let name = format!("{} {:?}", case.objective, case.options);
        assert!((value - case.loss).abs() < 1e-4, "{name}: {value} and {}", case.loss);
        for (own, theirs) in gradient.iter::<f32>().zip(case.gradient.concat()) {
            assert!((f64::from(own) - theirs).abs() < 1e-4, "{name}: {own} and {theirs}");
        }
    }
}
