//! The twin of `queue.rs` without stores: nothing waits.

use std::borrow::Cow;

use crate::answer::Ticket;
use crate::error::Error;
use crate::request::Request;

#[derive(Debug, Default)]
pub(super) struct Queue {}

impl Queue {
    pub(super) fn keyed<'a>(&self, request: &'a Request) -> Cow<'a, Request> {
        Cow::Borrowed(request)
    }

    pub(super) fn is_none(&self) -> bool {
        true
    }

    pub(super) async fn put(&self, _: &Request, _: Option<&Error>) -> Option<Ticket> {
        None
    }
}
