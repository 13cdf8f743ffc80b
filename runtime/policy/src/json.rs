//! Policies as JSON, where there is a standard library.

use std::string::String;

use crate::policy::Policy;

/// Longest text that is read, in bytes: the largest policy with room for blanks.
pub const MAX_JSON_BYTES: usize = 64 << 10;

/// Why a text is no policy; the message names the field, line and column.
pub type JsonError = serde_json::Error;

impl<const TASKS: usize> Policy<TASKS> {
    /// Reads a policy, every field checked.
    ///
    /// # Errors
    /// [`JsonError`], also for a text of more than [`MAX_JSON_BYTES`].
    pub fn from_json(text: &str) -> Result<Self, JsonError> {
        if text.len() > MAX_JSON_BYTES {
            let why = std::format!("{} bytes of a policy are over {MAX_JSON_BYTES}", text.len());
            return Err(serde::de::Error::custom(why));
        }
        serde_json::from_str(text)
    }

    /// The policy as text.
    ///
    /// # Errors
    /// [`JsonError`]; none is known.
    pub fn to_json(&self) -> Result<String, JsonError> {
        serde_json::to_string(self)
    }
}
