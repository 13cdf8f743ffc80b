//! Who is believed, who we are, and the way between: pins, client certificates, proxies, attestation, keys.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use margay::cloud::{
    AttestationHeader, CloudClient, CloudClientBuilder, Connectivity, Dialect, Identity, LargeModel, Probe, Proxy,
    Retry, Roots, SpkiPin, Token,
};
use margay::testing::{FaultyServer, ManualClock, Reply};
use margay::{ErrorKind, Request};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

fn client(server: &FaultyServer) -> CloudClientBuilder {
    CloudClient::openai(server.endpoint(), "large").roots(Roots::Pem(server.authority())).retry(Retry::NEVER)
}

async fn ask(client: CloudClientBuilder) -> Result<String, ErrorKind> {
    let client = client.build().map_err(|error| error.kind())?;
    let answer = client.answer(&Request::user("hello")).await;
    answer.map(|answer| answer.text).map_err(|error| error.kind())
}

#[tokio::test]
async fn a_pinned_key_is_believed_and_no_other_though_its_authority_is() {
    let server = FaultyServer::start([Reply::says("yes"), Reply::says("yes")]).await;
    let (right, wrong) = (server.pin(), SpkiPin::of(b"another key"));
    assert_eq!(ask(client(&server).pins([right])).await.unwrap(), "yes");
    assert_eq!(ask(client(&server).pins([wrong, right])).await.unwrap(), "yes");
    assert_eq!(ask(client(&server).pins([wrong])).await, Err(ErrorKind::Tls));
    // A pin is no root: the chain is checked all the same.
    assert_eq!(ask(client(&server).roots(Roots::Bundled).pins([right])).await, Err(ErrorKind::Tls));
    assert_eq!(ask(client(&server).roots(Roots::Platform)).await, Err(ErrorKind::Tls));
}

#[tokio::test]
async fn a_server_that_asks_who_we_are_is_told() {
    let server = FaultyServer::start([Reply::says("welcome")]).await;
    server.require_identity();
    let (chain, key) = server.client_identity();
    assert_eq!(ask(client(&server).identity(Identity::pem(chain, key))).await.unwrap(), "welcome");
    let (chain, key) = FaultyServer::start([]).await.client_identity();
    for stranger in [client(&server), client(&server).identity(Identity::pem(chain, key))] {
        assert_eq!(ask(stranger).await, Err(ErrorKind::Tls));
    }
}

/// A proxy that tunnels one connection, and what it was told.
async fn proxy() -> (Proxy, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let told = Arc::new(Mutex::new(String::new()));
    let told_too = Arc::clone(&told);
    tokio::spawn(async move {
        let (mut inward, _) = listener.accept().await.unwrap();
        let mut reader = BufReader::new(&mut inward);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            reader.read_line(&mut head).await.unwrap();
        }
        let target = head.split(' ').nth(1).unwrap().to_owned();
        *told_too.lock().unwrap() = head;
        let mut outward = TcpStream::connect(target).await.unwrap();
        inward.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
        let _ = copy_bidirectional(&mut inward, &mut outward).await;
    });
    (format!("http://{address}").parse().unwrap(), told)
}

#[tokio::test]
async fn a_proxy_tunnels_and_sees_nothing_but_the_address() {
    let server = FaultyServer::start([Reply::says("through")]).await;
    let (proxy, told) = proxy().await;
    let proxy = proxy.credentials("me", "planted");
    assert!(!format!("{proxy} {proxy:?}").contains("planted"));
    assert_eq!(
        ask(client(&server).proxy(proxy).static_key(Token::new("sk-key")).allow_static_key(true)).await.unwrap(),
        "through"
    );
    let told = told.lock().unwrap().clone();
    assert!(told.starts_with(&format!("CONNECT {} HTTP/1.1\r\n", server.address())), "{told}");
    // "me:planted" in base64.
    assert!(told.to_lowercase().contains("proxy-authorization: basic bwu6cgxhbnrlza=="), "{told}");
    assert!(!told.contains("sk-key") && !told.contains("hello"), "{told}");
    for wrong in ["socks5://127.0.0.1:1", "http://me:planted@127.0.0.1:1", "planted"] {
        let error = wrong.parse::<Proxy>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert!(!format!("{error:?}").contains("planted"));
    }
}

#[tokio::test]
async fn a_static_key_is_used_only_if_that_is_said_and_goes_where_each_api_wants_it() {
    for (dialect, header, value, version) in [
        (Dialect::OpenAi, "authorization", "bearer sk-key", None),
        (Dialect::Anthropic, "x-api-key", "sk-key", Some("2023-06-01")),
        (Dialect::Gemini, "x-goog-api-key", "sk-key", None),
    ] {
        let server = FaultyServer::start([Reply::status("400 Bad Request")]).await;
        let client = || {
            CloudClient::builder(dialect, server.endpoint(), "large")
                .roots(Roots::Pem(server.authority()))
                .static_key(Token::new("sk-key"))
        };
        assert_eq!(ask(client()).await, Err(ErrorKind::InvalidRequest));
        assert_eq!(server.connections(), 0);
        assert_eq!(ask(client().allow_static_key(true)).await, Err(ErrorKind::Rejected));
        let asked = server.asked();
        assert_eq!((asked[0].header(header), asked[0].header("anthropic-version")), (Some(value), version));
    }
}

#[tokio::test]
async fn an_attestation_is_bound_to_the_body_and_nothing_goes_without_it() {
    let server = FaultyServer::start([Reply::says("genuine")]).await;
    let attested = client(&server).attestation(|sha256: String| async move {
        Ok(AttestationHeader::new("x-attestation", format!("proof-of-{sha256}")))
    });
    assert_eq!(ask(attested).await.unwrap(), "genuine");
    let asked = server.asked();
    // sha2 is what the crate uses too; the digest is of the very bytes that came.
    use sha2::Digest as _;
    let digest: String = sha2::Sha256::digest(&asked[0].body).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(asked[0].header("x-attestation"), Some(format!("proof-of-{digest}").as_str()));
    let refused = client(&server).attestation(|_: String| async { Err("this device is rooted".into()) });
    assert_eq!(ask(refused).await, Err(ErrorKind::Unauthorized));
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn a_probe_believes_the_last_exchange_for_a_while_and_finds_the_way_again() {
    let server = FaultyServer::start([]).await;
    let clock = Arc::new(ManualClock::new());
    let probe = Probe::new(&server.endpoint().parse().unwrap()).clock(clock.clone());
    assert!(probe.is_online());
    probe.online().await;
    probe.report(false);
    assert!(!probe.is_online());
    clock.advance(Duration::from_secs(30));
    assert!(probe.is_online(), "the next query may try");
    probe.report(false);
    probe.online().await;
    assert!(probe.is_online(), "it connects");

    let refusing = margay::testing::refusing();
    let endpoint = format!("https://{}/v1", refusing.local_addr().unwrap()).parse().unwrap();
    let closed = Probe::new(&endpoint).clock(clock.clone()).pause(Duration::from_secs(3600));
    closed.report(false);
    tokio::select! {
        () = closed.online() => panic!("nobody listens there"),
        () = clock.awaited() => {}
    }
    assert!(!closed.is_online());
}
