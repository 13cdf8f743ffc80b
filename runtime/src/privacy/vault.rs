//! What was taken out of one request, under which placeholder: `[EMAIL_1]`, `[EMAIL_2]`, `[CARD_1]` ...
//!
//! It lives as long as the exchange, in memory, and has no `Debug`.

use std::collections::BTreeMap;

use super::Redactor;
use crate::request::{Message, Request};

/// Longest label, in characters.
pub(super) const MAX_LABEL: usize = 32;

/// The originals behind the placeholders of one request.
pub struct Vault {
    /// What the request itself says: a placeholder that stands there already would be ambiguous.
    said: String,
    /// Original by placeholder.
    originals: BTreeMap<String, String>,
    /// Placeholder by label and original.
    placeholders: BTreeMap<(String, String), String>,
    counts: BTreeMap<String, u64>,
}

impl Vault {
    pub(crate) fn new(messages: &[Message]) -> Self {
        let said = messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n");
        Self { said, originals: BTreeMap::new(), placeholders: BTreeMap::new(), counts: BTreeMap::new() }
    }

    /// What stands for `original` in the request: the same placeholder each time, so that the large model can tell that
    /// two places mean the same, and never one that the request's own text holds.
    ///
    /// Of `label` only ASCII letters count, in upper case, 32 at most; without any it is `REDACTED`.
    pub fn placeholder(&mut self, label: &str, original: &str) -> String {
        let mut label: String = label.chars().filter(char::is_ascii_alphabetic).take(MAX_LABEL).collect();
        label.make_ascii_uppercase();
        if label.is_empty() {
            "REDACTED".clone_into(&mut label);
        }
        *self.counts.entry(label.clone()).or_default() += 1;
        let key = (label, original.to_owned());
        if let Some(placeholder) = self.placeholders.get(&key) {
            return placeholder.clone();
        }
        let mut number = 1_usize;
        let placeholder = loop {
            let placeholder = format!("[{}_{number}]", key.0);
            if !self.originals.contains_key(&placeholder) && !self.said.contains(&placeholder) {
                break placeholder;
            }
            number += 1;
        };
        self.originals.insert(placeholder.clone(), key.1.clone());
        self.placeholders.insert(key, placeholder.clone());
        placeholder
    }

    /// Replacements so far, by label.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<String, u64> {
        &self.counts
    }

    /// `text` with the originals back in the places of their placeholders.
    #[must_use]
    pub fn restore(&self, text: &str) -> String {
        let mut restored = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(open) = rest.find('[') {
            let (before, bracket) = rest.split_at(open);
            restored.push_str(before);
            let placeholder = bracket.find(']').and_then(|close| bracket.get(..=close));
            let known = placeholder.and_then(|placeholder| self.originals.get_key_value(placeholder));
            rest = match known {
                Some((placeholder, original)) => {
                    restored.push_str(original);
                    bracket.get(placeholder.len()..).unwrap_or_default()
                }
                None => {
                    restored.push('[');
                    bracket.get(1..).unwrap_or_default()
                }
            };
        }
        restored.push_str(rest);
        restored
    }
}

/// A request as it leaves, and what brings its answer back.
pub(crate) struct Redacted {
    pub(crate) request: Request,
    pub(crate) vault: Vault,
}

impl Redacted {
    pub(crate) fn new(redactor: Option<&dyn Redactor>, request: &Request) -> Self {
        let mut request = request.clone();
        let Some(redactor) = redactor else {
            return Self { request, vault: Vault::new(&[]) };
        };
        let mut vault = Vault::new(&request.messages);
        for message in &mut request.messages {
            message.content = redactor.redact(&message.content, &mut vault);
        }
        Self { request, vault }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault(said: &str) -> Vault {
        Vault::new(&[Message::user(said)])
    }

    #[test]
    fn equal_originals_share_a_placeholder_and_come_back() {
        let mut vault = vault("");
        assert_eq!(vault.placeholder("EMAIL", "a@b.c"), "[EMAIL_1]");
        assert_eq!(vault.placeholder("EMAIL", "d@e.f"), "[EMAIL_2]");
        assert_eq!(vault.placeholder("EMAIL", "a@b.c"), "[EMAIL_1]");
        assert_eq!(vault.counts().get("EMAIL"), Some(&3));
        assert_eq!(vault.restore("[EMAIL_2] [[EMAIL_1]] [EMAIL_3] [EMAIL_1"), "d@e.f [a@b.c] [EMAIL_3] [EMAIL_1");
    }

    #[test]
    fn a_placeholder_that_the_request_holds_is_not_taken() {
        let mut vault = vault("what does [EMAIL_1] mean?");
        assert_eq!(vault.placeholder("EMAIL", "a@b.c"), "[EMAIL_2]");
        assert_eq!(vault.restore("[EMAIL_1] is not [EMAIL_2]"), "[EMAIL_1] is not a@b.c");
    }

    #[test]
    fn labels_are_tamed() {
        let mut vault = vault("");
        assert_eq!(vault.placeholder("a]b\n", "x"), "[AB_1]");
        assert_eq!(vault.placeholder("7", "x"), "[REDACTED_1]");
        assert_eq!(vault.placeholder(&"x".repeat(99), "y").len(), MAX_LABEL + 4);
    }

    #[test]
    fn an_original_that_looks_like_a_placeholder_is_not_restored_twice() {
        let mut vault = vault("");
        assert_eq!(vault.placeholder("A", "[B_1]"), "[A_1]");
        assert_eq!(vault.placeholder("B", "secret"), "[B_1]");
        assert_eq!(vault.restore("[A_1]"), "[B_1]");
    }
}
