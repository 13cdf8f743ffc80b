//! What holds for every command: exit codes, colours, completions, man pages, and `margay doctor`.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use margay_cli::exit::{FAILURE, SUCCESS, USAGE};
use serde_json::Value;

fn margay(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_margay")).args(arguments).envs(variables.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn toy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/tests/fixtures/toy")
}

#[test]
fn exit_codes_are_those_that_the_help_names() {
    let help = margay(&["--help"], &[]);
    assert!(text(&help.stdout).contains("Exit codes:\n  0  "));
    for (arguments, code) in [
        (&["--help"][..], SUCCESS),
        (&["--version"], SUCCESS),
        (&["config", "example"], SUCCESS),
        (&["config", "check", "/nowhere/margay.toml"], FAILURE),
        (&["bundle", "verify", "/nowhere.bundle"], FAILURE),
        (&["serve", "--bundle", "/nowhere.bundle"], FAILURE),
        (&["generate"], USAGE),
        (&["sing"], USAGE),
        (&["serve"], USAGE),
        (&[], USAGE),
    ] {
        let output = margay(arguments, &[]);
        assert_eq!(output.status.code(), Some(i32::from(code)), "{arguments:?}: {}", text(&output.stderr));
        // What went wrong goes to standard error, and nowhere else.
        assert!(code == SUCCESS || output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_with_its_own_code() {
    use margay_cli::exit::INTERRUPTED;
    use std::io::{BufRead as _, BufReader, Read as _};
    let mut child = Command::new(env!("CARGO_BIN_EXE_margay"))
        .args(["serve", "--listen", "127.0.0.1:0", "--json", "--log", "off", "--bundle"])
        .arg(toy())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = serde_json::from_str::<Value>(&line).unwrap()["status"].as_str().unwrap().to_owned();
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let question =
        r#"{"model": "toy", "messages": [{"role": "user", "content": "x"}], "stream": true, "max_tokens": 8}"#;
    let head =
        format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", question.len() + 1);
    // A request that never ends: its last byte does not come.
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.write_all(format!("{head}{question}").as_bytes()).unwrap();
    let healthy = |address: &str| {
        let mut stream = std::net::TcpStream::connect(address).ok()?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
        let mut said = String::new();
        stream.read_to_string(&mut said).ok()?;
        said.starts_with("HTTP/1.1 200").then_some(())
    };
    assert!(healthy(address).is_some());
    let interrupt = |child: &std::process::Child| {
        assert!(Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap().success());
    };
    interrupt(&child);
    // The first one closes the door.
    while healthy(address).is_some() {}
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(i32::from(INTERRUPTED)));
}

#[test]
fn nothing_but_a_terminal_is_given_colours() {
    for arguments in [&["--help"][..], &["serve", "--help"], &["doctor"], &["sing"], &["devices"]] {
        let Output { stdout, stderr, .. } = margay(arguments, &[]);
        assert!(!stdout.contains(&0x1b) && !stderr.contains(&0x1b), "{arguments:?}");
    }
}

#[test]
fn errors_say_what_to_do_next() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("margay.toml");
    std::fs::write(&config, "version = 7").unwrap();
    for (arguments, variables, next) in [
        (&["config", "check", config.to_str().unwrap()][..], &[][..], "margay config example"),
        (&["devices"], &[("ORT_DYLIB_PATH", "/nowhere/lib.so")], "margay doctor"),
        (
            &["generate", "--bundle", toy().to_str().unwrap(), "--prompt", "x", "--max-tokens", "9999"],
            &[],
            "fewer tokens",
        ),
    ] {
        let said = text(&margay(arguments, variables).stderr);
        let last = said.lines().last().unwrap();
        assert!(last.starts_with("  next: ") && last.contains(next), "{said}");
    }
}

#[test]
fn every_help_has_examples() {
    for command in ["serve", "generate", "export", "train", "doctor", "audit"] {
        let help = text(&margay(&[command, "--help"], &[]).stdout);
        assert!(help.contains(&format!("Examples:\n  margay {command}")), "{help}");
    }
}

#[test]
fn completions_are_scripts_of_their_shells() {
    for (shell, sign) in [
        ("bash", "complete -F _margay"),
        ("zsh", "#compdef margay"),
        ("fish", "complete -c margay"),
        ("powershell", "Register-ArgumentCompleter"),
        ("elvish", "edit:completion"),
    ] {
        let script = margay(&["completions", shell], &[]);
        assert!(script.status.success());
        assert!(text(&script.stdout).contains(sign), "{shell}");
    }
    // bash itself finds nothing wrong with it, and knows the commands then.
    let script = text(&margay(&["completions", "bash"], &[]).stdout);
    let asks = "COMP_WORDS=(margay ser) COMP_CWORD=1; _margay margay ser margay; echo \"${COMPREPLY[@]}\"";
    let output = Command::new("bash").args(["-c", &format!("{script}\n{asks}")]).output().unwrap();
    assert_eq!(text(&output.stdout).trim(), "serve", "{}", text(&output.stderr));
}

#[test]
fn man_pages_are_written_for_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("man1");
    let written = margay(&["man", "--json", "--out", out.to_str().unwrap()], &[]);
    let written: Value = serde_json::from_slice(&written.stdout).unwrap();
    let pages: Vec<&str> = written["pages"].as_array().unwrap().iter().map(|page| page.as_str().unwrap()).collect();
    for page in ["margay.1", "margay-serve.1", "margay-bundle-sign.1", "margay-doctor.1"] {
        assert!(pages.contains(&page), "{page} is not in {pages:?}");
    }
    let serve = std::fs::read_to_string(out.join("margay-serve.1")).unwrap();
    assert!(serve.starts_with(".ie") || serve.contains(".TH"), "{serve}");
    assert!(serve.contains("margay serve \\-\\-bundle smollm2.bundle"), "{serve}");
}

#[test]
fn doctor_finds_what_is_there_and_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("margay.toml");
    let example = text(&margay(&["config", "example"], &[]).stdout);
    std::fs::write(&config, &example).unwrap();
    let finding = |output: &Output, what: &str| {
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = said["findings"].as_array().unwrap().clone();
        (said["healthy"].as_bool().unwrap(), findings.into_iter().find(|finding| finding["what"] == what))
    };

    let well = margay(&["doctor", "--json", "--bundle", toy().to_str().unwrap()], &[]);
    let (healthy, bundle) = finding(&well, "bundle");
    assert_eq!((well.status.code(), healthy), (Some(0), true), "{}", text(&well.stdout));
    assert!(bundle.unwrap()["found"].as_str().unwrap().contains("its canary answers on cpu"));
    for what in ["ONNX Runtime", "providers", "disk", "clock", "TLS roots"] {
        assert!(finding(&well, what).1.is_some(), "{what}");
    }

    // The example names files that are not here.
    let ill = margay(&["doctor", "--json", "--config", config.to_str().unwrap()], &[]);
    let (healthy, bundle) = finding(&ill, "bundle");
    assert_eq!((ill.status.code(), healthy), (Some(1), false));
    assert_eq!(bundle.unwrap()["health"], "bad");
    assert!(text(&ill.stdout).contains("/run/secrets/llm"));
    assert!(text(&ill.stderr).contains("will not work"));

    std::fs::write(&config, "version = 1\nbundel = 3\n").unwrap();
    let (_, wrong) =
        finding(&margay(&["doctor", "--json", "--config", config.to_str().unwrap()], &[]), "configuration");
    let wrong = wrong.unwrap();
    assert!(wrong["found"].as_str().unwrap().contains("margay.toml:") && wrong["advice"].is_string(), "{wrong}");

    let missing = margay(&["doctor", "--json"], &[("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so")]);
    let (healthy, library) = finding(&missing, "ONNX Runtime");
    assert!(!healthy && library.unwrap()["found"].as_str().unwrap().contains("/nowhere/libonnxruntime.so"));
}
