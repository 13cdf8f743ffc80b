//! What a training step minimises: the objectives of cascade-aware training and their rivals, one enum.
//!
//! Notation: `p_S` the small model in training, `p_L` the frozen large one, `y_1..y_N` the target tokens of a
//! batch under teacher forcing. Prompt and padding tokens are never in a sum. Sources: cascade-aware training is
//! Wang et al., arXiv 2406.00060; Gatekeeper is Rabanser et al., arXiv 2502.19335.

use std::fmt;
use std::ops::AddAssign;
use std::str::FromStr;

use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use serde::{Deserialize, Serialize};

use crate::annotate::TeacherBatch;
use crate::error::{Error, ErrorKind};
use crate::model::{argmax, floats};

/// A training objective.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Objective {
    /// Cross-entropy: `-sum_i log p_S(y_i)`.
    #[default]
    Xent,
    /// Cross-entropy and distillation:
    /// `-sum_i [ w log p_S(y_i) + (1-w) sum_v p_L(v) log p_S(v) ]`.
    Dist,
    /// Cascade-aware cross-entropy: `-sum_i alpha_i log p_S(y_i)`, where `alpha_i` is 1 if the small or the large
    /// model's top-1 token is `y_i`, else 0. No gradient flows through alpha.
    CatXent,
    /// [`Objective::Dist`] under the mask of [`Objective::CatXent`].
    CatDist,
    /// Gatekeeper: `a` x cross-entropy where the small model is right, `(1-a)` x `KL(p_S || uniform)` where it is
    /// wrong. Needs no large model.
    Gatekeeper,
    /// Sequence-level distillation (Kim & Rush, arXiv 1606.07947): cross-entropy on the large model's own answers, which
    /// take the place of the targets before anything is encoded.
    SeqKd,
}

impl Objective {
    /// Every objective, in the order of reports.
    pub const ALL: [Self; 6] = [Self::Xent, Self::Dist, Self::CatXent, Self::CatDist, Self::Gatekeeper, Self::SeqKd];

    /// The name in options, files and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Xent => "xent",
            Self::Dist => "dist",
            Self::CatXent => "cat-xent",
            Self::CatDist => "cat-dist",
            Self::Gatekeeper => "gatekeeper",
            Self::SeqKd => "seq-kd",
        }
    }

    /// Whether the large model's annotations are needed.
    #[must_use]
    pub fn needs_annotations(self) -> bool {
        matches!(self, Self::Dist | Self::CatXent | Self::CatDist | Self::SeqKd)
    }

    /// Whether the large model's distribution is learned from, which needs a shared vocabulary.
    #[must_use]
    pub fn distils(self) -> bool {
        matches!(self, Self::Dist | Self::CatDist)
    }

    /// Whether tokens that neither model predicts are masked.
    #[must_use]
    pub fn masks(self) -> bool {
        matches!(self, Self::CatXent | Self::CatDist)
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Objective {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|objective| objective.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            Error::new(ErrorKind::Config, format!("objective: `{name}` is none of {known}"))
        })
    }
}

/// The choices that no source settles.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectiveOptions {
    /// `w`: weight of the target token against the large model's distribution, 0 to 1.
    pub target_weight: f64,
    /// What becomes of the probability that the large model gives to tokens outside its top k.
    pub tail: Tail,
    /// What the sum over tokens is divided by.
    pub normalise: Normalise,
    /// `a` of Gatekeeper, 0 to 1.
    pub gatekeeper: f64,
    /// Whose guesses stand for the small model's in the mask.
    pub mask: Mask,
}

impl Default for ObjectiveOptions {
    fn default() -> Self {
        let (tail, normalise, mask) = (Tail::default(), Normalise::default(), Mask::default());
        Self { target_weight: 0.5, tail, normalise, gatekeeper: 0.5, mask }
    }
}

impl ObjectiveOptions {
    /// # Errors
    /// [`ErrorKind::Config`] naming the option that is out of range.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        for (name, value) in [("target_weight", self.target_weight), ("gatekeeper", self.gatekeeper)] {
            if !(0.0..=1.0).contains(&value) {
                let message = format!("objective.options.{name}: {value} is outside 0..=1");
                return Err(Error::new(ErrorKind::Config, message));
            }
        }
        Ok(())
    }
}

/// Whose guesses stand for the small model's in the mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mask {
    /// Those of the model in training, which changes its own mask.
    #[default]
    Current,
    /// Those of the model as it was before the first step.
    Initial,
}

/// What becomes of the large model's probability outside its top k.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tail {
    /// It is one more outcome, "another token", in both models.
    #[default]
    OtherBucket,
    /// The top k are scaled to sum to one.
    Renormalise,
}

/// What the sum over tokens is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalise {
    /// All target tokens of the batch: masking makes the step smaller.
    #[default]
    TargetTokens,
    /// The unmasked ones: the step keeps its size whatever is masked.
    UnmaskedTokens,
}

/// Where the two models' top-1 guesses fell, in target tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Hits {
    /// Both are right.
    pub both: usize,
    /// Only the small one is.
    pub small_only: usize,
    /// Only the large one is.
    pub large_only: usize,
    /// Neither is: masked by the cascade-aware objectives.
    pub neither: usize,
}

impl Hits {
    /// Target tokens in all.
    #[must_use]
    pub fn total(&self) -> usize {
        self.both + self.small_only + self.large_only + self.neither
    }
}

impl AddAssign for Hits {
    fn add_assign(&mut self, other: Self) {
        self.both += other.both;
        self.small_only += other.small_only;
        self.large_only += other.large_only;
        self.neither += other.neither;
    }
}

/// One batch's loss. What is minimised is `sum / divisor`, nats per token.
#[derive(Debug)]
pub struct Loss {
    /// Sum over the tokens, `[1]`, nats.
    pub sum: Tensor<1>,
    /// What the sum is divided by; several batches of one step are summed before they are divided.
    pub divisor: usize,
    /// Where the guesses fell. Without annotations the large model counts as wrong.
    pub hits: Hits,
}

impl Loss {
    /// The loss of this batch by itself, `[1]`, nats per token; 0 if nothing is counted.
    #[must_use]
    pub fn value(&self) -> Tensor<1> {
        self.sum.clone().div_scalar(self.divisor.max(1) as f64)
    }
}

/// The loss of one batch.
///
/// `logits` are the small model's, `[targets, vocabulary]`, for the positions that predict `targets`. `small_hits`
/// replaces the mask's view of the small model, e.g. by that of its initial weights; `None` reads it off `logits`.
/// `annotations` must be there if [`Objective::needs_annotations`]; without them the large model counts as wrong and
/// the distillation term is left out.
#[must_use]
pub fn loss(
    objective: Objective,
    options: &ObjectiveOptions,
    logits: Tensor<2>,
    targets: &[u32],
    annotations: Option<&TeacherBatch>,
    small_hits: Option<&[bool]>,
) -> Loss {
    let device = logits.device();
    let count = targets.len();
    let own_hits = top1_hits(&logits, targets);
    let seen_hits = small_hits.unwrap_or(&own_hits);
    let large_hit = |i: usize| annotations.is_some_and(|annotations| annotations.hits[i]);
    let mut hits = Hits::default();
    let alpha: Vec<f32> = (0..count)
        .map(|i| {
            match (seen_hits[i], large_hit(i)) {
                (true, true) => hits.both += 1,
                (true, false) => hits.small_only += 1,
                (false, true) => hits.large_only += 1,
                (false, false) => hits.neither += 1,
            }
            let keep = !objective.masks() || seen_hits[i] || large_hit(i);
            f32::from(u8::from(keep))
        })
        .collect();
    let unmasked = alpha.iter().filter(|&&a| a > 0.0).count();

    let log_probabilities = activation::log_softmax(logits, 1);
    let target_ids = ints(targets, [count, 1], &device);
    let target_term = log_probabilities.clone().gather(1, target_ids).squeeze_dim::<1>(1).neg();
    let per_token = match (objective, annotations) {
        (Objective::Dist | Objective::CatDist, Some(annotations)) => {
            let w = options.target_weight;
            let teacher_term = distillation(&log_probabilities, annotations, options.tail);
            target_term.mul_scalar(w) + teacher_term.mul_scalar(1.0 - w)
        }
        (Objective::Gatekeeper, _) => {
            let right: Vec<f32> = own_hits.iter().map(|&hit| f32::from(u8::from(hit))).collect();
            let right = Tensor::<1>::from_data(TensorData::new(right, [count]), &device);
            let uniform = kl_from_uniform(&log_probabilities);
            let (a, wrong) = (options.gatekeeper, right.clone().neg().add_scalar(1.0));
            target_term * right.mul_scalar(a) + uniform * wrong.mul_scalar(1.0 - a)
        }
        _ => target_term,
    };
    let divisor = match options.normalise {
        Normalise::TargetTokens => count,
        Normalise::UnmaskedTokens => unmasked,
    };
    let alpha = Tensor::from_data(TensorData::new(alpha, [count]), &device);
    Loss { sum: (per_token * alpha).sum(), divisor, hits }
}

/// `-sum_v p_L(v) log p_S(v)` per target token, over the top k and what is left of them, `[targets]`.
fn distillation(log_probabilities: &Tensor<2>, annotations: &TeacherBatch, tail: Tail) -> Tensor<1> {
    let device = log_probabilities.device();
    let shape = [annotations.hits.len(), annotations.k];
    let small = log_probabilities.clone().gather(1, ints(&annotations.top_ids, shape, &device));
    let mut large: Vec<f32> = annotations.top_log_probabilities.iter().map(|value| value.exp()).collect();
    let mut rest = Vec::with_capacity(shape[0]);
    for row in large.chunks_exact_mut(annotations.k) {
        let sum: f32 = row.iter().sum();
        rest.push((1.0 - sum).max(0.0));
        if tail == Tail::Renormalise {
            row.iter_mut().for_each(|p| *p /= sum);
        }
    }
    let large = Tensor::<2>::from_data(TensorData::new(large, shape), &device);
    let top = (small.clone() * large).sum_dim(1).squeeze_dim::<1>(1).neg();
    match tail {
        Tail::Renormalise => top,
        Tail::OtherBucket => {
            let rest = Tensor::<1>::from_data(TensorData::new(rest, [shape[0]]), &device);
            let small_rest = small.exp().sum_dim(1).squeeze_dim::<1>(1).neg().add_scalar(1.0);
            top - small_rest.clamp_min(SMALLEST_REST).log() * rest
        }
    }
}

/// Below this the small model's probability of "another token" is rounding, and its logarithm would run away.
const SMALLEST_REST: f32 = 1e-6;

/// `KL(p_S || U) = log |V| + sum_v p_S(v) log p_S(v)` per target token, `[targets]`.
fn kl_from_uniform(log_probabilities: &Tensor<2>) -> Tensor<1> {
    let vocabulary = log_probabilities.dims()[1] as f64;
    let negative_entropy = (log_probabilities.clone().exp() * log_probabilities.clone()).sum_dim(1);
    negative_entropy.squeeze_dim::<1>(1).add_scalar(vocabulary.ln())
}

/// Whether each row's largest logit is at its target; the lowest id wins a tie.
pub(crate) fn top1_hits(logits: &Tensor<2>, targets: &[u32]) -> Vec<bool> {
    let [_, vocabulary] = logits.dims();
    let values = floats(logits.clone().detach().into_data());
    values.chunks_exact(vocabulary).zip(targets).map(|(row, &target)| argmax(row) == target).collect()
}

fn ints<const D: usize>(ids: &[u32], shape: [usize; D], device: &Device) -> Tensor<D, Int> {
    let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    Tensor::from_data(TensorData::new(ids, shape), device)
}

#[cfg(test)]
mod tests;
