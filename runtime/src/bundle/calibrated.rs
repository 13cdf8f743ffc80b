//! `policy.json`: the deferral policy of one model, how its thresholds were found, and what is promised about them.

use std::path::Path;

use margay_policy::Threshold;
use serde::{Deserialize, Serialize};

use super::digest::ModelDigest;
use super::router::CalibratedRouter;
use super::{MAX_POLICY_BYTES, POLICY_FILE, malformed, parse, read_capped};
use crate::error::{Error, ErrorKind, Result};

/// A deferral policy together with the model it was calibrated on.
///
/// Scores of another model, or of the same model quantized differently, mean something else: the digest
/// keeps the two together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibratedPolicy {
    /// The model whose scores the thresholds were chosen on.
    pub model_digest: ModelDigest,
    /// Rule and thresholds.
    pub policy: margay_policy::Policy,
    /// What looks at the prompt before the device begins, if anything does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router: Option<CalibratedRouter>,
    /// Where the thresholds come from.
    pub calibration: Calibration,
    /// What is promised about each threshold; at most one for each task and one for the default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Certified>,
}

/// How thresholds were chosen, for people and reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Name of the method, e.g. `deferral-rate`.
    pub method: String,
    /// What the method aimed at, in its own unit, e.g. a deferral rate of `0.3`.
    pub target: f64,
    /// The data, e.g. `clinc150/calibration`.
    pub data: String,
    /// Number of queries in the data.
    pub sample_size: u64,
    /// What is promised, under which assumptions, in words.
    pub guarantee: String,
}

/// One threshold of the policy and its certificate, in the form in which `margay-evaluation` writes it, with its task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certified {
    /// The task whose threshold this is; `None` is the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The policy's threshold, before it was rounded to 32 bits.
    pub threshold: Threshold64,
    /// Share of the calibration queries deferred, in [0, 1].
    pub deferral_rate: f64,
    /// What is promised.
    pub certificate: Certificate,
}

/// What is promised about a threshold, on what evidence, and what must hold for the promise to be kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// How the threshold was chosen, e.g. `learn-then-test-binomial`.
    pub method: String,
    /// What it meets.
    pub target: Target,
    /// With what probability over the draw of the calibration queries, in (0, 1); `None` where the method promises
    /// an expectation, or nothing.
    pub level: Option<f64>,
    /// The same quantity on the calibration queries.
    pub measured: f64,
    /// Number of calibration queries that the promise rests on.
    pub sample_size: u64,
    /// How many thresholds hold together at `level`.
    pub joint: u64,
    /// What must hold, in a sentence.
    pub assumptions: String,
    /// The model that gave the scores: the bundle's.
    pub model_digest: ModelDigest,
}

/// A quantity and its bound, e.g. `{"of": "risk", "risk": "worse-among-kept", "at_most": 0.05}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The quantity: `deferral-rate`, `mean-cost`, `mean-quality` or `risk`.
    pub of: String,
    /// Which risk, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<String>,
    /// Its upper bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
    /// Its lower bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
}

/// A threshold in double precision: a number, or the strings `"inf"` and `"-inf"`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "NumberOrWord", try_from = "NumberOrWord")]
pub struct Threshold64(f64);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum NumberOrWord {
    Number(f64),
    Word(String),
}

impl Threshold64 {
    /// The number itself, perhaps infinite, never NaN.
    #[must_use]
    pub fn value(self) -> f64 {
        self.0
    }

    /// Whether a 32-bit threshold is this one but for rounding.
    fn is_near(self, rounded: Threshold) -> bool {
        let rounded = rounded.value();
        f64::from(rounded.next_down()) <= self.0 && self.0 <= f64::from(rounded.next_up())
    }
}

impl From<Threshold64> for NumberOrWord {
    fn from(Threshold64(value): Threshold64) -> Self {
        if value.is_infinite() { Self::Word(value.to_string()) } else { Self::Number(value) }
    }
}

impl TryFrom<NumberOrWord> for Threshold64 {
    type Error = String;

    fn try_from(written: NumberOrWord) -> Result<Self, String> {
        match written {
            NumberOrWord::Number(value) => Ok(Self(value)),
            NumberOrWord::Word(word) if word == "inf" => Ok(Self(f64::INFINITY)),
            NumberOrWord::Word(word) if word == "-inf" => Ok(Self(f64::NEG_INFINITY)),
            NumberOrWord::Word(word) => Err(format!("{word:?} is not a number, \"inf\" or \"-inf\"")),
        }
    }
}

impl CalibratedPolicy {
    /// A policy whose thresholds somebody has set, on no data: nothing is promised of it.
    #[must_use]
    pub fn by_hand(model_digest: ModelDigest, policy: margay_policy::Policy) -> Self {
        let calibration = Calibration {
            method: "by hand".into(),
            target: 0.0,
            data: "none".into(),
            sample_size: 0,
            guarantee: "none".into(),
        };
        Self { model_digest, policy, router: None, calibration, certificates: Vec::new() }
    }

    /// Fails unless policy and certificates belong to the model with digest `model`, and each certificate to a threshold
    /// that the policy has.
    ///
    /// # Errors
    /// [`ErrorKind::Digest`] if either was made on another model; [`ErrorKind::Bundle`] if a certificate is about a
    /// threshold that the policy does not have, or makes no sense.
    pub fn check(&self, model: &ModelDigest) -> Result<()> {
        check_digest("policy", &self.model_digest, model)?;
        for (index, certified) in self.certificates.iter().enumerate() {
            check_digest("certificate", &certified.certificate.model_digest, model)?;
            self.check_certificate(certified, &self.certificates[..index])
                .map_err(|why| malformed(format!("certificates[{index}] {why}")))?;
        }
        Ok(())
    }

    fn check_certificate(&self, certified: &Certified, before: &[Certified]) -> Result<(), String> {
        let task = certified.task.as_deref();
        let threshold = match task {
            None => self.policy.default_threshold(),
            Some(task) => match self.policy.tasks().find(|(name, _)| *name == task) {
                Some((_, threshold)) => threshold,
                None => return Err(format!("is about task {task:?}, which has no threshold")),
            },
        };
        if !certified.threshold.is_near(threshold) {
            let certified = certified.threshold.value();
            return Err(format!("is about the threshold {certified}, the policy's is {threshold}"));
        }
        if before.iter().any(|other| other.task == certified.task) {
            return Err("is the second one about its threshold".to_owned());
        }
        let Certificate { level, measured, sample_size, joint, .. } = certified.certificate;
        let sensible = level.is_none_or(|level| 0.0 < level && level < 1.0)
            && measured.is_finite()
            && (0.0..=1.0).contains(&certified.deferral_rate)
            && sample_size > 0
            && joint > 0;
        if sensible { Ok(()) } else { Err("has a number that is out of its range".to_owned()) }
    }

    /// Reads the content of a `policy.json` that belongs to `model`.
    ///
    /// # Errors
    /// [`ErrorKind::Bundle`] if it is malformed, else as [`CalibratedPolicy::check`].
    pub fn parse(bytes: &[u8], model: &ModelDigest) -> Result<Self> {
        Self::parse_at(Path::new(POLICY_FILE), bytes, model)
    }

    pub(super) fn open(path: &Path, model: &ModelDigest) -> Result<Self> {
        Self::parse_at(path, &read_capped(path, MAX_POLICY_BYTES)?, model)
    }

    fn parse_at(path: &Path, bytes: &[u8], model: &ModelDigest) -> Result<Self> {
        let policy: Self = parse(path, bytes)?;
        policy.check(model)?;
        Ok(policy)
    }
}

fn check_digest(what: &str, of: &ModelDigest, model: &ModelDigest) -> Result<()> {
    if of == model {
        return Ok(());
    }
    let message = format!("the {what} was calibrated on {of}, the model is {model}: calibrate again");
    Err(Error::new(ErrorKind::Digest, message))
}
