//! Answers, and all that they say of themselves.

use std::ffi::c_char;
use std::ptr;

use margay::{Answer, Origin};

use crate::handle::{self, kind};
use crate::input::{self, Versioned};
use crate::status::{Status, Text, guard, with_causes};
use crate::words::{nanoseconds, word};

/// An answer of a cascade.
pub struct CAnswer;

/// The answer with its texts as C reads them.
pub(crate) struct Given {
    answer: Answer,
    text: Text,
    rule: Text,
    digest: Text,
    finish: Option<Text>,
    cloud_error: Option<Text>,
}
kind!(CAnswer, Given, "answer");

/// Who wrote an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum COrigin {
    /// The small model on the device.
    Local = 0,
    /// The large model.
    Cloud = 1,
    /// Nobody yet: the prompt waits in the outbox.
    Queued = 2,
    /// Nobody: the device was unsure, and nobody else could or might be asked.
    Abstained = 3,
    /// Somebody that this interface does not know.
    Unknown = 99,
}

impl From<Origin> for COrigin {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Local => Self::Local,
            Origin::Cloud => Self::Cloud,
            Origin::Queued => Self::Queued,
            Origin::Abstained => Self::Abstained,
            _ => Self::Unknown,
        }
    }
}

/// The end of a query: the text, who wrote it, and everything that led to it. Texts are valid until the answer is destroyed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CAnswerInfo {
    /// `sizeof(margay_answer_info)`, set by the caller.
    pub size: usize,
    /// The answer; empty if nobody gives one.
    pub text: *const c_char,
    /// Its bytes.
    pub text_length: usize,
    /// Who wrote it.
    pub origin: COrigin,
    /// Whether there is a score.
    pub has_score: bool,
    /// The device's confidence by `rule`.
    pub score: f32,
    /// What the score was held against.
    pub threshold: f32,
    /// The rule behind score and threshold.
    pub rule: *const c_char,
    /// Why the device's answer did not simply stand, e.g. `low-confidence`; NULL if it did.
    pub reason: *const c_char,
    /// What the cloud failed with; `MARGAY_STATUS_OK` if it did not.
    pub cloud_error: Status,
    /// That failure in words; NULL if there was none.
    pub cloud_error_message: *const c_char,
    /// Why the large model's answer ends where it ends, in its server's word; NULL if it did not say.
    pub finish_reason: *const c_char,
    /// Tokens that the device read.
    pub local_input_tokens: u64,
    /// Tokens that the device wrote.
    pub local_output_tokens: u64,
    /// Tokens that the cloud says it read.
    pub cloud_input_tokens: u64,
    /// Tokens that the cloud says it wrote.
    pub cloud_output_tokens: u64,
    /// Tokens the device was spared by stopping early, at most.
    pub saved_tokens: u64,
    /// Exchanges behind a cloud answer.
    pub attempts: u32,
    /// Nanoseconds on the device, waiting for its turn included.
    pub local_ns: u64,
    /// Nanoseconds waiting for the cloud, retries included; 0 if it was not asked.
    pub cloud_ns: u64,
    /// Nanoseconds from the question to the answer.
    pub total_ns: u64,
    /// The model on the device, to which score and threshold belong.
    pub model_digest: *const c_char,
}

// SAFETY: pointers, numbers, a bool and enums that have zero.
unsafe impl Versioned for CAnswerInfo {
    const NAME: &'static str = "margay_answer_info";
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}

impl Given {
    pub(crate) fn new(answer: Answer) -> Self {
        Self {
            text: Text::new(&answer.text),
            rule: Text::new(&answer.rule.to_string()),
            digest: Text::new(&answer.model_digest.to_string()),
            finish: answer.finish_reason.as_deref().map(Text::new),
            cloud_error: answer.cloud_error.as_ref().map(|error| Text::new(&with_causes(error))),
            answer,
        }
    }

    fn info(&self) -> CAnswerInfo {
        let answer = &self.answer;
        let cloud = answer.usage.cloud.unwrap_or_default();
        CAnswerInfo {
            size: size_of::<CAnswerInfo>(),
            text: self.text.as_ptr(),
            text_length: self.text.len(),
            origin: answer.origin.into(),
            has_score: answer.score.is_some(),
            score: answer.score.map_or(0.0, |score| score.value()),
            threshold: answer.threshold.value(),
            rule: self.rule.as_ptr(),
            reason: word(answer.reason.map(|reason| reason.as_str())),
            cloud_error: answer.cloud_error.as_ref().map_or(Status::Ok, |error| Status::of(error.kind())),
            cloud_error_message: self.cloud_error.as_ref().map_or(ptr::null(), Text::as_ptr),
            finish_reason: self.finish.as_ref().map_or(ptr::null(), Text::as_ptr),
            local_input_tokens: answer.usage.local.input,
            local_output_tokens: answer.usage.local.output,
            cloud_input_tokens: cloud.input,
            cloud_output_tokens: cloud.output,
            saved_tokens: answer.saved_tokens,
            attempts: answer.attempts,
            local_ns: nanoseconds(answer.timings.local),
            cloud_ns: nanoseconds(answer.timings.cloud.unwrap_or_default()),
            total_ns: nanoseconds(answer.timings.total),
            model_digest: self.digest.as_ptr(),
        }
    }
}

/// What the answer says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn margay_answer_read(answer: *const CAnswer, out: *mut CAnswerInfo) -> Status {
    guard(|| {
        let info = handle::take::<Given>(answer)?.info();
        // SAFETY: as the header says of every pointer.
        unsafe { input::fill(out, &info) }
    })
}

/// Ends the handle, and the texts that were read from it. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn margay_answer_destroy(answer: *mut CAnswer) -> Status {
    guard(|| handle::destroy::<Given>(answer))
}
