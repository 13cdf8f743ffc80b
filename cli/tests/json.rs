//! Every command speaks JSON to programs: with `--json` standard output is one object a line and nothing else.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed preparation fails the test")]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use margay::device::library::Locate;
use margay::privacy::{AuditFile, AuditLog as _, Departure};
use serde_json::Value;

use common::{Place, succeeded};

/// Commands whose result is a text in a form of its own, for another program.
const WITHOUT: [(&str, &str); 2] =
    [("completions", "prints a script for a shell"), ("config example", "prints a margay.toml")];

/// Commands that end when they are told to, or take long, and what reads their JSON instead.
const ELSEWHERE: [(&str, &str); 3] = [
    ("serve", "cli/tests/serve.rs"),
    ("gateway", "a_gateway_speaks_json_line_by_line, below"),
    ("demo", "tests/tests/demo.rs"),
];

/// What is run, in this order, in one folder: the command's path of names, and the rest of the line.
const LINES: [(&str, &str); 27] = [
    ("config check", "margay.toml"),
    ("doctor", "--bundle toy"),
    ("devices", "--bundle toy"),
    ("audit", "audit.jsonl"),
    ("man", "--out man1"),
    ("generate", "--bundle toy --prompt hello --max-tokens 3"),
    ("generate", "--bundle toy --prompt hello --options yes,no"),
    ("generate", "--bundle toy --prompt hello --schema schema.json --max-tokens 200"),
    ("chat", "--bundle toy --max-tokens 2"),
    ("score", "--bundle toy --data tasks.jsonl --out scored.csv --max-tokens 3"),
    ("bench", "--bundle toy --prompt-tokens 8 --decode-tokens 2 --rounds 1 --threads 1"),
    ("bundle keygen", "--out publisher"),
    ("bundle inspect", "toy"),
    ("bundle verify", "toy --run"),
    ("bundle pack", "toy --out toy.margay"),
    ("bundle unpack", "toy.margay --out again"),
    ("bundle sign", "again --key publisher.key"),
    ("bundle diff", "toy again"),
    ("train", "recipe.toml"),
    ("export", "--checkpoint run/model --out small.bundle --weights int8"),
    ("verify", "small.bundle --checkpoint run/model"),
    ("annotate", "--data rows.jsonl --small run/model --checkpoint run/model --out rows.annotations --context 48"),
    ("evaluate", "--outcomes outcomes.csv --chain small,large --resamples 20"),
    ("calibrate", "--outcomes outcomes.csv --chain small,large --target overall-risk<=0.2@0.9 --bundle toy"),
    ("compare", "outcomes.csv outcomes.csv --large large --resamples 20"),
    ("train", "intents.toml"),
    ("export", "--target firmware --checkpoint intents --out module --calibration-data intents.jsonl --max-risk 0.5"),
];

fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, bool)>) {
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        let path = format!("{path} {}", inner.get_name()).trim().to_owned();
        if inner.has_subcommands() {
            leaves(inner, &path, found);
        } else {
            found.push((path, inner.get_arguments().any(|argument| argument.get_long() == Some("json"))));
        }
    }
}

#[test]
fn every_command_has_the_option_and_a_test_or_a_stated_reason() {
    let mut commands = vec![];
    leaves(&margay_cli::command(), "", &mut commands);
    assert!(commands.len() > 20, "{commands:?}");
    for (command, has) in &commands {
        let without = WITHOUT.iter().any(|(name, _)| name == command);
        assert!(
            *has != without,
            "`margay {command}` {}",
            if *has { "is said to have no --json" } else { "has no --json" }
        );
        let read = LINES.iter().chain(&ELSEWHERE).any(|(name, _)| name == command);
        assert!(read != without, "nothing reads what `margay {command} --json` prints");
    }
    for (name, _) in LINES.iter().chain(&ELSEWHERE).chain(&WITHOUT) {
        assert!(commands.iter().any(|(command, _)| command == name), "there is no `margay {name}`");
    }
}

/// Data, recipes, tables and a configuration for all of them.
fn furnished() -> Place {
    let place = Place::new();
    let write = |name: &str, text: &str| fs::write(place.path(name), text).unwrap();
    let words = ["balance", "weather", "alarm"];
    let rows = |from: usize, to: usize| -> String {
        let word = |n: usize| words[n % words.len()];
        (from..to)
            .map(|n| format!("{{\"input\": \"{} please {n}\", \"target\": \"{}\"}}\n", word(n), word(n)))
            .collect()
    };
    write("rows.jsonl", &rows(0, 12));
    write(
        "recipe.toml",
        "out = \"run\"\nseed = 5\n[model]\nscratch = { vocabulary = 300, hidden = 16, intermediate = 32, layers = 1, heads = 1, \
         key_value_heads = 1 }\n[data]\ncontext = 48\n[[data.train]]\npath = \"rows.jsonl\"\n[[data.evaluation]]\n\
         path = \"rows.jsonl\"\ncap = 3\n[training]\nsteps = 2\nbatch_size = 2\nlearning_rate = 1e-3\n",
    );
    let utterance = |n: usize| {
        let word = words[n % words.len()];
        format!("{{\"id\": \"{n}\", \"task\": \"t\", \"input\": \"{word} please {n}\", \"target\": \"{word}\"}}\n")
    };
    write("intents.jsonl", &(0..90).map(utterance).collect::<String>());
    write(
        "intents.toml",
        "out = \"intents\"\nseed = 5\n[data]\ntrain = \"intents.jsonl\"\ntest = \"intents.jsonl\"\n[intents]\nbuckets = 256\n\
         hidden = 8\nepochs = 20\nrate = 0.05\n",
    );
    write("schema.json", r#"{"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}"#);
    write("tasks.jsonl", r#"{"id": "t/test/0", "task": "t", "input": "hello", "target": "yes"}"#);
    let mut table = String::from("query,model,quality,score,flops\n");
    for n in 0..200_u32 {
        let right = u8::from(n % 4 != 3 || n > 100);
        table.push_str(&format!("{n},small,{right},{},1\n{n},large,1,,20\n", f64::from(n) / 200.0 - 1.0));
    }
    write("outcomes.csv", &table);
    write("margay.toml", &succeeded("config example", place.run("config example")));
    let departure = Departure::new(0, "https://example.com/v1".into(), "one".into(), b"abc", [].into());
    AuditFile::open(place.path("audit.jsonl")).unwrap().record(&departure).unwrap();
    place
}

/// The objects on standard output; anything else there fails.
fn objects(line: &str, output: &Output) -> Vec<Value> {
    let (said, why) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let read = |text: &str| {
        let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{line}: {error}: {text}\n{why}"));
        assert!(value.is_object(), "{line}: {text}");
        value
    };
    said.lines().map(read).collect()
}

/// A line, with ONNX Runtime from where everybody has it: the folder has a cache of its own.
fn command(place: &Place, line: &str) -> Command {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    let find = || Locate::from_environment().find_or_fetch(&mut |_| {}).unwrap().path().to_owned();
    let mut command = place.command(line);
    command.env("ORT_DYLIB_PATH", LIBRARY.get_or_init(find));
    command
}

fn one(place: &Place, line: &str) -> Value {
    let output = command(place, line).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    let mut all = objects(line, &output);
    assert_eq!(all.len(), 1, "{line}: {all:?}");
    all.remove(0)
}

#[test]
fn standard_output_is_one_object_a_line() {
    let place = furnished();
    for (name, rest) in LINES {
        let line = format!("{name} {rest} --json");
        match name {
            "chat" => {
                let mut chat = command(&place, &line);
                let mut child =
                    chat.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
                std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"hello\nhello\n").unwrap();
                let answers = objects(&line, &child.wait_with_output().unwrap());
                assert!(answers.len() == 2 && answers.iter().all(|answer| answer["text"].is_string()), "{answers:?}");
            }
            "audit" => assert_eq!(
                objects(&line, &command(&place, &line).output().unwrap()).len(),
                2,
                "a departure, and the sums"
            ),
            _ => {
                one(&place, &line);
            }
        }
    }
}

#[test]
fn what_long_commands_say_is_what_they_did() {
    let place = furnished();
    let trained = one(&place, "train recipe.toml --json");
    assert_eq!((&trained["step"], &trained["steps"]), (&2.into(), &2.into()));
    assert!(place.path(trained["model"].as_str().unwrap()).join("model.safetensors").exists(), "{trained}");
    let exported = one(&place, "export --checkpoint run/model --out small.bundle --json");
    let digest = one(&place, "bundle inspect small.bundle --json")["model_digest"].take();
    assert_eq!(exported["model_digest"], digest);
    assert!(
        exported["verification"]["positions"].as_u64().unwrap() > 100 && exported["bytes"].as_u64().unwrap() > 1000
    );
    let verified = one(&place, "verify small.bundle --checkpoint run/model --json");
    assert_eq!((&verified["model_digest"], &verified["verification"]["argmax_agreement"]), (&digest, &1.0.into()));
    let line = "annotate --data rows.jsonl --small run/model --checkpoint run/model --out a --context 48 --json";
    let annotated = one(&place, line);
    assert_eq!((&annotated["annotations"]["rows"], &annotated["rows"]), (&12.into(), &12.into()));
    let scored = one(&place, "score --bundle toy --data tasks.jsonl --out scored.csv --max-tokens 3 --json");
    assert_eq!((&scored["asked"], &scored["known"]), (&1.into(), &0.into()));
    let line =
        "calibrate --outcomes outcomes.csv --chain small,large --target overall-risk<=0.2@0.9 --bundle toy --json";
    let calibrated = one(&place, line);
    assert_eq!(calibrated["policy"]["policy"], one(&place, "bundle inspect toy --json")["policy"]["policy"]);
    // The same numbers in a file, and then in words.
    let line = "evaluate --outcomes outcomes.csv --chain small,large --resamples 20";
    let said = String::from_utf8(place.run(&format!("{line} --json numbers.json")).stdout).unwrap();
    assert!(said.starts_with("200 queries"), "{said}");
    let written: Value = serde_json::from_slice(&fs::read(place.path("numbers.json")).unwrap()).unwrap();
    assert_eq!(one(&place, &format!("{line} --json")), written);
}

#[test]
fn what_fails_says_so_on_standard_error_alone() {
    let place = Place::new();
    for line in [
        "export --checkpoint nowhere --out b",
        "verify toy --checkpoint nowhere",
        "calibrate --outcomes nowhere.csv --chain a,b --target deferral<=0.3 --bundle toy",
        "annotate --data nowhere.jsonl --small nowhere --checkpoint nowhere --out a",
        "train nowhere.toml",
        "demo --quick --data nowhere --out out",
        "score --bundle toy --data nowhere.jsonl --out o.csv",
        "generate --bundle nowhere --prompt x",
        "bundle inspect nowhere",
        "config check nowhere.toml",
        "audit nowhere.jsonl",
        "evaluate --outcomes nowhere.csv --chain a,b",
        "gateway --serial tcp:127.0.0.1:9 --config nowhere.toml",
    ] {
        let output = place.run(&format!("{line} --json"));
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{line}: {why}");
        assert!(output.stdout.is_empty() && why.contains("error: ") && why.contains("nowhere"), "{line}: {why}");
    }
}

#[test]
#[cfg(unix)]
fn a_gateway_speaks_json_line_by_line() {
    use std::io::{BufRead as _, BufReader, Read as _};
    let place = furnished();
    let toml = "version = 1\n[device]\nbundle = \"toy\"\n[cloud.server]\nendpoint = \"https://127.0.0.1:9/v1\"\nmodel = \"large\"\n";
    fs::write(place.path("margay.toml"), toml).unwrap();
    one(
        &place,
        "calibrate --outcomes outcomes.csv --chain small,large --target overall-risk<=0.2@0.9 --bundle toy --json",
    );
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:127.0.0.1:{}", listener.local_addr().unwrap().port());
    let line = format!("gateway --json --log off --serial {address}");
    let mut child = command(&place, &line).stdout(Stdio::piped()).spawn().unwrap();
    let _device = listener.accept().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let open: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&open["event"], &open["line"]), (&"open".into(), &address.into()));
    assert!(Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status().unwrap().success());
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success());
    let ended: Value = serde_json::from_str(rest.lines().last().unwrap()).unwrap();
    assert_eq!((&ended["event"], &ended["asked"]), (&"ended".into(), &0.into()));
}
