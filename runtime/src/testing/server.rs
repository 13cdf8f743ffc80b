//! A TLS server on loopback that does what it is told to, byte for byte, and remembers what it was asked.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::reply::{Ending, Reply};
use crate::cloud::{Clock, SpkiPin, SystemClock};

/// Largest request that is read, in bytes.
const MAX_REQUEST_BYTES: usize = 16 << 20;

/// What the server does with one connection, before any request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Greeting {
    /// Serves it.
    Serve,
    /// Closes it before the handshake.
    Close,
    /// Resets it before the handshake.
    Reset,
    /// Says something that is not TLS.
    Garbage,
    /// Says nothing.
    Stall,
}

/// One request as it came.
#[derive(Debug)]
#[non_exhaustive]
pub struct Asked {
    /// Request line and headers, lower case.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Asked {
    /// The value of a header, lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find(|line| line.starts_with(&format!("{name}: ")))?;
        line.split_once(": ").map(|(_, value)| value)
    }
}

/// A running server; it ends with the runtime of its test.
#[derive(Debug)]
pub struct FaultyServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    certificates: Certificates,
    script: Mutex<Script>,
    clock: Arc<dyn Clock>,
    /// Told when a request, or a connection, is left without an answer.
    stalled: Notify,
}

/// What is to come, and what was.
#[derive(Debug, Default)]
struct Script {
    greetings: VecDeque<Greeting>,
    replies: VecDeque<Reply>,
    /// What every request gets that no reply is left for, by its number.
    otherwise: Option<Otherwise>,
    asked: Vec<Asked>,
    remembers: bool,
    connections: usize,
    requests: usize,
}

struct Otherwise(Box<dyn Fn(usize) -> Reply + Send + Sync>);

impl std::fmt::Debug for Otherwise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Otherwise")
    }
}

impl FaultyServer {
    /// Starts a server that gives these replies to the requests in the order in which they come. One request more, and the
    /// connection on which it comes is dropped; see [`FaultyServer::left`].
    ///
    /// # Panics
    /// If there is no socket on loopback.
    pub async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        Self::start_at(replies, Arc::new(SystemClock)).await
    }

    /// The same with the clock by which delayed replies wait.
    ///
    /// # Panics
    /// If there is no socket on loopback.
    pub async fn start_at(replies: impl IntoIterator<Item = Reply>, clock: Arc<dyn Clock>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket on loopback");
        let address = listener.local_addr().expect("an address");
        let script = Script { replies: replies.into_iter().collect(), remembers: true, ..Script::default() };
        let shared = Arc::new(Shared {
            certificates: Certificates::make(),
            script: Mutex::new(script),
            clock,
            stalled: Notify::new(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, accepting }
    }

    /// What to do with the next connections; those after them are served.
    pub fn greet(&self, greetings: impl IntoIterator<Item = Greeting>) {
        self.script().greetings.extend(greetings);
    }

    /// What to answer next, after what there is already.
    pub fn reply(&self, replies: impl IntoIterator<Item = Reply>) {
        self.script().replies.extend(replies);
    }

    /// What every request gets for which no reply is left. From here on requests are only counted, not kept.
    pub fn reply_always(&self, reply: Reply) {
        self.reply_by(move |_| reply.clone());
    }

    /// The same, by the number of the request (from one).
    pub fn reply_by(&self, choose: impl Fn(usize) -> Reply + Send + Sync + 'static) {
        let mut script = self.script();
        script.otherwise = Some(Otherwise(Box::new(choose)));
        script.remembers = false;
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base address that a client takes, `https://127.0.0.1:PORT/v1`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("https://{}/v1", self.address)
    }

    /// PEM of the authority that signed this server's certificate.
    #[must_use]
    pub fn authority(&self) -> Vec<u8> {
        self.shared.certificates.authority.clone().into_bytes()
    }

    /// The pin of this server's public key.
    #[must_use]
    pub fn pin(&self) -> SpkiPin {
        self.shared.certificates.pin
    }

    /// A certificate for a client and its private key, PEM, from the server's authority. Clients need none unless
    /// [`FaultyServer::require_identity`] was called.
    #[must_use]
    pub fn client_identity(&self) -> (Vec<u8>, Vec<u8>) {
        self.shared.certificates.client.clone()
    }

    /// Refuses, from the next connection on, clients that do not show a certificate of the server's authority.
    pub fn require_identity(&self) {
        self.shared.certificates.require_identity();
    }

    /// What was asked so far; the list is emptied.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.script().asked)
    }

    /// Requests so far.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.script().requests
    }

    /// TLS connections so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.script().connections
    }

    /// Replies that no request has called for.
    #[must_use]
    pub fn left(&self) -> usize {
        self.script().replies.len()
    }

    /// Ready once the server holds a request or a connection that it will not answer.
    pub async fn stalled(&self) {
        self.shared.stalled.notified().await;
    }

    /// Drops the listener and every connection, as a crash would.
    pub async fn kill(&mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.shared.script()
    }
}

/// A port that is taken and on which nobody listens: connections are refused for as long as the socket lives.
///
/// # Panics
/// If there is no socket on loopback.
#[must_use]
pub fn refusing() -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
    socket
}

impl Shared {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says nothing until the client has gone: a server that many leave in silence must not pile them up.
    async fn stall(&self, mut from: impl tokio::io::AsyncRead + Unpin) {
        self.stalled.notify_one();
        let mut ignored = [0; 1024];
        while from.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("script", &self.script).finish_non_exhaustive()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut serving = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let greeting = shared.script().greetings.pop_front().unwrap_or(Greeting::Serve);
        let shared = Arc::clone(&shared);
        while serving.try_join_next().is_some() {}
        serving.spawn(async move {
            match greeting {
                Greeting::Serve => serve(tcp, &shared).await,
                Greeting::Close => drop(tcp),
                Greeting::Reset => reset(&tcp),
                Greeting::Garbage => {
                    let mut tcp = tcp;
                    let _ = tcp.write_all(b"SSH-2.0-OpenSSH_9.6\r\n").await;
                }
                Greeting::Stall => shared.stall(tcp).await,
            }
        });
    }
}

fn reset(tcp: &TcpStream) {
    // A socket that does not linger is reset when it is closed.
    let _ = socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}

async fn serve(tcp: TcpStream, shared: &Shared) {
    let acceptor = TlsAcceptor::from(shared.certificates.config());
    let Ok(mut stream) = acceptor.accept(tcp).await else { return };
    shared.script().connections += 1;
    while let Some(asked) = read(&mut stream).await {
        let reply = {
            let mut script = shared.script();
            script.requests += 1;
            if script.remembers {
                script.asked.push(asked);
            }
            let next = script.replies.pop_front();
            let number = script.requests;
            next.or_else(|| script.otherwise.as_ref().map(|otherwise| (otherwise.0)(number)))
        };
        let Some(reply) = reply else { return };
        if let Some(delay) = reply.delay
            && let Some(at) = shared.clock.now().checked_add(delay)
        {
            shared.clock.sleep_until(at).await;
        }
        for piece in reply.bytes.chunks(reply.piece) {
            if stream.write_all(piece).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
        match reply.ending {
            Ending::Keep => {}
            Ending::Cut => return,
            Ending::Close => {
                let _ = stream.shutdown().await;
                return;
            }
            Ending::Reset => return reset(stream.get_ref().0),
            Ending::Stall => return shared.stall(stream).await,
        }
    }
}

/// One request with a `content-length` body; `None` once the client has gone.
async fn read(stream: &mut TlsStream<TcpStream>) -> Option<Asked> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
        if head.len() > MAX_REQUEST_BYTES {
            return None;
        }
    }
    let mut asked = Asked { head: String::from_utf8(head).ok()?.to_lowercase(), body: Vec::new() };
    let length = asked.header("content-length")?.parse().ok().filter(|length| *length <= MAX_REQUEST_BYTES)?;
    asked.body = vec![0; length];
    stream.read_exact(&mut asked.body).await.ok()?;
    Some(asked)
}

/// An authority made for one server, and what it signed.
struct Certificates {
    authority: String,
    pin: SpkiPin,
    client: (Vec<u8>, Vec<u8>),
    open: Arc<ServerConfig>,
    closed: Arc<ServerConfig>,
    requires_identity: std::sync::atomic::AtomicBool,
}

impl Certificates {
    fn make() -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        let authority = rcgen::CertifiedIssuer::self_signed(params, key).expect("an authority");
        let signed = |name: &str| {
            let key = rcgen::KeyPair::generate().expect("a key");
            let params = rcgen::CertificateParams::new([name.to_owned()]).expect("a name");
            let leaf = params.signed_by(&key, &authority).expect("a certificate");
            (leaf, key)
        };
        let (leaf, key) = signed("127.0.0.1");
        let (client, client_key) = signed("client");
        let provider = Arc::new(ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.der().clone()).expect("an authority");
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let clients = clients.build().expect("an authority for clients");
        let config = |clients: Option<_>| {
            let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .expect("TLS versions");
            let config = match clients {
                None => config.with_no_client_auth(),
                Some(clients) => config.with_client_cert_verifier(clients),
            };
            let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
            Arc::new(config.with_single_cert(vec![leaf.der().clone()], key).expect("a certificate"))
        };
        let pin = SpkiPin::of(&rcgen::PublicKeyData::subject_public_key_info(&key));
        Self {
            authority: authority.pem(),
            pin,
            client: (client.pem().into_bytes(), client_key.serialize_pem().into_bytes()),
            open: config(None),
            closed: config(Some(clients)),
            requires_identity: false.into(),
        }
    }

    fn require_identity(&self) {
        self.requires_identity.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    fn config(&self) -> Arc<ServerConfig> {
        let closed = self.requires_identity.load(std::sync::atomic::Ordering::Relaxed);
        Arc::clone(if closed { &self.closed } else { &self.open })
    }
}
