//! Words that the library says in C's form, for as long as the process lives: there is a fixed number of them.

use std::collections::HashMap;
use std::ffi::{CString, c_char};
use std::ptr;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

/// Each word once.
static WORDS: LazyLock<Mutex<HashMap<&'static str, CString>>> = LazyLock::new(Mutex::default);

/// A word of the library's own, valid for ever; NULL for none.
pub(crate) fn word(word: Option<&'static str>) -> *const c_char {
    let Some(word) = word else { return ptr::null() };
    let mut words = WORDS.lock().unwrap_or_else(PoisonError::into_inner);
    // Nothing is ever taken out, and a text on the heap stays where it is when the map grows.
    words.entry(word).or_insert_with(|| CString::new(word).unwrap_or_default()).as_ptr()
}

/// A time in C's form.
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
