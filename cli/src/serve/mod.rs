//! An OpenAI-compatible server on loopback, over TLS: what the demonstration calls the cloud.
//!
//! It serves any [`LargeModel`]: an [`Engine`](margay::Engine) through [`OnDevice`], or another cloud.
//! Answers come whole; streaming is refused.

mod engine;
mod routes;
mod wire;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use margay::cloud::LargeModel;
use tokio::task::JoinHandle;

use crate::authority::{Authority, AuthorityError};

pub use self::engine::OnDevice;
pub use self::routes::MAX_REQUEST_BYTES;

/// What is served, to whom, for how long.
#[derive(Clone)]
pub struct Options {
    /// The model's name, as `GET /v1/models` lists it and as a request must give it.
    pub model: String,
    /// The bearer token that a request must carry; `None` lets everybody on this machine in.
    pub token: Option<String>,
    /// Longest time for one answer, waiting for others included.
    pub patience: Duration,
    /// Port on 127.0.0.1; zero takes any free one.
    pub port: u16,
}

impl Options {
    /// A model under this name, open to the whole machine, two minutes for an answer, on any free port.
    #[must_use]
    pub fn new(model: impl Into<String>) -> Self {
        Self { model: model.into(), token: None, patience: Duration::from_secs(120), port: 0 }
    }
}

/// Why the server does not start, or why it stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// No certificate authority for this run.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The port is taken, or no socket is left.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where it was to listen.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The server stopped by itself.
    #[error("the server stopped: {0}")]
    Stopped(#[source] std::io::Error),
}

/// A server that runs until it is told to stop or dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    authority: Authority,
    handle: Handle<SocketAddr>,
    serving: Option<JoinHandle<std::io::Result<()>>>,
}

impl Server {
    /// Listens on 127.0.0.1 with a certificate of an authority made for this run. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`ServeError`] if there is no certificate or no socket.
    pub fn start(model: Arc<dyn LargeModel>, options: Options) -> Result<Self, ServeError> {
        let authority = Authority::new()?;
        let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, options.port));
        let listen = |source| ServeError::Listen { address: wanted, source };
        let listener = TcpListener::bind(wanted).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;

        let handle = Handle::new();
        let tls = RustlsConfig::from_config(authority.server_config());
        let service = routes::router(model, options).into_make_service();
        let server = axum_server::from_tcp_rustls(listener, tls).map_err(listen)?.handle(handle.clone());
        let serving = Some(tokio::spawn(server.serve(service)));
        tracing::info!(%address, "serving");
        Ok(Self { address, authority, handle, serving })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base address that OpenAI-compatible clients take, `https://127.0.0.1:PORT/v1`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("https://{}/v1", self.address)
    }

    /// The certificate that its clients must trust, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.authority.pem()
    }

    /// Accepts nothing new, lets what runs finish for at most `grace`, and returns once the last connection is closed.
    ///
    /// # Errors
    /// [`ServeError::Stopped`] if it had stopped by itself before.
    pub async fn shutdown(mut self, grace: Duration) -> Result<(), ServeError> {
        self.handle.graceful_shutdown(Some(grace));
        match self.serving.take() {
            Some(serving) => {
                serving.await.map_err(std::io::Error::other).and_then(|ended| ended).map_err(ServeError::Stopped)
            }
            None => Ok(()),
        }
    }

    /// Drops every connection at once, as a crash would.
    pub fn abort(&self) {
        self.handle.shutdown();
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.abort();
    }
}

#[cfg(test)]
mod tests;
