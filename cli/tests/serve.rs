//! `margay serve` as a process: where it listens and for whom, what `curl` and worse clients make of it, how it ends.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

#[path = "common/cascade.rs"]
mod cascade;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use cascade::{Echo, cascade, toy};
use margay_cli::authority::Authority;
use margay_cli::serve::{Model, Options, Server};
use serde_json::{Value, json};

fn margay() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_margay"));
    command.arg("serve").env_remove("MARGAY_SERVE_TOKEN");
    command
}

/// A server that is killed with its test.
struct Serving {
    child: Child,
    said: BufReader<ChildStdout>,
    address: String,
}

impl Serving {
    fn toy(arguments: &[&str]) -> Self {
        Self::start(&[&["--bundle", toy().to_str().unwrap()], arguments].concat())
    }

    fn toy_called(name: &str) -> Self {
        Self::named(&["--bundle", toy().to_str().unwrap(), "--name", name], name)
    }

    fn start(arguments: &[&str]) -> Self {
        Self::named(arguments, "toy")
    }

    fn named(arguments: &[&str], name: &str) -> Self {
        let more = ["--listen", "127.0.0.1:0", "--json", "--threads", "1", "--log", "off"];
        let mut child = margay().args(more).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        let (_, address) = ready["status"].as_str().unwrap().split_once("://").unwrap();
        let address = address.trim_end_matches('/').to_owned();
        assert_eq!(ready["model"], name);
        Self { child, said, address }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What `curl` prints, and the status.
    fn curl(&self, path: &str, arguments: &[&str]) -> (u16, String) {
        let output =
            Command::new("curl").args(["-sS", "-w", "\n%{http_code}", &self.url(path)]).args(arguments).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).unwrap();
        let (body, status) = said.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }

    /// Sends bytes as they are, and returns what comes back until the connection is closed.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        // The server may have heard enough before the end.
        let _cut = stream.write_all(bytes);
        let mut said = Vec::new();
        let _cut = stream.read_to_end(&mut said);
        String::from_utf8_lossy(&said).into_owned()
    }

    fn post(&self, body: &[u8]) -> String {
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        self.raw(&[head.as_bytes(), body].concat())
    }

    /// It still answers.
    fn is_well(&self) {
        let (status, answer) = self.curl("/v1/chat/completions", &["-d", &question(json!({})).to_string()]);
        assert_eq!(status, 200, "{answer}");
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

fn question(more: Value) -> Value {
    let mut question = json!({"model": "toy", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8});
    question.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    question
}

fn refused(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let Output { status, stderr, .. } = margay().args(arguments).envs(variables.iter().copied()).output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    said
}

#[test]
fn curl_is_served() {
    let server = Serving::toy(&[]);
    assert_eq!(server.curl("/healthz", &[]), (200, "ok".into()));
    let (status, models) = server.curl("/v1/models", &[]);
    assert_eq!((status, serde_json::from_str::<Value>(&models).unwrap()["data"][0]["id"].take()), (200, json!("toy")));
    let (status, streamed) =
        server.curl("/v1/chat/completions", &["-N", "-d", &question(json!({"stream": true})).to_string()]);
    assert!(status == 200 && streamed.trim_end().ends_with("data: [DONE]"), "{streamed}");
    let (status, page) = server.curl("/", &[]);
    assert!(status == 200 && page.contains("<!doctype html>"));
    let (_, report) = server.curl("/status", &[]);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["answers"]["local"], &report["last"][0]["origin"]), (&json!(1), &json!("local")));
    assert!(!report.to_string().contains("hello"), "a text is in {report}");
    let (status, numbers) = server.curl("/metrics", &[]);
    assert_eq!(status, 200);
    for line in [
        "margay_queries_total{origin=\"local\"} 1",
        "margay_http_requests_total{path=\"/v1/chat/completions\",status=\"200\"} 1",
        "margay_query_seconds_count{stage=\"total\"} 1",
        "# TYPE margay_query_seconds histogram",
    ] {
        assert!(numbers.contains(line), "{line} is not in\n{numbers}");
    }
}

#[test]
fn curl_commands_that_are_shown_work() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let server = Serving::toy_called("smollm2");
    let mut seen = 0;
    for document in ["README.md", "docs/serve.md"] {
        let text = std::fs::read_to_string(root.join(document)).unwrap().replace("\\\n", " ");
        for command in text.lines().filter(|line| line.starts_with("curl ")) {
            let command = command.replacen("curl ", "curl -sSf ", 1).replace("127.0.0.1:8484", &server.address);
            let output = Command::new("bash").args(["-c", &command]).output().unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            let answer: Value =
                serde_json::from_str(&said).unwrap_or_else(|_| panic!("{document}: `{command}`: {said}"));
            assert!(answer["choices"][0]["message"]["content"].is_string(), "{answer}");
            seen += 1;
        }
    }
    assert_eq!(seen, 2);
}

#[test]
fn bad_input_is_a_typed_error_and_the_server_stays_up() {
    let server = Serving::toy(&[]);
    let deep = format!("{{\"model\": \"toy\", \"messages\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    for (body, status) in [
        (&b""[..], 400),
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b"{\"model\": \"toy\", \"messages\": [{\"role\": \"user\", \"content\": \"\xff\xfe\"}]}", 400),
        (b"{\"model\": \"toy\", \"messages\": [{\"role\": 1, \"content\": []}]}", 400),
        (b"{\"model\": \"toy\", \"messages\": [{\"role\": \"user\", \"content\": \"\\ud800\"}]}", 400),
        (deep.as_bytes(), 400),
        (&vec![b' '; 100 << 20], 413),
    ] {
        let answer = server.post(body);
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{shown}: {answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let error: Value = serde_json::from_str(body).unwrap();
        assert_eq!(error["error"]["type"], "invalid_request_error", "{shown}");
    }
    assert!(server.raw(b"nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
    // A body that claims more than comes.
    let claimed = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{\"model\"";
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.write_all(claimed.as_bytes()).unwrap();
    drop(stream);
    server.is_well();
}

#[test]
fn a_client_gone_in_mid_stream_frees_the_model() {
    let server = Serving::toy(&[]);
    let long = question(json!({"stream": true, "max_tokens": 600, "temperature": 2.0})).to_string();
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", long.len());
    for _ in 0..8 {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.write_all(format!("{head}{long}").as_bytes()).unwrap();
        let mut some = [0; 64];
        stream.read_exact(&mut some).unwrap();
        assert!(some.starts_with(b"HTTP/1.1 200"));
    }
    // Nobody is left: whoever comes next has the model for itself, and nothing was counted as answered but this.
    server.is_well();
    let (_, report) = server.curl("/status", &[]);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["in_flight"], 0, "{report}");
}

#[test]
fn a_token_is_wanted_if_there_is_one_and_pages_of_others_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "open-sesame\n").unwrap();
    let server = Serving::toy(&["--token-file", file.to_str().unwrap()]);
    for (path, headers, status) in [
        ("/healthz", "x-none: 1", 200),
        ("/", "x-none: 1", 200),
        ("/v1/models", "x-none: 1", 401),
        ("/status", "x-none: 1", 401),
        ("/metrics", "authorization: Bearer sesame", 401),
        ("/metrics", "authorization: Bearer open-sesame", 200),
        ("/status", "authorization: Bearer open-sesame", 200),
    ] {
        assert_eq!(server.curl(path, &["-H", headers]).0, status, "{path} {headers}");
    }
    let open = Serving::toy(&[]);
    assert_eq!(open.curl("/status", &["-H", "origin: https://example.com"]).0, 403);
    assert_eq!(open.curl("/status", &["-H", &format!("origin: http://{}", open.address)]).0, 200);
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_loaded() {
    let toy = toy();
    let bundle = ["--bundle", toy.to_str().unwrap()];
    let said = refused(&[&bundle[..], &["--listen", "0.0.0.0:0"]].concat(), &[]);
    assert!(said.contains("--token-file") && said.contains("--without-token"), "{said}");
    let said = refused(&[&bundle[..], &["--listen", "0.0.0.0:0"]].concat(), &[("MARGAY_SERVE_TOKEN", "two words")]);
    assert!(said.contains("MARGAY_SERVE_TOKEN holds no token"), "{said}");
    let said = refused(&[&bundle[..], &["--token-file", "/nowhere"]].concat(), &[]);
    assert!(said.contains("/nowhere"), "{said}");
    let said = refused(&[&bundle[..], &["--tls-cert", "/nowhere", "--tls-key", "/nowhere"]].concat(), &[]);
    assert!(said.contains("/nowhere"), "{said}");
    let said = refused(&["--config", "/nowhere/margay.toml"], &[]);
    assert!(said.contains("/nowhere/margay.toml"), "{said}");
    assert!(refused(&["--bundle", "/nowhere"], &[]).contains("/nowhere"));
}

#[test]
fn asked_to_stop_it_finishes_what_it_has_begun() {
    let mut server = Serving::toy(&[]);
    let long = question(json!({"stream": true, "max_tokens": 600})).to_string();
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", long.len());
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.write_all(format!("{head}{long}").as_bytes()).unwrap();
    let mut some = [0; 64];
    stream.read_exact(&mut some).unwrap();
    server.signal("TERM");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]"), "{rest}");
    drop(stream);
    assert!(server.child.wait().unwrap().success());
    let mut said = String::new();
    server.said.read_to_string(&mut said).unwrap();
    assert_eq!(said, "", "only what --json promises goes to standard output");
}

#[test]
fn a_configuration_is_served_with_everything_that_stands_before_its_cloud() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let authority = Authority::new().unwrap();
    let options = Options::new("large").tls(authority.server_config());
    let cloud = runtime.block_on(async { Server::start(Model::cloud(std::sync::Arc::new(Echo)), options).unwrap() });
    let folder = cascade(&cloud.endpoint(), &authority);
    let config = folder.path().join("margay.toml");
    let server = Serving::start(&["--config", config.to_str().unwrap()]);
    let ask = |more: Value| server.curl("/v1/chat/completions", &["-i", "-d", &question(more).to_string()]);

    let (status, answer) = ask(json!({"messages": [{"role": "user", "content": "write to ada@example.com"}]}));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(status, 200, "{answer}");
    assert!(
        head.contains("x-margay-origin: cloud") && head.contains("x-margay-reason: early-low-confidence"),
        "{head}"
    );
    assert!(head.contains("x-margay-threshold: -0.000001") && head.contains("x-margay-score: -"), "{head}");
    let body: Value = serde_json::from_str(body).unwrap();
    // The address was taken out on the way, put back in the answer, and what it cost is known.
    assert_eq!(body["choices"][0]["message"]["content"], "you said: write to ada@example.com");
    assert_eq!((&body["margay"]["cost"], &body["usage"]["prompt_tokens"]), (&json!("0.003500"), &json!(1000)));
    assert!(
        std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap().contains("\"redactions\":{\"EMAIL\":1}")
    );

    // A stream that is deferred says whose it is before it begins.
    let (_, streamed) = ask(json!({"stream": true}));
    assert!(
        streamed.contains("x-margay-origin: cloud") && streamed.contains("\"content\":\"you said: hello\""),
        "{streamed}"
    );
    // What would cost more than is left stays here, with the reason.
    let (_, over) = ask(json!({"max_tokens": 300}));
    assert!(over.contains("x-margay-origin: local") && over.contains("x-margay-reason: over-budget"), "{over}");
    let (_, report) = server.curl("/status", &[]);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["answers"]["cloud"], &report["cost_today"]["money"]), (&json!(2), &json!("0.007000")));
    assert_eq!(report["deferral"], json!({"unsure": 3, "of": 3}));
}

#[test]
fn it_speaks_tls_with_a_certificate_of_one_s_own() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("server.pem"), folder.path().join("server.key"));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let server = Serving::toy(&["--tls-cert", certificate, "--tls-key", key]);
    let url = format!("https://{}/healthz", server.address);
    for (arguments, works) in [(&["--cacert", certificate][..], true), (&[], false)] {
        let output = Command::new("curl").args(["-sS", &url]).args(arguments).output().unwrap();
        assert_eq!(output.status.success(), works, "{}", String::from_utf8_lossy(&output.stderr));
    }
}
