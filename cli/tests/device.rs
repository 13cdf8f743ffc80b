//! `margay generate`, `chat` and `devices` on the toy bundle, as a person and as a program would run them.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use margay::device::library::Locate;
use serde_json::Value;

/// What `make_toy.py` says the toy computes.
fn expected() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/tests/fixtures/toy.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn margay(command: &str, arguments: &[&str], input: &str) -> Output {
    let toy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/tests/fixtures/toy");
    let mut child = Command::new(env!("CARGO_BIN_EXE_margay"))
        .arg(command)
        .arg("--bundle")
        .arg(toy)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Microsoft's builds of ONNX Runtime report to their makers, from a database in the cache folder, unless they are told not to in
/// time.
#[test]
fn onnx_runtime_reports_to_nobody() {
    let (home, cache) = (tempfile::tempdir().unwrap(), Locate::from_environment().cache.unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_margay"));
    command.arg("devices").env("HOME", home.path()).env("XDG_CACHE_HOME", home.path()).env("MARGAY_CACHE", cache);
    assert!(command.output().unwrap().status.success());
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn generate_says_what_the_toy_computes() {
    let expected = expected();
    let folder = tempfile::tempdir().unwrap();
    let chat = folder.path().join("chat.json");
    std::fs::write(&chat, expected["messages"].to_string()).unwrap();
    let chat = chat.to_str().unwrap();
    let answer = json(&margay("generate", &["--chat", chat, "--max-tokens", "24", "--json", "--threads", "1"], ""));
    assert_eq!(answer["token_ids"], expected["greedy"]);
    assert_eq!(answer["text"], expected["greedy_text"]);
    assert_eq!((&answer["finish"], &answer["decision"]), (&"length".into(), &Value::Null));
    let log_probabilities = answer["log_probabilities"].as_array().unwrap();
    for (ours, theirs) in log_probabilities.iter().zip(expected["signals"].as_array().unwrap()) {
        assert!((ours.as_f64().unwrap() - theirs[0].as_f64().unwrap()).abs() < 1e-4);
    }
    // For a person: the text alone on standard output, what is known about it on standard error.
    let text = expected["text"].as_str().unwrap();
    let plain = margay("generate", &["--prompt", "-", "--raw", "--max-tokens", "24"], text);
    assert_eq!(
        String::from_utf8(plain.stdout).unwrap().trim_end(),
        expected["greedy_text"].as_str().unwrap().trim_end()
    );
    assert!(String::from_utf8(plain.stderr).unwrap().contains("24 tokens (length)"));
}

#[test]
fn generate_chooses() {
    let choice = json(&margay("generate", &["--prompt", "hello", "--options", "yes,no", "--json"], ""));
    let shares: Vec<f64> =
        choice["answers"].as_array().unwrap().iter().map(|answer| answer["probability"].as_f64().unwrap()).collect();
    assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    assert_eq!(choice["text"], if shares[0] >= shares[1] { "yes" } else { "no" });
}

#[test]
#[cfg(feature = "constrained")]
fn generate_constrains() {
    let answer = json(&margay("generate", &["--prompt", "hello", "--regex", "[0-9]{4}", "--json"], ""));
    assert!(answer["text"].as_str().unwrap().parse::<u16>().is_ok() && answer["text"].as_str().unwrap().len() == 4);
}

#[test]
fn chat_remembers_and_devices_reports() {
    let chat = margay("chat", &["--json", "--max-tokens", "4"], "hello\nplay some music\n/reset\nhello\n/exit\n");
    assert!(chat.status.success());
    let answers: Vec<Value> =
        String::from_utf8(chat.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 3);
    assert!(answers[1]["prompt_tokens"].as_u64() > answers[0]["prompt_tokens"].as_u64());
    assert!(answers[1]["cached_tokens"].as_u64() >= answers[0]["prompt_tokens"].as_u64());
    assert_eq!(answers[2]["token_ids"], answers[0]["token_ids"]);

    let devices =
        json(&margay("devices", &["--json", "--provider-policy", "auto", "--provider", "openvino,nnapi"], ""));
    assert_eq!(devices["report"]["provider"], "cpu");
    assert_eq!(devices["report"]["attempts"].as_array().unwrap().len(), 3);
    assert!(devices["report"]["nodes"]["CPUExecutionProvider"].as_u64().unwrap() > 10);
    assert_eq!(devices["providers"].as_array().unwrap().len(), 12);
}

#[test]
fn score_goes_on_where_it_was_broken_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let rows = [
        r#"{"id":"t/test/0","task":"t","input":"hello","target":"yes","options":["yes","no"],"metric":"accuracy"}"#,
        r#"{"id":"t/test/1","task":"t","input":"play, \"some\" music","target":"x","metric":"f1","references":["x"]}"#,
        r#"{"id":"t/test/2","task":"t","input":"hello","target":"no","options":["yes","no"],"metric":"accuracy"}"#,
    ];
    let (data, whole, parts) = (path("data.jsonl"), path("whole.csv"), path("parts.csv"));
    std::fs::write(&data, rows.join("\n")).unwrap();
    let score = |out: &str, limit: &str| {
        let arguments = ["--data", &data, "--out", out, "--limit", limit, "--max-tokens", "5", "--threads", "1"];
        let output = margay("score", &arguments, "");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    score(&whole, "9");
    assert!(score(&parts, "1").contains("1 rows asked, 0 known"));
    // The process was killed while it wrote a row.
    let torn = std::fs::read_to_string(&parts).unwrap() + "t/test/1,toy,0.";
    std::fs::write(&parts, torn).unwrap();
    assert!(score(&parts, "9").contains("2 rows asked, 1 known"));
    assert!(score(&parts, "9").contains("0 rows asked, 3 known"));
    let read = |path: &str| {
        let table = margay_evaluation::outcome::Table::read(Path::new(path)).unwrap();
        let mut rows: Vec<_> = table.rows().map(|row| row.to_outcome()).collect();
        rows.iter_mut().for_each(|row| row.latency_ms = None);
        rows
    };
    let (whole, parts) = (read(&whole), read(&parts));
    assert_eq!(whole, parts);
    // Of two rows with the same options and opposite targets, one is right.
    assert!((whole[0].quality + whole[2].quality - 1.0).abs() < 1e-9);
    assert_eq!((whole[1].tokens_out, whole[1].split.as_deref()), (Some(5), Some("test")));
    assert!(whole.iter().all(|row| row.score == row.signals.get("chow-average").copied() && row.score.is_some()));
}

#[test]
fn what_makes_no_sense_is_named() {
    for (arguments, why) in [
        (&["--prompt", "x", "--temperature=-1"][..], "temperature"),
        (&["--prompt", "x", "--schema", "/nowhere.json"], "/nowhere.json"),
        (&["--prompt", "x", "--provider", "openvino", "--provider-policy", "require"], "openvino"),
        (&["--prompt", "x", "--regex", "("], "constrain"),
    ] {
        let output = margay("generate", arguments, "");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(String::from_utf8(output.stderr).unwrap().contains(why), "{arguments:?}");
    }
    assert_eq!(margay("generate", &["--prompt", "x", "--provider", "gpu"], "").status.code(), Some(2));
}
