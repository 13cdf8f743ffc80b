//! `margay config` and `margay audit` as a person meets them.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::process::{Command, Output};

use margay::privacy::{AuditFile, AuditLog as _, Departure};

fn margay(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_margay"));
    command.args(arguments).envs(variables.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn the_printed_example_passes_the_check_and_overrides_count() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("margay.toml");
    let file = path.to_str().unwrap();
    let example = margay(&["config", "example"], &[]);
    assert!(example.status.success());
    std::fs::write(&path, &example.stdout).unwrap();
    let checked = margay(&["config", "check", file], &[("MARGAY__CLOUD__SERVER__MODEL", "another")]);
    let said = text(&checked.stdout);
    assert!(checked.status.success() && said.contains("another at https://llm.example.com/v1"), "{said}");

    std::fs::write(&path, text(&example.stdout).replace("model = \"large\"", "modell = \"large\"")).unwrap();
    let wrong = margay(&["config", "check", file], &[]);
    let said = text(&wrong.stderr);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(said.starts_with(&format!("error: {file}:")) && said.contains("unknown field `modell`"), "{said}");
    let spoilt = margay(&["config", "check", file], &[("MARGAY__CLOUD__SERVER__RETRY", "often")]);
    assert_eq!(spoilt.status.code(), Some(1));
}

#[test]
fn an_audit_file_is_read_back_with_its_sums() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let file = path.to_str().unwrap();
    let audit = AuditFile::open(&path).unwrap();
    for (body, key) in [("abc", "one"), ("abcd", "two")] {
        let redactions = [("EMAIL".to_owned(), 2)].into();
        let departure =
            Departure::new(86_400_000, "https://example.com/v1".into(), key.into(), body.as_bytes(), redactions);
        audit.record(&departure).unwrap();
    }
    let all = text(&margay(&["audit", file], &[]).stdout);
    assert!(all.contains("1970-01-02T00:00:00.000Z  https://example.com/v1  3 bytes  sha256 ba7816bf"), "{all}");
    assert!(all.ends_with("https://example.com/v1: 2 departures, 7 bytes, 4 redactions\n"), "{all}");
    let one = text(&margay(&["audit", "--summary", "--key", "two", file], &[]).stdout);
    assert_eq!(one, "https://example.com/v1: 1 departures, 4 bytes, 2 redactions\n");
    std::fs::write(&path, "x\n").unwrap();
    let wrong = margay(&["audit", file], &[]);
    assert!(wrong.status.code() == Some(1) && text(&wrong.stderr).contains("line 1"));
}

#[test]
fn both_speak_json_to_programs() {
    let folder = tempfile::tempdir().unwrap();
    let (config, audit) = (folder.path().join("margay.toml"), folder.path().join("audit.jsonl"));
    std::fs::write(&config, margay(&["config", "example"], &[]).stdout).unwrap();
    let checked = margay(&["config", "check", "--json", config.to_str().unwrap()], &[]);
    let checked: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!(
        checked["describes"]["cloud"], "large at https://llm.example.com/v1 (OpenAi), with a token",
        "{checked}"
    );

    let departure = Departure::new(0, "https://example.com/v1".into(), "one".into(), b"abc", [].into());
    AuditFile::open(&audit).unwrap().record(&departure).unwrap();
    let said = text(&margay(&["audit", "--json", audit.to_str().unwrap()], &[]).stdout);
    let lines: Vec<serde_json::Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["bytes"]), (2, &3.into()));
    assert_eq!(lines[1]["sums"]["https://example.com/v1"]["departures"], 1);
}
