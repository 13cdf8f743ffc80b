//! Prompts that cannot go now: kept on the disk, sent in order, each under one key, each result once.

mod builder;
mod cipher;

use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use redb::{ReadableTable as _, ReadableTableMetadata as _, Table, TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use self::builder::OutboxBuilder;
pub use self::cipher::Cipher;
use super::database::{Store, off_thread};
use crate::answer::{Money, Ticket, Tokens};
use crate::cloud::{BoxFuture, Clock, CloudAnswer, Connectivity, LargeModel, Random, unix_ms, until};
use crate::engine::GenerateOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::request::{Deadline, Message, Priority, Privacy, Request};
use crate::telemetry;
use crate::tool::{Tool, ToolCall};

/// Largest prompt that is queued, in bytes as stored: four times the longest context in use, in English.
pub const MAX_PROMPT_BYTES: usize = 4 << 20;

/// What a cipher may add to an entry, in bytes: nonces and tags take less than a hundred.
const MAX_SEAL_BYTES: usize = 1024;

/// Largest prompt that is read back, in bytes as stored.
const MAX_SEALED_PROMPT: usize = MAX_PROMPT_BYTES + MAX_SEAL_BYTES;

/// Largest result that is read back, in bytes as stored: the client's cap on answers and as much of tool calls, every byte of
/// it escaped.
const MAX_RESULT_BYTES: usize = 12 * crate::cloud::MAX_RESPONSE_BYTES + MAX_SEAL_BYTES;

/// Prompts by priority, then ticket.
const QUEUE: TableDefinition<'_, Place, &[u8]> = TableDefinition::new("queue");

/// Places in the queue by the moment they expire, in milliseconds since 1970.
const EXPIRY: TableDefinition<'_, (u64, u8, u64), ()> = TableDefinition::new("expiry");

/// Results by ticket, until they are acknowledged.
const RESULTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("results");

/// The number of the next ticket (`next`) and the bytes in both tables above (`bytes`).
const COUNTS: TableDefinition<'_, &str, u64> = TableDefinition::new("counts");

type Place = (u8, u64);

/// How a queued prompt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Outcome {
    /// The large model answered.
    Answered {
        /// What it said.
        text: String,
        /// Functions it asks for.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<ToolCall>,
        /// Tokens it says it read and wrote.
        usage: Option<Tokens>,
        /// What it cost, if a budget stands before it.
        cost: Option<Money>,
    },
    /// The cloud will not answer this prompt, however often it is asked.
    Refused {
        /// Why, in one line.
        why: String,
    },
    /// It was not answered within its time to live.
    Expired,
}

/// What one [`Outbox::drain`] did.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Drained {
    /// Prompts that have a result now, expired ones not counted.
    pub finished: usize,
    /// Why the rest waits on; `None` if there is no rest.
    pub stopped: Option<Error>,
}

/// What an outbox holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Fill {
    /// Prompts that wait to be sent.
    pub queued: u64,
    /// Results that wait to be acknowledged.
    pub results: u64,
    /// Bytes of both.
    pub bytes: u64,
}

/// A durable queue of prompts for when the cloud is back.
///
/// ```no_run
/// use margay::stores::Outbox;
/// # async fn drain(client: margay::cloud::CloudClient) -> margay::Result<()> {
/// let outbox = Outbox::builder().open("outbox.redb")?;
/// let ticket = outbox.put(&margay::Request::user("wake me at six")).await?;
/// // Later, perhaps after a restart, when the network is back:
/// outbox.drain(&client).await?;
/// while let Some((ticket, outcome)) = outbox.next_result().await? {
///     println!("{ticket:?}: {outcome:?}");
///     outbox.acknowledge(ticket).await?;
/// }
/// # Ok(()) }
/// ```
///
/// Its methods need a tokio runtime. One that changes something returns once the change is on the disk. Towards the
/// server a prompt goes at least once: a crash between its answer and the disk sends it again, under the idempotency key
/// that it was given when it was queued. Towards the caller it ends exactly once: prompt and result change places in one
/// transaction, and the result is handed out until it is acknowledged, then never again.
///
/// Prompts lie in the file as they were asked; a redactor stands in the client, and works when they are sent. A request
/// that must stay on the device has another type, and this does not compile:
///
/// ```compile_fail,E0308
/// async fn leak(outbox: &margay::stores::Outbox, private: margay::LocalOnly<margay::Request>) {
///     let _ = outbox.put(&private).await;
/// }
/// ```
#[derive(Clone)]
pub struct Outbox {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    limits: Limits,
    cipher: Option<Box<dyn Cipher>>,
    clock: Arc<dyn Clock>,
    random: Random,
    /// Told when a prompt is put.
    put: tokio::sync::Notify,
    giving: std::sync::Mutex<()>,
    /// Held by the one drain that is under way.
    draining: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    time_to_live: Duration,
    entries: u64,
    bytes: u64,
}

/// A prompt as it lies in the queue.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Prompt {
    key: String,
    messages: Vec<Message>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool>,
    task: Option<String>,
    class: Option<String>,
    max_tokens: usize,
    #[serde(default, skip_serializing_if = "is_default")]
    options: GenerateOptions,
    expires: u64,
}

fn is_default(options: &GenerateOptions) -> bool {
    *options == GenerateOptions::default()
}

impl Outbox {
    /// Begins with a week to live, 1000 entries and 16 MiB at most.
    #[must_use]
    pub fn builder() -> OutboxBuilder {
        OutboxBuilder::new()
    }

    /// Queues a request, by its priority. Its deadline and cancel end with the process and are not kept; a key of its own is.
    ///
    /// # Errors
    /// [`ErrorKind::QueueFull`] if a cap would be passed; [`ErrorKind::InvalidRequest`] if the prompt is over
    /// [`MAX_PROMPT_BYTES`] or must not be stored; [`ErrorKind::Store`], [`ErrorKind::Io`].
    pub async fn put(&self, request: &Request) -> Result<Ticket> {
        if request.privacy != Privacy::Storable {
            return Err(Error::new(
                ErrorKind::InvalidRequest,
                "the request must not be stored, so it cannot be queued",
            ));
        }
        let inner = Arc::clone(&self.inner);
        let Request { messages, tools, task, class, max_tokens, options, priority, .. } = request.clone();
        let key = request.idempotency_key.clone().unwrap_or_else(|| inner.random.key());
        off_thread(move || {
            let time_to_live = u64::try_from(inner.limits.time_to_live.as_millis()).unwrap_or(u64::MAX);
            let expires = unix_ms(&*inner.clock).saturating_add(time_to_live);
            let prompt = Prompt { key, messages, tools, task, class, max_tokens, options, expires };
            let ticket = inner.put(priority, &prompt)?;
            inner.count();
            inner.put.notify_one();
            Ok(ticket)
        })
        .await
    }

    /// Sends what waits, in order, until nothing does or the cloud fails in a way that the next prompt would meet too. One drain
    /// runs at a time; others wait for it. Dropped, it leaves what it was sending in the queue.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Io`]; a failure of the cloud is no error here but [`Drained::stopped`].
    pub async fn drain(&self, cloud: &dyn LargeModel) -> Result<Drained> {
        let _one_at_a_time = self.inner.draining.lock().await;
        let mut drained = Drained::default();
        loop {
            let inner = Arc::clone(&self.inner);
            let Some((place, prompt)) = off_thread(move || inner.head()).await? else {
                return Ok(drained);
            };
            let expires = prompt.expires;
            let outcome = match cloud.answer(&prompt.into_request()).await {
                Ok(CloudAnswer { text, tool_calls, usage, cost, .. }) => {
                    Outcome::Answered { text, tool_calls, usage, cost }
                }
                Err(error) if is_final(error.kind()) => Outcome::Refused { why: error.to_string() },
                Err(error) => {
                    drained.stopped = Some(error);
                    return Ok(drained);
                }
            };
            let inner = Arc::clone(&self.inner);
            off_thread(move || inner.finish(place, expires, &outcome)).await?;
            drained.finished += 1;
        }
    }

    /// Drains whenever there is a way to the cloud and something to send, and hands every result to `deliver`, those that are
    /// left from an earlier run first. A result is acknowledged once `deliver` has returned `true` for it; else it comes again
    /// after `pause`, as does a cloud that failed. Runs until it is dropped: spawn it.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Io`]; never one of the cloud's.
    pub async fn keep_draining(
        &self,
        cloud: &dyn LargeModel,
        connectivity: &dyn Connectivity,
        pause: Duration,
        deliver: &(dyn Fn(Ticket, Outcome) -> BoxFuture<'static, bool> + Send + Sync),
    ) -> Result<Infallible> {
        loop {
            let mut settled = true;
            while let Some((ticket, outcome)) = self.next_result().await? {
                settled = deliver(ticket, outcome).await;
                if !settled {
                    break;
                }
                self.acknowledge(ticket).await?;
            }
            let waiting = self.fill().await?.queued > 0;
            if waiting && settled {
                connectivity.online().await;
                let drained = self.drain(cloud).await?;
                if let Some(error) = &drained.stopped {
                    connectivity.report(error.kind() != ErrorKind::Connect);
                }
                if drained.finished > 0 {
                    continue;
                }
            }
            let resume = (waiting || !settled).then(|| self.inner.clock.now().checked_add(pause)).flatten();
            tokio::select! {
                () = self.inner.put.notified() => {}
                () = until(&*self.inner.clock, resume) => {}
            }
        }
    }

    /// The oldest result that is not acknowledged. It comes again until it is.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Io`].
    pub async fn next_result(&self) -> Result<Option<(Ticket, Outcome)>> {
        let inner = Arc::clone(&self.inner);
        off_thread(move || inner.next_result()).await
    }

    /// Forgets a result: the caller has it. `false` if there was none under this ticket.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Io`].
    pub async fn acknowledge(&self, ticket: Ticket) -> Result<bool> {
        let inner = Arc::clone(&self.inner);
        off_thread(move || inner.acknowledge(ticket)).await
    }

    /// How much it holds; prompts that have expired since the last change still count.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Io`].
    pub async fn fill(&self) -> Result<Fill> {
        let inner = Arc::clone(&self.inner);
        off_thread(move || {
            inner.store.read(|transaction| {
                Ok(Fill {
                    queued: transaction.open_table(QUEUE)?.len()?,
                    results: transaction.open_table(RESULTS)?.len()?,
                    bytes: transaction.open_table(COUNTS)?.get("bytes")?.map_or(0, |bytes| bytes.value()),
                })
            })
        })
        .await
    }

    /// A key that no other prompt has.
    pub(crate) fn key(&self) -> String {
        self.inner.random.key()
    }
}

/// Whether the same prompt would fail the same way again, and the next one need not.
fn is_final(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Rejected | ErrorKind::InvalidRequest | ErrorKind::Malformed)
}

impl Prompt {
    fn into_request(self) -> Request {
        Request {
            tools: self.tools,
            task: self.task,
            max_tokens: self.max_tokens,
            options: self.options,
            class: self.class,
            idempotency_key: Some(self.key),
            deadline: Deadline::NEVER,
            ..Request::messages(self.messages)
        }
    }
}

impl Inner {
    fn put(&self, priority: Priority, prompt: &Prompt) -> Result<Ticket> {
        if encode(prompt)?.len() > MAX_PROMPT_BYTES {
            return Err(Error::new(ErrorKind::InvalidRequest, format!("the prompt is over {MAX_PROMPT_BYTES} bytes")));
        }
        self.expire()?;
        // Tickets are given out one at a time, so that an entry can be sealed for its own.
        let _one_at_a_time = self.giving.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self
            .store
            .read(|transaction| Ok(transaction.open_table(COUNTS)?.get("next")?.map_or(0, |count| count.value())))?;
        let bytes = self.encode(next, prompt)?;
        let ticket = self.store.write(|transaction| {
            let mut tables = Tables::open(transaction)?;
            let entries = tables.queue.len()? + tables.results.len()?;
            let held = tables.count("bytes")?.saturating_add(bytes.len() as u64);
            if entries >= self.limits.entries || held > self.limits.bytes {
                return Ok(None);
            }
            let ticket = next;
            tables.counts.insert("next", ticket + 1)?;
            tables.counts.insert("bytes", held)?;
            let priority = priority as u8;
            tables.queue.insert((priority, ticket), bytes.as_slice())?;
            tables.expiry.insert((prompt.expires, priority, ticket), ())?;
            Ok(Some(Ticket::new(ticket)))
        })?;
        let Limits { entries, bytes, .. } = self.limits;
        let full = || Error::new(ErrorKind::QueueFull, format!("the outbox is full: {entries} entries, {bytes} bytes"));
        ticket.ok_or_else(full)
    }

    /// The prompt that is to be sent next.
    fn head(&self) -> Result<Option<(Place, Prompt)>> {
        self.expire()?;
        let head = self.store.read(|transaction| {
            let queue = transaction.open_table(QUEUE)?;
            Ok(queue.first()?.map(|(place, bytes)| (place.value(), bytes.value().to_vec())))
        })?;
        head.map(|(place, bytes)| Ok((place, self.decode(place.1, &bytes, MAX_SEALED_PROMPT)?))).transpose()
    }

    /// Puts a result in the place of its prompt. A prompt that is gone has its result already: it expired meanwhile.
    fn finish(&self, place: Place, expires: u64, outcome: &Outcome) -> Result<()> {
        let result = self.encode(place.1, outcome)?;
        self.store.write(|transaction| {
            let mut tables = Tables::open(transaction)?;
            tables.expiry.remove((expires, place.0, place.1))?;
            tables.replace(place, &result)
        })?;
        self.count();
        Ok(())
    }

    /// Tells the telemetry how many prompts wait.
    fn count(&self) {
        if let Ok(queued) = self.store.read(|transaction| Ok(transaction.open_table(QUEUE)?.len()?)) {
            telemetry::outbox(queued);
        }
    }

    /// Ends what has outlived its time.
    fn expire(&self) -> Result<()> {
        let now = unix_ms(&*self.clock);
        let due = |first: Option<(u64, u8, u64)>| first.filter(|(expires, ..)| *expires <= now);
        loop {
            let first = self.store.read(|transaction| {
                let expiry = transaction.open_table(EXPIRY)?;
                Ok(due(expiry.first()?.map(|(key, _)| key.value())))
            })?;
            let Some(key) = first else { return Ok(()) };
            let result = self.encode(key.2, &Outcome::Expired)?;
            self.store.write(|transaction| {
                let mut tables = Tables::open(transaction)?;
                tables.expiry.remove(key)?;
                tables.replace((key.1, key.2), &result)
            })?;
        }
    }

    fn next_result(&self) -> Result<Option<(Ticket, Outcome)>> {
        self.expire()?;
        let first = self.store.read(|transaction| {
            let results = transaction.open_table(RESULTS)?;
            Ok(results.first()?.map(|(ticket, bytes)| (ticket.value(), bytes.value().to_vec())))
        })?;
        first
            .map(|(ticket, bytes)| Ok((Ticket::new(ticket), self.decode(ticket, &bytes, MAX_RESULT_BYTES)?)))
            .transpose()
    }

    fn acknowledge(&self, ticket: Ticket) -> Result<bool> {
        self.store.write(|transaction| {
            let mut tables = Tables::open(transaction)?;
            let removed = tables.results.remove(ticket.number())?.map(|bytes| bytes.value().len() as u64);
            if let Some(bytes) = removed {
                let held = tables.count("bytes")?.saturating_sub(bytes);
                tables.counts.insert("bytes", held)?;
            }
            Ok(removed.is_some())
        })
    }

    /// The bytes of an entry as they lie in the file.
    fn encode(&self, ticket: u64, entry: &impl Serialize) -> Result<Vec<u8>> {
        let plain = encode(entry)?;
        match &self.cipher {
            Some(cipher) => cipher.seal(&ticket.to_be_bytes(), &plain),
            None => Ok(plain),
        }
    }

    fn decode<T: DeserializeOwned>(&self, ticket: u64, bytes: &[u8], most: usize) -> Result<T> {
        if bytes.len() > most {
            return Err(self.store.damaged(format!("an entry is over {most} bytes")));
        }
        let opened = self.cipher.as_ref().map(|cipher| cipher.open(&ticket.to_be_bytes(), bytes)).transpose()?;
        serde_json::from_slice(opened.as_deref().unwrap_or(bytes))
            .map_err(|error| self.store.damaged("an entry is not one").with_source(error))
    }
}

fn encode(entry: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(entry).map_err(|error| Error::new(ErrorKind::Store, "an entry is not JSON").with_source(error))
}

/// The tables, open in one transaction.
struct Tables<'a> {
    queue: Table<'a, Place, &'static [u8]>,
    expiry: Table<'a, (u64, u8, u64), ()>,
    results: Table<'a, u64, &'static [u8]>,
    counts: Table<'a, &'static str, u64>,
}

impl<'a> Tables<'a> {
    fn open(transaction: &'a WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            queue: transaction.open_table(QUEUE)?,
            expiry: transaction.open_table(EXPIRY)?,
            results: transaction.open_table(RESULTS)?,
            counts: transaction.open_table(COUNTS)?,
        })
    }

    fn count(&self, name: &str) -> Result<u64, redb::Error> {
        Ok(self.counts.get(name)?.map_or(0, |count| count.value()))
    }

    /// Moves a ticket from the queue to the results, if it is there.
    fn replace(&mut self, place: Place, result: &[u8]) -> Result<(), redb::Error> {
        let removed = self.queue.remove(place)?.map(|prompt| prompt.value().len() as u64);
        if let Some(prompt) = removed {
            self.results.insert(place.1, result)?;
            let held = self.count("bytes")?.saturating_sub(prompt).saturating_add(result.len() as u64);
            self.counts.insert("bytes", held)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { store, limits, .. } = &*self.inner;
        f.debug_struct("Outbox").field("store", store).field("limits", limits).finish_non_exhaustive()
    }
}
