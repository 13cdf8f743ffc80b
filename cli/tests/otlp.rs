//! Spans and metrics as a collector gets them, read by OpenTelemetry's own protocol package for Python.
#![cfg(unix)]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed preparation fails the test")]

#[path = "common/cascade.rs"]
mod cascade;

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use cascade::{Echo, cascade, toy};
use margay_cli::authority::Authority;
use margay_cli::serve::{Model, Options, Server};
use margay_tests::python::{OPENTELEMETRY, Python};
use serde_json::{Value, json};

/// What is asked, what the client and the collector are shown, what is personal in it: none of it may be in what is told.
const SECRETS: [&str; 4] = ["planted prompt", "planted@example.com", "planted-bearer", "planted-header"];

/// The collector of `otlp_receiver.py`.
struct Collector {
    child: Child,
    said: BufReader<ChildStdout>,
    port: u16,
}

impl Collector {
    fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/python/otlp_receiver.py");
        let mut command = Python::with(OPENTELEMETRY).unwrap().command(&script);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        Self { child, said, port: line.trim().parse().unwrap() }
    }

    /// Everything that it got.
    fn end(mut self) -> Value {
        drop(self.child.stdin.take());
        let mut said = String::new();
        self.said.read_to_string(&mut said).unwrap();
        assert!(self.child.wait().unwrap().success());
        serde_json::from_str(&said).unwrap()
    }
}

/// Serves with these arguments and variables, asks a planted question twice, and stops. Returns what was logged.
fn ask_twice(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_margay"))
        .args(["serve", "--listen", "127.0.0.1:0", "--json", "--threads", "1", "--log", "warn"])
        .args(arguments)
        .env("MARGAY_SERVE_TOKEN", "planted-bearer")
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    let url = format!("{}/chat/completions", ready["endpoint"].as_str().unwrap());
    let messages = json!([{"role": "user", "content": "planted prompt of planted@example.com"}]);
    let question = json!({"model": ready["model"], "messages": messages, "max_tokens": 8}).to_string();
    for _ in 0..2 {
        let curl = ["-sS", "--fail-with-body", "-H", "authorization: Bearer planted-bearer", "-d", &question, &url];
        let answered = Command::new("curl").args(curl).output().unwrap();
        assert!(answered.status.success(), "{}", String::from_utf8_lossy(&answered.stdout));
    }
    assert!(Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status().unwrap().success());
    let ended = child.wait_with_output().unwrap();
    let logged = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.success(), "{logged}");
    logged
}

fn named<'a>(told: &'a Value, kind: &str, name: &str) -> &'a Value {
    let all = told[kind].as_array().unwrap();
    all.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("{name} is not in {told:#}"))
}

#[test]
fn a_cascade_s_spans_and_metrics_reach_a_collector_without_a_word_of_what_was_said() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let authority = Authority::new().unwrap();
    let options = Options::new("large").tls(authority.server_config());
    let cloud = runtime.block_on(async { Server::start(Model::cloud(Arc::new(Echo)), options).unwrap() });
    let folder = cascade(&cloud.endpoint(), &authority);
    let config = folder.path().join("margay.toml");
    let collector = Collector::start();
    let toml = std::fs::read_to_string(&config).unwrap();
    let endpoint = format!("http://127.0.0.1:{}", collector.port);
    std::fs::write(&config, format!("{toml}[telemetry]\nendpoint = \"{endpoint}\"\n")).unwrap();
    let variables =
        [("OTEL_EXPORTER_OTLP_HEADERS", "x-key=planted-header"), ("OTEL_RESOURCE_ATTRIBUTES", "deployment=test")];
    let logged = ask_twice(&["--config", config.to_str().unwrap()], &variables);
    let told = collector.end();

    let answers: Vec<&Value> =
        told["spans"].as_array().unwrap().iter().filter(|span| span["name"] == "answer").collect();
    assert_eq!(answers.len(), 2, "{told:#}");
    let attributes = &answers[0]["attributes"];
    assert_eq!((&attributes["origin"], &attributes["reason"]), (&json!("cloud"), &json!("early-low-confidence")));
    assert_eq!(attributes["rule"], "chow-average");
    assert!(attributes["score"].as_f64().unwrap() < attributes["threshold"].as_f64().unwrap(), "{attributes}");
    assert!(answers[0]["nanoseconds"].as_u64().unwrap() > 0 && answers[0]["scope"] == "margay");
    let resource = json!({"service.name": "margay", "deployment": "test"});
    for (key, value) in resource.as_object().unwrap() {
        assert_eq!(&answers[0]["resource"][key], value);
        assert_eq!(&named(&told, "metrics", "margay_queries_total")["resource"][key], value);
    }

    let queries = named(&told, "metrics", "margay_queries_total");
    assert_eq!(queries["points"][0]["attributes"]["origin"], "cloud");
    assert_eq!((&queries["points"][0]["asInt"], &queries["kind"]), (&json!("2"), &json!("sum")), "{queries:#}");
    assert_eq!(queries["description"], "Answers, by who gave them");
    let seconds = named(&told, "metrics", "margay_query_seconds");
    assert_eq!((&seconds["unit"], &seconds["kind"]), (&json!("s"), &json!("histogram")));
    let total = seconds["points"].as_array().unwrap().iter().find(|point| point["attributes"]["stage"] == "total");
    assert_eq!(total.unwrap()["count"], "2");
    // The buckets of `GET /metrics`.
    assert_eq!(total.unwrap()["explicitBounds"][0], 0.001, "{seconds:#}");
    for metric in
        ["margay_score", "margay_cloud_tokens_total", "margay_cloud_cost_micros_total", "margay_http_requests_total"]
    {
        named(&told, "metrics", metric);
    }

    let requests = told["requests"].as_array().unwrap();
    assert!(requests.iter().all(|request| request["headers"]["x-key"] == "planted-header"));
    for secret in SECRETS {
        assert!(
            requests.iter().all(|request| !request["bytes"].as_str().unwrap().contains(secret)),
            "{secret} was told"
        );
        assert!(!logged.contains(secret), "{secret} was logged");
    }
}

#[test]
fn variables_go_before_the_file_and_turn_signals_off() {
    let collector = Collector::start();
    let metrics = format!("http://127.0.0.1:{}/v1/metrics", collector.port);
    let toy = toy();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", metrics.as_str()),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_SERVICE_NAME", "kitchen"),
    ];
    ask_twice(&["--bundle", toy.to_str().unwrap()], &variables);
    let told = collector.end();
    assert_eq!(told["spans"], json!([]));
    assert_eq!(named(&told, "metrics", "margay_http_requests_total")["resource"]["service.name"], "kitchen");
}

#[test]
fn a_collector_that_is_away_is_logged_and_stops_nothing() {
    let toy = toy();
    let logged =
        ask_twice(&["--bundle", toy.to_str().unwrap()], &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")]);
    assert!(logged.contains("opentelemetry"), "{logged}");
}

#[test]
fn what_describes_no_collector_is_named() {
    let toy = toy();
    let folder = tempfile::tempdir().unwrap();
    let (empty, missing) = (folder.path().join("empty.pem"), folder.path().join("missing.pem"));
    std::fs::write(&empty, "").unwrap();
    let at = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:9");
    for (variables, why) in [
        (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1")], "OTEL_EXPORTER_OTLP_ENDPOINT: no address"),
        (vec![("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://a")], "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: starts with"),
        (vec![at, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], "only http/protobuf"),
        (vec![at, ("OTEL_TRACES_EXPORTER", "zipkin")], "OTEL_TRACES_EXPORTER: `zipkin`"),
        (vec![at, ("OTEL_EXPORTER_OTLP_CERTIFICATE", empty.to_str().unwrap())], "empty.pem: holds no certificate"),
        (vec![at, ("OTEL_EXPORTER_OTLP_CERTIFICATE", missing.to_str().unwrap())], "missing.pem: "),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_margay"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--bundle"]).arg(&toy).envs(variables);
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with("error: ") && said.contains(why), "{said}");
    }
}
