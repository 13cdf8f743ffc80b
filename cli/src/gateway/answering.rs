//! From a question off the line to its answer: the cascade of a configuration, and the outbox if it has one.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use margay::cloud::{Connectivity, LargeModel, Probe};
use margay::configuration::{Assembly, Configuration};
use margay::stores::{Outbox, Outcome};
use margay::{Bundle, Cascade, DeviceOptions, Engine, Request, Ticket};
use margay_link::{Origin, QueryId};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::console::Console;
use crate::error::{Error, Result};
use crate::library;

/// Time between two looks at an outbox whose cloud failed.
const OUTBOX_PAUSE: Duration = Duration::from_secs(5);

/// What a device asked.
pub(super) struct Question {
    pub(super) id: QueryId,
    pub(super) task: Option<String>,
    pub(super) text: String,
}

/// What it is told.
pub(super) struct Reply {
    pub(super) id: QueryId,
    pub(super) origin: Origin,
    pub(super) text: String,
    /// Why the small model's answer did not simply stand.
    reason: Option<&'static str>,
    took: Duration,
}

/// The cascade at work.
pub(super) struct Answering {
    runtime: Runtime,
    desk: Arc<Desk>,
}

struct Desk {
    cascade: Cascade,
    max_tokens: usize,
    reply: Box<dyn Fn(Reply) + Send + Sync>,
    /// Questions that wait in the outbox, and since when.
    queued: Mutex<HashMap<Ticket, (QueryId, Instant)>>,
}

impl Answering {
    /// Loads the small model and makes the clients; every answer goes to `reply`.
    pub(super) fn start(
        configuration: &Configuration,
        max_tokens: usize,
        console: &mut Console,
        reply: impl Fn(Reply) + Send + Sync + 'static,
    ) -> Result<Self> {
        let device = configuration.device.as_ref();
        let device = device.ok_or_else(|| Error::Usage("a gateway needs a `[device]` with its `bundle`".into()))?;
        library::prepare(console, "")?;
        let bundle = Bundle::open(configuration.path(&device.bundle))?;
        let policy = bundle.policy().cloned();
        let policy = policy.ok_or_else(|| {
            Error::Usage(format!("{} has no policy: `margay calibrate` gives it one", bundle.root().display()))
        })?;
        let engine = Engine::load(&bundle, DeviceOptions { threads: device.threads, ..DeviceOptions::default() })?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|source| Error::Io { action: "start the gateway's threads".into(), source })?;
        let (desk, waiting) = {
            let _inside = runtime.enter();
            let assembly = configuration.assemble()?;
            let waiting = Waiting::of(&assembly, configuration);
            let desk = Desk {
                cascade: assembly.cascade(engine, policy)?,
                max_tokens,
                reply: Box::new(reply),
                queued: Mutex::default(),
            };
            (Arc::new(desk), waiting)
        };
        if let Some(waiting) = waiting {
            runtime.spawn(waiting.send(Arc::clone(&desk)));
        }
        Ok(Self { runtime, desk })
    }

    /// Begins to answer; the reply comes when it comes.
    pub(super) fn answer(&self, question: Question) {
        let desk = Arc::clone(&self.desk);
        self.runtime.spawn(async move { desk.answer(question).await });
    }
}

impl Desk {
    async fn answer(&self, Question { id, task, text }: Question) {
        let started = Instant::now();
        // A question that is asked again, because this gateway was started anew, has the same key in the cloud.
        let mut request = Request::user(text).max_tokens(self.max_tokens).idempotency_key(id.to_string());
        request.task = task;
        let (origin, text, reason) = match self.cascade.answer(request).await {
            Ok(answer) => {
                if let (margay::Origin::Queued, Some(ticket)) = (answer.origin, answer.ticket) {
                    self.queued().insert(ticket, (id, started));
                    return; // the device goes on waiting, as for any answer
                }
                let origin = match answer.origin {
                    margay::Origin::Local => Origin::Local,
                    margay::Origin::Cloud => Origin::Cloud,
                    _ => Origin::Abstained,
                };
                (origin, answer.text, answer.reason.map(|reason| reason.as_str()))
            }
            Err(error) => (Origin::Failed, error.to_string(), None),
        };
        (self.reply)(Reply { id, origin, text, reason, took: started.elapsed() });
    }

    /// What came of a question that had to wait for the cloud. Results of an earlier run have nobody here who waits for
    /// them: the device has asked again.
    fn settle(&self, ticket: Ticket, outcome: Outcome) {
        let Some((id, started)) = self.queued().remove(&ticket) else { return };
        let (origin, text) = match outcome {
            Outcome::Answered { text, .. } => (Origin::Cloud, text),
            Outcome::Refused { why } => (Origin::Failed, why),
            _ => (Origin::Failed, "it waited for the cloud until it expired".to_owned()),
        };
        (self.reply)(Reply { id, origin, text, reason: Some("queued"), took: started.elapsed() });
    }

    fn queued(&self) -> MutexGuard<'_, HashMap<Ticket, (QueryId, Instant)>> {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The outbox, and the way out of it.
struct Waiting {
    outbox: Outbox,
    cloud: Arc<dyn LargeModel>,
    connectivity: Arc<dyn Connectivity>,
}

impl Waiting {
    fn of(assembly: &Assembly, configuration: &Configuration) -> Option<Self> {
        let outbox = assembly.outbox.clone()?;
        let probe = || Arc::new(Probe::new(&configuration.cloud.server.endpoint)) as Arc<dyn Connectivity>;
        let connectivity = assembly.connectivity.clone().unwrap_or_else(probe);
        Some(Self { outbox, cloud: Arc::clone(&assembly.cloud), connectivity })
    }

    /// Sends what waits, for as long as the gateway runs.
    async fn send(self, desk: Arc<Desk>) {
        let deliver = move |ticket, outcome| -> margay::cloud::BoxFuture<'static, bool> {
            desk.settle(ticket, outcome);
            Box::pin(std::future::ready(true))
        };
        let Err(error) = self.outbox.keep_draining(&*self.cloud, &*self.connectivity, OUTBOX_PAUSE, &deliver).await;
        tracing::error!(%error, "the outbox is no longer sent");
    }
}

impl Reply {
    /// The same for programs, without a word of it either.
    pub(super) fn json(&self) -> Value {
        json!({
            "event": "answered",
            "id": self.id.to_string(),
            "origin": self.origin.to_string(),
            "milliseconds": self.took.as_millis() as u64,
            "reason": self.reason,
            "bytes": self.text.len(),
        })
    }
}

/// One line about an answer, without a word of it.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} in {} ms", self.id, self.origin, self.took.as_millis())?;
        if let Some(reason) = self.reason {
            write!(f, ", {reason}")?;
        }
        write!(f, ", {} bytes", self.text.len())
    }
}
