//! What was taken out of one request, under which placeholder: `[EMAIL_1]`, `[EMAIL_2]`, `[CARD_1]` ...
//!
//! It lives as long as the exchange, in memory, and has no `Debug`.

use std::collections::BTreeMap;

use serde_json::Value;

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
        let calls = messages.iter().flat_map(|message| &message.tool_calls).map(|call| call.arguments.as_str());
        let said = messages.iter().map(|message| message.content.as_str()).chain(calls).collect::<Vec<_>>().join("\n");
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
        let mut restorer = Restorer::new(self);
        let mut restored = restorer.push(text);
        restored.push_str(&restorer.end());
        restored
    }

    /// JSON with the originals back in its strings; any other text as [`Vault::restore`] does.
    pub(crate) fn restore_json(&self, json: &str) -> String {
        if self.originals.is_empty() {
            return json.to_owned();
        }
        let Ok(mut value) = serde_json::from_str(json) else { return self.restore(json) };
        each_string(&mut value, &mut |text| self.restore(text));
        value.to_string()
    }
}

/// Changes every string of a JSON value, names of fields aside. serde_json's own limit bounds the depth.
fn each_string(value: &mut Value, change: &mut dyn FnMut(&str) -> String) {
    match value {
        Value::String(text) => *text = change(text),
        Value::Array(items) => items.iter_mut().for_each(|item| each_string(item, change)),
        Value::Object(fields) => fields.values_mut().for_each(|field| each_string(field, change)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Puts originals back into a text that comes in pieces, whatever a piece's border cuts through.
pub(crate) struct Restorer<'a> {
    vault: &'a Vault,
    /// What may be the beginning of a placeholder.
    held: String,
}

impl<'a> Restorer<'a> {
    pub(crate) fn new(vault: &'a Vault) -> Self {
        Self { vault, held: String::new() }
    }

    /// What is certain now.
    pub(crate) fn push(&mut self, piece: &str) -> String {
        self.held.push_str(piece);
        let held = std::mem::take(&mut self.held);
        let mut restored = String::with_capacity(held.len());
        let mut rest = held.as_str();
        while let Some(open) = rest.find('[') {
            let (before, bracket) = rest.split_at(open);
            restored.push_str(before);
            let mut known = self.vault.originals.iter();
            if let Some((placeholder, original)) = known.find(|(placeholder, _)| bracket.starts_with(*placeholder)) {
                restored.push_str(original);
                rest = bracket.get(placeholder.len()..).unwrap_or_default();
            } else if self.vault.originals.keys().any(|placeholder| placeholder.starts_with(bracket)) {
                bracket.clone_into(&mut self.held);
                return restored;
            } else {
                restored.push('[');
                rest = bracket.get(1..).unwrap_or_default();
            }
        }
        restored.push_str(rest);
        restored
    }

    /// What was held back: no placeholder after all.
    pub(crate) fn end(&mut self) -> String {
        std::mem::take(&mut self.held)
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
            for call in &mut message.tool_calls {
                call.arguments = redact_json(&call.arguments, redactor, &mut vault);
            }
        }
        Self { request, vault }
    }
}

/// JSON with its strings redacted; any other text as it is redacted.
fn redact_json(json: &str, redactor: &dyn Redactor, vault: &mut Vault) -> String {
    let Ok(mut value) = serde_json::from_str::<Value>(json) else { return redactor.redact(json, vault) };
    each_string(&mut value, &mut |text| redactor.redact(text, vault));
    value.to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    #[test]
    fn strings_in_json_are_changed_and_stay_json() {
        let mut vault = vault("");
        let quoted = vault.placeholder("A", "say \"hi\"");
        let json = format!(r#"{{"to": ["{quoted}"], "n": 1}}"#);
        // Whether keys keep their order is the build's choice.
        let restored: serde_json::Value = serde_json::from_str(&vault.restore_json(&json)).unwrap();
        assert_eq!(restored, serde_json::json!({"n": 1, "to": ["say \"hi\""]}));
        assert_eq!(vault.restore_json(&format!("{{{quoted}")), "{say \"hi\"");
    }

    proptest! {
        /// Borders change nothing, and nothing is held back that is no beginning of a placeholder.
        #[test]
        fn pieces_are_restored_as_the_whole_is(
            text in r"(\[(EMAIL|CARD|X)?(_)?[0-9]{0,2}\]?|[a-c\[\]é]){0,12}",
            cuts in prop::collection::vec(0..40_usize, 0..6),
        ) {
            let mut vault = vault("");
            for number in 0..11 {
                vault.placeholder("EMAIL", &format!("<{number}>"));
            }
            vault.placeholder("CARD", "[EMAIL_1]");
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| text.is_char_boundary(*cut) && *cut <= text.len()).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut restorer = Restorer::new(&vault);
            let mut restored = String::new();
            for cut in cuts.windows(2) {
                restored += &restorer.push(&text[cut[0]..cut[1]]);
                prop_assert!(restorer.held.is_empty() || restorer.held.starts_with('['));
                prop_assert!(restorer.held.len() < "[EMAIL_11]".len());
            }
            restored += &restorer.end();
            let mut whole = text.clone();
            // Longest first, so that `[EMAIL_1]` is no part of another; the card last, whose original is a placeholder.
            for number in (1..=11).rev() {
                whole = whole.replace(&format!("[EMAIL_{number}]"), &format!("<{}>", number - 1));
            }
            whole = whole.replace("[CARD_1]", "[EMAIL_1]");
            prop_assert_eq!(restored, whole);
        }
    }
}
