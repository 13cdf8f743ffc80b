//! Policies in a compact binary form, for flash and for lines that are slow: a version byte, then postcard's form.

use core::fmt;

use heapless::LinearMap;
use serde::{Deserialize, Serialize};

use crate::policy::{EarlyBound, Policy, TaskName, tasks};
use crate::rule::Rule;
use crate::threshold::Threshold;

/// The version of the form. A policy of another one is refused.
pub const COMPACT_VERSION: u8 = 1;

/// Longest policy that is read, in bytes: a rule of two kilobytes and a hundred tasks.
pub const MAX_COMPACT_BYTES: usize = 6 << 10;

/// Why bytes are no policy, or a policy cannot be written. Whoever made them is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompactError {
    /// Longer than [`MAX_COMPACT_BYTES`].
    TooLong {
        /// The length in bytes.
        bytes: usize,
    },
    /// Of another version than [`COMPACT_VERSION`], or empty.
    Version {
        /// Which one.
        found: Option<u8>,
    },
    /// Cut off, or a field that no policy can have: a number out of its range, an unknown rule or feature, a task twice.
    Malformed,
    /// Something follows the policy.
    Trailing {
        /// How many bytes.
        bytes: usize,
    },
    /// The buffer is too small to write it.
    Buffer,
}

/// What is written. Rules are known by their place in [`Rule`], features by their words.
#[derive(Serialize, Deserialize)]
struct Written<const TASKS: usize> {
    rule: Rule,
    default_threshold: Threshold,
    #[serde(with = "tasks")]
    tasks: LinearMap<TaskName, Threshold, TASKS>,
    early: Option<EarlyBound>,
}

impl<const TASKS: usize> Policy<TASKS> {
    /// Reads a policy, every field checked.
    ///
    /// # Errors
    /// [`CompactError`].
    pub fn from_postcard(bytes: &[u8]) -> Result<Self, CompactError> {
        if bytes.len() > MAX_COMPACT_BYTES {
            return Err(CompactError::TooLong { bytes: bytes.len() });
        }
        let (COMPACT_VERSION, rest) = bytes.split_first().map_or((0, bytes), |(version, rest)| (*version, rest)) else {
            return Err(CompactError::Version { found: bytes.first().copied() });
        };
        let (written, rest) = postcard::take_from_bytes::<Written<TASKS>>(rest).map_err(|_| CompactError::Malformed)?;
        if !rest.is_empty() {
            return Err(CompactError::Trailing { bytes: rest.len() });
        }
        let Written { rule, default_threshold, tasks, early } = written;
        Ok(Self::from_parts(rule, default_threshold, tasks, early))
    }

    /// Writes the policy and returns the part of `buffer` that holds it.
    ///
    /// # Errors
    /// [`CompactError::Buffer`] if it is too small.
    pub fn to_postcard<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], CompactError> {
        let (version, rest) = buffer.split_first_mut().ok_or(CompactError::Buffer)?;
        *version = COMPACT_VERSION;
        let (rule, default_threshold, tasks, early) = self.clone().into_parts();
        let written = Written { rule, default_threshold, tasks, early };
        let length = postcard::to_slice(&written, rest).map_err(|_| CompactError::Buffer)?.len();
        Ok(&buffer[..=length])
    }
}

impl fmt::Display for CompactError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { bytes } => write!(f, "a policy of {bytes} bytes is longer than {MAX_COMPACT_BYTES}"),
            Self::Version { found: Some(found) } => write!(f, "a policy of version {found}, not {COMPACT_VERSION}"),
            Self::Version { found: None } => f.write_str("an empty policy"),
            Self::Malformed => f.write_str("a field of the policy is malformed"),
            Self::Trailing { bytes } => write!(f, "{bytes} bytes follow the policy"),
            Self::Buffer => f.write_str("the policy needs a larger buffer"),
        }
    }
}

impl core::error::Error for CompactError {}
