//! Whether there is a way to the cloud: what the platform says, or what the last attempts showed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::clock::until;
use super::{BoxFuture, Clock, Endpoint, SystemClock};

/// Longest wait for the connection of one probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a failed attempt is believed.
const PAUSE: Duration = Duration::from_secs(30);

/// Whether the cloud can be reached, as far as the device knows. Implement it on the platform's own notion of it (Android's
/// `ConnectivityManager`, Apple's `NWPathMonitor`); [`Probe`] does without.
pub trait Connectivity: Send + Sync {
    /// What is known now. Asked for every query, so it does not wait for anything.
    fn is_online(&self) -> bool;

    /// Ready once the cloud can be reached; at once if it can.
    fn online(&self) -> BoxFuture<'_, ()>;

    /// An exchange has shown that the cloud can be reached, or that it cannot. Unless implemented, nobody cares.
    fn report(&self, reached: bool) {
        let _ = reached;
    }
}

/// Believes the last exchange for half a minute, and tries to connect when somebody waits for the way to open.
pub struct Probe {
    host: String,
    port: u16,
    pause: Duration,
    clock: Arc<dyn Clock>,
    /// Since when there is no way, if there is none.
    failed: Mutex<Option<Instant>>,
}

impl Probe {
    /// A probe of the way to this server.
    #[must_use]
    pub fn new(endpoint: &Endpoint) -> Self {
        let (host, port) = endpoint.host_and_port();
        Self { host, port, pause: PAUSE, clock: Arc::new(SystemClock), failed: Mutex::default() }
    }

    /// How long a failed attempt is believed, and waited before the next; 30 seconds unless said.
    #[must_use]
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// The clock behind it; [`SystemClock`] unless said.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Whether the server accepts a connection. Nothing is said on it.
    async fn connects(&self) -> bool {
        let patience = self.clock.now().checked_add(PROBE_TIMEOUT);
        tokio::select! {
            biased;
            connected = TcpStream::connect((self.host.as_str(), self.port)) => connected.is_ok(),
            () = until(&*self.clock, patience) => false,
        }
    }

    fn failed(&self) -> MutexGuard<'_, Option<Instant>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connectivity for Probe {
    fn is_online(&self) -> bool {
        let failed = *self.failed();
        failed.is_none_or(|since| self.clock.now().saturating_duration_since(since) >= self.pause)
    }

    fn online(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            loop {
                if self.failed().is_none() || self.connects().await {
                    *self.failed() = None;
                    return;
                }
                let now = self.clock.now();
                *self.failed() = Some(now);
                until(&*self.clock, now.checked_add(self.pause)).await;
            }
        })
    }

    fn report(&self, reached: bool) {
        *self.failed() = (!reached).then(|| self.clock.now());
    }
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probe").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}
