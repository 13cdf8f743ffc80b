//! A TLS server that does what it is told to, byte for byte, and remembers what it was asked.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::server::TlsStream;

/// What the server does with one request, in the order the requests come.
pub(crate) enum Deed {
    /// Sends these bytes and keeps the connection.
    Send(Vec<u8>),
    /// Sends these bytes, then drops the connection without a TLS goodbye.
    SendAndCut(Vec<u8>),
    /// Never answers.
    Stall,
}

/// One request as it came.
pub(crate) struct Asked {
    /// Request line and headers, lower case.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find(|line| line.starts_with(&format!("{name}: ")))?;
        line.split_once(": ").map(|(_, value)| value)
    }
}

/// A running server; it ends with the runtime of its test.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// PEM of the authority that signed this server's certificate.
    pub(crate) authority: String,
    deeds: Arc<Mutex<VecDeque<Deed>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    connections: Arc<Mutex<usize>>,
    stalled: Arc<Notify>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(deeds: impl IntoIterator<Item = Deed>) -> Self {
        let (authority, config) = certify();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let deeds = Arc::new(Mutex::new(deeds.into_iter().collect::<VecDeque<_>>()));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(Mutex::new(0));
        let stalled = Arc::new(Notify::new());
        let accepting = tokio::spawn({
            let (deeds, asked) = (Arc::clone(&deeds), Arc::clone(&asked));
            let (connections, stalled) = (Arc::clone(&connections), Arc::clone(&stalled));
            async move {
                let mut serving = tokio::task::JoinSet::new();
                loop {
                    let Ok((tcp, _)) = listener.accept().await else {
                        return;
                    };
                    let (acceptor, deeds, asked) = (acceptor.clone(), Arc::clone(&deeds), Arc::clone(&asked));
                    let (connections, stalled) = (Arc::clone(&connections), Arc::clone(&stalled));
                    serving.spawn(async move {
                        let Ok(mut stream) = acceptor.accept(tcp).await else {
                            return;
                        };
                        *connections.lock().unwrap() += 1;
                        while let Some(request) = read(&mut stream).await {
                            asked.lock().unwrap().push(request);
                            let deed = deeds.lock().unwrap().pop_front();
                            match deed.expect("a request more than the test foresaw") {
                                Deed::Send(bytes) => stream.write_all(&bytes).await.unwrap(),
                                Deed::SendAndCut(bytes) => {
                                    stream.write_all(&bytes).await.unwrap();
                                    stream.flush().await.unwrap();
                                    return;
                                }
                                Deed::Stall => {
                                    stalled.notify_one();
                                    std::future::pending().await
                                }
                            }
                        }
                    });
                }
            }
        });
        Self { address, authority, deeds, asked, connections, stalled, accepting }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("https://{}/v1", self.address)
    }

    /// What was asked so far; the list is emptied.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// TLS connections so far.
    pub(crate) fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }

    /// Deeds that no request has called for.
    pub(crate) fn left(&self) -> usize {
        self.deeds.lock().unwrap().len()
    }

    /// Ready once the server holds a request that it will not answer.
    pub(crate) async fn stalled(&self) {
        self.stalled.notified().await;
    }

    /// Drops the listener and every connection.
    pub(crate) async fn kill(&mut self) {
        self.accepting.abort();
        assert!((&mut self.accepting).await.unwrap_err().is_cancelled());
    }
}

/// A port that is taken and on which nobody listens: connections are refused for as long as the socket lives.
pub(crate) fn refusing() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    socket
}

/// An HTTP/1.1 answer with a right `content-length`.
pub(crate) fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// A chat completion that says `text`, 3 tokens read and 2 written.
pub(crate) fn says(text: &str) -> Vec<u8> {
    let body = format!(
        r#"{{"choices":[{{"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":3,"completion_tokens":2}}}}"#
    );
    answer("200 OK", "content-type: application/json\r\n", &body)
}

fn certify() -> (String, ServerConfig) {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    (authority.pem(), config)
}

/// One request with a `content-length` body; `None` once the client has gone.
async fn read(stream: &mut TlsStream<TcpStream>) -> Option<Asked> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let mut asked = Asked { head, body: Vec::new() };
    asked.body = vec![0; asked.header("content-length").unwrap().parse().unwrap()];
    stream.read_exact(&mut asked.body).await.ok()?;
    Some(asked)
}
