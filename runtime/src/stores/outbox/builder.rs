//! What an outbox is made of, and what is checked then.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Cipher, Inner, Limits, Outbox, Tables};
use crate::cloud::{Clock, Random, SystemClock, random_seed};
use crate::error::Result;
use crate::stores::database::Store;

/// What an [`Outbox`] is made of; see [`Outbox::builder`].
pub struct OutboxBuilder {
    limits: Limits,
    cipher: Option<Box<dyn Cipher>>,
    clock: Arc<dyn Clock>,
    seed: Option<[u8; 32]>,
}

impl OutboxBuilder {
    pub(super) fn new() -> Self {
        let time_to_live = Duration::from_secs(7 * 24 * 60 * 60);
        Self {
            limits: Limits { time_to_live, entries: 1_000, bytes: 16 << 20 },
            cipher: None,
            clock: Arc::new(SystemClock),
            seed: None,
        }
    }

    /// How long a prompt waits before its result is [`super::Outcome::Expired`]; a week unless said.
    #[must_use]
    pub fn time_to_live(mut self, time: Duration) -> Self {
        self.limits.time_to_live = time;
        self
    }

    /// Prompts and results at most, together; 1000 unless said.
    #[must_use]
    pub fn max_entries(mut self, entries: u64) -> Self {
        self.limits.entries = entries;
        self
    }

    /// Bytes of prompts and results that a new prompt must find room in; 16 MiB unless said. A result is always kept: it is
    /// paid for.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.limits.bytes = bytes;
        self
    }

    /// Seals every entry before it is written. A file keeps to the cipher that it was begun with.
    #[must_use]
    pub fn cipher(mut self, cipher: impl Cipher + 'static) -> Self {
        self.cipher = Some(Box::new(cipher));
        self
    }

    /// The clock whose calendar says what has expired; [`SystemClock`] unless said.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Makes idempotency keys repeat exactly, for tests. Unless said, the operating system gives the seed.
    #[must_use]
    pub fn seed(mut self, seed: [u8; 32]) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Opens the outbox at `path`, or a new one.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`] if the file is damaged, none of an outbox, or open in another process; [`crate::ErrorKind::Io`].
    pub fn open(self, path: impl AsRef<Path>) -> Result<Outbox> {
        let layout = if self.cipher.is_some() { "margay outbox 1, sealed" } else { "margay outbox 1" };
        let store = Store::open(path.as_ref(), layout)?;
        store.write(|transaction| Tables::open(transaction).map(drop))?;
        let random = Random::new(self.seed.map_or_else(random_seed, Ok)?);
        let Self { limits, cipher, clock, .. } = self;
        let (put, draining) = (tokio::sync::Notify::new(), tokio::sync::Mutex::default());
        Ok(Outbox {
            inner: Arc::new(Inner {
                store,
                limits,
                cipher,
                clock,
                random,
                put,
                giving: std::sync::Mutex::default(),
                draining,
            }),
        })
    }
}

impl fmt::Debug for OutboxBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxBuilder").field("limits", &self.limits).finish_non_exhaustive()
    }
}
