//! An engine as a large model: one answer at a time, off the asynchronous threads, a bounded queue before it.

use std::ops::ControlFlow;
use std::sync::Arc;

use margay::cloud::{BoxFuture, CloudAnswer, LargeModel};
use margay::{Engine, Error, ErrorKind, Finish, Request, Result, Tokens};
use tokio::sync::Semaphore;

/// Requests that may wait for their turn. One more is told to come back later rather than kept until its client gives up.
pub(super) const MAX_WAITING: usize = 64;

/// An [`Engine`] that answers like a large model.
///
/// A request whose future is dropped (its client has gone) stops generating within one decode step.
#[derive(Debug)]
pub struct OnDevice {
    engine: Arc<Engine>,
    /// The engine has one decoder: who waits for it waits here, without a thread.
    turn: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
}

impl OnDevice {
    /// Serves this engine.
    #[must_use]
    pub fn new(engine: Arc<Engine>) -> Self {
        Self { engine, turn: Arc::new(Semaphore::new(1)), admitted: Arc::new(Semaphore::new(1 + MAX_WAITING)) }
    }

    async fn generate(&self, request: &Request) -> Result<CloudAnswer> {
        let busy = |_| Error::new(ErrorKind::RateLimited, format!("{MAX_WAITING} requests are waiting already"));
        let _admitted = self.admitted.try_acquire().map_err(busy)?;
        let closed = |_| Error::new(ErrorKind::Inference, "the engine is shutting down");
        let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(closed)?;

        let request = request.clone();
        let abandoned = request.cancel.drop_guard();
        let engine = Arc::clone(&self.engine);
        let generating = tokio::task::spawn_blocking(move || {
            // Held until generation really is over, not merely until nobody waits for it.
            let _turn = turn;
            engine.generate(&request, None, &mut |_| ControlFlow::Continue(()))
        });
        let failed = |error| Error::new(ErrorKind::Inference, "generation broke off").with_source(error);
        let generation = generating.await.map_err(failed)??;
        abandoned.disarm();

        let reason = if generation.finish == Finish::Length { "length" } else { "stop" };
        let mut answer = CloudAnswer::new(generation.text);
        answer.finish_reason = Some(reason.to_owned());
        answer.usage =
            Some(Tokens { input: generation.prompt_tokens as u64, output: generation.token_ids.len() as u64 });
        Ok(answer)
    }
}

impl LargeModel for OnDevice {
    fn answer<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<CloudAnswer>> {
        Box::pin(self.generate(request))
    }
}
