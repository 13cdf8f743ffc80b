//! An OpenAI-compatible server before a small model, a large one, or both: `margay serve`, and the demonstration's cloud.

mod body;
mod command;
mod guard;
pub(crate) mod metrics;
mod model;
mod routes;
mod status;
mod streamed;
mod wire;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum_server::Handle;
use axum_server::accept::{Accept, NoDelayAcceptor};
use axum_server::service::SendService;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use metrics_exporter_prometheus::PrometheusHandle;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

pub use self::body::MAX_REQUEST_BYTES;
pub use self::command::{ServeArgs, serve};
pub use self::model::Model;

/// Longest wait for the head of a request: a connection that says nothing is not kept.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);

/// What is served, to whom, for how long.
#[derive(Clone)]
#[non_exhaustive]
pub struct Options {
    /// The model's name, as `GET /v1/models` lists it and as a request must give it.
    pub model: String,
    /// The bearer token that a request must carry; `None` lets everybody in who can connect.
    pub token: Option<String>,
    /// Longest time for one answer, waiting for others included.
    pub patience: Duration,
    /// Where to listen; port zero takes any free one.
    pub address: SocketAddr,
    /// A certificate with its key, to speak TLS.
    pub tls: Option<Arc<ServerConfig>>,
    /// Requests that are answered at once, those that wait for the device included; one more is told to come back.
    pub most_at_once: usize,
    /// Longest answer to a question that names no limit, in tokens.
    pub max_tokens: usize,
    /// What counts, for `GET /metrics`.
    pub metrics: Option<PrometheusHandle>,
}

impl Options {
    /// A model under this name, in clear text on any free port of 127.0.0.1, open to the whole machine; two minutes for an
    /// answer, 64 at once, 256 tokens each.
    #[must_use]
    pub fn new(model: impl Into<String>) -> Self {
        Self {
            model: model.into(),
            token: None,
            patience: Duration::from_secs(120),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls: None,
            most_at_once: 64,
            max_tokens: 256,
            metrics: None,
        }
    }

    /// The same, for those who carry this bearer token.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// The same, over TLS.
    #[must_use]
    pub fn tls(mut self, tls: Arc<ServerConfig>) -> Self {
        self.tls = Some(tls);
        self
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { model, token, patience, address, tls, most_at_once, max_tokens, .. } = self;
        f.debug_struct("Options")
            .field("model", model)
            .field("token", &token.as_ref().map(|_| "..."))
            .field("patience", patience)
            .field("address", address)
            .field("tls", &tls.is_some())
            .field("most_at_once", most_at_once)
            .field("max_tokens", max_tokens)
            .finish_non_exhaustive()
    }
}

/// Why the server does not start, or why it stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The port is taken, or no socket is left.
    #[error("cannot listen on {address}: {source}; name another address with --listen, or port 0 for any free one")]
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
    scheme: &'static str,
    handle: Handle<SocketAddr>,
    serving: Option<JoinHandle<std::io::Result<()>>>,
}

impl Server {
    /// Listens. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`ServeError::Listen`] if there is no socket.
    pub fn start(model: Model, options: Options) -> Result<Self, ServeError> {
        let wanted = options.address;
        let listen = |source| ServeError::Listen { address: wanted, source };
        let listener = TcpListener::bind(wanted).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let handle = Handle::new();
        let server = axum_server::from_tcp(listener).map_err(listen)?.handle(handle.clone());
        let tls = options.tls.clone();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let app = routes::router(model, options);
        // Small pieces of an answer must not wait for each other.
        let serving = match tls {
            None => serving(server.acceptor(NoDelayAcceptor::new()), app),
            Some(tls) => {
                let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(tls));
                serving(server.acceptor(acceptor.acceptor(NoDelayAcceptor::new())), app)
            }
        };
        tracing::info!(%address, scheme, "serving");
        Ok(Self { address, scheme, handle, serving: Some(serving) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where a browser finds it, `http://127.0.0.1:PORT/`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}/", self.scheme, self.address)
    }

    /// The base address that OpenAI-compatible clients take, `http://127.0.0.1:PORT/v1`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("{}v1", self.url())
    }

    /// Accepts nothing new, lets what runs finish for at most `grace`, and returns once the last connection is closed.
    ///
    /// # Errors
    /// [`ServeError::Stopped`] if it had stopped by itself before.
    pub async fn shutdown(mut self, grace: Duration) -> Result<(), ServeError> {
        self.handle.graceful_shutdown(Some(grace));
        self.ended().await
    }

    /// Ready when it stops by itself.
    ///
    /// # Errors
    /// [`ServeError::Stopped`] with the reason.
    pub async fn ended(&mut self) -> Result<(), ServeError> {
        match self.serving.as_mut() {
            Some(serving) => {
                let ended = serving.await.map_err(std::io::Error::other).and_then(|ended| ended);
                self.serving = None;
                ended.map_err(ServeError::Stopped)
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

fn serving<A>(mut server: axum_server::Server<SocketAddr, A>, app: axum::Router) -> JoinHandle<std::io::Result<()>>
where
    A: Accept<TcpStream, axum::Router> + Clone + Send + Sync + 'static,
    A::Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send,
    A::Service: SendService<axum::http::Request<hyper::body::Incoming>> + Send,
    A::Future: Send,
{
    server.http_builder().http1().header_read_timeout(HEAD_PATIENCE);
    tokio::spawn(server.serve(app.into_make_service()))
}

#[cfg(test)]
mod tests;
