//! What comes in through files, arguments and the other end of standard output, all of it wrong: exit code 1 or 2, a message that
//! names it, never a panic, and nothing half-written.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use margay::device::library::Locate;
use margay_cli::exit::{FAILURE, SUCCESS, USAGE};

use common::{Place, succeeded};

/// Every command that reads a file, with `FILE` in its place.
const READERS: [&str; 23] = [
    "config check FILE",
    "doctor --config FILE",
    "serve --config FILE",
    "gateway --serial tcp:127.0.0.1:9 --config FILE",
    "audit FILE",
    "generate --bundle toy --prompt x --schema FILE",
    "generate --bundle toy --chat FILE",
    "generate --bundle FILE --prompt x",
    "bundle inspect FILE",
    "bundle unpack FILE --out unpacked",
    "bundle sign toy --key FILE",
    "bundle verify toy --trust FILE",
    "bundle diff toy FILE",
    "score --bundle toy --data FILE --out scored.csv",
    "evaluate --outcomes FILE --chain a,b",
    "calibrate --outcomes FILE --chain a,b --target deferral<=0.3 --bundle toy",
    "train FILE",
    "export --checkpoint FILE --out exported",
    "verify toy --checkpoint FILE",
    "annotate --data FILE --small FILE --checkpoint FILE --out annotated",
    "serve --bundle toy --token-file FILE",
    "serve --bundle toy --tls-cert FILE --tls-key FILE",
    "demo --quick --data FILE --out demonstrated",
];

/// A line, with ONNX Runtime from where everybody has it: the folder has a cache of its own.
fn command(place: &Place, line: &str) -> Command {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    let find = || Locate::from_environment().find_or_fetch(&mut |_| {}).unwrap().path().to_owned();
    let mut command = place.command(line);
    command.env("ORT_DYLIB_PATH", LIBRARY.get_or_init(find));
    command
}

/// Fails unless it ended with one of these codes, and without a panic. Returns what it said on standard error.
fn ended(line: &str, output: &Output, codes: &[u8]) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = output.status.code().and_then(|code| u8::try_from(code).ok());
    assert!(code.is_some_and(|code| codes.contains(&code)), "{line}: {code:?}: {said}");
    assert!(!said.contains("panicked"), "{line}: {said}");
    said
}

#[test]
fn files_that_are_none_are_named() {
    let place = Place::new();
    fs::create_dir(place.path("folder")).unwrap();
    for (name, content) in [
        ("empty", &b""[..]),
        ("latin1", b"{\"prompt\": \"caf\xe9\"}\n"),
        ("binary", b"\x00\x01\x7fELF\xff\xfe\xfd\n\x80\x81"),
        ("otherwise", b"[1, {\"id\": 7, \"input\": null}, [[]]]\n"),
        ("deep", "[".repeat(100_000).as_bytes()),
    ] {
        fs::write(place.path(name), content).unwrap();
    }
    for reader in READERS {
        for file in ["missing", "folder", "empty", "latin1", "binary", "otherwise", "deep"] {
            let line = reader.replace("FILE", file);
            let output = command(&place, &line).output().unwrap();
            // Nothing left the device, and nothing was to be asked.
            let nothing = file == "empty" && (reader.starts_with("audit") || reader.starts_with("score"));
            let said = ended(&line, &output, if nothing { &[SUCCESS] } else { &[FAILURE, USAGE] });
            let named = said.contains(file) || String::from_utf8_lossy(&output.stdout).contains(file);
            assert!(nothing || named, "{line}: {said}");
        }
    }
    for half in ["unpacked", "exported", "annotated", "demonstrated/summary.json"] {
        assert!(!place.path(half).exists(), "{half}");
    }
}

#[test]
fn arguments_that_are_no_unicode_are_refused_or_taken_as_paths() {
    let place = Place::new();
    let odd = OsStr::from_bytes(b"caf\xe9");
    for (line, codes) in [
        ("generate --bundle toy --prompt", &[USAGE][..]),
        ("generate --bundle toy --prompt x --task", &[USAGE]),
        ("serve --name x --bundle", &[FAILURE]),
        ("config check", &[FAILURE]),
        ("audit --key", &[USAGE]),
        ("train", &[FAILURE]),
        ("bundle inspect", &[FAILURE]),
        // A folder may be called anything.
        ("bundle pack toy --json --out", &[SUCCESS]),
        ("man --json --out", &[SUCCESS, FAILURE]),
        ("bundle keygen --json --out", &[SUCCESS]),
    ] {
        let output = command(&place, line).arg(odd).output().unwrap();
        ended(line, &output, codes);
    }
    let example = place.run("config example").stdout;
    fs::write(place.path("margay.toml"), example).unwrap();
    for (name, codes) in [("MARGAY__CLOUD__SERVER__MODEL", &[FAILURE][..]), ("ANYTHING", &[SUCCESS])] {
        let said = ended(name, &command(&place, "config check").env(name, odd).output().unwrap(), codes);
        assert!(codes == [SUCCESS] || said.contains("MARGAY__CLOUD__SERVER__MODEL: is not Unicode"), "{said}");
    }
    let variable = command(&place, "serve --bundle toy").env("MARGAY_SERVE_TOKEN", odd).output().unwrap();
    assert!(ended("a token", &variable, &[FAILURE]).contains("MARGAY_SERVE_TOKEN"));
}

#[test]
fn values_of_a_wrong_type_are_mistakes_of_the_command_line() {
    let place = Place::new();
    for line in [
        "generate --bundle toy --prompt x --max-tokens many",
        "generate --bundle toy --prompt x --max-tokens -1",
        "generate --bundle toy --prompt x --temperature hot",
        "serve --bundle toy --listen nowhere",
        "serve --bundle toy --max-concurrent 0",
        "serve --bundle toy --patience soon",
        "bench --bundle toy --rounds 1.5",
        "export --checkpoint c --out o --weights int3",
        "calibrate --outcomes o --chain a,b --bundle toy --target better",
        "gateway --serial tcp:127.0.0.1",
        "evaluate --outcomes o --chain a,b --cost bananas",
        "train recipe.toml --compare xent --seeds some",
    ] {
        ended(line, &place.run(line), &[USAGE]);
    }
}

/// What prints a line or more, and needs nothing else.
const PRINTERS: [&str; 7] = [
    "config example",
    "completions bash",
    "bundle inspect toy",
    "devices --json",
    "doctor",
    "generate --bundle toy --prompt x --max-tokens 8",
    "generate --bundle toy --prompt x --max-tokens 8 --json",
];

#[test]
fn a_reader_that_is_gone_is_an_error_and_no_panic() {
    let place = Place::new();
    for line in PRINTERS {
        // The reader is gone before a word is said, as of `| head -0`.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command(&place, line).stdout(Stdio::from(writer)).stderr(Stdio::piped()).output().unwrap();
        let said = ended(line, &output, &[FAILURE]);
        assert!(said.contains("cannot write to standard output"), "{line}: {said}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn standard_output_that_is_full_is_an_error() {
    let place = Place::new();
    for line in PRINTERS {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = command(&place, line).stdout(Stdio::from(full)).stderr(Stdio::piped()).output().unwrap();
        let said = ended(line, &output, &[FAILURE]);
        assert!(said.contains("cannot write to standard output"), "{line}: {said}");
    }
}

/// What writes something, to `OUT/...`.
const WRITERS: [&str; 9] = [
    "man --out OUT/man1",
    "bundle keygen --out OUT/publisher",
    "bundle pack toy --out OUT/toy.margay",
    "bundle unpack toy.margay --out OUT/unpacked",
    "score --bundle toy --data tasks.jsonl --out OUT/scored.csv --max-tokens 2",
    "evaluate --outcomes outcomes.csv --chain small,large --resamples 5 --json OUT/numbers.json",
    "evaluate --outcomes outcomes.csv --chain small,large --resamples 5 --report OUT/report",
    "compare outcomes.csv outcomes.csv --large large --resamples 5 --report OUT/report",
    "demo --quick --out OUT/demo",
];

/// A folder with what they read.
fn furnished() -> Place {
    let place = Place::new();
    fs::write(place.path("tasks.jsonl"), r#"{"id": "t/test/0", "task": "t", "input": "hello", "target": "yes"}"#)
        .unwrap();
    let mut table = String::from("query,model,quality,score,flops\n");
    for n in 0..20_u32 {
        table.push_str(&format!("{n},small,{},{},1\n{n},large,1,,20\n", n % 2, f64::from(n) / 20.0 - 1.0));
    }
    fs::write(place.path("outcomes.csv"), table).unwrap();
    succeeded("bundle pack", place.run("bundle pack toy --out toy.margay"));
    place
}

#[test]
fn a_place_below_a_file_cannot_be_written() {
    let place = furnished();
    fs::write(place.path("file"), "a file stands here").unwrap();
    for line in WRITERS {
        let line = line.replace("OUT", "file/below");
        let said = ended(&line, &command(&place, &line).output().unwrap(), &[FAILURE]);
        assert!(said.contains("file/below"), "{line}: {said}");
    }
    assert_eq!(fs::read(place.path("file")).unwrap(), b"a file stands here");
}

/// Both need a file system of their own, which only root may mount; in a namespace that ends with the command.
#[test]
#[cfg(target_os = "linux")]
fn a_disk_that_is_full_or_read_only_is_named_and_nothing_half_written_stays() {
    let place = furnished();
    let mount = |options: &str| format!("mount -t tmpfs -o {options} none {}", place.path("disk").display());
    let inside = |script: &str| {
        let mut shell = Command::new("unshare");
        shell.args(["--mount", "sh", "-c", script]);
        shell
    };
    fs::create_dir(place.path("disk")).unwrap();
    if !inside(&mount("size=4k")).output().is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: only root may mount a small disk");
        return;
    }
    // Its only page is taken, or nothing may be written at all.
    for options in ["size=4k", "ro"] {
        for line in WRITERS {
            let line = line.replace("OUT", "disk");
            let margay = command(&place, &line);
            let fill = "head -c 4096 /dev/zero > disk/full 2> /dev/null";
            let script = format!("{}; {fill}; exec \"$0\" \"$@\"", mount(options));
            let mut shell = inside(&script);
            shell.arg(margay.get_program()).args(margay.get_args()).current_dir(place.path("."));
            shell.envs(margay.get_envs().filter_map(|(name, value)| Some((name, value?))));
            let said = ended(&line, &shell.output().unwrap(), &[FAILURE]);
            assert!(said.contains("disk/"), "{options}: {line}: {said}");
        }
    }
}
