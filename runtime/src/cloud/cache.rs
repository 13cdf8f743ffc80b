//! Answers of the large model that need not be asked for twice: exact matches, for a while, in memory.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::{BoxFuture, Clock, CloudAnswer, LargeModel, OnText, SystemClock};
use crate::answer::{Money, Tokens};
use crate::error::{Error, ErrorKind, Result};
use crate::request::{Privacy, Request};

/// What an entry takes beside its text, in bytes, about.
const ENTRY_BYTES: usize = 256;

/// A large model whose answers are kept for a while.
///
/// Only the very same question is answered from memory: the same messages, tools, task, `max_tokens` and options. An answer from
/// memory takes no exchange (`attempts` is zero), no tokens and no money. Requests that may not be stored
/// ([`Privacy::Transient`]) pass by on both ways. Put it around a budget, not into one.
pub struct Cached<M> {
    cloud: M,
    time_to_live: Duration,
    max_bytes: usize,
    clock: Arc<dyn Clock>,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    by_key: HashMap<[u8; 32], Entry>,
    /// Keys by their last use, the longest ago first.
    by_use: BTreeMap<u64, [u8; 32]>,
    uses: u64,
    bytes: usize,
}

struct Entry {
    answer: CloudAnswer,
    expires: Instant,
    used: u64,
    bytes: usize,
}

impl<M: LargeModel> Cached<M> {
    /// Keeps answers of `cloud` for `time_to_live`, in at most about `max_bytes`; who was asked for longest ago goes first.
    #[must_use]
    pub fn new(cloud: M, time_to_live: Duration, max_bytes: usize) -> Self {
        Self { cloud, time_to_live, max_bytes, clock: Arc::new(SystemClock), entries: Mutex::default() }
    }

    /// The clock behind it; [`SystemClock`] unless said.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    async fn ask(&self, request: &Request, on_text: Option<OnText<'_>>) -> Result<CloudAnswer> {
        if request.privacy != Privacy::Storable {
            return match on_text {
                None => self.cloud.answer(request).await,
                Some(on_text) => self.cloud.stream(request, on_text).await,
            };
        }
        request.check()?;
        let key = key(request)?;
        let found = self.entries().find(&key, self.clock.now());
        if let Some(answer) = found {
            if let Some(on_text) = on_text.filter(|_| !answer.text.is_empty()) {
                on_text(&answer.text);
            }
            return Ok(answer);
        }
        let answer = match on_text {
            None => self.cloud.answer(request).await,
            Some(on_text) => self.cloud.stream(request, on_text).await,
        }?;
        if let Some(expires) = self.clock.now().checked_add(self.time_to_live) {
            self.entries().keep(key, &answer, expires, self.max_bytes);
        }
        Ok(answer)
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What makes two questions the same.
fn key(request: &Request) -> Result<[u8; 32]> {
    let question = (&request.messages, &request.tools, &request.task, request.max_tokens, &request.options);
    let bytes = serde_json::to_vec(&question)
        .map_err(|error| Error::new(ErrorKind::InvalidRequest, "the request is not JSON").with_source(error))?;
    Ok(Sha256::digest(&bytes).into())
}

impl Entries {
    fn find(&mut self, key: &[u8; 32], now: Instant) -> Option<CloudAnswer> {
        if self.by_key.get(key)?.expires <= now {
            self.forget(key);
            return None;
        }
        self.uses += 1;
        let entry = self.by_key.get_mut(key)?;
        self.by_use.remove(&entry.used);
        self.by_use.insert(self.uses, *key);
        entry.used = self.uses;
        Some(entry.answer.clone())
    }

    fn keep(&mut self, key: [u8; 32], answer: &CloudAnswer, expires: Instant, max_bytes: usize) {
        let calls = answer.tool_calls.iter().map(|call| call.id.len() + call.name.len() + call.arguments.len());
        let bytes = ENTRY_BYTES + answer.text.len() + calls.sum::<usize>();
        self.forget(&key);
        while self.bytes + bytes > max_bytes {
            let Some(oldest) = self.by_use.first_key_value().map(|(_, key)| *key) else { return };
            self.forget(&oldest);
        }
        self.uses += 1;
        let (usage, cost) = (answer.usage.map(|_| Tokens::default()), answer.cost.map(|_| Money::default()));
        let answer = CloudAnswer { usage, cost, attempts: 0, ..answer.clone() };
        self.by_key.insert(key, Entry { answer, expires, used: self.uses, bytes });
        self.by_use.insert(self.uses, key);
        self.bytes += bytes;
    }

    fn forget(&mut self, key: &[u8; 32]) {
        if let Some(entry) = self.by_key.remove(key) {
            self.by_use.remove(&entry.used);
            self.bytes -= entry.bytes;
        }
    }
}

impl<M: LargeModel> LargeModel for Cached<M> {
    fn answer<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<CloudAnswer>> {
        Box::pin(self.ask(request, None))
    }

    fn stream<'a>(&'a self, request: &'a Request, on_text: OnText<'a>) -> BoxFuture<'a, Result<CloudAnswer>> {
        Box::pin(self.ask(request, Some(on_text)))
    }
}

impl<M> fmt::Debug for Cached<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Cached")
            .field("entries", &entries.by_key.len())
            .field("bytes", &entries.bytes)
            .finish_non_exhaustive()
    }
}
