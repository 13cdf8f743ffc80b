//! Requests: a conversation, its limits, and the way to stop it from another thread.

use std::ffi::c_char;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use margay::{Cancel, Constraint, Deadline, GenerateOptions, Message, Overflow, Privacy, Request, Sampling};

use crate::handle::{self, kind};
use crate::input::{self, Versioned};
use crate::status::{Failure, Status, guard};

/// One question: messages, limits and options. It may be asked several times, one after the other or at once.
pub struct CRequest;

pub(crate) struct Question {
    request: Mutex<Request>,
    cancel: Cancel,
    deadline: Option<Duration>,
}
kind!(CRequest, Question, "request");

/// How a question is to be answered. All zero but `size` is: greedily, 256 tokens at most, no deadline.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CRequestOptions {
    /// `sizeof(margay_request_options)`.
    pub size: usize,
    /// Which threshold applies; NULL is the policy's default task.
    pub task: *const c_char,
    /// Longest answer, in tokens; 0 is 256.
    pub max_tokens: usize,
    /// Milliseconds that the whole query may take, cloud included, from when it is asked; 0 is no deadline.
    pub deadline_ms: u64,
    /// Logits are divided by it; 0 takes the likeliest token.
    pub temperature: f32,
    /// Only the likeliest tokens that together have this probability; 0 is all.
    pub top_p: f32,
    /// Only tokens at least this many times as likely as the likeliest; 0 is all.
    pub min_p: f32,
    /// How much less likely tokens become that were there before; 0 is not at all, as is 1.
    pub repetition_penalty: f32,
    /// Only so many of the likeliest tokens; 0 is all.
    pub top_k: usize,
    /// Where random numbers begin, if `has_seed`.
    pub seed: u64,
    /// Whether `seed` counts; else every answer has a new one.
    pub has_seed: bool,
    /// Texts that end the answer.
    pub stop: *const *const c_char,
    /// How many.
    pub stop_count: usize,
    /// Forget the middle of a conversation that outgrows the context, instead of refusing it.
    pub slide: bool,
    /// Tokens at the beginning that are never forgotten, if `slide`.
    pub slide_keep: usize,
    /// The messages' contents are the prompt as they are: no chat template.
    pub raw_prompt: bool,
    /// May go to the cloud, but is never written down.
    pub transient: bool,
    /// Which budget limits apply beside the total ones; NULL is only those.
    pub budget_class: *const c_char,
    /// What lets the cloud recognise a repeated question; NULL is a new key for every one.
    pub idempotency_key: *const c_char,
    /// A JSON schema that the device's answer obeys; NULL is none. Needs a library built with the feature `constrained`.
    pub json_schema: *const c_char,
    /// A regular expression that the device's answer matches from beginning to end, likewise.
    pub regex: *const c_char,
}

// SAFETY: pointers, numbers and bools.
unsafe impl Versioned for CRequestOptions {
    const NAME: &'static str = "margay_request_options";
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}

impl Question {
    /// The request as it stands, with its deadline beginning now.
    pub(crate) fn ask(&self) -> Request {
        let request = self.request.lock().unwrap_or_else(PoisonError::into_inner).clone();
        request.deadline(self.deadline.map_or(Deadline::NEVER, Deadline::after))
    }
}

/// A request without messages: add at least one. `options` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn margay_request_create(options: *const CRequestOptions, out: *mut *mut CRequest) -> Status {
    guard(|| {
        // SAFETY: as the header says of every pointer.
        let options = unsafe { input::versioned(options) }?;
        let request = unsafe { request(&options) }?;
        let deadline = (options.deadline_ms > 0).then(|| Duration::from_millis(options.deadline_ms));
        let cancel = request.cancel.clone();
        // SAFETY: as above.
        unsafe { handle::give(out, Question { request: Mutex::new(request), cancel, deadline }) }
    })
}

/// # Safety
/// The pointers in it are as the header says.
unsafe fn request(options: &CRequestOptions) -> Result<Request, Failure> {
    // SAFETY: the caller's.
    let (task, class, key, stop) = unsafe {
        (
            input::optional_text(options.task, "task")?,
            input::optional_text(options.budget_class, "budget_class")?,
            input::optional_text(options.idempotency_key, "idempotency_key")?,
            input::texts(options.stop, options.stop_count, "stop")?,
        )
    };
    // SAFETY: the caller's.
    let (schema, regex) = unsafe {
        (input::optional_text(options.json_schema, "json_schema")?, input::optional_text(options.regex, "regex")?)
    };
    let constraint = match (schema, regex) {
        (None, None) => None,
        (Some(schema), None) => Some(Constraint::JsonSchema(
            serde_json::from_str(schema)
                .map_err(|error| Failure::new(Status::InvalidRequest, format!("json_schema is not JSON: {error}")))?,
        )),
        (None, Some(regex)) => Some(Constraint::Regex(regex.to_owned())),
        (Some(_), Some(_)) => {
            return Err(Failure::new(Status::InvalidRequest, "json_schema and regex cannot hold at once"));
        }
    };
    let given = |value: f32| (value != 0.0).then_some(value);
    let generate = GenerateOptions {
        sampling: Sampling {
            temperature: options.temperature,
            top_k: (options.top_k != 0).then_some(options.top_k),
            top_p: given(options.top_p),
            min_p: given(options.min_p),
            repetition_penalty: given(options.repetition_penalty).unwrap_or(1.0),
            seed: options.has_seed.then_some(options.seed),
        },
        stop: stop.into_iter().map(str::to_owned).collect(),
        overflow: if options.slide { Overflow::Slide { keep: options.slide_keep } } else { Overflow::Error },
        raw_prompt: options.raw_prompt,
        constraint,
        ..GenerateOptions::default()
    };
    generate.check()?;
    let mut request = Request::messages(Vec::new()).options(generate);
    request.task = task.map(str::to_owned);
    request.class = class.map(str::to_owned);
    request.idempotency_key = key.map(str::to_owned);
    if options.max_tokens != 0 {
        request.max_tokens = options.max_tokens;
    }
    if options.transient {
        request.privacy = Privacy::Transient;
    }
    Ok(request)
}

/// Adds a turn of `role` (`system`, `user`, `assistant`) to the conversation.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn margay_request_add_message(
    request: *mut CRequest,
    role: *const c_char,
    content: *const c_char,
) -> Status {
    guard(|| {
        let question = handle::take::<Question>(request)?;
        // SAFETY: as the header says of every pointer.
        let (role, content) = unsafe { (input::text(role, "role")?, input::text(content, "content")?) };
        let mut request = question.request.lock().unwrap_or_else(PoisonError::into_inner);
        request.messages.push(Message::new(role, content));
        Ok(())
    })
}

/// Stops the request, from any thread: whoever asks it gets `MARGAY_STATUS_CANCELLED` within one decode step, or at once if it waits
/// for its turn or the cloud. A request that was cancelled stays so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn margay_request_cancel(request: *const CRequest) -> Status {
    guard(|| {
        handle::take::<Question>(request)?.cancel.cancel();
        Ok(())
    })
}

/// Ends the handle; a call that is asking the request goes on. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn margay_request_destroy(request: *mut CRequest) -> Status {
    guard(|| handle::destroy::<Question>(request))
}
