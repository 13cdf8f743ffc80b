//! A threshold for each task, all of them right at once.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{RiskControl, Test};
use crate::certificate::Guarantee;
use crate::error::Result;
use crate::pairing::Pairing;

/// How the error of several tasks is kept from adding up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Correction {
    /// Each of T tasks is tested at a T-th of the error.
    Bonferroni,
    /// As Bonferroni, but a task that passes all its tests hands its share to the others, which are tested again (Holm
    /// 1979; along sequences, Bretz et al. 2009). Never chooses a higher threshold than Bonferroni.
    Holm,
}

impl RiskControl {
    /// A threshold for each task, such that with probability `level` the bound holds for *every* task.
    ///
    /// A task without a threshold says how much data it lacks; it should use the default task's.
    ///
    /// # Errors
    /// As [`RiskControl::choose`].
    pub fn choose_per_task(
        &self,
        tasks: &BTreeMap<String, Pairing>,
        correction: Correction,
    ) -> Result<BTreeMap<String, Guarantee>> {
        let mut tests: BTreeMap<&str, Test> = BTreeMap::new();
        for (task, calibration) in tasks {
            let test = Test { joint: tasks.len() as u64, ..self.prepare(calibration)? };
            tests.insert(task, test);
        }
        let mut done: BTreeSet<&str> = BTreeSet::new();
        let mut guarantees = BTreeMap::new();
        loop {
            let error = (1.0 - self.level) / (tests.len() - done.len()).max(1) as f64;
            let before = done.len();
            for (task, test) in tests.iter().filter(|(task, _)| !done.contains(*task)).collect::<Vec<_>>() {
                let walk = test.walk(error);
                guarantees.insert((*task).to_owned(), walk.guarantee);
                if walk.whole {
                    done.insert(task);
                }
            }
            if correction == Correction::Bonferroni || done.len() == before || done.len() == tests.len() {
                return Ok(guarantees);
            }
        }
    }
}
