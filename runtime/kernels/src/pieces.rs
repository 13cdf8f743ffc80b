//! Pieces of work, each given out once.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(crate) struct Pieces {
    next: AtomicUsize,
    count: usize,
}

impl Pieces {
    pub(crate) fn new(count: usize) -> Self {
        Self { next: AtomicUsize::new(0), count }
    }

    /// Takes up to `most` pieces.
    pub(crate) fn take(&self, most: usize) -> Option<Range<usize>> {
        let first = self.next.fetch_add(most, Ordering::Relaxed);
        (first < self.count).then(|| first..self.count.min(first + most))
    }
}
