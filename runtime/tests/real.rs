//! A real large model behind a real TLS-terminating proxy: llama.cpp's server behind nginx, both on loopback.
//!
//! `MARGAY_LLAMA_SERVER=llama-server MARGAY_LLAMA_MODEL=model.gguf MARGAY_NGINX=nginx cargo test -p margay --features
//! testing --test real -- --ignored --nocapture`. Debian's `nginx-light` and any small instruction model in GGUF will do.

#![cfg(feature = "testing")]
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

#[path = "common/mod.rs"]
mod common;

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use margay::bundle::CalibratedPolicy;
use margay::cloud::{CloudClient, LargeModel, Retry, Roots, Token};
use margay::policy::{Policy, Rule, Threshold};
use margay::{Cascade, ErrorKind, Origin, Request, Stream, StreamEvent};

/// A process that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| unreachable!("{name} names no file"))
}

/// llama.cpp's server, once it says that it listens.
fn llama(address: SocketAddr) -> Running {
    let mut child = Command::new(variable("MARGAY_LLAMA_SERVER"))
        .args([
            "--model",
            &variable("MARGAY_LLAMA_MODEL"),
            "--host",
            "127.0.0.1",
            "--port",
            &address.port().to_string(),
        ])
        .args(["--ctx-size", "512", "--parallel", "1", "--threads", "1", "--api-key", "sk-real"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("listening")), "llama-server ended before it listened");
    std::thread::spawn(move || lines.for_each(drop));
    Running(child)
}

/// nginx with a certificate of its own in front of it; PEM of the authority. It accepts from the moment its master says so.
async fn nginx(folder: &Path, address: SocketAddr, behind: SocketAddr) -> (Running, Vec<u8>) {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    std::fs::write(folder.join("leaf.pem"), leaf.pem()).unwrap();
    std::fs::write(folder.join("leaf.key"), key.serialize_pem()).unwrap();
    let configuration = format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr; events {{}}
         http {{
           client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
           log_format facts '$server_protocol $ssl_protocol $status $sent_http_content_encoding';
           access_log access.log facts;
           gzip on; gzip_types application/json; gzip_min_length 1;
           server {{
             listen {address} ssl http2; ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate leaf.pem; ssl_certificate_key leaf.key;
             location / {{ proxy_pass http://{behind}; proxy_buffering off; proxy_http_version 1.1; proxy_read_timeout 600s; }}
           }}
         }}"
    );
    std::fs::write(folder.join("nginx.conf"), configuration).unwrap();
    let mut command = Command::new(std::env::var("MARGAY_NGINX").unwrap_or_else(|_| "nginx".into()));
    let child = command.arg("-p").arg(folder).args(["-c", "nginx.conf"]).stderr(Stdio::inherit()).spawn().unwrap();
    while tokio::net::TcpStream::connect(address).await.is_err() {
        tokio::task::yield_now().await;
    }
    (Running(child), authority.pem().into_bytes())
}

#[tokio::test]
#[ignore = "needs llama.cpp's server, a model and nginx"]
async fn a_real_model_behind_a_real_proxy_answers_streams_and_breaks_off() {
    let folder = tempfile::tempdir().unwrap();
    let (behind, address) = (free_port(), free_port());
    let mut server = llama(behind);
    let (_proxy, authority) = nginx(folder.path(), address, behind).await;
    let client = |key: &str| {
        CloudClient::openai(format!("https://{address}/v1"), "any")
            .roots(Roots::Pem(authority.clone()))
            .static_key(Token::new(key))
            .allow_static_key(true)
            .attempt_timeout(Duration::from_secs(600))
            .retry(Retry::NEVER)
            .build()
            .unwrap()
    };
    let question = || Request::user("Count from one to ten in words.").max_tokens(24);

    let whole = client("sk-real").answer(&question()).await.unwrap();
    let usage = whole.usage.unwrap();
    assert!(!whole.text.is_empty() && usage.input > 5 && (1..=24).contains(&usage.output), "{whole:?}");

    let mut pieces = Vec::new();
    let streamed = client("sk-real").stream(&question(), &mut |piece| pieces.push(piece.to_owned())).await.unwrap();
    assert!(pieces.len() > 3 && pieces.concat() == streamed.text, "{pieces:?}");
    assert!(streamed.usage.is_some() && streamed.finish_reason.is_some(), "{streamed:?}");

    let refused = client("sk-wrong").answer(&question()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unauthorized, "{refused:?}");

    let engine = Arc::new(common::engine_of(&common::fixtures().join("toy")));
    let policy =
        CalibratedPolicy::by_hand(*engine.model_digest(), Policy::new(Rule::ChowAverage, Threshold::DEFER_ALL));
    let cascade = Cascade::builder().engine(engine).policy(policy).cloud(client("sk-real")).build().unwrap();
    let answer = cascade.answer(question()).await.unwrap();
    assert_eq!(answer.origin, Origin::Cloud);

    // Killed in mid-answer: what had come is there, and nothing in its place.
    let mut stream = cascade.stream(question().max_tokens(400), Stream::Hold);
    let mut said = String::new();
    let error = loop {
        match stream.next().await.unwrap() {
            Ok(StreamEvent::Token { text, .. }) => {
                said += &text;
                server.0.kill().unwrap();
            }
            Ok(event) => panic!("it ended after all: {event:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.partial_text(), Some(said.as_str()), "{error:?}");
    let gone = cascade.answer(question()).await.unwrap();
    assert_eq!(gone.cloud_error.unwrap().kind(), ErrorKind::Server, "nginx says 502");

    let log = std::fs::read_to_string(folder.path().join("access.log")).unwrap();
    eprintln!("{log}\n{whole:?}\n{} pieces: {streamed:?}\n{error:?}", pieces.len());
    assert!(log.lines().all(|line| line.starts_with("HTTP/2.0 TLSv1.3 ")), "{log}");
    assert!(log.contains("200 gzip"), "{log}");
}
