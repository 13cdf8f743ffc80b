//! What C hands over: texts, arrays and versioned structs, each checked before it is used.

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;
use std::slice;

use crate::status::{Failure, Status};

/// A struct whose first field is its size in bytes, of which older versions are shorter.
///
/// # Safety
/// The type is `repr(C)`, begins with `size: usize`, and all bytes zero is a value of it.
pub(crate) unsafe trait Versioned: Copy {
    /// What the header calls it.
    const NAME: &'static str;

    /// Sizes of all versions, the present one last.
    const SIZES: &'static [usize];
}

/// A struct as C gives it: what is newer than its version is zero, and so is all of it if there is none.
///
/// # Safety
/// `given` is NULL or points to a struct of the size that its first field says, if that is one of a version.
pub(crate) unsafe fn versioned<T: Versioned>(given: *const T) -> Result<T, Failure> {
    let mut read = MaybeUninit::<T>::zeroed();
    if !given.is_null() {
        // SAFETY: every version begins with its size.
        let size = unsafe { given.cast::<usize>().read() };
        check_size::<T>(size)?;
        // SAFETY: the caller's struct has that many bytes, and ours at least as many.
        unsafe { std::ptr::copy_nonoverlapping(given.cast::<u8>(), read.as_mut_ptr().cast(), size) };
    }
    // SAFETY: zeros, or what C wrote, are values by the trait's contract.
    Ok(unsafe { read.assume_init() })
}

/// Fills as much of a struct as its version has, but for its size.
///
/// # Safety
/// As [`versioned`], and valid for writing.
pub(crate) unsafe fn fill<T: Versioned>(out: *mut T, value: &T) -> Result<(), Failure> {
    if out.is_null() {
        return Err(null(T::NAME));
    }
    // SAFETY: every version begins with its size.
    let size = unsafe { out.cast::<usize>().read() };
    check_size::<T>(size)?;
    let head = size_of::<usize>();
    let (from, to) = (std::ptr::from_ref(value).cast::<u8>(), out.cast::<u8>());
    // SAFETY: both have at least `size` bytes.
    unsafe { std::ptr::copy_nonoverlapping(from.add(head), to.add(head), size - head) };
    Ok(())
}

fn check_size<T: Versioned>(size: usize) -> Result<(), Failure> {
    if T::SIZES.contains(&size) {
        return Ok(());
    }
    let message = format!("`size` of `{}` is {size}, which is none of {:?}", T::NAME, T::SIZES);
    Err(Failure::new(Status::WrongSize, message))
}

/// A text that has to be there.
///
/// # Safety
/// `text` is NULL or ends with a NUL, and stays as it is for as long as the result is used.
pub(crate) unsafe fn text<'a>(text: *const c_char, name: &str) -> Result<&'a str, Failure> {
    // SAFETY: the caller's.
    unsafe { optional_text(text, name) }?.ok_or_else(|| null(name))
}

/// A text that may be left out.
///
/// # Safety
/// As [`text`].
pub(crate) unsafe fn optional_text<'a>(text: *const c_char, name: &str) -> Result<Option<&'a str>, Failure> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL, and the caller vouches for its end.
    let text = unsafe { CStr::from_ptr(text) }.to_str();
    text.map(Some).map_err(|error| {
        Failure::new(Status::InvalidUtf8, format!("{name} is not UTF-8 after {} bytes", error.valid_up_to()))
    })
}

/// Texts that have to be there.
///
/// # Safety
/// `texts` points to `count` texts, each as [`text`], or is NULL if there are none.
pub(crate) unsafe fn texts<'a>(texts: *const *const c_char, count: usize, name: &str) -> Result<Vec<&'a str>, Failure> {
    if count == 0 {
        return Ok(Vec::new());
    }
    if texts.is_null() {
        return Err(null(name));
    }
    // SAFETY: not NULL, and the caller vouches for the count.
    let all = unsafe { slice::from_raw_parts(texts, count) };
    // SAFETY: the caller's.
    all.iter().enumerate().map(|(index, each)| unsafe { text(*each, &format!("{name}[{index}]")) }).collect()
}

fn null(name: &str) -> Failure {
    Failure::new(Status::NullArgument, format!("{name} is NULL"))
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;
    use std::ptr;

    use super::*;

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Options {
        size: usize,
        first: u32,
        second: u32,
        since_two: u64,
    }

    // SAFETY: numbers only.
    unsafe impl Versioned for Options {
        const NAME: &'static str = "options";
        const SIZES: &'static [usize] = &[offset_of!(Self, since_two), size_of::<Self>()];
    }

    fn options(size: usize) -> Options {
        Options { size, first: 1, second: 2, since_two: 3 }
    }

    #[test]
    fn an_older_struct_is_read_and_filled_as_far_as_it_goes() {
        // SAFETY: structs of our own.
        unsafe {
            let given = options(offset_of!(Options, since_two));
            let old = versioned(&raw const given).ok().unwrap();
            assert_eq!((old.second, old.since_two), (2, 0));
            let given = options(size_of::<Options>());
            let new = versioned(&raw const given).ok().unwrap();
            assert_eq!((new.second, new.since_two), (2, 3));
            assert_eq!(versioned::<Options>(ptr::null()).ok().unwrap().second, 0);

            let mut out = options(offset_of!(Options, since_two));
            let filled = Options { size: 99, first: 7, second: 8, since_two: 9 };
            assert!(fill(&raw mut out, &filled).is_ok());
            assert_eq!((out.size, out.first, out.second, out.since_two), (16, 7, 8, 3));
        }
    }

    #[test]
    fn a_struct_of_no_version_is_refused() {
        for size in [0, 8, 15, 17, 25, usize::MAX] {
            let mut given = options(size);
            // SAFETY: structs of our own; nothing past the size is read.
            unsafe {
                assert!(versioned(&raw const given).is_err(), "{size}");
                assert!(fill(&raw mut given, &options(24)).is_err(), "{size}");
            }
        }
    }

    #[test]
    fn texts_are_checked() {
        // SAFETY: constants.
        unsafe {
            assert_eq!(text(c"caf\xc3\xa9".as_ptr(), "name").ok().unwrap(), "café");
            assert!(text(c"caf\xe9".as_ptr(), "name").is_err());
            assert!(text(ptr::null(), "name").is_err());
            assert!(optional_text(ptr::null(), "name").ok().unwrap().is_none());
            let two = [c"a".as_ptr(), c"b".as_ptr()];
            assert_eq!(texts(two.as_ptr(), 2, "names").ok().unwrap(), ["a", "b"]);
            assert!(texts([c"a".as_ptr(), ptr::null()].as_ptr(), 2, "names").is_err());
            assert!(texts(ptr::null(), 1, "names").is_err());
            assert!(texts(ptr::null(), 0, "names").ok().unwrap().is_empty());
        }
    }
}
