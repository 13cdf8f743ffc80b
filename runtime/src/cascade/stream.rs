//! An answer as it comes: typed events, at the end of which stands the same [`Answer`] that is given whole otherwise.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use margay_policy::Reason;
use tokio::runtime::Handle;

use super::blocking::Blocking;
use super::outlet::Outlet;
use crate::answer::{Answer, Origin};
use crate::cloud::BoxFuture;
use crate::error::Result;

/// What is shown of the device's answer before it is known whether it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Stream {
    /// Nothing: the first text comes with the verdict, and stands.
    #[default]
    Hold,
    /// All of it, as it is written. If the query is deferred, [`StreamEvent::Superseded`] takes it back.
    Optimistic,
}

/// One event of an answer. The texts of all tokens since the last `Superseded` are the text of the answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum StreamEvent {
    /// More text.
    Token {
        /// The text; never empty.
        text: String,
        /// Whose it is.
        origin: Origin,
    },
    /// What was streamed so far is not the answer: forget it. Only [`Stream::Optimistic`] has it, before the first token of the
    /// large model, or at the end if nobody answers.
    Superseded {
        /// Why the device's text does not stand.
        reason: Option<Reason>,
    },
    /// The end.
    Done(Box<Answer>),
}

/// A streamed answer; see [`crate::Cascade::stream`].
///
/// It goes on only while it is polled, and owns all it needs. Dropped, it cancels the request.
#[must_use = "nothing happens until it is polled"]
pub struct AnswerStream {
    outlet: Arc<Outlet>,
    driver: Option<BoxFuture<'static, Result<Answer>>>,
    end: Option<Result<Answer>>,
}

impl AnswerStream {
    pub(super) fn new(outlet: Arc<Outlet>, driver: BoxFuture<'static, Result<Answer>>) -> Self {
        Self { outlet, driver: Some(driver), end: None }
    }

    /// The next event; `None` after [`StreamEvent::Done`] or an error. Needs a tokio runtime.
    ///
    /// # Errors
    /// As [`crate::Cascade::answer`]. If some of the large model's answer was handed out before,
    /// [`crate::Error::partial_text`] has it, and nothing else is tried in its place.
    pub async fn next(&mut self) -> Option<Result<StreamEvent>> {
        poll_fn(|context| Pin::new(&mut *self).poll_event(context)).await
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<StreamEvent>>> {
        // Events first: whoever drives must not run ahead of who listens.
        if let Some(event) = self.outlet.take(context.waker()) {
            return Poll::Ready(Some(Ok(event)));
        }
        if let Some(driver) = &mut self.driver
            && let Poll::Ready(end) = driver.as_mut().poll(context)
        {
            (self.driver, self.end) = (None, Some(end));
        }
        if let Some(event) = self.outlet.take(context.waker()) {
            return Poll::Ready(Some(Ok(event)));
        }
        match (self.end.take(), &self.driver) {
            (Some(end), _) => Poll::Ready(Some(end.map(|answer| StreamEvent::Done(Box::new(answer))))),
            (None, None) => Poll::Ready(None),
            (None, Some(_)) => Poll::Pending,
        }
    }
}

impl futures_core::Stream for AnswerStream {
    type Item = Result<StreamEvent>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_event(context)
    }
}

impl fmt::Debug for AnswerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerStream").field("over", &self.driver.is_none()).finish_non_exhaustive()
    }
}

/// The same events for callers without a runtime; see [`crate::Cascade::stream_blocking`].
#[derive(Debug)]
#[must_use = "nothing happens until it is asked for the next event"]
pub struct BlockingStream {
    events: AnswerStream,
    runtime: Handle,
    /// Whose runtime it is: the stream may outlive its cascade.
    _blocking: Arc<Blocking>,
}

impl BlockingStream {
    pub(super) fn new(events: AnswerStream, runtime: Handle, blocking: Arc<Blocking>) -> Self {
        Self { events, runtime, _blocking: blocking }
    }
}

impl Iterator for BlockingStream {
    type Item = Result<StreamEvent>;

    fn next(&mut self) -> Option<Self::Item> {
        self.runtime.block_on(self.events.next())
    }
}
