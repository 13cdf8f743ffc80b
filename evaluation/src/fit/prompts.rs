//! What was asked, for rules that read the prompt.

use std::collections::HashMap;

use crate::error::{Error, ErrorKind, Result};

/// Prompts by the names of queries. Without any, the name of a query is its prompt, as OUTCOMES.md allows.
#[derive(Debug, Clone, Default)]
pub struct Prompts(HashMap<String, String>);

impl Prompts {
    /// These prompts by these names.
    #[must_use]
    pub fn new(by_query: HashMap<String, String>) -> Self {
        Self(by_query)
    }

    /// The prompt of a query.
    ///
    /// # Errors
    /// [`ErrorKind::MissingValue`] naming a query that others have a prompt beside.
    pub fn of<'p>(&'p self, query: &'p str) -> Result<&'p str> {
        if self.0.is_empty() {
            return Ok(query);
        }
        let lacks = || Error::new(ErrorKind::MissingValue, format!("query `{query}` has no prompt"));
        self.0.get(query).map(String::as_str).ok_or_else(lacks)
    }
}
