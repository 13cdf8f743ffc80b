//! What must hold whatever the numbers are: the invariants of cascade-aware training on small random batches.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const VOCABULARY: usize = 5;

/// Logits, targets and the large model's view of one batch.
#[derive(Debug, Clone)]
struct Case {
    logits: Vec<Vec<f32>>,
    targets: Vec<u32>,
    teacher: Vec<Vec<f32>>,
}

fn cases() -> impl Strategy<Value = Case> {
    let row = || vec(-3.0_f32..3.0, VOCABULARY);
    vec((row(), 0..VOCABULARY as u32, row()), 1..7).prop_map(|rows| {
        let mut case = Case { logits: vec![], targets: vec![], teacher: vec![] };
        for (logits, target, teacher) in rows {
            case.logits.push(logits);
            case.targets.push(target);
            case.teacher.push(teacher);
        }
        case
    })
}

impl Case {
    /// The large model's whole distribution, so that no tail is left.
    fn annotations(&self) -> TeacherBatch {
        let mut batch = TeacherBatch { hits: vec![], top_ids: vec![], top_log_probabilities: vec![], k: VOCABULARY };
        for (row, &target) in self.teacher.iter().zip(&self.targets) {
            let sum: f32 = row.iter().map(|x| x.exp()).sum();
            batch.hits.push(argmax(row) == target);
            batch.top_ids.extend(0..VOCABULARY as u32);
            batch.top_log_probabilities.extend(row.iter().map(|x| x - sum.ln()));
        }
        batch
    }

    /// A large model that gives every target token all of its probability.
    fn oracle(&self) -> TeacherBatch {
        let count = self.targets.len();
        TeacherBatch {
            hits: vec![true; count],
            top_ids: self.targets.clone(),
            top_log_probabilities: vec![0.0; count],
            k: 1,
        }
    }

    fn tensor(&self, device: &Device) -> Tensor<2> {
        Tensor::from_data(TensorData::new(self.logits.concat(), [self.logits.len(), VOCABULARY]), device)
    }

    /// Loss, its gradient with respect to every logit, and the hits.
    fn run(
        &self,
        objective: Objective,
        options: &ObjectiveOptions,
        annotations: &TeacherBatch,
    ) -> (f32, Vec<f32>, Hits) {
        let logits = self.tensor(&Device::flex().autodiff()).require_grad();
        let loss = loss(objective, options, logits.clone(), &self.targets, Some(annotations), None);
        let gradients = loss.value().backward();
        let gradient =
            logits.grad(&gradients).map_or(vec![0.0; self.targets.len() * VOCABULARY], |g| floats(g.into_data()));
        (loss.value().into_scalar::<f32>(), gradient, loss.hits)
    }

    fn value(&self, objective: Objective, options: &ObjectiveOptions, annotations: &TeacherBatch) -> f32 {
        self.run(objective, options, annotations).0
    }
}

fn close(a: f32, b: f32) -> bool {
    (a - b).abs() <= 1e-5 * (1.0 + a.abs())
}

/// The choices of `w`, tail and divisor that the invariants must not depend on.
fn options() -> impl Strategy<Value = ObjectiveOptions> {
    (
        0.0_f64..=1.0,
        prop_oneof![Just(Tail::OtherBucket), Just(Tail::Renormalise)],
        prop_oneof![Just(Normalise::TargetTokens), Just(Normalise::UnmaskedTokens)],
    )
        .prop_map(|(target_weight, tail, normalise)| ObjectiveOptions {
            target_weight,
            tail,
            normalise,
            gatekeeper: 0.5,
            mask: Mask::Current,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_large_model_that_is_always_right_masks_nothing(case in cases(), options in options()) {
        let oracle = case.oracle();
        let xent = case.run(Objective::Xent, &options, &oracle);
        let cat = case.run(Objective::CatXent, &options, &oracle);
        prop_assert!(close(xent.0, cat.0));
        prop_assert_eq!(xent.1, cat.1);
    }

    #[test]
    fn masked_tokens_have_exactly_no_gradient(case in cases(), options in options()) {
        let annotations = case.annotations();
        for objective in [Objective::CatXent, Objective::CatDist] {
            let (_, gradient, hits) = case.run(objective, &options, &annotations);
            let mut masked = 0;
            for (i, row) in gradient.chunks(VOCABULARY).enumerate() {
                let kept = annotations.hits[i] || argmax(&case.logits[i]) == case.targets[i];
                masked += usize::from(!kept);
                prop_assert_eq!(!kept, row.iter().all(|&g| g == 0.0));
            }
            prop_assert_eq!(hits.neither, masked);
        }
    }

    #[test]
    fn with_the_target_alone_distillation_is_cross_entropy(case in cases(), options in options()) {
        let options = ObjectiveOptions { target_weight: 1.0, ..options };
        let annotations = case.annotations();
        for (with, without) in [(Objective::Dist, Objective::Xent), (Objective::CatDist, Objective::CatXent)] {
            prop_assert!(close(case.value(with, &options, &annotations), case.value(without, &options, &annotations)));
        }
    }

    #[test]
    fn a_large_model_that_is_certain_of_the_target_teaches_the_target(case in cases(), options in options()) {
        let oracle = case.oracle();
        prop_assert!(close(case.value(Objective::Dist, &options, &oracle), case.value(Objective::Xent, &options, &oracle)));
    }

    #[test]
    fn more_hits_of_the_large_model_never_mask_more(case in cases(), extra in vec(any::<bool>(), 7)) {
        let fewer = case.annotations();
        let mut more = fewer.clone();
        more.hits.iter_mut().zip(extra).for_each(|(hit, extra)| *hit |= extra);
        let options = ObjectiveOptions::default();
        let (less_loss, _, before) = case.run(Objective::CatXent, &options, &fewer);
        let (more_loss, _, after) = case.run(Objective::CatXent, &options, &more);
        prop_assert!(after.neither <= before.neither);
        prop_assert!(more_loss >= less_loss - 1e-5);
    }

    #[test]
    fn the_order_of_the_batch_does_not_matter(case in cases(), options in options()) {
        let mut reversed = case.clone();
        reversed.logits.reverse();
        reversed.targets.reverse();
        reversed.teacher.reverse();
        for objective in Objective::ALL {
            let there = case.run(objective, &options, &case.annotations());
            let back = reversed.run(objective, &options, &reversed.annotations());
            prop_assert!(close(there.0, back.0));
            let rows: Vec<f32> = back.1.chunks(VOCABULARY).rev().flatten().copied().collect();
            prop_assert!(there.1.iter().zip(&rows).all(|(a, b)| (a - b).abs() < 1e-6));
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences(case in cases(), options in options()) {
        let annotations = case.annotations();
        let step = 0.05;
        for objective in Objective::ALL {
            let (_, gradient, hits) = case.run(objective, &options, &annotations);
            for (i, expected) in gradient.iter().enumerate() {
                let moved = |by: f32| {
                    let mut case = case.clone();
                    case.logits[i / VOCABULARY][i % VOCABULARY] += by;
                    let (value, _, moved_hits) = case.run(objective, &options, &annotations);
                    // Across a change of the small model's guess the mask jumps: no derivative there.
                    (moved_hits == hits).then_some(value)
                };
                let values = [moved(2.0 * step), moved(step), moved(-step), moved(-2.0 * step)];
                let [Some(up2), Some(up), Some(down), Some(down2)] = values else { continue };
                // The five-point stencil: its error is of the fourth order, so that the step can be wide for f32.
                let slope = (8.0 * (up - down) - (up2 - down2)) / (12.0 * step);
                prop_assert!((slope - expected).abs() < 1e-4, "{objective}: {slope} and {expected}");
            }
        }
    }
}

#[test]
fn the_lowest_id_wins_a_tie() {
    let logits = Tensor::<2>::from_data([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0]], &Device::flex());
    assert_eq!(top1_hits(&logits, &[0, 1]), [true, true]);
    assert_eq!(top1_hits(&logits, &[1, 2]), [false, false]);
}

#[test]
fn a_batch_that_is_wholly_masked_teaches_nothing_and_stays_finite() {
    let case = Case {
        logits: vec![vec![9.0, 0.0, 0.0, 0.0, 0.0]],
        targets: vec![3],
        teacher: vec![vec![9.0, 0.0, 0.0, 0.0, 0.0]],
    };
    for normalise in [Normalise::TargetTokens, Normalise::UnmaskedTokens] {
        let options = ObjectiveOptions { normalise, ..ObjectiveOptions::default() };
        let (value, gradient, _) = case.run(Objective::CatXent, &options, &case.annotations());
        assert_eq!((value, gradient), (0.0, vec![0.0; VOCABULARY]));
    }
}

#[test]
fn the_mask_can_be_that_of_the_initial_small_model() {
    let case = Case {
        logits: vec![vec![9.0, 0.0, 0.0, 0.0, 0.0]],
        targets: vec![0],
        teacher: vec![vec![0.0, 1.0, 0.0, 0.0, 0.0]],
    };
    let logits = case.tensor(&Device::flex());
    let options = ObjectiveOptions::default();
    let masked = loss(Objective::CatXent, &options, logits, &case.targets, Some(&case.annotations()), Some(&[false]));
    assert_eq!((masked.value().into_scalar::<f32>(), masked.hits.neither), (0.0, 1));
}

/// Worked by hand, for a small model that gives the target a quarter and a large one that gives it three.
#[test]
fn distillation_worked_by_hand() {
    let logits = Tensor::<2>::from_data([[0.0, 3.0_f32.ln()]], &Device::flex());
    let annotations =
        TeacherBatch { hits: vec![true], top_ids: vec![0], top_log_probabilities: vec![0.75_f32.ln()], k: 1 };
    let options = ObjectiveOptions { target_weight: 0.5, ..ObjectiveOptions::default() };
    // p_S = (1/4, 3/4), target 0: 1/2 ln 4 + 1/2 (3/4 ln 4 + 1/4 ln 4/3).
    let bucket = 0.5 * 4.0_f32.ln() + 0.5 * (0.75 * 4.0_f32.ln() + 0.25 * (4.0_f32 / 3.0).ln());
    let value = |tail| {
        let options = ObjectiveOptions { tail, ..options };
        loss(Objective::Dist, &options, logits.clone(), &[0], Some(&annotations), None).value().into_scalar::<f32>()
    };
    assert!(close(value(Tail::OtherBucket), bucket));
    assert!(close(value(Tail::Renormalise), 4.0_f32.ln()));
}
