//! A redactor in C: it is shown a text and says which parts must not leave.

use std::ffi::{c_char, c_void};
use std::ops::Range;

use margay::privacy::{Patterns, Redactor, Vault};

use crate::cloud::Owner;
use crate::input;
use crate::status::{Failure, Status, Text, calling, guard};

/// One text on its way to the cloud; valid during the callback that it is given to, on its thread.
#[derive(Debug)]
pub struct CRedaction {
    length: usize,
    /// Where a character ends, by byte.
    borders: Vec<bool>,
    taken: Vec<(Range<usize>, String)>,
}

/// Is shown a text of `length` bytes and takes out what must not leave, with `margay_redaction_take`. Returns 0, or anything else
/// if it could not do its work: the whole text is taken out then. It may not ask a model.
pub type CRedact = Option<
    unsafe extern "C" fn(user_data: *mut c_void, text: *const c_char, length: usize, redaction: *mut CRedaction) -> i32,
>;

/// Takes the bytes from `start` up to `end` out of the text. `label` says what they are, e.g. `NAME`: the large model reads
/// `[NAME_1]` in their place, and its answer gets them back. Where two parts overlap, both go as one, under the first one's label.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn margay_redaction_take(
    redaction: *mut CRedaction,
    label: *const c_char,
    start: usize,
    end: usize,
) -> Status {
    guard(|| {
        if redaction.is_null() {
            return Err(Failure::new(Status::NullArgument, "the redaction is NULL"));
        }
        // SAFETY: not NULL, and as the header says of every pointer.
        let (redaction, label) = unsafe { (&mut *redaction, input::text(label, "label")?) };
        let border = |at: usize| redaction.borders.get(at).copied().unwrap_or(false);
        if start >= end || !border(start) || !border(end) {
            let message = format!("{start}..{end} is no part of a text of {} bytes", redaction.length);
            return Err(Failure::new(Status::InvalidRequest, message));
        }
        redaction.taken.push((start..end, label.to_owned()));
        Ok(())
    })
}

/// The caller's redactor, behind the built-in patterns if those are wanted.
pub(crate) struct CallerRedactor {
    pub(crate) patterns: Option<Patterns>,
    pub(crate) redact: CRedact,
    pub(crate) owner: Owner,
}

impl Redactor for CallerRedactor {
    fn redact(&self, text: &str, vault: &mut Vault) -> String {
        let Some(redact) = self.redact else {
            return self.patterns.as_ref().map_or_else(|| text.to_owned(), |patterns| patterns.redact(text, vault));
        };
        let borders = (0..=text.len()).map(|at| text.is_char_boundary(at)).collect();
        let mut redaction = CRedaction { length: text.len(), borders, taken: Vec::new() };
        let shown = Text::new(text);
        // SAFETY: the caller gave the function for this data.
        let failed =
            calling(|| unsafe { redact(self.owner.user_data(), shown.as_ptr(), shown.len(), &raw mut redaction) });
        if failed != 0 {
            return vault.placeholder("REDACTED", text);
        }
        let mut rest = 0;
        let mut kept = String::with_capacity(text.len());
        // What stays is the patterns' to look at; their placeholders and the caller's never overlap.
        let keep = |part: &str, vault: &mut Vault, kept: &mut String| match &self.patterns {
            Some(patterns) => kept.push_str(&patterns.redact(part, vault)),
            None => kept.push_str(part),
        };
        for (part, label) in joined(redaction.taken) {
            keep(text.get(rest..part.start).unwrap_or_default(), vault, &mut kept);
            kept.push_str(&vault.placeholder(&label, text.get(part.clone()).unwrap_or_default()));
            rest = part.end;
        }
        keep(text.get(rest..).unwrap_or_default(), vault, &mut kept);
        kept
    }
}

/// The parts in their order, those that overlap as one.
fn joined(mut parts: Vec<(Range<usize>, String)>) -> Vec<(Range<usize>, String)> {
    parts.sort_by_key(|(part, _)| (part.start, part.end));
    let mut all: Vec<(Range<usize>, String)> = Vec::with_capacity(parts.len());
    for (part, label) in parts {
        match all.last_mut() {
            Some((last, _)) if part.start < last.end => last.end = last.end.max(part.end),
            _ => all.push((part, label)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_overlap_are_one() {
        let part = |range: Range<usize>, label: &str| (range, label.to_owned());
        let all = joined(vec![part(5..9, "B"), part(0..2, "A"), part(7..12, "C"), part(12..13, "D"), part(8..9, "E")]);
        assert_eq!(all, [part(0..2, "A"), part(5..12, "B"), part(12..13, "D")]);
    }
}
