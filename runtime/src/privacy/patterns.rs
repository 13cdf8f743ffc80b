//! The redactor that comes with the crate: forms that are recognised without a model.

use std::ops::Range;
use std::sync::LazyLock;

use regex::{Regex, RegexBuilder};

use super::vault::MAX_LABEL;
use super::{Redactor, Vault, recognise};
use crate::error::{Error, ErrorKind, Result};

/// Largest compiled pattern of a caller, in bytes.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// An e-mail address: the characters of HTML's `input type=email`, and those of any language beside ASCII.
static EMAIL: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"[\p{L}\p{N}.!#$%&'*+/=?^_`{|}~-]+@[\p{L}\p{N}-]+(?:\.[\p{L}\p{N}-]+)+").ok());

/// A telephone number: international (`+` or `00`), North American, or national with a trunk zero and separators.
static PHONE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"\+[0-9](?:[ ().\-/]{0,3}[0-9]){6,14}\b",
        r"|\b00[1-9](?:[ .\-/]?[0-9]){6,13}\b",
        r"|(?:\([0-9]{3}\) ?|\b[0-9]{3}[ .-])[0-9]{3}[ .-][0-9]{4}\b",
        r"|\(?\b0[0-9]{2,4}\)?[ /-][0-9](?:[ /-]?[0-9]){4,9}\b",
        r"|\b0[0-9](?:[ .-][0-9]{2}){4}\b",
        r"|\b0[0-9]{8,11}\b",
    ))
    .ok()
});

/// Forms of personal data, taken out by pattern and checksum.
///
/// | label | what | believed if |
/// | --- | --- | --- |
/// | `EMAIL` | e-mail addresses | it has a dot after the `@` |
/// | `CARD` | payment cards, in groups or not | the check digit is right (Luhn) |
/// | `IBAN` | bank accounts, in groups or not | the check digits are right (mod 97) |
/// | `IP` | IPv4 and IPv6 addresses | it parses |
/// | `PHONE` | international, North American and trunk-zero numbers | it has their form |
/// | yours | [`Patterns::pattern`] | it matches |
///
/// Names, streets and dates have no such form and stay. Where two matches overlap, everything between their outer ends goes
/// under the label of the first in order: the caller's patterns, then the table's.
///
/// ```
/// use margay::privacy::Patterns;
///
/// let redactor = Patterns::built_in().pattern("CUSTOMER", r"\bC-[0-9]{6}\b")?;
/// # Ok::<(), margay::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Patterns {
    custom: Vec<(String, Regex)>,
    built_in: bool,
}

impl Patterns {
    /// Everything in the table.
    #[must_use]
    pub fn built_in() -> Self {
        Self { custom: Vec::new(), built_in: true }
    }

    /// Only the patterns that are added.
    #[must_use]
    pub fn custom() -> Self {
        Self { custom: Vec::new(), built_in: false }
    }

    /// Takes out what matches `pattern`, in the syntax of the `regex` crate, as `[LABEL_1]`, `[LABEL_2]` ...
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] if the pattern is none, is too large or matches nothing at all (the empty text), or
    /// if the label is not 1 to 32 letters from `A` to `Z`.
    pub fn pattern(mut self, label: impl Into<String>, pattern: &str) -> Result<Self> {
        let label = label.into();
        let refuse =
            |why: &str| Error::new(ErrorKind::InvalidRequest, format!("the redaction pattern `{label}` {why}"));
        if label.is_empty() || label.len() > MAX_LABEL || !label.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(refuse("does not have 1 to 32 letters from A to Z for a label"));
        }
        let regex = RegexBuilder::new(pattern).size_limit(MAX_PATTERN_BYTES).build();
        let regex = regex.map_err(|error| refuse("does not compile").with_source(error))?;
        if regex.is_match("") {
            return Err(refuse("matches the empty text"));
        }
        self.custom.push((label, regex));
        Ok(self)
    }

    /// Every match with its label's rank, overlaps merged, in order.
    fn find(&self, text: &str) -> Vec<(Range<usize>, usize)> {
        let mut found: Vec<(Range<usize>, usize)> = Vec::new();
        for (rank, (_, regex)) in self.custom.iter().enumerate() {
            found.extend(regex.find_iter(text).filter(|found| !found.is_empty()).map(|found| (found.range(), rank)));
        }
        if self.built_in {
            let rank = self.custom.len();
            let matches = |regex: &Option<Regex>| -> Vec<Range<usize>> {
                regex.iter().flat_map(|regex| regex.find_iter(text).map(|found| found.range())).collect()
            };
            let built_in = [
                matches(&EMAIL),
                recognise::cards(text),
                recognise::ibans(text),
                recognise::addresses(text),
                matches(&PHONE),
            ];
            for (offset, ranges) in built_in.into_iter().enumerate() {
                found.extend(ranges.into_iter().map(|range| (range, rank + offset)));
            }
        }
        found.sort_by_key(|(range, rank)| (range.start, *rank));
        let mut merged: Vec<(Range<usize>, usize)> = Vec::new();
        for (range, rank) in found {
            match merged.last_mut() {
                Some((last, best)) if range.start < last.end => {
                    last.end = last.end.max(range.end);
                    *best = rank.min(*best);
                }
                _ => merged.push((range, rank)),
            }
        }
        merged
    }

    fn label(&self, rank: usize) -> &str {
        const BUILT_IN: [&str; 5] = ["EMAIL", "CARD", "IBAN", "IP", "PHONE"];
        let custom = self.custom.get(rank).map(|(label, _)| label.as_str());
        custom.or_else(|| BUILT_IN.get(rank - self.custom.len()).copied()).unwrap_or_default()
    }
}

impl Redactor for Patterns {
    fn redact(&self, text: &str, vault: &mut Vault) -> String {
        let mut redacted = String::with_capacity(text.len());
        let mut kept = 0;
        for (range, rank) in self.find(text) {
            redacted.push_str(text.get(kept..range.start).unwrap_or_default());
            redacted.push_str(&vault.placeholder(self.label(rank), text.get(range.clone()).unwrap_or_default()));
            kept = range.end;
        }
        redacted.push_str(text.get(kept..).unwrap_or_default());
        redacted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Message;

    fn redact(redactor: &Patterns, text: &str) -> (String, Vault) {
        let mut vault = Vault::new(&[Message::user(text)]);
        let redacted = redactor.redact(text, &mut vault);
        assert_eq!(vault.restore(&redacted), text);
        (redacted, vault)
    }

    fn built_in(text: &str) -> String {
        redact(&Patterns::built_in(), text).0
    }

    #[test]
    fn the_built_in_patterns_compile() {
        assert!(EMAIL.is_some() && PHONE.is_some());
    }

    #[test]
    fn each_form_has_its_label() {
        let text = "Ann (ann.o'hara+x@mail.example.co.uk), card 4111 1111 1111 1111, GB29 NWBK 6016 1331 9268 19, \
                    from 192.0.2.1 or 2001:db8::1, call +44 20 7946 0018 or write to jörg@müller.de.";
        assert_eq!(
            built_in(text),
            "Ann ([EMAIL_1]), card [CARD_1], [IBAN_1], from [IP_1] or [IP_2], call [PHONE_1] or write to [EMAIL_2]."
        );
    }

    #[test]
    fn telephone_numbers_are_found_and_other_numbers_are_not() {
        // Numbers that regulators set aside for fiction, and the ITU's own examples of notation (E.123).
        for number in [
            "+44 20 7946 0018",
            "+1 (212) 555-0123",
            "(212) 555-0123",
            "212-555-0123",
            "020 7946 0018",
            "030 23125 014",
            "01 99 00 12 34",
            "07700900123",
            "+31 42 123 4567",
            "(0607) 123 4567",
            "0049 30 23125014",
            "+442079460018",
        ] {
            let text = format!("call {number}, please");
            assert_eq!(built_in(&text), "call [PHONE_1], please", "{number}");
        }
        for other in [
            "in 2024-05-17 at 12:30",
            "01.02.2024",
            "01-02-2024",
            "1 000 000 users",
            "3.14159265358979",
            "room 0815",
            "v1.2.3",
            "12345678901",
            "2 + 3456 = 3458",
            "order 4111111111111112",
        ] {
            assert_eq!(built_in(other), other);
        }
    }

    #[test]
    fn overlapping_matches_go_as_one() {
        let redactor = Patterns::built_in().pattern("KEY", "key=[a-z]+@").unwrap();
        let (redacted, vault) = redact(&redactor, "use key=abc@example.com now");
        assert_eq!(redacted, "use [KEY_1] now");
        assert_eq!(vault.counts().iter().collect::<Vec<_>>(), [(&"KEY".to_owned(), &1)]);
    }

    #[test]
    fn bad_patterns_are_refused() {
        for (label, pattern) in [("A", "("), ("A", "a*"), ("", "a"), ("a", "a"), ("A_B", "a"), ("A", r"\w{999}{999}")] {
            let error = Patterns::custom().pattern(label, pattern).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{label} {pattern}");
        }
        let long = "A".repeat(MAX_LABEL + 1);
        assert!(Patterns::custom().pattern(long, "a").is_err());
    }

    proptest::proptest! {
        /// Whatever stands around it, nothing of what was recognised is left, and all of it comes back.
        #[test]
        fn what_was_recognised_is_gone_and_comes_back(before in "[ -~é]{0,20}", after in "[ -~é]{0,20}") {
            let text = format!("{before} ann@example.com {after}");
            let redacted = built_in(&text);
            proptest::prop_assert!(!redacted.contains("ann@example.com"), "{}", redacted);
        }
    }
}
