//! A policy: one rule, a threshold for each task and one for all others.

use core::fmt;

use heapless::{LinearMap, String};

use crate::aggregate::Aggregate;
use crate::rule::Rule;
use crate::threshold::Threshold;
use crate::verdict::{Decision, Reason, Verdict};

/// A deferral rule with its thresholds, for up to `TASKS` tasks of their own.
///
/// Through serde: `{"rule": "chow-average", "default": -0.5, "tasks": {"alarm": -0.1}}`, where `tasks` may be
/// left out, as may `"early": {"after_tokens": 4, "threshold": -3}`. Unknown fields, duplicate tasks, too many of them and names that are empty or too long are
/// errors.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct Policy<const TASKS: usize = 16> {
    rule: Rule,
    #[cfg_attr(feature = "serde", serde(rename = "default"))]
    default_threshold: Threshold,
    #[cfg_attr(feature = "serde", serde(default, with = "tasks"))]
    tasks: LinearMap<TaskName, Threshold, TASKS>,
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    early: Option<EarlyBound>,
}

/// Calibrated early deferral: once an answer has so many tokens and a score below this, it is deferred, though a perfect
/// rest might still save it. The bound is for all tasks; the share of answers lost to it is its calibration's to promise.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct EarlyBound {
    /// Not before this many tokens.
    pub after_tokens: u32,
    /// Goes on if the score of the tokens so far is at or above this.
    pub threshold: Threshold,
}

/// The name of a task: 1 to [`TaskName::MAX_BYTES`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TaskName(String<{ TaskName::MAX_BYTES }>);

/// Why a policy cannot be built. Its author is to blame.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PolicyError {
    /// The task has a threshold already.
    DuplicateTask(TaskName),
    /// More tasks than the policy's type has room for.
    TooManyTasks {
        /// How many there is room for.
        capacity: usize,
    },
    /// A task's name is longer than [`TaskName::MAX_BYTES`].
    NameTooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// A task's name is empty.
    EmptyName,
}

impl<const TASKS: usize> Policy<TASKS> {
    /// A policy with one threshold for every task.
    #[must_use]
    pub fn new(rule: Rule, default_threshold: Threshold) -> Self {
        Self { rule, default_threshold, tasks: LinearMap::new(), early: None }
    }

    /// The same policy with a threshold for one task.
    ///
    /// # Errors
    /// [`PolicyError`] if the task has one already, the name is empty or too long, or there is no room.
    pub fn with_task(mut self, name: &str, threshold: Threshold) -> Result<Self, PolicyError> {
        add(&mut self.tasks, TaskName::new(name)?, threshold)?;
        Ok(self)
    }

    /// The same policy with calibrated early deferral.
    #[must_use]
    pub fn with_early_bound(mut self, early: EarlyBound) -> Self {
        self.early = Some(early);
        self
    }

    /// When the monitor gives up although an answer could still be kept, if ever.
    #[must_use]
    pub fn early_bound(&self) -> Option<EarlyBound> {
        self.early
    }

    /// How answers are scored.
    #[must_use]
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// The threshold of tasks that have none of their own.
    #[must_use]
    pub fn default_threshold(&self) -> Threshold {
        self.default_threshold
    }

    /// The threshold of `task`; the default one if there is no task or it has none of its own.
    #[must_use]
    pub fn threshold_for(&self, task: Option<&str>) -> Threshold {
        let own = task.and_then(|task| self.tasks().find_map(|(name, own)| (name == task).then_some(own)));
        own.unwrap_or(self.default_threshold)
    }

    /// The tasks with thresholds of their own, in the order they were added.
    pub fn tasks(&self) -> impl Iterator<Item = (&str, Threshold)> {
        self.tasks.iter().map(|(name, threshold)| (name.as_str(), *threshold))
    }

    #[cfg(feature = "postcard")]
    pub(crate) fn into_parts(self) -> (Rule, Threshold, LinearMap<TaskName, Threshold, TASKS>, Option<EarlyBound>) {
        (self.rule, self.default_threshold, self.tasks, self.early)
    }

    #[cfg(feature = "postcard")]
    pub(crate) fn from_parts(
        rule: Rule,
        default_threshold: Threshold,
        tasks: LinearMap<TaskName, Threshold, TASKS>,
        early: Option<EarlyBound>,
    ) -> Self {
        Self { rule, default_threshold, tasks, early }
    }

    /// The decision about a finished answer.
    ///
    /// An answer without a score is deferred whatever the threshold: nothing is known in its favour.
    #[must_use]
    pub fn decide(&self, answer: &Aggregate, task: Option<&str>) -> Decision {
        decide(self.rule, self.threshold_for(task), answer)
    }
}

pub(crate) fn decide(rule: Rule, threshold: Threshold, answer: &Aggregate) -> Decision {
    let score = rule.score(answer);
    let verdict = match score {
        Some(score) if threshold.keeps(score) => Verdict::Keep,
        Some(_) => Verdict::Defer(Reason::LowConfidence),
        None if answer.count() == 0 => Verdict::Defer(Reason::NoTokens),
        None => Verdict::Defer(Reason::Unscorable),
    };
    Decision { verdict, score, threshold }
}

fn add<const TASKS: usize>(
    tasks: &mut LinearMap<TaskName, Threshold, TASKS>,
    name: TaskName,
    threshold: Threshold,
) -> Result<(), PolicyError> {
    if tasks.contains_key(&name) {
        return Err(PolicyError::DuplicateTask(name));
    }
    tasks.insert(name, threshold).map_err(|_| PolicyError::TooManyTasks { capacity: TASKS })?;
    Ok(())
}

impl TaskName {
    /// Longest name, in bytes: room for what data sets call their tasks, small enough for a table on a
    /// microcontroller.
    pub const MAX_BYTES: usize = 32;

    /// # Errors
    /// [`PolicyError::EmptyName`] and [`PolicyError::NameTooLong`].
    pub fn new(name: &str) -> Result<Self, PolicyError> {
        if name.is_empty() {
            return Err(PolicyError::EmptyName);
        }
        String::try_from(name).map(Self).map_err(|_| PolicyError::NameTooLong { bytes: name.len() })
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DuplicateTask(name) => write!(f, "task `{name}` has two thresholds"),
            Self::TooManyTasks { capacity } => {
                write!(f, "more than {capacity} tasks with thresholds of their own")
            }
            Self::NameTooLong { bytes } => {
                write!(f, "a task's name of {bytes} bytes is longer than {}", TaskName::MAX_BYTES)
            }
            Self::EmptyName => f.write_str("a task's name is empty"),
        }
    }
}

impl core::error::Error for PolicyError {}

/// The map of tasks in serde's terms. The map's own implementation would let the last of two duplicates win.
#[cfg(feature = "serde")]
pub(crate) mod tasks {
    use core::fmt;

    use heapless::LinearMap;
    use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
    use serde::ser::{SerializeMap as _, Serializer};

    use super::{TaskName, Threshold, add};

    type Tasks<const TASKS: usize> = LinearMap<TaskName, Threshold, TASKS>;

    pub(crate) fn serialize<S: Serializer, const TASKS: usize>(tasks: &Tasks<TASKS>, s: S) -> Result<S::Ok, S::Error> {
        // Said beforehand, because binary formats want it and the map's iterator does not know it.
        let mut map = s.serialize_map(Some(tasks.len()))?;
        for (name, threshold) in tasks {
            map.serialize_entry(name.as_str(), threshold)?;
        }
        map.end()
    }

    pub(crate) fn deserialize<'de, D, const TASKS: usize>(deserializer: D) -> Result<Tasks<TASKS>, D::Error>
    where
        D: Deserializer<'de>,
    {
        deserializer.deserialize_map(TaskMap)
    }

    struct TaskMap<const TASKS: usize>;

    impl<'de, const TASKS: usize> Visitor<'de> for TaskMap<TASKS> {
        type Value = Tasks<TASKS>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a map of at most {TASKS} tasks and their thresholds")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut tasks = LinearMap::new();
            while let Some((name, threshold)) = entries.next_entry()? {
                add(&mut tasks, name, threshold).map_err(A::Error::custom)?;
            }
            Ok(tasks)
        }
    }

    impl<'de> Deserialize<'de> for TaskName {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_str(Name)
        }
    }

    struct Name;

    impl Visitor<'_> for Name {
        type Value = TaskName;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a name of 1 to {} bytes", TaskName::MAX_BYTES)
        }

        fn visit_str<E: Error>(self, name: &str) -> Result<TaskName, E> {
            TaskName::new(name).map_err(E::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals::TokenSignals;

    fn threshold(value: f32) -> Threshold {
        Threshold::new(value).unwrap()
    }

    fn answer(log_probability: f32) -> Aggregate {
        let mut answer = Aggregate::new();
        answer.observe(TokenSignals { log_probability, margin: 1.0, entropy: 1.0 });
        answer
    }

    #[test]
    fn a_task_has_its_own_threshold() {
        let policy: Policy<2> = Policy::new(Rule::ChowAverage, threshold(-1.0));
        let policy = policy.with_task("alarm", threshold(-0.25)).unwrap();
        assert_eq!(policy.threshold_for(Some("alarm")), threshold(-0.25));
        assert_eq!(policy.threshold_for(Some("music")), threshold(-1.0));
        assert_eq!(policy.threshold_for(None), threshold(-1.0));
        assert_eq!(policy.decide(&answer(-0.5), None).verdict, Verdict::Keep);
        assert_eq!(policy.decide(&answer(-0.5), Some("alarm")).verdict, Verdict::Defer(Reason::LowConfidence));
        assert_eq!(policy.decide(&answer(-0.25), Some("alarm")).verdict, Verdict::Keep, "at the threshold");
    }

    #[test]
    fn faulty_policies_are_refused() {
        let policy: Policy<2> = Policy::new(Rule::ChowAverage, threshold(-1.0));
        let with = |policy: &Policy<2>, name: &str| policy.clone().with_task(name, threshold(0.0));
        let one = with(&policy, "a").unwrap();
        let two = with(&one, "b").unwrap();
        assert_eq!(with(&two, "a"), Err(PolicyError::DuplicateTask(TaskName::new("a").unwrap())));
        assert_eq!(with(&two, "c"), Err(PolicyError::TooManyTasks { capacity: 2 }));
        assert_eq!(with(&policy, ""), Err(PolicyError::EmptyName));
        assert!(with(&policy, &"x".repeat(32)).is_ok());
        assert_eq!(with(&policy, &"x".repeat(33)), Err(PolicyError::NameTooLong { bytes: 33 }));
        assert_eq!(Threshold::new(f32::NAN), Err(crate::ThresholdError));
    }

    #[test]
    fn the_ends_keep_and_defer_everything_that_has_a_score() {
        let keep: Policy = Policy::new(Rule::ChowSum, Threshold::KEEP_ALL);
        let defer: Policy = Policy::new(Rule::ChowSum, Threshold::DEFER_ALL);
        for log_probability in [0.0, -1.0, f32::MIN] {
            assert_eq!(keep.decide(&answer(log_probability), None).verdict, Verdict::Keep);
            let decision = defer.decide(&answer(log_probability), None);
            assert_eq!(decision.verdict, Verdict::Defer(Reason::LowConfidence));
        }
        let none = keep.decide(&Aggregate::new(), None);
        assert_eq!((none.verdict, none.score), (Verdict::Defer(Reason::NoTokens), None));
        let broken = keep.decide(&answer(f32::NAN), None);
        assert_eq!((broken.verdict, broken.score), (Verdict::Defer(Reason::Unscorable), None));
    }
}
