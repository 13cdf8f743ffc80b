//! What the binary does with input that is wrong: exit code 1, one message that names the thing, nothing half-written.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};

fn demo(arguments: &[&str], out: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_margay"));
    command.args(["demo", "--quick", "--out"]).arg(out).args(arguments).output().unwrap()
}

/// Fails with exit code 1, names `thing`, and leaves no result that looks like one.
fn assert_refused(output: &Output, thing: &str, out: &Path) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.starts_with("error: ") && message.contains(thing), "{message}");
    for result in ["summary.json", "outcomes.csv", "report.html"] {
        assert!(!out.join(result).exists(), "{result}");
    }
}

fn gz(text: &str) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(text.as_bytes()).unwrap();
    gz.finish().unwrap()
}

#[test]
fn data_that_is_missing_cut_or_malformed_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("out"));
    let given = ["--data", data.to_str().unwrap()];
    assert_refused(&demo(&given, &out), "train.jsonl.gz", &out);

    let row = r#"{"id":"1","task":"t","input":"hello","target":"greeting"}"#;
    fs::create_dir(&data).unwrap();
    fs::write(data.join("test.jsonl.gz"), gz(row)).unwrap();
    for (content, thing) in [
        (gz(&row.repeat(40))[..30].to_vec(), "train.jsonl.gz:1"),
        (b"not gzip at all".to_vec(), "train.jsonl.gz:1"),
        (gz(&format!("{row}\n{{\"id\": 2}}\n")), "train.jsonl.gz:2"),
        (gz(""), "train.jsonl.gz: there is no row"),
    ] {
        fs::write(data.join("train.jsonl.gz"), content).unwrap();
        assert_refused(&demo(&given, &out), thing, &out);
    }
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("taken");
    fs::write(&out, "a file stands here").unwrap();
    assert_refused(&demo(&[], &out), "taken", &out);
}

#[test]
fn objectives_that_cannot_be_compared_are_refused_before_anything_is_trained() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    assert_refused(&demo(&["--objectives", "xent,cat-xent,xent"], &out), "xent stands there twice", &out);
    assert_refused(&demo(&["--objectives", "xent,gatekeeper"], &out), "gatekeeper", &out);
}

#[test]
fn an_objective_that_is_none_is_a_mistake_of_the_command_line() {
    let output = demo(&["--objectives", "xent,cat-entropy"], Path::new("unused"));
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("`cat-entropy` is none of xent, dist, cat-xent"), "{message}");
}
