//! Cascades: the device first, the cloud when the device is unsure; answers whole or as they come.

use std::ffi::{c_char, c_void};
use std::num::NonZeroU32;
use std::time::Duration;

#[cfg(feature = "configuration")]
use margay::configuration::Configuration;
use margay::{Answer, Cascade, OnCloudFailure, Request, Stream, StreamEvent};

use crate::answer::{CAnswer, COrigin, Given};
use crate::bundle;
use crate::cloud::{CCloud, Cloud};
use crate::engine::{CEngine, Loaded};
use crate::handle::{self, kind};
use crate::input::{self, Versioned};
use crate::request::{CRequest, Question};
use crate::status::{Failure, Status, Text, calling, guard, guard_asking};
use crate::words::word;

/// A small model with a large one behind it.
pub struct CCascade;

struct Assembled(Cascade);
kind!(CCascade, Assembled, "cascade");

/// What becomes of a query that the device is unsure of when the cloud fails or must not be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum COnCloudFailure {
    /// The device's answer, with reason and error beside it.
    FallBackToLocal = 0,
    /// No answer, with reason and error beside it.
    Abstain = 1,
    /// The error itself.
    Fail = 2,
}

/// How a cascade behaves. All zero but `size` is: fall back to the device's answer.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CCascadeOptions {
    /// `sizeof(margay_cascade_options)`.
    pub size: usize,
    /// One of `margay_on_cloud_failure`.
    pub on_cloud_failure: i32,
    /// Failed queries in a row after which the cloud is left alone; 0 is 5.
    pub breaker_failures: u32,
    /// For how long, in milliseconds; 0 is 30 seconds.
    pub breaker_pause_ms: u64,
}

// SAFETY: numbers only.
unsafe impl Versioned for CCascadeOptions {
    const NAME: &'static str = "margay_cascade_options";
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}

/// What is shown of the device's answer before it is known whether it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum CStream {
    /// Nothing: the first text comes with the verdict, and stands.
    Hold = 0,
    /// All of it; if the query is deferred, `MARGAY_EVENT_KIND_SUPERSEDED` takes it back.
    Optimistic = 1,
}

/// What an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum CEventKind {
    /// More text.
    Token = 0,
    /// What came so far is not the answer: forget it.
    Superseded = 1,
}

/// One event of a streamed answer. The texts since the last `MARGAY_EVENT_KIND_SUPERSEDED` are the answer.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CEvent {
    /// Size of this struct: newer libraries may have more behind.
    pub size: usize,
    /// What it is; newer libraries may have others, which can be ignored.
    pub kind: CEventKind,
    /// Whose text it is.
    pub origin: COrigin,
    /// The text, valid during the callback; empty unless it is `MARGAY_EVENT_KIND_TOKEN`.
    pub text: *const c_char,
    /// Its bytes.
    pub text_length: usize,
    /// Why the device's text does not stand, or NULL.
    pub reason: *const c_char,
}

/// Takes an event, on the thread that asks; anything but 0 cancels the request. It may not ask a model.
pub type COnEvent = Option<unsafe extern "C" fn(user_data: *mut c_void, event: *const CEvent) -> i32>;

/// A cascade of an engine, its bundle's policy, and a cloud. `options` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn margay_cascade_create(
    engine: *const CEngine,
    cloud: *const CCloud,
    options: *const CCascadeOptions,
    out: *mut *mut CCascade,
) -> Status {
    guard(|| {
        let loaded = handle::take::<Loaded>(engine)?;
        let cloud = handle::take::<Cloud>(cloud)?;
        // SAFETY: as the header says of every pointer.
        let options = unsafe { input::versioned(options) }?;
        let then = match options.on_cloud_failure {
            0 => OnCloudFailure::FallBackToLocal,
            1 => OnCloudFailure::Abstain,
            2 => OnCloudFailure::Fail,
            other => {
                return Err(Failure::new(Status::InvalidRequest, format!("on_cloud_failure is {other}, not 0 to 2")));
            }
        };
        let mut builder = Cascade::builder()
            .engine(loaded.engine.clone())
            .policy(bundle::policy(loaded.policy.as_ref())?)
            .cloud(cloud.0.clone())
            .on_cloud_failure(then);
        if options.breaker_failures != 0 || options.breaker_pause_ms != 0 {
            let failures = NonZeroU32::new(options.breaker_failures).unwrap_or(NonZeroU32::MIN.saturating_add(4));
            let pause = if options.breaker_pause_ms == 0 { 30_000 } else { options.breaker_pause_ms };
            builder = builder.breaker(failures, Duration::from_millis(pause));
        }
        // SAFETY: as above.
        unsafe { handle::give(out, Assembled(builder.build()?)) }
    })
}

/// A cascade of an engine, its bundle's policy, and what the file `margay.toml` at `path` describes: servers, tokens, budget,
/// cache, audit file and the rest. Its `[device]` is left aside, and an `[outbox]` refused with `MARGAY_STATUS_CONFIGURATION`:
/// what waits there has no way back through here. Only in libraries that have the feature `configuration`.
#[cfg(feature = "configuration")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn margay_cascade_configure(
    engine: *const CEngine,
    path: *const c_char,
    out: *mut *mut CCascade,
) -> Status {
    guard(|| {
        let loaded = handle::take::<Loaded>(engine)?;
        // SAFETY: as the header says of every pointer.
        let configuration = Configuration::read(unsafe { input::text(path, "path") }?)?;
        let policy = bundle::policy(loaded.policy.as_ref())?;
        let cascade = configuration.assemble_cascade(loaded.engine.clone(), policy)?;
        // SAFETY: as above.
        unsafe { handle::give(out, Assembled(cascade)) }
    })
}

/// Answers on the device if it is sure enough, else in the cloud.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn margay_cascade_answer(
    cascade: *const CCascade,
    request: *const CRequest,
    out: *mut *mut CAnswer,
) -> Status {
    // SAFETY: the caller's.
    unsafe { answering(cascade, request, out, |cascade, request| cascade.answer_blocking(request)) }
}

/// Answers on the device, sure or not: the request reaches no cloud.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn margay_cascade_answer_local(
    cascade: *const CCascade,
    request: *const CRequest,
    out: *mut *mut CAnswer,
) -> Status {
    // SAFETY: the caller's.
    unsafe { answering(cascade, request, out, |cascade, request| cascade.answer_local_blocking(request.local_only())) }
}

/// The same as `margay_cascade_answer`, with the text handed to `on_event` as it comes. `mode` is one of `margay_stream`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn margay_cascade_stream(
    cascade: *const CCascade,
    request: *const CRequest,
    mode: i32,
    on_event: COnEvent,
    user_data: *mut c_void,
    out: *mut *mut CAnswer,
) -> Status {
    let stream = |cascade: &Cascade, request: Request| {
        let mode = match mode {
            0 => Stream::Hold,
            1 => Stream::Optimistic,
            other => return Err(invalid(format!("the mode of the stream is {other}, not 0 or 1"))),
        };
        let mut given = String::new();
        for event in cascade.stream_blocking(request, mode)? {
            let (kind, origin, text, reason) = match event? {
                StreamEvent::Token { text, origin } => (CEventKind::Token, origin, text, None),
                StreamEvent::Superseded { reason } => {
                    (CEventKind::Superseded, margay::Origin::Local, String::new(), reason)
                }
                StreamEvent::Done(answer) => return Ok(*answer),
                _ => continue,
            };
            let Some(on_event) = on_event else { continue };
            match kind {
                CEventKind::Token => given.push_str(&text),
                CEventKind::Superseded => given.clear(),
            }
            let text = Text::new(&text);
            let event = CEvent {
                size: size_of::<CEvent>(),
                kind,
                origin: origin.into(),
                text: text.as_ptr(),
                text_length: text.len(),
                reason: word(reason.map(|reason| reason.as_str())),
            };
            // SAFETY: the caller gave the function for this data.
            if calling(|| unsafe { on_event(user_data, &raw const event) }) != 0 {
                let error = margay::Error::new(margay::ErrorKind::Cancelled, "the callback broke off");
                return Err(if given.is_empty() { error } else { error.with_partial_text(given) });
            }
        }
        Err(invalid("the stream ended without an answer".into()))
    };
    // SAFETY: the caller's.
    unsafe { answering(cascade, request, out, stream) }
}

/// # Safety
/// The pointers are as the header says.
unsafe fn answering(
    cascade: *const CCascade,
    request: *const CRequest,
    out: *mut *mut CAnswer,
    ask: impl FnOnce(&Cascade, Request) -> margay::Result<Answer>,
) -> Status {
    guard_asking(|| {
        let cascade = handle::take::<Assembled>(cascade)?;
        let request = handle::take::<Question>(request)?.ask();
        if out.is_null() {
            return Err(Failure::new(Status::NullArgument, "there is no place for the answer"));
        }
        let answer = ask(&cascade.0, request)?;
        // SAFETY: the caller's.
        unsafe { handle::give(out, Given::new(answer)) }
    })
}

fn invalid(message: String) -> margay::Error {
    margay::Error::new(margay::ErrorKind::InvalidRequest, message)
}

/// Ends the handle; a call that is asking it goes on. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn margay_cascade_destroy(cascade: *mut CCascade) -> Status {
    guard(|| handle::destroy::<Assembled>(cascade))
}
