//! What every function returns, and what is known of the last failure on this thread. Nothing unwinds past here.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::error::Error as _;
use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use margay::{Error, ErrorKind};

/// Whether a call succeeded, and if not, what kind of failure it was. The numbers never change; newer libraries may have more of
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    /// It succeeded.
    Ok = 0,
    /// ONNX Runtime's library is missing, too old or does not load.
    Library = 1,
    /// A file could not be read or written.
    Io = 2,
    /// A bundle is not what it claims: malformed, incomplete, over a size cap.
    Bundle = 3,
    /// A digest does not match: a file was changed, or a policy belongs to another model.
    Digest = 4,
    /// A bundle's signature is wrong, missing, or by a key that is not trusted.
    Signature = 5,
    /// The request or an option cannot be served as it stands: the caller's mistake.
    InvalidRequest = 6,
    /// Prompt and answer do not fit the model's context.
    ContextOverflow = 7,
    /// ONNX Runtime failed while running the graph.
    Inference = 8,
    /// The request's deadline passed.
    Deadline = 9,
    /// The caller cancelled the request, or its callback broke off.
    Cancelled = 10,
    /// The cloud could not be reached. Safe to retry later.
    Connect = 11,
    /// The cloud's certificate was refused, or the TLS handshake failed.
    Tls = 12,
    /// The cloud says who we are is not good enough (401, 403), or there is no token.
    Unauthorized = 13,
    /// The cloud refused the request (another 4xx).
    Rejected = 14,
    /// The cloud is asking us to slow down (429).
    RateLimited = 15,
    /// The cloud failed (5xx).
    Server = 16,
    /// The cloud's answer is not one.
    Malformed = 17,
    /// The cloud's answer ended before it was complete: see `margay_last_error_partial_text`.
    Truncated = 18,
    /// Asking the cloud would cost more than is left of the budget.
    Budget = 19,
    /// As many requests as may wait for an engine do.
    QueueFull = 20,
    /// Model or request need more memory than the options allow.
    Memory = 21,
    /// An execution provider that is required is missing or does not run the model.
    Provider = 22,
    /// A configuration is malformed or makes no sense.
    Configuration = 23,
    /// A store on disk is damaged, held by another process or of another version.
    Store = 24,
    /// A pointer that may not be NULL is.
    NullArgument = 100,
    /// A text is not UTF-8.
    InvalidUtf8 = 101,
    /// A handle was destroyed before, or is of another kind, or never was one.
    InvalidHandle = 102,
    /// The `size` of a struct is that of no version that this library knows.
    WrongSize = 103,
    /// A function that asks a model was called inside a callback.
    InCallback = 104,
    /// A defect of the library, caught before it could do harm: please report it.
    Panic = 198,
    /// A failure of a kind that this interface does not know.
    Unknown = 199,
}

impl Status {
    const OF_KINDS: [Self; 24] = [
        Self::Library,
        Self::Io,
        Self::Bundle,
        Self::Digest,
        Self::Signature,
        Self::InvalidRequest,
        Self::ContextOverflow,
        Self::Inference,
        Self::Deadline,
        Self::Cancelled,
        Self::Connect,
        Self::Tls,
        Self::Unauthorized,
        Self::Rejected,
        Self::RateLimited,
        Self::Server,
        Self::Malformed,
        Self::Truncated,
        Self::Budget,
        Self::QueueFull,
        Self::Memory,
        Self::Provider,
        Self::Configuration,
        Self::Store,
    ];

    pub(crate) fn of(kind: ErrorKind) -> Self {
        Self::OF_KINDS.into_iter().find(|status| *status as i32 == kind.code()).unwrap_or(Self::Unknown)
    }
}

/// Why a call fails.
pub(crate) struct Failure {
    status: Status,
    message: String,
    partial: Option<String>,
    transient: bool,
}

impl Failure {
    pub(crate) fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), partial: None, transient: false }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            status: Status::of(error.kind()),
            message: with_causes(&error),
            partial: error.partial_text().map(str::to_owned),
            transient: error.is_transient(),
        }
    }
}

/// An error's line, and those of its causes that say something new.
pub(crate) fn with_causes(error: &Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !line.contains(&said) {
            line = format!("{line}: {said}");
        }
        cause = error.source();
    }
    line
}

/// A text as C reads it, with its length for those that hold a NUL.
pub(crate) struct Text {
    /// The bytes and one NUL after them.
    terminated: Box<[u8]>,
}

impl Text {
    pub(crate) fn new(text: &str) -> Self {
        Self { terminated: [text.as_bytes(), &[0]].concat().into_boxed_slice() }
    }

    pub(crate) fn as_ptr(&self) -> *const c_char {
        self.terminated.as_ptr().cast()
    }

    pub(crate) fn len(&self) -> usize {
        self.terminated.len() - 1
    }
}

struct Last {
    status: Status,
    message: Text,
    partial: Option<Text>,
    transient: bool,
}

thread_local! {
    static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// Runs the body of an exported function: its failure is kept for this thread, and so is a panic.
pub(crate) fn guard(body: impl FnOnce() -> Result<(), Failure>) -> Status {
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return Status::Ok,
        Ok(Err(failure)) => failure,
        Err(panic) => Failure::new(Status::Panic, format!("a defect of the library: {}", panic_message(&*panic))),
    };
    let status = failure.status;
    let last = Last {
        status,
        message: Text::new(&failure.message),
        partial: failure.partial.as_deref().map(Text::new),
        transient: failure.transient,
    };
    // A thread that is ending has no place for it any more.
    let _ = LAST.try_with(|slot| slot.replace(Some(last)));
    status
}

/// The same for those that ask a model, which no callback may do: it would wait for itself.
pub(crate) fn guard_asking(body: impl FnOnce() -> Result<(), Failure>) -> Status {
    guard(|| {
        if IN_CALLBACK.get() {
            return Err(Failure::new(Status::InCallback, "a callback must not ask a model: it would wait for itself"));
        }
        body()
    })
}

/// Runs a callback of the caller's.
pub(crate) fn calling<T>(callback: impl FnOnce() -> T) -> T {
    let before = IN_CALLBACK.replace(true);
    let returned = callback();
    IN_CALLBACK.set(before);
    returned
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

/// What of the last failure on this thread `read` finds, else `otherwise`.
fn last<T>(otherwise: T, read: impl FnOnce(&Last) -> T) -> T {
    LAST.try_with(|slot| slot.try_borrow().ok().and_then(|slot| slot.as_ref().map(read)))
        .ok()
        .flatten()
        .unwrap_or(otherwise)
}

/// The status of the last call on this thread that failed; `MARGAY_STATUS_OK` if none did. Calls that succeed leave it as it is.
#[unsafe(no_mangle)]
pub extern "C" fn margay_last_error_status() -> Status {
    last(Status::Ok, |last| last.status)
}

/// What the last call on this thread that failed says, in one line for people; empty if none did. It names the file, field or
/// address and holds no secret. Valid until the next call on this thread fails.
#[unsafe(no_mangle)]
pub extern "C" fn margay_last_error_message() -> *const c_char {
    last(c"".as_ptr(), |last| last.message.as_ptr())
}

/// What was handed out of an answer before the last failure on this thread ended it; NULL if that was nothing. Valid until the
/// next call on this thread fails.
#[unsafe(no_mangle)]
pub extern "C" fn margay_last_error_partial_text() -> *const c_char {
    last(ptr::null(), |last| last.partial.as_ref().map_or(ptr::null(), Text::as_ptr))
}

/// Whether the same request may succeed later without any change, as far as the last failure on this thread tells.
#[unsafe(no_mangle)]
pub extern "C" fn margay_last_error_is_transient() -> bool {
    last(false, |last| last.transient)
}

/// The version of the library, e.g. `0.1.0`.
#[unsafe(no_mangle)]
pub extern "C" fn margay_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// The name of a status in lower case, e.g. `invalid-request`; `unknown` for a number that is none.
#[unsafe(no_mangle)]
pub extern "C" fn margay_status_name(status: i32) -> *const c_char {
    let name = match status {
        0 => c"ok",
        1 => c"library",
        2 => c"io",
        3 => c"bundle",
        4 => c"digest",
        5 => c"signature",
        6 => c"invalid-request",
        7 => c"context-overflow",
        8 => c"inference",
        9 => c"deadline",
        10 => c"cancelled",
        11 => c"connect",
        12 => c"tls",
        13 => c"unauthorized",
        14 => c"rejected",
        15 => c"rate-limited",
        16 => c"server",
        17 => c"malformed",
        18 => c"truncated",
        19 => c"budget",
        20 => c"queue-full",
        21 => c"memory",
        22 => c"provider",
        23 => c"configuration",
        24 => c"store",
        100 => c"null-argument",
        101 => c"invalid-utf-8",
        102 => c"invalid-handle",
        103 => c"wrong-size",
        104 => c"in-callback",
        198 => c"panic",
        _ => c"unknown",
    };
    name.as_ptr()
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    fn message() -> String {
        // SAFETY: the message lives until the next failure on this thread.
        unsafe { CStr::from_ptr(margay_last_error_message()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn every_kind_has_a_status_of_its_number_and_a_name() {
        let mut names = std::collections::BTreeSet::new();
        for kind in ErrorKind::ALL {
            let status = Status::of(kind);
            assert_eq!(status as i32, kind.code(), "{kind:?}");
            // SAFETY: names are static.
            assert!(names.insert(unsafe { CStr::from_ptr(margay_status_name(kind.code())) }), "{kind:?}");
        }
        assert!(!names.contains(c"unknown"));
    }

    #[test]
    fn a_panic_ends_at_the_border() {
        assert_eq!(guard(|| panic!("on purpose")), Status::Panic);
        assert_eq!(message(), "a defect of the library: on purpose");
        assert_eq!(margay_last_error_status(), Status::Panic);
    }

    #[test]
    fn a_failure_is_this_threads_own_and_stays_until_the_next() {
        let error = Error::new(ErrorKind::Truncated, "it broke off").with_source(std::io::Error::other("reset"));
        assert_eq!(guard(|| Err(error.with_partial_text("so far").into())), Status::Truncated);
        assert_eq!(guard(|| Ok(())), Status::Ok);
        assert_eq!((margay_last_error_status(), message().as_str()), (Status::Truncated, "it broke off: reset"));
        assert!(margay_last_error_is_transient());
        // SAFETY: as above.
        assert_eq!(unsafe { CStr::from_ptr(margay_last_error_partial_text()) }, c"so far");
        let elsewhere = std::thread::spawn(|| (margay_last_error_status(), margay_last_error_partial_text().is_null()));
        assert_eq!(elsewhere.join().unwrap(), (Status::Ok, true));
    }

    #[test]
    fn a_callback_cannot_ask() {
        let asked = calling(|| guard_asking(|| Ok(())));
        assert_eq!((asked, guard_asking(|| Ok(()))), (Status::InCallback, Status::Ok));
    }
}
