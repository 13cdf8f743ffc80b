//! A C program that uses and misuses everything in the header, against a real server; alone, under AddressSanitizer and under
//! valgrind. And the program of the README.
#![cfg(all(unix, feature = "cloud"))]
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

#[path = "../../tests/toy.rs"]
mod toy;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use margay::Constraint;
use margay::testing::{FaultyServer, Reply};

/// Where the library under test lies: beside the test programs.
fn built() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

fn c() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Compiles a program in C against the header and the shared library; no warning is let through.
fn compile(source: &str, into: &Path, flags: &[&str]) -> PathBuf {
    let program = into.join("program");
    let status = Command::new("gcc")
        .args(["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Werror", "-pedantic", "-g"])
        .args(if Constraint::AVAILABLE { &["-DCONSTRAINED"][..] } else { &[] })
        .args(flags)
        .arg("-I")
        .arg(c().join("include"))
        .arg(c().join(source))
        .arg("-L")
        .arg(built())
        .args(["-lmargay_c", "-lpthread", "-o"])
        .arg(&program)
        .status()
        .unwrap();
    assert!(status.success(), "gcc: {status}");
    program
}

/// What `tests/program.c` is answered, in its order.
fn replies() -> Vec<Reply> {
    let stream = Reply::streams(&["book ", "a", " flight"]);
    let head = stream.bytes().windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    let first = head + stream.bytes()[head..].windows(4).position(|bytes| bytes == b"\n\n\r\n").unwrap() + 4;
    vec![
        Reply::says("as the file says"),
        Reply::status("401 Unauthorized"),
        Reply::says("hello [NAME_1], [EMAIL_1]"),
        stream.clone(),
        stream.clone(),
        stream.cut_after(first),
        Reply::status("500 Internal Server Error"),
        Reply::status("500 Internal Server Error"),
        Reply::says("[REDACTED_1]"),
        Reply::stall(),
    ]
}

/// Runs the program, perhaps inside another one.
fn run(flags: &[&str], inside: &[&str], variables: &[(&str, &str)]) {
    let (bundle, expected) = toy::bundle();
    let scratch = tempfile::tempdir().unwrap();
    let program = compile("tests/program.c", scratch.path(), flags);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(FaultyServer::start(replies()));
    let authority = scratch.path().join("authority.pem");
    std::fs::write(&authority, server.authority()).unwrap();
    let configuration = scratch.path().join("margay.toml");
    std::fs::write(&configuration, toy::configuration(&server.endpoint(), "authority.pem")).unwrap();
    let mut line: Vec<&std::ffi::OsStr> = inside.iter().map(AsRef::as_ref).collect();
    line.push(program.as_os_str());
    let output = Command::new(line[0])
        .args(&line[1..])
        .arg(bundle.path())
        .arg(toy::fixture())
        .arg(server.endpoint())
        .arg(&authority)
        .arg(expected)
        .arg(&configuration)
        .env("LD_LIBRARY_PATH", built())
        .env("ORT_DYLIB_PATH", toy::library())
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert_held(&output);

    let asked = server.asked();
    let bodies: Vec<String> = asked.iter().map(|asked| String::from_utf8(asked.body.clone()).unwrap()).collect();
    // The last question is cancelled once its token was asked for: it may have left by then, or not.
    assert!(matches!((asked.len(), server.left()), (10, 0) | (9, 1)), "{} asked", asked.len());
    assert!(bodies.iter().all(|body| !body.contains("Ada") && !body.contains("example.com")), "{bodies:?}");
    assert!(bodies[2].contains("I am [NAME_1], [EMAIL_1]"), "{}", bodies[2]);
    assert!(bodies[8].contains(r#""content":"[REDACTED_1]""#), "{}", bodies[8]);
    assert_eq!(asked[0].header("authorization"), None);
    assert_eq!(asked[1].header("authorization"), Some("bearer first-token"));
    assert_eq!(asked[2].header("authorization"), Some("bearer second-token"));
    assert_eq!(asked[1].header("idempotency-key"), asked[2].header("idempotency-key"));
}

fn assert_held(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "everything held\n", "{said}");
}

#[test]
fn everything_holds() {
    run(&[], &[], &[]);
}

#[test]
#[ignore = "slow: AddressSanitizer and UndefinedBehaviorSanitizer, with gcc's runtime libraries"]
fn everything_holds_under_address_sanitizer() {
    let flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"];
    run(&flags, &[], &[("ASAN_OPTIONS", "detect_leaks=1:exitcode=9")]);
}

#[test]
#[ignore = "slow: valgrind"]
fn everything_holds_under_valgrind() {
    let suppressions = format!("--suppressions={}", c().join("tests/valgrind.supp").display());
    let line = [
        "valgrind",
        "--quiet",
        "--error-exitcode=9",
        "--leak-check=full",
        "--show-leak-kinds=definite",
        "--errors-for-leak-kinds=definite",
        &suppressions,
    ];
    run(&[], &line, &[]);
}

#[test]
fn the_example_asks_and_is_under_forty_lines() {
    let source = std::fs::read_to_string(c().join("examples/ask.c")).unwrap();
    assert!(source.lines().count() < 40);
    let (bundle, expected) = toy::bundle();
    let scratch = tempfile::tempdir().unwrap();
    let program = compile("examples/ask.c", scratch.path(), &[]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(FaultyServer::start([Reply::streams(&["good", " morning"])]));
    let authority = scratch.path().join("authority.pem");
    std::fs::write(&authority, server.authority()).unwrap();
    let ask = |token: &str| {
        Command::new(&program)
            .arg(bundle.path())
            .args([&server.endpoint(), "large", toy::QUESTION])
            .env("LD_LIBRARY_PATH", built())
            .env("ORT_DYLIB_PATH", toy::library())
            .env("CLOUD_TOKEN", token)
            .env("SSL_CERT_FILE", &authority)
            .output()
            .unwrap()
    };
    let output = ask("secret");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("good morning\n[cloud: "), "{said}");
    assert_eq!(server.asked()[0].header("authorization"), Some("bearer secret"));
    // With the server out of replies, the device's answer stands.
    let said = String::from_utf8_lossy(&ask("secret").stdout).into_owned();
    assert!(said.contains(&expected) && said.contains("[local: "), "{said}");
}

#[test]
#[cfg(target_os = "linux")]
fn the_shared_library_is_laid_out_for_pages_of_16_kilobytes() {
    let library = std::fs::read(built().join("libmargay_c.so")).unwrap();
    // ELF64, little endian: where program headers begin, how long each is, how many there are.
    let number = |at: usize, bytes: usize| -> usize {
        library[at..at + bytes].iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    };
    let (start, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    let loads = (0..count).map(|index| start + index * size).filter(|header| number(*header, 4) == 1);
    let alignments: Vec<usize> = loads.map(|header| number(header + 48, 8)).collect();
    assert!(!alignments.is_empty() && alignments.iter().all(|alignment| alignment % 16384 == 0), "{alignments:?}");
}
