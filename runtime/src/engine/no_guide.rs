//! Without the feature `constrained`: a request with a constraint is refused.

use std::convert::Infallible;
use std::path::Path;

use super::options::Constraint;
use crate::error::{Error, ErrorKind, Result};

/// What would turn constraints into guides.
#[derive(Debug)]
pub(super) struct Guides;

/// What would follow one answer.
pub(super) struct Guide(Infallible);

/// The ids that may come next.
pub(super) struct Allowed(Infallible);

impl Guides {
    pub(super) fn new(_tokenizer: &Path, _vocabulary_size: usize, _stop_tokens: &[u32]) -> Self {
        Self
    }

    pub(super) fn guide(&self, _constraint: &Constraint) -> Result<Guide> {
        Err(Error::new(ErrorKind::InvalidRequest, "constrained answers need the feature `constrained`"))
    }
}

impl Guide {
    pub(super) fn allowed(&mut self) -> Result<Allowed> {
        match self.0 {}
    }

    pub(super) fn accept(&mut self, _id: u32) -> Result<bool> {
        match self.0 {}
    }
}

impl Allowed {
    pub(super) fn contains(&self, _id: u32) -> bool {
        match self.0 {}
    }
}
