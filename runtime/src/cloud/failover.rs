//! Several large models behind one face: the next is asked when one fails, or when one is slow.
//!
//! Neither ever mixes two answers: once a piece of one was handed out, it is that one's or nobody's.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::clock::until;
use super::{BoxFuture, Clock, CloudAnswer, LargeModel, OnText, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::request::Request;

/// Answers that the delay before hedging is read off.
const WINDOW: usize = 128;

/// Answers without which the delay is the one that was configured.
const ENOUGH: usize = 20;

/// Large models in the order in which they are asked. The next is asked when one fails in a way that is its own (it cannot be
/// reached, trusted or understood, is busy, ill, or refuses our token), and has handed out nothing yet.
pub struct Failover {
    models: Vec<Box<dyn LargeModel>>,
}

impl Failover {
    /// Only this one, so far.
    #[must_use]
    pub fn new(first: impl LargeModel + 'static) -> Self {
        Self { models: vec![Box::new(first)] }
    }

    /// This one after those before it.
    #[must_use]
    pub fn then(mut self, next: impl LargeModel + 'static) -> Self {
        self.models.push(Box::new(next));
        self
    }

    async fn ask(&self, request: &Request, mut on_text: Option<OnText<'_>>) -> Result<CloudAnswer> {
        let (mut attempts, mut free) = (0, true);
        let mut last = Error::new(ErrorKind::InvalidRequest, "there is no large model to ask");
        for model in &self.models {
            request.check()?;
            let mut spoken = false;
            let outcome = match &mut on_text {
                None => model.answer(request).await,
                Some(on_text) => {
                    let mut listen = |piece: &str| {
                        spoken = true;
                        on_text(piece);
                    };
                    model.stream(request, &mut listen).await
                }
            };
            attempts += 1;
            match outcome {
                Ok(answer) => return Ok(CloudAnswer { attempts: answer.attempts + attempts - 1, ..answer }),
                Err(error) if spoken || !is_its_own(&error) => return Err(error),
                Err(error) => {
                    tracing::info!(kind = ?error.kind(), model = attempts, "a large model failed; the next is asked");
                    free &= error.is_free_of_charge();
                    last = error;
                }
            }
        }
        Err(last.free_of_charge(free))
    }
}

/// Whether the failure says something of the model that was asked rather than of the request.
fn is_its_own(error: &Error) -> bool {
    error.is_cloud() && error.kind() != ErrorKind::Rejected
}

impl LargeModel for Failover {
    fn answer<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<CloudAnswer>> {
        Box::pin(self.ask(request, None))
    }

    fn stream<'a>(&'a self, request: &'a Request, on_text: OnText<'a>) -> BoxFuture<'a, Result<CloudAnswer>> {
        Box::pin(self.ask(request, Some(on_text)))
    }
}

impl fmt::Debug for Failover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failover").field("models", &self.models.len()).finish()
    }
}

/// Asks a second large model too when the first has failed or not begun to answer after a while, and takes whichever begins
/// first (hedged requests: Dean and Barroso, *The Tail at Scale*, 2013).
///
/// The while is a percentile of how long the first took lately, so that about that fraction of questions is asked twice, and
/// paid for twice: put a budget around each of the two, not around both.
pub struct Hedged {
    first: Box<dyn LargeModel>,
    second: Box<dyn LargeModel>,
    percentile: f64,
    initial: Duration,
    clock: Arc<dyn Clock>,
    /// How long the first took to begin, lately.
    took: Mutex<VecDeque<Duration>>,
}

impl Hedged {
    /// Hedges after the 95th percentile, and after `initial` until there are 20 answers to read it off.
    #[must_use]
    pub fn new(first: impl LargeModel + 'static, second: impl LargeModel + 'static, initial: Duration) -> Self {
        let clock = Arc::new(SystemClock);
        Self {
            first: Box::new(first),
            second: Box::new(second),
            percentile: 0.95,
            initial,
            clock,
            took: Mutex::default(),
        }
    }

    /// Another percentile, in `0.0..=1.0`; what is outside is taken to its nearer end.
    #[must_use]
    pub fn percentile(mut self, percentile: f64) -> Self {
        self.percentile = if percentile.is_nan() { 1.0 } else { percentile.clamp(0.0, 1.0) };
        self
    }

    /// The clock behind the delay; [`SystemClock`] unless said.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// How long the first is waited for now (nearest-rank percentile).
    fn delay(&self) -> Duration {
        let took = self.took.lock().unwrap_or_else(PoisonError::into_inner);
        if took.len() < ENOUGH {
            return self.initial;
        }
        let mut sorted: Vec<Duration> = took.iter().copied().collect();
        sorted.sort_unstable();
        let rank = (self.percentile * sorted.len() as f64).ceil().max(1.0) as usize;
        sorted.get(rank - 1).copied().unwrap_or(self.initial)
    }

    fn note(&self, took: Duration) {
        let mut window = self.took.lock().unwrap_or_else(PoisonError::into_inner);
        if window.len() == WINDOW {
            window.pop_front();
        }
        window.push_back(took);
    }

    async fn ask(&self, request: &Request, on_text: Option<OnText<'_>>) -> Result<CloudAnswer> {
        let asked = self.clock.now();
        let stage = Stage { winner: Mutex::new(None), on_text: on_text.map(Mutex::new) };
        let first = async {
            let outcome =
                stage.perform(&*self.first, request, Role::First, || self.note(self.clock.now() - asked)).await;
            if stage.on_text.is_none() && outcome.is_ok() {
                self.note(self.clock.now() - asked);
            }
            outcome
        };
        let mut first = std::pin::pin!(first);
        tokio::select! {
            biased;
            outcome = &mut first => match (outcome, stage.winner()) {
                (Err(error), None) if is_its_own(&error) => {
                    return stage.perform(&*self.second, request, Role::Second, || {}).await;
                }
                (outcome, _) => return outcome,
            },
            () = until(&*self.clock, asked.checked_add(self.delay())) => {}
        }
        // The first has begun: it only has to end.
        if stage.winner() == Some(Role::First) {
            return first.await;
        }
        let mut second = std::pin::pin!(stage.perform(&*self.second, request, Role::Second, || {}));
        tokio::select! {
            biased;
            outcome = &mut first => match (outcome, stage.winner()) {
                (Err(_), Some(Role::Second)) => second.await,
                (Err(error), None) if is_its_own(&error) => second.await,
                (outcome, _) => outcome,
            },
            outcome = &mut second => match (outcome, stage.winner()) {
                (Err(_), Some(Role::First)) => first.await,
                (Err(error), None) if is_its_own(&error) => first.await,
                (outcome, _) => outcome,
            },
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    First,
    Second,
}

/// What the two play on: only who speaks first is heard.
struct Stage<'a> {
    winner: Mutex<Option<Role>>,
    on_text: Option<Mutex<OnText<'a>>>,
}

impl Stage<'_> {
    fn winner(&self) -> Option<Role> {
        *self.winner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `role` may speak; the first to ask may.
    fn enter(&self, role: Role) -> bool {
        *self.winner.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(role) == role
    }

    async fn perform(
        &self,
        model: &dyn LargeModel,
        request: &Request,
        role: Role,
        began: impl FnOnce() + Send,
    ) -> Result<CloudAnswer> {
        let Some(on_text) = &self.on_text else {
            return model.answer(request).await;
        };
        let mut began = Some(began);
        let mut listen = |piece: &str| {
            if let Some(began) = began.take() {
                began();
            }
            if self.enter(role) {
                on_text.lock().unwrap_or_else(PoisonError::into_inner)(piece);
            }
        };
        let outcome = model.stream(request, &mut listen).await;
        match outcome {
            // An answer without text has begun and ended in one.
            Ok(_) if !self.enter(role) => Err(Error::new(ErrorKind::Cancelled, "another large model was faster")),
            outcome => outcome,
        }
    }
}

impl LargeModel for Hedged {
    fn answer<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<CloudAnswer>> {
        Box::pin(self.ask(request, None))
    }

    fn stream<'a>(&'a self, request: &'a Request, on_text: OnText<'a>) -> BoxFuture<'a, Result<CloudAnswer>> {
        Box::pin(self.ask(request, Some(on_text)))
    }
}

impl fmt::Debug for Hedged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hedged").field("percentile", &self.percentile).finish_non_exhaustive()
    }
}
