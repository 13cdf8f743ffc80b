//! `policy.json`: the deferral policy of one model, and how its thresholds were found.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::digest::ModelDigest;
use super::{MAX_POLICY_BYTES, parse, read_capped};
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
    /// Where the thresholds come from.
    pub calibration: Calibration,
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

impl CalibratedPolicy {
    /// Fails unless the policy was calibrated on the model with digest `model`.
    ///
    /// # Errors
    /// [`ErrorKind::Digest`] on a mismatch.
    pub fn check(&self, model: &ModelDigest) -> Result<()> {
        if self.model_digest == *model {
            return Ok(());
        }
        let message =
            format!("the policy was calibrated on {}, the model is {model}: calibrate again", self.model_digest);
        Err(Error::new(ErrorKind::Digest, message))
    }

    pub(super) fn open(path: &Path, model: &ModelDigest) -> Result<Self> {
        let policy: Self = parse(path, &read_capped(path, MAX_POLICY_BYTES)?)?;
        policy.check(model)?;
        Ok(policy)
    }
}
