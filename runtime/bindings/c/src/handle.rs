//! Handles: numbers that look like pointers to C and are looked up, never followed.
//!
//! A number is used once, so that a handle which was destroyed, or is of another kind, is found out every time; and what a handle
//! stands for lives on while another thread works with it.

use std::collections::HashMap;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use crate::status::{Failure, Status};

/// The step between two handles: none is aligned as an object, so that following one by mistake is seen by sanitizers.
const STEP: usize = 2;

/// The next handle of any kind; zero once all are spent.
static NEXT: AtomicUsize = AtomicUsize::new(1);

/// The living things of one kind.
pub(crate) struct Registry<T> {
    name: &'static str,
    living: LazyLock<RwLock<HashMap<usize, Arc<T>>>>,
}

/// What C knows of a kind of thing: the incomplete type that its handles seem to point to.
pub(crate) trait Kind: Sized + 'static {
    /// The incomplete type.
    type Opaque;

    /// All of this kind that live.
    fn registry() -> &'static Registry<Self>;
}

/// Ties an incomplete type of the header to what its handles stand for.
macro_rules! kind {
    ($opaque:ty, $inner:ty, $name:literal) => {
        impl $crate::handle::Kind for $inner {
            type Opaque = $opaque;

            fn registry() -> &'static $crate::handle::Registry<Self> {
                static REGISTRY: $crate::handle::Registry<$inner> = $crate::handle::Registry::new($name);
                &REGISTRY
            }
        }
    };
}
pub(crate) use kind;

impl<T> Registry<T> {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, living: LazyLock::new(RwLock::default) }
    }
}

/// A new handle, written to where C wants it.
///
/// # Safety
/// `out` is NULL or valid for writing.
pub(crate) unsafe fn give<T: Kind>(out: *mut *mut T::Opaque, thing: T) -> Result<(), Failure> {
    if out.is_null() {
        return Err(Failure::new(Status::NullArgument, format!("there is no place for the {}", T::registry().name)));
    }
    let next = |last: usize| (last != 0).then(|| last.checked_add(STEP).unwrap_or(0));
    let number = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    let number = number.map_err(|_| Failure::new(Status::Memory, "this process has used up all its handles"))?;
    let registry = T::registry();
    registry.living.write().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::new(thing));
    // SAFETY: not NULL, and the caller vouches for it.
    unsafe { out.write(ptr::without_provenance_mut(number)) };
    Ok(())
}

/// What a handle stands for.
pub(crate) fn take<T: Kind>(handle: *const T::Opaque) -> Result<Arc<T>, Failure> {
    let registry = T::registry();
    if handle.is_null() {
        return Err(Failure::new(Status::NullArgument, format!("the {} is NULL", registry.name)));
    }
    let living = registry.living.read().unwrap_or_else(PoisonError::into_inner);
    living.get(&handle.addr()).cloned().ok_or_else(|| not_living(registry.name))
}

/// Ends a handle; NULL is none.
pub(crate) fn destroy<T: Kind>(handle: *mut T::Opaque) -> Result<(), Failure> {
    if handle.is_null() {
        return Ok(());
    }
    let registry = T::registry();
    let ended = registry.living.write().unwrap_or_else(PoisonError::into_inner).remove(&handle.addr());
    // Dropped here, outside the lock: it may call back.
    ended.map(drop).ok_or_else(|| not_living(registry.name))
}

fn not_living(name: &str) -> Failure {
    Failure::new(Status::InvalidHandle, format!("this is no {name}, or it was destroyed before"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Opaque;
    struct Thing(u8);
    struct OtherOpaque;
    struct Other;
    kind!(Opaque, Thing, "thing");
    kind!(OtherOpaque, Other, "other");

    fn status<T>(result: Result<T, Failure>) -> Status {
        match result {
            Ok(_) => Status::Ok,
            Err(failure) => crate::status::guard(|| Err(failure)),
        }
    }

    #[test]
    fn a_handle_is_known_until_it_is_destroyed_and_never_again() {
        let mut handle = ptr::null_mut();
        // SAFETY: a place of our own.
        assert!(unsafe { give(&raw mut handle, Thing(7)) }.is_ok());
        assert_eq!(take::<Thing>(handle).ok().unwrap().0, 7);
        assert_eq!(status(take::<Other>(handle.cast())), Status::InvalidHandle);
        let kept = take::<Thing>(handle).ok().unwrap();
        assert!(destroy::<Thing>(handle).is_ok());
        assert_eq!(kept.0, 7, "it lives while somebody works with it");
        assert_eq!(status(take::<Thing>(handle)), Status::InvalidHandle);
        assert_eq!(status(destroy::<Thing>(handle)), Status::InvalidHandle);
        let mut next = ptr::null_mut();
        // SAFETY: as above.
        assert!(unsafe { give(&raw mut next, Thing(8)) }.is_ok());
        assert_ne!(handle, next);
        assert!(destroy::<Thing>(next).is_ok());
    }

    #[test]
    fn null_is_nothing_to_destroy_and_nothing_to_use() {
        assert!(destroy::<Thing>(ptr::null_mut()).is_ok());
        assert_eq!(status(take::<Thing>(ptr::null())), Status::NullArgument);
        // SAFETY: NULL is allowed.
        assert_eq!(status(unsafe { give(ptr::null_mut(), Thing(0)) }), Status::NullArgument);
    }
}
