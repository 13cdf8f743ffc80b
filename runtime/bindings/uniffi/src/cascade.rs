//! Cascades: the device first, the cloud when the device is unsure; answers whole or as they come.

use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::answer::{Answer, Origin};
use crate::cloud::Cloud;
use crate::engine::Engine;
use crate::error::{MargayError, invalid};
use crate::listener;
use crate::request::Request;

/// A small model with a large one behind it.
#[derive(Debug, uniffi::Object)]
pub struct Cascade(margay::Cascade);

/// What becomes of a query that the device is unsure of when the cloud fails or must not be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum OnCloudFailure {
    /// The device's answer, with reason and error beside it.
    FallBackToLocal,
    /// No answer, with reason and error beside it.
    Abstain,
    /// The error itself.
    Fail,
}

/// How a cascade behaves.
#[derive(Debug, Clone, uniffi::Record)]
pub struct CascadeOptions {
    /// The device's answer unless said.
    #[uniffi(default = None)]
    pub on_cloud_failure: Option<OnCloudFailure>,
    /// Failed queries in a row after which the cloud is left alone.
    #[uniffi(default = 5)]
    pub breaker_failures: u32,
    /// For how long; 30 seconds unless said.
    #[uniffi(default = None)]
    pub breaker_pause: Option<Duration>,
}

/// What is shown of the device's answer before it is known whether it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum StreamMode {
    /// Nothing: the first text comes with the verdict, and stands.
    Hold,
    /// All of it; if the query is deferred, `Superseded` takes it back.
    Optimistic,
}

/// One event of a streamed answer. The texts since the last `Superseded` are the answer.
#[derive(Debug, Clone, uniffi::Enum)]
#[expect(clippy::large_enum_variant, reason = "it is written out, whatever its size, to cross to the other language")]
pub enum StreamEvent {
    /// More text.
    Token {
        /// The text; never empty.
        text: String,
        /// Whose it is.
        origin: Origin,
    },
    /// What came so far is not the answer: forget it.
    Superseded {
        /// Why the device's text does not stand.
        reason: Option<String>,
    },
    /// The end.
    Done {
        /// The same answer that is given whole otherwise.
        answer: Answer,
    },
}

/// A streamed answer. It goes on only while somebody waits for its next event; let go of, it is cancelled. Until it has ended or
/// is let go of, the engine is taken: whoever asks it meanwhile waits.
#[derive(Debug, uniffi::Object)]
pub struct AnswerStream(tokio::sync::Mutex<Option<margay::AnswerStream>>);

/// The same for those who wait. Nothing else can be asked of the engine on the same thread until it has ended or is ended.
#[derive(Debug, uniffi::Object)]
pub struct BlockingStream(std::sync::Mutex<Option<margay::BlockingStream>>);

#[uniffi::export(async_runtime = "tokio")]
impl Cascade {
    /// A cascade of an engine, its bundle's policy, and a cloud.
    #[uniffi::constructor(default(options = None))]
    pub fn new(engine: &Engine, cloud: &Cloud, options: Option<CascadeOptions>) -> Result<Arc<Self>, MargayError> {
        let mut builder = margay::Cascade::builder()
            .engine(Arc::clone(&engine.0.engine))
            .policy(policy(engine)?)
            .cloud(Arc::clone(&cloud.0));
        if let Some(options) = options {
            let failures = NonZeroU32::new(options.breaker_failures)
                .ok_or_else(|| invalid("breaker_failures is 0: the cloud would never be asked"))?;
            builder = builder.breaker(failures, options.breaker_pause.unwrap_or(Duration::from_secs(30)));
            builder = builder.on_cloud_failure(match options.on_cloud_failure {
                None | Some(OnCloudFailure::FallBackToLocal) => margay::OnCloudFailure::FallBackToLocal,
                Some(OnCloudFailure::Abstain) => margay::OnCloudFailure::Abstain,
                Some(OnCloudFailure::Fail) => margay::OnCloudFailure::Fail,
            });
        }
        Ok(Arc::new(Self(builder.build()?)))
    }

    /// A cascade of an engine, its bundle's policy, and what the file `margay.toml` at `path` describes: servers, tokens, budget,
    /// cache, audit file and the rest. Its `[device]` is left aside, and an `[outbox]` refused: what waits there has no way
    /// back through here.
    #[uniffi::constructor]
    pub fn configured(engine: &Engine, path: String) -> Result<Arc<Self>, MargayError> {
        let configuration = margay::configuration::Configuration::read(path)?;
        Ok(Arc::new(Self(configuration.assemble_cascade(Arc::clone(&engine.0.engine), policy(engine)?)?)))
    }

    /// Answers on the device if it is sure enough, else in the cloud. Given up, it stops.
    pub async fn answer(&self, request: Request) -> Result<Answer, MargayError> {
        Ok(self.0.answer(request.ask()?).await?.into())
    }

    /// The same, waiting for it.
    pub fn answer_blocking(&self, request: Request) -> Result<Answer, MargayError> {
        listener::check()?;
        Ok(self.0.answer_blocking(request.ask()?)?.into())
    }

    /// Answers on the device, sure or not: the request reaches no cloud. Given up, it stops.
    pub async fn answer_local(&self, request: Request) -> Result<Answer, MargayError> {
        Ok(self.0.answer_local(request.ask()?.local_only()).await?.into())
    }

    /// The same, waiting for it.
    pub fn answer_local_blocking(&self, request: Request) -> Result<Answer, MargayError> {
        listener::check()?;
        Ok(self.0.answer_local_blocking(request.ask()?.local_only())?.into())
    }

    /// The answer as it comes. Nothing happens until its first event is waited for.
    pub fn stream(&self, request: Request, mode: StreamMode) -> Result<Arc<AnswerStream>, MargayError> {
        let events = self.0.stream(request.ask()?, mode.into());
        Ok(Arc::new(AnswerStream(tokio::sync::Mutex::new(Some(events)))))
    }

    /// The same for those who wait.
    pub fn stream_blocking(&self, request: Request, mode: StreamMode) -> Result<Arc<BlockingStream>, MargayError> {
        let events = self.0.stream_blocking(request.ask()?, mode.into())?;
        Ok(Arc::new(BlockingStream(std::sync::Mutex::new(Some(events)))))
    }
}

fn policy(engine: &Engine) -> Result<margay::bundle::CalibratedPolicy, MargayError> {
    let policy = engine.0.policy.clone();
    policy.ok_or_else(|| invalid("the bundle has no policy: calibrate it first (`margay calibrate`)"))
}

#[uniffi::export(async_runtime = "tokio")]
impl AnswerStream {
    /// The next event; nothing after `Done`, an error or `end`.
    pub async fn next(&self) -> Result<Option<StreamEvent>, MargayError> {
        let mut events = self.0.lock().await;
        let Some(stream) = events.as_mut() else { return Ok(None) };
        stream.next().await.map(StreamEvent::read).transpose()
    }

    /// Ends the stream and cancels what was still to come, unless somebody waits for it: they hold the request's `cancel`.
    pub fn end(&self) {
        if let Ok(mut events) = self.0.try_lock() {
            *events = None;
        }
    }
}

#[uniffi::export]
impl BlockingStream {
    /// The next event; nothing after `Done`, an error or `end`.
    pub fn next(&self) -> Result<Option<StreamEvent>, MargayError> {
        listener::check()?;
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stream) = events.as_mut() else { return Ok(None) };
        stream.next().map(StreamEvent::read).transpose()
    }

    /// Ends the stream and cancels what was still to come, unless somebody waits for it: they hold the request's `cancel`.
    pub fn end(&self) {
        if let Ok(mut events) = self.0.try_lock() {
            *events = None;
        }
    }
}

impl StreamEvent {
    fn read(event: margay::Result<margay::StreamEvent>) -> Result<Self, MargayError> {
        Ok(match event? {
            margay::StreamEvent::Token { text, origin } => Self::Token { text, origin: origin.into() },
            margay::StreamEvent::Superseded { reason } => {
                Self::Superseded { reason: reason.map(|reason| reason.to_string()) }
            }
            margay::StreamEvent::Done(answer) => Self::Done { answer: (*answer).into() },
            _ => return Err(invalid("the stream has an event that this interface does not know")),
        })
    }
}

impl From<StreamMode> for margay::Stream {
    fn from(mode: StreamMode) -> Self {
        match mode {
            StreamMode::Hold => Self::Hold,
            StreamMode::Optimistic => Self::Optimistic,
        }
    }
}
