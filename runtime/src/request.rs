//! What a caller asks, and the limits it sets: deadline, cancellation, privacy.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::engine::GenerateOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::tool::{Tool, ToolCall};

/// One turn of a conversation, written in JSON as OpenAI's API does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// The text of the turn; the result, if it is a tool's.
    #[serde(default)]
    pub content: String,
    /// Functions that the model asked for in this turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Which call a turn of role `tool` answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

impl Message {
    /// A turn of whoever `role` names.
    #[must_use]
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), tool_calls: Vec::new(), tool_call_id: None }
    }

    /// A turn of the person asking.
    #[must_use]
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// A turn of the model answering.
    #[must_use]
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }

    /// Instructions that stand before the conversation.
    #[must_use]
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// What a function returned that the model had asked for under this id.
    #[must_use]
    pub fn tool(tool_call_id: impl Into<String>, result: impl Into<String>) -> Self {
        Self { tool_call_id: Some(tool_call_id.into()), ..Self::new("tool", result) }
    }

    /// The same turn, in which the model asks for these functions.
    #[must_use]
    pub fn tool_calls(mut self, calls: Vec<ToolCall>) -> Self {
        self.tool_calls = calls;
        self
    }
}

/// What may be kept of a request on disk or in memory beyond its own time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Privacy {
    /// It may wait in the outbox, and its answer in the response cache.
    #[default]
    Storable,
    /// It may go to the cloud, but is never written down: no outbox, no response cache. What must not even leave is a
    /// [`LocalOnly`].
    Transient,
}

/// What goes first when prompts wait. Within one priority, what came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    /// Before everything else.
    High,
    /// In between.
    #[default]
    Normal,
    /// After everything else.
    Low,
}

/// One question to a model or a cascade.
#[derive(Debug, Clone)]
pub struct Request {
    /// The conversation so far; the chat template turns it into the prompt.
    pub messages: Vec<Message>,
    /// Which threshold applies; `None` is the policy's default task.
    pub task: Option<String>,
    /// Longest answer, in tokens.
    pub max_tokens: usize,
    /// How the answer is drawn. A cloud is told what its API has words for: temperature (unless it is 0), top-p, top-k, seed,
    /// stop strings, a JSON schema. One that cannot hold an answer to the constraint is not asked:
    /// [`ErrorKind::InvalidRequest`].
    pub options: GenerateOptions,
    /// Which budget limits apply beside the total ones; `None` is only those.
    pub class: Option<String>,
    /// What lets the cloud recognise a repeated question; `None` is a new key for every question.
    pub idempotency_key: Option<String>,
    /// Functions that the large model may ask for; the small one is not told of them.
    pub tools: Vec<Tool>,
    /// What may be kept of it.
    pub privacy: Privacy,
    /// What goes first if it has to wait for the cloud.
    pub priority: Priority,
    /// When the whole query, cloud included, must be over.
    pub deadline: Deadline,
    /// Stops the query from another thread.
    pub cancel: Cancel,
}

impl Request {
    /// A request with one user message, 256 tokens at most, no deadline.
    #[must_use]
    pub fn user(content: impl Into<String>) -> Self {
        Self::messages(vec![Message::user(content)])
    }

    /// A request with a whole conversation, 256 tokens at most, no deadline.
    #[must_use]
    pub fn messages(messages: Vec<Message>) -> Self {
        Self {
            messages,
            task: None,
            max_tokens: 256,
            options: GenerateOptions::default(),
            class: None,
            idempotency_key: None,
            tools: Vec::new(),
            privacy: Privacy::default(),
            priority: Priority::default(),
            deadline: Deadline::NEVER,
            cancel: Cancel::default(),
        }
    }

    /// The same request for a named task.
    #[must_use]
    pub fn task(mut self, task: impl Into<String>) -> Self {
        self.task = Some(task.into());
        self
    }

    /// The same request with another limit on the answer, in tokens.
    #[must_use]
    pub fn max_tokens(mut self, max_tokens: usize) -> Self {
        self.max_tokens = max_tokens;
        self
    }

    /// The same request with other options of the device's generation.
    #[must_use]
    pub fn options(mut self, options: GenerateOptions) -> Self {
        self.options = options;
        self
    }

    /// The same request, counted against the budget of a class too.
    #[must_use]
    pub fn class(mut self, class: impl Into<String>) -> Self {
        self.class = Some(class.into());
        self
    }

    /// The same request under a key of the caller's own: printable ASCII, and never the same for another question.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// The same request with functions that the large model may ask for.
    #[must_use]
    pub fn tools(mut self, tools: Vec<Tool>) -> Self {
        self.tools = tools;
        self
    }

    /// The same request, of which no more may be kept than this.
    #[must_use]
    pub fn privacy(mut self, privacy: Privacy) -> Self {
        self.privacy = privacy;
        self
    }

    /// The same request, to wait for the cloud among those of this priority.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// The same request, to be over before `deadline`.
    #[must_use]
    pub fn deadline(mut self, deadline: Deadline) -> Self {
        self.deadline = deadline;
        self
    }

    /// The same request, stopped when `cancel` is.
    #[must_use]
    pub fn cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }

    /// The same request in a type that nothing in `cloud` accepts.
    #[must_use]
    pub fn local_only(self) -> LocalOnly<Self> {
        LocalOnly(self)
    }

    /// What a router looks at: the last turn of the person asking, or the last turn where there is none of theirs.
    #[cfg(feature = "cloud")]
    pub(crate) fn question(&self) -> &str {
        let asked = self.messages.iter().rfind(|message| message.role == "user").or(self.messages.last());
        asked.map_or("", |message| &message.content)
    }

    /// Fails once the deadline has passed or the caller has cancelled.
    pub(crate) fn check(&self) -> Result<()> {
        self.cancel.check()?;
        self.deadline.check()
    }
}

/// A request that must not leave the device.
///
/// It is a type rather than a flag: the cascade answers it without ever holding a client, and the
/// cloud takes only a bare [`Request`].
#[derive(Debug, Clone)]
pub struct LocalOnly<T>(T);

impl<T> LocalOnly<T> {
    /// What the engine may read. Crate-private, so that it cannot be turned back into a cloud request outside.
    pub(crate) fn inner(&self) -> &T {
        &self.0
    }

    /// The same, changed, and still for the device only.
    #[cfg(feature = "cloud")]
    pub(crate) fn map(self, change: impl FnOnce(T) -> T) -> Self {
        Self(change(self.0))
    }
}

/// The moment a query must be over, whatever it is doing then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// No deadline.
    pub const NEVER: Self = Self(None);

    /// A deadline `after` from now; a time too far to represent is [`Deadline::NEVER`].
    #[must_use]
    pub fn after(after: Duration) -> Self {
        Self(Instant::now().checked_add(after))
    }

    /// The moment itself, if there is one.
    #[must_use]
    pub fn instant(self) -> Option<Instant> {
        self.0
    }

    /// Time left; `None` without a deadline, zero once it has passed.
    #[must_use]
    pub fn remaining(self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// # Errors
    /// [`ErrorKind::Deadline`] once the moment has passed.
    pub fn check(self) -> Result<()> {
        match self.remaining() {
            Some(Duration::ZERO) => Err(Error::new(ErrorKind::Deadline, "the request's deadline has passed")),
            _ => Ok(()),
        }
    }
}

/// A handle that stops a query from anywhere; clones stop the same query.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<Stop>);

#[derive(Default)]
struct Stop {
    stopped: AtomicBool,
    /// What is to be told at once, each under a number of its own.
    listeners: Mutex<Listeners>,
    #[cfg(feature = "cloud")]
    waiting: tokio::sync::Notify,
}

#[derive(Default)]
struct Listeners {
    next: u64,
    all: Vec<(u64, Arc<dyn Fn() + Send + Sync>)>,
}

impl Cancel {
    /// Stops the query: it returns within one decode step, or at once if it is waiting for the cloud or its turn, or reading
    /// the prompt.
    pub fn cancel(&self) {
        self.0.stopped.store(true, Ordering::Release);
        // Called outside the lock: a listener may itself end listening.
        let listeners = self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner).all.clone();
        for (_, listener) in listeners {
            listener();
        }
        #[cfg(feature = "cloud")]
        self.0.waiting.notify_waiters();
    }

    /// Has `listener` called at every cancel, at once if there was one already, until the guard is dropped.
    pub(crate) fn listen(&self, listener: Arc<dyn Fn() + Send + Sync>) -> Listening {
        let mut listeners = self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let number = listeners.next;
        listeners.next += 1;
        listeners.all.push((number, Arc::clone(&listener)));
        drop(listeners);
        // Enlisted before the look at the flag: a cancel between the two is not missed.
        if self.is_cancelled() {
            listener();
        }
        Listening { cancel: self.clone(), number }
    }

    /// Ready once [`Cancel::cancel`] was called, before or during the wait.
    #[cfg(feature = "cloud")]
    pub(crate) async fn cancelled(&self) {
        let mut notified = std::pin::pin!(self.0.waiting.notified());
        // Enlisted before the look at the flag: a cancel between the two is not missed.
        notified.as_mut().enable();
        if !self.is_cancelled() {
            notified.await;
        }
    }

    /// Whether the query was stopped.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.stopped.load(Ordering::Acquire)
    }

    /// A guard that stops the query when it is dropped: nobody waits for the answer any more.
    pub fn drop_guard(&self) -> CancelGuard {
        CancelGuard(Some(self.clone()))
    }

    /// # Errors
    /// [`ErrorKind::Cancelled`] once [`Cancel::cancel`] was called.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "the caller cancelled the request"));
        }
        Ok(())
    }
}

impl std::fmt::Debug for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stop").field("stopped", &self.stopped).finish_non_exhaustive()
    }
}

/// Ends listening when it is dropped; see [`Cancel::listen`].
pub(crate) struct Listening {
    cancel: Cancel,
    number: u64,
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut listeners = self.cancel.0.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.all.retain(|(number, _)| *number != self.number);
    }
}

/// Stops a query when it is dropped; see [`Cancel::drop_guard`].
#[derive(Debug)]
#[must_use = "dropped at once, it stops the query at once"]
pub struct CancelGuard(Option<Cancel>);

impl CancelGuard {
    /// The query is over: dropping the guard stops nothing any more.
    pub fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        if let Some(cancel) = &self.0 {
            cancel.cancel();
        }
    }
}
