//! A router as a bundle's policy carries it: what it sends to the large model the device does not begin.

use margay_policy::{Decision, Router, Threshold};
use serde::{Deserialize, Serialize};

/// A [`Router`] with its threshold, fitted to the small model of the bundle.
///
/// It is no promise of its own: a threshold that was chosen behind a router counts what the router sends away as deferred, so
/// what its certificate promises is of both together.
///
/// In `policy.json`: `"router": {"threshold": -1.5, "intercept": 0.25, "weights": [0.0, 0.5], "deferral_rate": 0.1,
/// "sample_size": 400}`, one weight for each number of a feature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct CalibratedRouter {
    router: Router<Vec<f32>>,
    threshold: Threshold,
    deferral_rate: f64,
    sample_size: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    threshold: Threshold,
    intercept: f32,
    weights: Vec<f32>,
    deferral_rate: f64,
    sample_size: u64,
}

impl CalibratedRouter {
    /// A router that goes on to the device where its score is at least `threshold`. Of the `sample_size` prompts that the
    /// threshold was chosen on it sent the share `deferral_rate` away.
    ///
    /// # Errors
    /// Why it is none, in words: weights that [`Router::new`] refuses, a share outside [0, 1], no prompts.
    pub fn new(
        threshold: Threshold,
        intercept: f32,
        weights: Vec<f32>,
        deferral_rate: f64,
        sample_size: u64,
    ) -> Result<Self, String> {
        let router = Router::new(intercept, weights).map_err(|fault| format!("a router's {fault}"))?;
        if !(0.0..=1.0).contains(&deferral_rate) || sample_size == 0 {
            return Err("a router has a number that is out of its range".to_owned());
        }
        Ok(Self { router, threshold, deferral_rate, sample_size })
    }

    /// The decision to send a prompt on at once; `None` is the device's to answer.
    #[must_use]
    pub fn sends_away(&self, prompt: &str) -> Option<Decision> {
        self.router.sends_away(prompt, self.threshold)
    }

    /// Below it a prompt is sent on.
    #[must_use]
    pub fn threshold(&self) -> Threshold {
        self.threshold
    }

    /// Share of prompts sent away, where the threshold was chosen.
    #[must_use]
    pub fn deferral_rate(&self) -> f64 {
        self.deferral_rate
    }
}

impl TryFrom<Written> for CalibratedRouter {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { threshold, intercept, weights, deferral_rate, sample_size } = written;
        Self::new(threshold, intercept, weights, deferral_rate, sample_size)
    }
}

impl From<CalibratedRouter> for Written {
    fn from(router: CalibratedRouter) -> Self {
        let CalibratedRouter { router, threshold, deferral_rate, sample_size } = router;
        let (intercept, weights) = (router.intercept(), router.weights().to_vec());
        Self { threshold, intercept, weights, deferral_rate, sample_size }
    }
}
