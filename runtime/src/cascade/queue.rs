//! The way into the outbox, for prompts that cannot go now.

use std::borrow::Cow;

use crate::answer::Ticket;
use crate::error::Error;
use crate::request::{Privacy, Request};
use crate::stores::Outbox;

/// An outbox, or none.
#[derive(Debug, Default)]
pub(super) struct Queue(pub(super) Option<Outbox>);

impl Queue {
    /// The request under the key that it keeps if it is queued after it was sent.
    pub(super) fn keyed<'a>(&self, request: &'a Request) -> Cow<'a, Request> {
        match &self.0 {
            Some(outbox) if request.idempotency_key.is_none() => {
                Cow::Owned(request.clone().idempotency_key(outbox.key()))
            }
            _ => Cow::Borrowed(request),
        }
    }

    pub(super) fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Queues the request, if there is an outbox, it has room, the request may be stored, and waiting helps: no `error` means that the cloud was left alone.
    pub(super) async fn put(&self, request: &Request, error: Option<&Error>) -> Option<Ticket> {
        let may_wait = request.privacy == Privacy::Storable && error.is_none_or(Error::is_transient);
        let outbox = self.0.as_ref().filter(|_| may_wait)?;
        match outbox.put(request).await {
            Ok(ticket) => Some(ticket),
            Err(error) => {
                tracing::warn!(%error, "a prompt could not be queued");
                None
            }
        }
    }
}
